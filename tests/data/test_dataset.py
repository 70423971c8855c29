from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from fer_cli.data import dataset
from fer_cli.data.dataset import VoxelSet, hold_out, open_voxels
from fer_cli.data.sample_input import Sample, load_sample
from fer_cli.errors import ArtifactError, InputError, UsageError
from fer_cli.network.backbone import Level
from fer_cli.run import Run
from fer_cli.storage.artifact_writer import ArtifactWriter
from fer_cli.storage.run_paths import RunPaths
from fer_cli.storage.schema import VOXELS
from networks import cube

LEVELS = (Level("conv1", 2, (1, 1, 1)),)
SETTINGS = {"resolution": 8, "padding": 1, "fill": "surface"}
NAMES = ["chair_0001", "chair_0002", "sofa_0001", "bed_0001", "lamp"]


def write_voxels(path: Path, sides: tuple[int, ...] = (8, 8, 8), **changes: Any) -> Path:
    count = len(NAMES)
    arrays = {
        "occupancy": (np.random.default_rng(1).random((count, *sides)) < 0.3).astype(np.uint8),
        "name": NAMES,
        "label": np.array([1, 1, 2, 0, -1]),
        "split": ["train", "test", "train", "train", "unlabelled"],
        "index_to_world": np.tile(np.eye(4), (count, 1, 1)),
        "source": NAMES,
        "record/n_faces": np.full(count, -1),
        "record/n_open_edges": np.full(count, -1),
        "record/n_occupied": np.ones(count, np.int64),
        "record/enclosed": np.full(count, -1, np.int8),
        "record/warnings": [""] * count,
        "record/duplicate_of": np.full(count, -1),
        "dropped/source": [],
        "dropped/duplicate_of": np.zeros(0, np.int64),
        "skipped/source": [],
        "skipped/reason": [],
    }
    attributes = {"classes": changes.pop("classes", ["bed", "chair", "sofa"])}
    with ArtifactWriter(path, VOXELS, config={"voxelization": SETTINGS}, parents={}, attributes=attributes) as writer:
        for name, array in (arrays | changes).items():
            writer.write(name, array)
    return path


@pytest.fixture
def voxels(tmp_path: Path) -> VoxelSet:
    return open_voxels(write_voxels(tmp_path / "voxels.h5"))


def test_packed_grids_are_the_grids_of_the_file(run_paths: RunPaths) -> None:
    packed, unpacked = (open_voxels(run_paths.voxels, in_memory=in_memory) for in_memory in (True, False))
    stored = unpacked.artifact.read("occupancy")
    for indices in ([], [0], [3, 1, 2], [5, 5, 0, 5], range(len(packed)), np.arange(len(packed))[::-1]):
        expected = np.array([stored[i] for i in indices], np.uint8).reshape(-1, 8, 8, 8)
        for voxel_set in (packed, unpacked):
            grids, tensor = voxel_set.grids(indices), voxel_set.tensor(indices)
            np.testing.assert_array_equal(grids, expected)
            assert (tensor.dtype, tensor.shape) == (torch.float32, (len(expected), 1, 8, 8, 8))
            np.testing.assert_array_equal(tensor[:, 0].numpy(), expected)


def test_grids_held_in_memory_are_those_that_were_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "_BLOCK", 2)
    path = write_voxels(tmp_path / "voxels.h5")
    written = open_voxels(path).artifact.read("occupancy")
    np.testing.assert_array_equal(open_voxels(path, in_memory=True).grids(range(5)), written)
    with h5py.File(path, "r+") as file:  # HDF5 makes a new checksum for what is changed by its own means
        file["occupancy"][4, 0, 0, 0] ^= 1
    assert open_voxels(path).grids([4])[0, 0, 0, 0] != written[4, 0, 0, 0]
    with pytest.raises(ArtifactError, match=r"dataset 'occupancy' is not what was written\. Run 'fer voxelize' again"):
        open_voxels(path, in_memory=True)


def test_split_names_its_labelled_samples(voxels: VoxelSet) -> None:
    assert (len(voxels), voxels.classes, voxels.input) == (5, ("bed", "chair", "sofa"), cube(8))
    assert voxels.voxelization == SETTINGS
    assert voxels.indices("train").tolist() == [0, 2, 3]
    assert voxels.indices("test").tolist() == [1]
    for split in ("unlabelled", "validation"):
        message = rf"no labelled sample in the split '{split}' \(splits: test, train, unlabelled\)"
        with pytest.raises(UsageError, match=message):
            voxels.indices(split)


