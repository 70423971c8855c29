import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fer_cli.data.duplicates import DuplicateCounts
from fer_cli.data.entries import Skipped
from fer_cli.data.formats.registry import read_shape
from fer_cli.data.occupancy import VoxelSettings, voxelize_shape
from fer_cli.data.voxelize import voxelize_source
from fer_cli.errors import InputError, UsageError
from fer_cli.storage.artifact import open_artifact
from fer_cli.storage.schema import VOXELS

EIGHT = VoxelSettings(8, 0)


OFF = "OFF\n4 2 0\n0 0 0\n{} 0 0\n0 2 0\n0 0 1\n3 0 1 2\n3 0 1 3\n"


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """84 shapes of two classes, of which some are damaged, and one class of which every shape is."""
    folder = tmp_path_factory.mktemp("source") / "shapes"
    for name, split, count in (("sofa", "train", 40), ("sofa", "test", 2), ("bed", "train", 40), ("lost", "test", 2)):
        (folder / name / split).mkdir(parents=True)
        for i in range(count):
            content = "OFF\n1 1 0\n" if name == "lost" or (name == "sofa" and i % 10 == 3) else OFF.format(3 + i)
            (folder / name / split / f"{name}_{split}_{i:02}.off").write_text(content)
    return folder


def stored(path: Path) -> dict[str, list[object]]:
    with open_artifact(path, VOXELS) as artifact:
        return {name: artifact.read(name).tolist() for name in artifact.names()} | {
            "classes": artifact.attribute("classes")
        }


def test_source_becomes_an_artifact(shapes: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    output = tmp_path / "run" / "voxels.h5"
    summary = voxelize_source(shapes, output, EIGHT, workers=1, progress=lambda done, total: seen.append((done, total)))
    assert summary.path == output
    assert summary.counts == {"bed": {"train": 40}, "sofa": {"train": 36, "test": 2}}
    assert summary.n_samples == 78
    assert summary.n_classes == 2
    assert len(summary.skipped) == 6
    assert summary.skipped[0] == Skipped(
        "lost/test/lost_test_00.off", "truncated: 1 vertices and 1 faces are promised, 0 lines follow."
    )
    assert seen[-1] == (84, 84)
    assert seen == sorted(seen)
    with open_artifact(output, VOXELS) as artifact:
        assert artifact.config == {
            "voxelization": {key: value for key, value in EIGHT.to_json().items() if key != "up"},
            "source": "shapes",
            "per_class": None,
            "test_fraction": None,
            "drop_duplicates": False,
        }
        assert artifact.seed is None
        assert artifact.attribute("classes") == ["bed", "sofa"]
        assert artifact.read("label").tolist() == [0] * 40 + [1] * 38
        assert artifact.read_text("split")[-3:] == ["train", "test", "test"]
        assert artifact.read_text("name")[41] == "sofa_train_01"
        assert artifact.read_text("source")[41] == "sofa/train/sofa_train_01.off"
        mesh = read_shape((shapes / "sofa/train/sofa_train_01.off").read_bytes(), "sofa_train_01.off")
        expected = voxelize_shape(mesh, EIGHT)
        np.testing.assert_array_equal(artifact.read("occupancy", 41), expected.occupancy)
        np.testing.assert_array_equal(artifact.read("index_to_world", 41), expected.index_to_world)


def test_archive_and_any_number_of_workers_make_the_same(shapes: Path, tmp_path: Path) -> None:
    archive = tmp_path / "shapes.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        for path in sorted(shapes.rglob("*.off"), reverse=True):
            opened.write(path, Path("wrapping") / path.relative_to(shapes))
    for output, source, workers in (("a", shapes, 1), ("b", shapes, 2), ("c", archive, 2)):
        voxelize_source(source, tmp_path / f"{output}.h5", EIGHT, workers=workers)
    with open_artifact(tmp_path / "a.h5") as one, open_artifact(tmp_path / "b.h5") as two:
        assert one.id == two.id
    unpacked, packed = stored(tmp_path / "a.h5"), stored(tmp_path / "c.h5")
    for name in ("source", "skipped/source"):
        assert [b"wrapping/" + path for path in unpacked.pop(name)] == packed.pop(name)
    assert unpacked == packed


def test_per_class_limits_every_class_and_split(shapes: Path, tmp_path: Path) -> None:
    summary = voxelize_source(shapes, tmp_path / "v.h5", EIGHT, per_class=1)
    assert summary.counts == {"bed": {"train": 1}, "sofa": {"train": 1, "test": 1}}


def test_single_file_is_unlabelled(shapes: Path, tmp_path: Path) -> None:
    summary = voxelize_source(shapes / "bed/train/bed_train_00.off", tmp_path / "v.h5", EIGHT)
    assert summary.counts == {"unlabelled": {"unlabelled": 1}}
    assert summary.n_classes == 0
    content = stored(tmp_path / "v.h5")
    assert (content["label"], content["split"], content["classes"]) == ([-1], [b"unlabelled"], [])


def test_failed_runs_leave_nothing_and_harm_nothing(shapes: Path, tmp_path: Path) -> None:
    output = tmp_path / "v.h5"
    output.write_text("precious")
    with pytest.raises(UsageError, match="exists already"):
        voxelize_source(shapes, output, EIGHT)
    with pytest.raises(InputError, match=r"lost/test/lost_test_00\.off: truncated"):
        voxelize_source(shapes, output, EIGHT, strict=True, force=True)
    with pytest.raises(InputError, match=r"lost: none of 2 shapes can be used; test/lost_test_00\.off: truncated"):
        voxelize_source(shapes / "lost", output, EIGHT, force=True)
    with pytest.raises(InputError, match="does not exist"):
        voxelize_source(tmp_path / "missing", output, EIGHT, force=True)
    with pytest.raises(UsageError, match="0 workers"):
        voxelize_source(shapes, output, EIGHT, workers=0, force=True)
    assert output.read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir()] == ["v.h5"]


