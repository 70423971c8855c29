import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from fer_cli.artifact import open_artifact
from fer_cli.errors import InputError, UsageError
from fer_cli.formats import read_shape
from fer_cli.occupancy import VoxelSettings, voxelize_shape
from fer_cli.schema import VOXELS
from fer_cli.source import Skipped
from fer_cli.voxelize import voxelize_source

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
        assert artifact.config == {"voxelization": EIGHT.to_json(), "source": "shapes", "per_class": None}
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


INTERRUPTED = """
import sys, time
from pathlib import Path
from fer_cli.occupancy import VoxelSettings
from fer_cli.voxelize import voxelize_source

def wait(done, total):
    print(done, flush=True)
    time.sleep(60)

if __name__ == "__main__":
    try:
        voxelize_source(Path(sys.argv[1]), Path(sys.argv[2]), VoxelSettings(8, 0), workers=2, progress=wait)
    except KeyboardInterrupt:
        print("interrupted")
"""


def test_ctrl_c_ends_the_workers_quietly_and_leaves_no_file(shapes: Path, tmp_path: Path) -> None:
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
    assert run.stdout.readline() == "16\n"
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does: to this process and its workers alike
    stdout, stderr = run.communicate(timeout=20)
    assert (run.returncode, stdout, stderr) == (0, "interrupted\n", "")
    assert not list((tmp_path / "run").iterdir())
