from pathlib import Path

import numpy as np
import pytest

from fer_cli import save_volumes
from fer_cli.data.dataset import open_voxels
from fer_cli.pictures import contact_sheet
from fer_cli.pictures.contact_sheet import Group, draw_groups
from fer_cli.reports.contact_page import sheet_path, write_contact_page
from fer_cli.run import Run
from fer_cli.storage.run_paths import RunPaths


def drawn(run: Run, **options: int) -> tuple[list[Group], list[tuple[int, int]]]:
    steps: list[tuple[int, int]] = []
    return draw_groups(run.voxels, progress=lambda *step: steps.append(step), **options), steps


def test_some_samples_of_each_class_and_split_are_drawn(run: Run) -> None:
    groups, steps = drawn(run)
    assert [(group.klass, group.split, group.samples) for group in groups] == [
        (name, split, count) for name in ("beam", "plate", "pole") for split, count in (("train", 20), ("test", 6))
    ]
    for group in groups:
        assert len(group.drawn) == 6
        for one in group.drawn:
            index = run.voxels.names.index(one.name)
            assert run.voxels.classes[run.voxels.labels[index]] == group.klass
            assert run.voxels.splits[index] == group.split
            assert one.uri.startswith("data:image/png;base64,")
    assert steps[-1] == (36, 36)
    again, _ = drawn(run)
    assert again == groups
    other, _ = drawn(run, seed=1)
    assert [one.name for one in other[0].drawn] != [one.name for one in groups[0].drawn]


def test_where_there_is_little_room_every_group_keeps_as_many(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = drawn(run)
    largest = max(len(one.uri) for group in whole for one in group.drawn)
    monkeypatch.setattr(contact_sheet, "MOST_BYTES", 13 * largest)
    counts = [len(group.drawn) for group in drawn(run)[0]]
    assert max(counts) - min(counts) <= 1
    assert 12 <= sum(counts) < 36
    monkeypatch.setattr(contact_sheet, "MOST_PICTURES", 12)
    assert [len(group.drawn) for group in drawn(run)[0]] == [2] * 6
    monkeypatch.setattr(contact_sheet, "MOST_PICTURES", 4)
    assert [len(group.drawn) for group in drawn(run)[0]] == [1, 1, 1, 1, 0, 0]


def test_the_page_asks_for_nothing_and_names_every_picture(run_paths: RunPaths, tmp_path: Path) -> None:
    page = write_contact_page(run_paths.voxels, tmp_path / "sheet.html", progress=lambda *_: None)
    text = page.read_text(encoding="utf-8")
    assert page.stat().st_size < 5_000_000
    assert text.count("<img ") == text.count('src="data:image/png;base64,') == 36
    assert "default-src &#39;none&#39;" in text
    assert "fer voxelize --up y" in text
    assert "6 of 20" in text
    assert sheet_path(run_paths.voxels) == run_paths.voxels.with_name("voxels.sheet.html")


def test_grey_volumes_are_drawn_as_slices_and_names_are_escaped(tmp_path: Path) -> None:
    volumes = np.random.default_rng(0).normal(size=(4, 2, 8, 6, 4)).astype(np.float32)
    save_volumes(tmp_path / "voxels.h5", (volumes, np.array([0, 0, 1, 1])), classes=["<b>a", "c"])
    voxels = open_voxels(tmp_path / "voxels.h5")
    groups = draw_groups(voxels, progress=lambda *_: None)
    assert [len(group.drawn) for group in groups] == [2, 2]
    assert len({one.uri for group in groups for one in group.drawn}) == 4
    page = write_contact_page(tmp_path / "voxels.h5", tmp_path / "sheet.html", progress=lambda *_: None)
    text = page.read_text(encoding="utf-8")
    assert "three slices through the middle of the first channel" in text
    assert "fer voxelize --up" not in text
    assert "<b>" not in text