def test_every_sample_has_its_record(tmp_path: Path) -> None:
    folder = tmp_path / "shapes" / "box" / "train"
    folder.mkdir(parents=True)
    corners = "".join(f"{x} {y} {z}\n" for x in (0, 8) for y in (0, 4) for z in (0, 2))
    sides = "4 0 2 3 1\n4 4 5 7 6\n4 0 1 5 4\n4 2 6 7 3\n4 0 4 6 2\n"
    (folder / "closed.off").write_text(f"OFF\n8 6 0\n{corners}{sides}4 1 3 7 5\n")
    (folder / "open.off").write_text(f"OFF\n8 6 0\n{corners}{sides}3 0 2 2\n")
    grid = np.zeros((8, 8, 8), np.uint8)
    grid[2:6, 1:7, :3] = 1
    np.save(folder / "grid.npy", grid)
    for fill, enclosed in (("surface", [-1, -1, -1]), ("solid", [1, 0, 0])):
        voxelize_source(tmp_path / "shapes", tmp_path / f"{fill}.h5", VoxelSettings(16, 0, fill))
        with open_artifact(tmp_path / f"{fill}.h5", VOXELS) as artifact:
            assert artifact.read_text("name") == ["closed", "grid", "open"]
            assert artifact.read("record/n_faces").tolist() == [12, -1, 11]
            assert artifact.read("record/n_open_edges").tolist() == [0, -1, 4]
            assert artifact.read("record/enclosed").tolist() == [enclosed[0], enclosed[1], enclosed[2]]
            warnings = artifact.read_text("record/warnings")
            assert (warnings[0], warnings[1]) == ("", "")
            assert "1 degenerate faces" in warnings[2]
            counted = artifact.read("occupancy").sum(axis=(1, 2, 3), dtype=np.int64)
            assert artifact.read("record/n_occupied").tolist() == counted.tolist()
            assert artifact.read("record/duplicate_of").tolist() == [-1, -1, -1]


@pytest.fixture(scope="module")
def repeated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shapes of which some are the same: by the number in the name."""
    folder = tmp_path_factory.mktemp("repeated")
    for path in ("a/test/a1", "a/test/b1", "a/train/a0", "a/train/b0", "a/train/c1", "b/train/d1", "b/train/e2"):
        file = folder / f"{path}.off"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(OFF.format(3 + 2 * int(path[-1])))
    return folder


def test_identical_grids_are_found(repeated: Path, tmp_path: Path) -> None:
    summary = voxelize_source(repeated, tmp_path / "v.h5", EIGHT)
    assert summary.duplicates == DuplicateCounts(
        within_train=2, within_test=1, train_and_test=2, of_unlabelled=0, across_classes=1
    )
    assert summary.n_dropped == 0
    with open_artifact(tmp_path / "v.h5", VOXELS) as artifact:
        assert artifact.read_text("name") == ["a0", "b0", "c1", "a1", "b1", "d1", "e2"]
        assert artifact.read("record/duplicate_of").tolist() == [-1, 0, -1, 2, 2, 2, -1]
        assert artifact.shape("dropped/source") == (0,)


def test_dropping_leaves_the_test_side_and_the_first_of_train(repeated: Path, tmp_path: Path) -> None:
    summary = voxelize_source(repeated, tmp_path / "v.h5", EIGHT, drop_duplicates=True)
    assert (summary.n_samples, summary.n_dropped) == (4, 3)
    assert summary.duplicates.train_and_test == 2
    assert summary.counts == {"a": {"train": 1, "test": 2}, "b": {"train": 1}}
    voxelize_source(repeated, tmp_path / "all.h5", EIGHT)
    with open_artifact(tmp_path / "v.h5", VOXELS) as artifact, open_artifact(tmp_path / "all.h5", VOXELS) as whole:
        assert artifact.config["drop_duplicates"] is True
        assert artifact.read_text("name") == ["a0", "a1", "b1", "e2"]
        assert artifact.read("record/duplicate_of").tolist() == [-1, -1, 1, -1]
        assert artifact.read_text("dropped/source") == ["a/train/b0.off", "a/train/c1.off", "b/train/d1.off"]
        assert artifact.read("dropped/duplicate_of").tolist() == [0, 1, 1]
        np.testing.assert_array_equal(artifact.read("occupancy"), whole.read("occupancy")[[0, 3, 4, 6]])


def test_fraction_and_seed_are_recorded(tmp_path: Path) -> None:
    for name in "abcd":
        path = tmp_path / "shapes" / "sofa" / f"{name}.off"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(OFF.format(ord(name) - 90))
    summary = voxelize_source(tmp_path / "shapes", tmp_path / "v.h5", EIGHT, test_fraction=0.25, seed=7)
    assert summary.counts == {"sofa": {"train": 3, "test": 1}}
    with open_artifact(tmp_path / "v.h5", VOXELS) as artifact:
        assert (artifact.config["test_fraction"], artifact.seed) == (0.25, 7)


INTERRUPTED = """
import sys, time
from pathlib import Path
from fer_cli.data.occupancy import VoxelSettings
from fer_cli.data.voxelize import voxelize_source