def test_unknown_name_is_answered_with_those_near(voxels: VoxelSet) -> None:
    assert [voxels.index_of(name) for name in NAMES] == list(range(5))
    with pytest.raises(InputError, match=r"no sample called 'chair_0003'\. Near: chair_000[12], chair_000[12]"):
        voxels.index_of("chair_0003")
    with pytest.raises(InputError, match=r"no sample called 'xyz'\.$"):
        voxels.index_of("xyz")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sides": (8, 0, 2)}, r"occupancy has shape \(5, 8, 0, 2\); grids of some samples are needed"),
        ({"classes": ["bed", "chair"]}, r"labels run from -1 to 2, but classes are \['bed', 'chair'\]"),
        ({"label": np.array([0, 1, 2, -2, 0])}, "labels run from -2 to 2"),
        ({"classes": "bed"}, "classes are 'bed'"),
    ],
)
def test_voxels_that_contradict_themselves_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=message):
        open_voxels(write_voxels(tmp_path / "v.h5", **changes))


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.9])
def test_held_out_samples_are_a_stratified_share(fraction: float) -> None:
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 3, 7], [1, 2, 3, 40, 101]))
    kept, held = hold_out(labels, fraction, 5)
    assert sorted([*kept, *held]) == list(range(len(labels)))
    assert (np.diff(kept) > 0).all()
    assert (np.diff(held) > 0).all()
    for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
        expected = 0 if count == 1 else min(max(1, round(count * fraction)), count - 1)
        assert (labels[held] == label).sum() == expected
    again = hold_out(labels, fraction, 5)
    np.testing.assert_array_equal(held, again[1])
    assert held.tolist() != hold_out(labels, fraction, 6)[1].tolist()


def test_every_sample_is_held_out_as_often() -> None:
    labels = np.repeat([0, 1], [20, 10])
    counts = np.zeros(30)
    for seed in range(2000):
        counts[hold_out(labels, 0.1, seed)[1]] += 1
    # Each is a binomial of 2000 draws at 0.1: standard deviation 13; five of them.
    np.testing.assert_allclose(counts, 200, atol=67)


def load(sample: str, voxels: VoxelSet, label: str | None = None) -> Sample:
    return load_sample(
        sample, voxelization=SETTINGS, input=voxels.input, classes=voxels.classes, voxels=lambda: voxels, label=label
    )


def test_sample_is_a_file_if_there_is_one_else_a_name(
    voxels: VoxelSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    named = load("chair_0002", voxels)
    assert (named.name, named.label, named.index) == ("chair_0002", 1, 1)
    np.testing.assert_array_equal(named.volume, voxels.grids([1]))
    assert load("chair_0002", voxels, "sofa").label == 2
    assert load("lamp", voxels).label is None
    assert load("lamp", voxels, "bed").label == 0
    grid = voxels.grids([3])[0]
    np.save("shape.npy", grid)
    for sample in ("shape.npy", str(tmp_path / "shape.npy")):
        found = load_sample(
            sample,
            voxelization=SETTINGS,
            input=cube(8),
            classes=("bed",),
            voxels=lambda: pytest.fail("not needed"),
        )
        assert (found.name, found.label, found.index) == ("shape", None, None)
        np.testing.assert_array_equal(found.volume, grid[None])
    assert load("shape.npy", voxels, "sofa").label == 2


def test_mesh_is_voxelized_with_the_recorded_settings(voxels: VoxelSet, tmp_path: Path) -> None:
    path = tmp_path / "tetrahedron.off"
    path.write_text("OFF\n4 4 0\n0 0 0\n8 0 0\n0 4 0\n0 0 2\n3 0 1 2\n3 0 1 3\n3 0 2 3\n3 1 2 3\n")
    occupied = np.argwhere(load(str(path), voxels).volume[0])
    assert (occupied.max(axis=0) - occupied.min(axis=0) + 1).tolist() == [6, 4, 2]  # padding 1 of 8 voxels


@pytest.mark.parametrize("sample", ["missing.off", "missing.npy", "folder/missing"])
def test_file_that_does_not_exist_is_said_so(sample: str, voxels: VoxelSet) -> None:
    with pytest.raises(InputError, match=rf"{sample} does not exist"):
        load(sample, voxels)


def test_grid_of_another_resolution_is_refused(voxels: VoxelSet, tmp_path: Path) -> None:
    np.save(tmp_path / "other.npy", np.ones((8, 4, 2), np.uint8))
    message = r"other\.npy is a grid of 8×4×2 voxels, but the network reads 8³"
    with pytest.raises(InputError, match=message):
        load(str(tmp_path / "other.npy"), voxels)


def test_unknown_class_is_refused_with_those_near(voxels: VoxelSet) -> None:
    with pytest.raises(UsageError, match="no class 'chairs'; near: chair"):
        load("lamp", voxels, "chairs")
    with pytest.raises(UsageError, match="no class 'xyz'; known: bed, chair, sofa"):
        load("lamp", voxels, "xyz")


def test_the_runs_labels_are_those_of_its_folders(run: Run) -> None:
    assert [run.voxels.classes[label] for label in run.voxels.labels] == [n.split("_")[0] for n in run.voxels.names]
    assert [n.split("_")[1] for n in run.voxels.names] == run.voxels.splits
