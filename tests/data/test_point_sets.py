"""Files of many point clouds, as PointNet's ModelNet40 has them."""

import shutil
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from fer_cli.data.dataset import open_voxels
from fer_cli.data.formats.registry import PointCloud
from fer_cli.data.occupancy import VoxelSettings, voxelize_shape
from fer_cli.data.plan import plan
from fer_cli.data.source import close_archives, list_entries, read_shape_of
from fer_cli.data.voxelize import voxelize_source
from fer_cli.errors import InputError

POINTS = np.random.default_rng(0).random((5, 64, 3)).astype(np.float32)
LABELS = np.array([[1], [0], [2], [1], [0]], np.uint8)
STORED = {"compression": "gzip", "chunks": (2, 64, 3)}


def put(path: Path, points: Any = POINTS, labels: Any = LABELS, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_dataset("data", data=points, **options)
        file.create_dataset("label", data=labels)
        file.create_dataset("normal", data=-points)
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "modelnet40_ply_hdf5_2048"
    put(folder / "ply_data_train0.h5", **STORED)
    put(folder / "ply_data_test0.h5", POINTS[:2] + 1, LABELS[:2], **STORED)
    (folder / "shape_names.txt").write_text("airplane\nbathtub\nbed\n")
    return folder


def rows(given: Path) -> list[tuple[str, str | None, str]]:
    return [(entry.name, entry.class_name, entry.split) for entry in list_entries(given).entries]


ROWS = [
    ("ply_data_train0_00001", "airplane", "train"),
    ("ply_data_train0_00004", "airplane", "train"),
    ("ply_data_test0_00001", "airplane", "test"),
    ("ply_data_train0_00000", "bathtub", "train"),
    ("ply_data_train0_00003", "bathtub", "train"),
    ("ply_data_test0_00000", "bathtub", "test"),
    ("ply_data_train0_00002", "bed", "train"),
]


def zipped(folder: Path) -> Path:
    archive = folder.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        for path in sorted(folder.rglob("*.*")):
            opened.write(path, Path(folder.name, path.relative_to(folder)))
    return archive


def test_samples_have_the_split_of_their_file_and_the_class_of_their_label(source: Path) -> None:
    for given in (source, zipped(source)):
        assert rows(given) == ROWS
        assert not plan(given).are_volumes
    assert rows(source / "ply_data_test0.h5") == [ROWS[2], ROWS[5]]
    (source / "shape_names.txt").unlink()
    assert [class_name for _, class_name, _ in rows(source)] == ["0", "0", "0", "1", "1", "1", "2"]


def test_points_are_those_of_the_file_to_the_last_bit(source: Path) -> None:
    for given in (source, zipped(source), source / "ply_data_train0.h5"):
        for entry in list_entries(given).entries:
            if entry.split == "train":
                shape = read_shape_of(given, entry)
                assert isinstance(shape, PointCloud)
                np.testing.assert_array_equal(shape.points, POINTS[int(entry.name[-5:])])
    close_archives()


def test_point_sets_are_voxelized_as_files_of_points_are(source: Path, tmp_path: Path) -> None:
    settings = VoxelSettings(16, 1, "surface")
    for given, output in ((source, "a.h5"), (zipped(source), "b.h5")):
        summary = voxelize_source(given, tmp_path / output, settings, workers=1)
        assert (summary.n_samples, summary.classes) == (7, ("airplane", "bathtub", "bed"))
        voxels = open_voxels(tmp_path / output)
        index = voxels.index_of("ply_data_train0_00002")
        expected = voxelize_shape(PointCloud(POINTS[2].astype(np.float64)), settings)
        np.testing.assert_array_equal(voxels.volumes([index])[0, 0], expected.occupancy)
        np.testing.assert_allclose(voxels.index_to_world(index), expected.index_to_world)


def test_point_sets_without_a_split_are_named(source: Path) -> None:
    put(source / "other.h5")
    (skipped,) = list_entries(source).skipped
    assert (skipped.path, skipped.reason[:15]) == ("other.h5", "tells no split:")


def test_artifacts_of_fer_are_no_point_sets(source: Path, tmp_path: Path) -> None:
    voxelize_source(source, source / "test.h5", VoxelSettings(16, 1, "surface"), workers=1)
    shutil.copy(source / "test.h5", source / "voxels.h5")
    listing = list_entries(source)
    assert len(listing.entries) == 7
    assert not listing.skipped
    with pytest.raises(InputError, match="holds no shape that fer reads"):
        list_entries(source / "test.h5")


@pytest.mark.parametrize(
    ("points", "labels", "said"),
    [
        (POINTS[..., :2], LABELS, "data 5×64×2, label 5×1"),
        (POINTS, LABELS[:4], "data 5×64×3, label 4×1"),
        (POINTS, LABELS + 9, "labels run to 11, but shape_names.txt has 3 names"),
        (POINTS, LABELS.astype(np.float32), "labels of float32"),
        (POINTS, LABELS.astype(np.int64) - 1, "labels run from -1"),
        (POINTS, np.repeat(LABELS, 2, 1), "10 labels"),
    ],
)
def test_files_that_hold_no_labelled_points_are_skipped(points: Any, labels: Any, said: str, source: Path) -> None:
    put(source / "ply_data_train1.h5", points, labels)
    listing = list_entries(source)
    assert [item.path for item in listing.skipped] == ["ply_data_train1.h5"]
    assert said in listing.skipped[0].reason
    with pytest.raises(InputError, match=said.replace("×", ".")):
        list_entries(source / "ply_data_train1.h5")


def test_points_without_a_place_are_left_out_and_infinite_ones_skipped(source: Path, tmp_path: Path) -> None:
    points = POINTS.copy()
    points[1, 3, 0], points[2, 5, 1] = np.inf, np.nan
    put(source / "ply_data_train0.h5", points)
    summary = voxelize_source(source, tmp_path / "v.h5", VoxelSettings(16, 1, "surface"), workers=1)
    assert [(item.path, item.reason) for item in summary.skipped] == [
        (
            "ply_data_train0.h5/1",
            f"point 3 is at (inf, {points[1, 3, 1]:g}, {points[1, 3, 2]:g}), expected finite coordinates.",
        )
    ]
    warned = [(item.path, item.reason) for item in summary.warnings]
    assert warned == [("ply_data_train0.h5/2", "1 points without a place (NaN) are left out")]


def test_files_that_point_elsewhere_or_promise_too_much_are_refused(tmp_path: Path) -> None:
    path = put(tmp_path / "train.h5")
    with h5py.File(path, "r+") as file:
        del file["data"]
        file["data"] = h5py.ExternalLink("/etc/passwd", "data")
    with pytest.raises(InputError, match="holds a link at 'data'"):
        list_entries(path)
    path = put(tmp_path / "train1.h5")
    with h5py.File(path, "r+") as file:
        del file["data"]
        file.create_dataset("data", (5, 10**6, 3), np.float32, chunks=(1, 64, 3))
    with pytest.raises(InputError, match="promises 60000000 bytes, but only 0 are stored"):
        list_entries(path)
    (tmp_path / "train2.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(InputError, match="not a readable HDF5 file"):
        list_entries(tmp_path / "train2.h5")