def wait(done, total):
    print(done, flush=True)
    if done:
        time.sleep(60)

if __name__ == "__main__":
    try:
        voxelize_source(Path(sys.argv[1]), Path(sys.argv[2]), VoxelSettings(8, 0), workers=2, progress=wait)
    except KeyboardInterrupt:
        print("interrupted")
"""


def test_ctrl_c_ends_the_workers_quietly_and_leaves_no_half_artifact(shapes: Path, tmp_path: Path) -> None:
    run = started(shapes, tmp_path)
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does: to this process and its workers alike
    stdout, stderr = run.communicate(timeout=20)
    assert (run.returncode, stdout, stderr) == (0, "interrupted\n", "")
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".v.h5.journal"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["SIGKILL", "SIGINT"])
def test_a_run_that_was_killed_goes_on_where_it_stopped(shapes: Path, tmp_path: Path, number: signal.Signals) -> None:
    run = started(shapes, tmp_path)
    os.killpg(run.pid, number)
    run.communicate(timeout=20)
    output = tmp_path / "run" / "v.h5"
    assert not output.exists()
    seen: list[int] = []
    summary = voxelize_source(shapes, output, EIGHT, workers=1, progress=lambda done, _: seen.append(done))
    assert summary.n_resumed == seen[0] >= 16
    assert seen == [*range(seen[0], 84, 16), 84]
    assert list((tmp_path / "run").iterdir()) == [output]
    whole = voxelize_source(shapes, tmp_path / "whole.h5", EIGHT, workers=1)
    assert whole.n_resumed == 0
    assert (summary.counts, summary.skipped) == (whole.counts, whole.skipped)
    assert stored(output) == stored(tmp_path / "whole.h5")
    with open_artifact(output) as one, open_artifact(tmp_path / "whole.h5") as other:
        assert one.id == other.id


def stop_after(shapes: Path, output: Path, count: int, **options: Any) -> None:
    def stop(done: int, _: int) -> None:
        if done >= count:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        voxelize_source(shapes, output, EIGHT, workers=1, progress=stop, **options)


def test_other_settings_another_source_or_a_changed_shape_begin_afresh(shapes: Path, tmp_path: Path) -> None:
    copy = tmp_path / "shapes"
    shutil.copytree(shapes, copy)
    output = tmp_path / "v.h5"
    stop_after(shapes, output, 32)
    assert voxelize_source(shapes, output, VoxelSettings(8, 1), workers=1).n_resumed == 0
    stop_after(shapes, output, 32, force=True)
    assert voxelize_source(copy, output, EIGHT, workers=1, force=True).n_resumed == 0
    stop_after(copy, output, 32, force=True)
    (copy / "bed/train/bed_train_39.off").write_text(OFF.format(9))
    assert voxelize_source(copy, output, EIGHT, workers=1, force=True).n_resumed == 0
    stop_after(copy, output, 32, force=True)
    assert voxelize_source(copy, output, EIGHT, workers=1, force=True, drop_duplicates=True).n_resumed == 32


def test_a_strict_run_finds_what_the_run_before_it_had_skipped(shapes: Path, tmp_path: Path) -> None:
    stop_after(shapes, tmp_path / "v.h5", 84)
    with pytest.raises(InputError, match=r"lost/test/lost_test_00\.off: truncated"):
        voxelize_source(shapes, tmp_path / "v.h5", EIGHT, strict=True)
    assert not list(tmp_path.iterdir())


def started(shapes: Path, tmp_path: Path) -> "subprocess.Popen[str]":
    """A run in a process of its own that has done its first batch and waits."""
    script = tmp_path / "script.py"
    script.write_text(INTERRUPTED)
    (tmp_path / "run").mkdir()
    run = subprocess.Popen(
        [sys.executable, str(script), str(shapes), str(tmp_path / "run" / "v.h5")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert run.stdout is not None
    assert [run.stdout.readline(), run.stdout.readline()] == ["0\n", "16\n"]
    return run
