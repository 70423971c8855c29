import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from fer_cli.cli.next_step import tell_next
from fer_cli.cli.options import DEFAULT_RUN
from fer_cli.storage.run_paths import RunPaths, next_command
from forks import fer


def test_next_command_has_the_users_own_run_and_artifacts() -> None:
    assert next_command("cluster", run=DEFAULT_RUN) == "fer cluster"
    assert next_command("cluster", run=Path("my-run"), files={"voxels": None}) == "fer cluster --run my-run"
    named = {"voxels": None, "model": Path("other/model.h5")}
    assert next_command("cluster", run=DEFAULT_RUN, files=named) == "fer cluster --model other/model.h5"


def test_next_command_is_quoted_as_a_shell_takes_it() -> None:
    command = next_command("explain", "it's a chair.off", run=Path("my run"))
    assert command == """fer explain 'it'"'"'s a chair.off' --run 'my run'"""


def test_next_command_is_printed_without_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    tell_next("explain", "a\x1b[31m", run=DEFAULT_RUN)
    assert capsys.readouterr().out == "Next: fer explain 'a�[31m'\n"


@pytest.mark.end_to_end
def test_every_stage_ends_with_a_command_that_works(run_paths: RunPaths, box_source: Path, tmp_path: Path) -> None:
    (tmp_path / "my run").mkdir()
    for path in (run_paths.voxels, run_paths.model, run_paths.codebook, run_paths.calibration):
        shutil.copy(path, tmp_path / "my run")
    np.save(tmp_path / "new.npy", np.eye(8)[:, :, None].repeat(8, axis=2).astype(np.uint8))

    def last(*words: str) -> list[str]:
        ended = fer(*words, folder=tmp_path)
        assert ended.code == 0, ended.stderr
        name, *command = shlex.split(ended.stdout.splitlines()[-1].removeprefix("Next: "))
        assert name == "fer"
        return command

    run = ("--run", "my run")
    assert last("calibrate", "--force", *run) == ["evaluate", *run]
    explain = last("evaluate", *run)
    assert re.fullmatch(r"explain (beam|plate|pole)_test_\d\d --run my run", " ".join(explain))
    probe = last(*explain, "--no-images")
    assert (probe[0], probe[1], probe[-2:]) == ("probe", explain[1], list(run))
    centroid = last(*probe)
    assert centroid == [*probe[:-2], "--by", "centroid", *run]
    assert last(*centroid) == explain
    of_file = last("explain", "new.npy", "--up", "z", "--no-images", *run)
    assert (of_file[1], of_file[-4:]) == ("new.npy", ["--up", "z", *run])
    last(*of_file)
    assert last("explain", "--errors", "--limit", "2", "--no-images", *run)[0] == "probe"
    assert last("voxelize", str(box_source), "-o", "other.h5") == ["train", "--voxels", "other.h5"]
    assert last("voxelize", str(box_source / "pole/test"), "--layout", "none", *run, "-o", "new.h5") == [
        "info",
        "new.h5",
    ]
    assert last("info", "my run") == explain


@pytest.mark.end_to_end
def test_shapes_without_a_class_are_pointed_out(box_source: Path, tmp_path: Path) -> None:
    said = fer("voxelize", box_source / "pole/test", "--layout", "none", "-o", "new.h5", folder=tmp_path).stdout
    assert "No sample has a class, so that nothing can be trained on them." in said
    assert "No sample has a class" not in fer("voxelize", box_source, "-o", "whole.h5", folder=tmp_path).stdout
