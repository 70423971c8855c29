from pathlib import Path

import numpy as np
import pytest

from fer_cli.data.sample_files import is_sample_folder, sample_files
from fer_cli.errors import InputError
from tiny import write_box


def test_every_sample_of_a_folder_is_found_under_a_name_of_its_own(tmp_path: Path) -> None:
    for place in ("a/x.off", "b/x.off", "b/deep/y.off"):
        write_box(tmp_path / place, np.array([3.0, 2.0, 1.0]))
    (tmp_path / "notes.txt").write_text("no shape")
    found = sample_files(tmp_path)
    assert {str(Path(path).relative_to(tmp_path)): name for path, name in found.items()} == {
        "a/x.off": "a_x",
        "b/x.off": "b_x",
        "b/deep/y.off": "y",
    }
    assert is_sample_folder(tmp_path)
    assert not is_sample_folder(tmp_path / "a/x.off")
    assert not is_sample_folder(tmp_path / "nosuch")


def test_a_transform_reads_files_of_any_format_but_hidden_ones(tmp_path: Path) -> None:
    for place in ("case.scan", "more/case.scan", ".hidden", ".git/case"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_text("anything")
    found = sample_files(tmp_path, of_any_format=True)
    assert [str(Path(path).relative_to(tmp_path)) for path in found] == ["case.scan", "more/case.scan"]
    assert len(set(found.values())) == 2


def test_a_folder_without_a_sample_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no shape that fer reads"):
        sample_files(tmp_path)
    with pytest.raises(InputError, match="holds no file of one sample"):
        sample_files(tmp_path, of_any_format=True)
