from pathlib import Path

import numpy as np
import pytest
import pyvista

from diagnoses import diagnosis_of
from fer_cli.diagnosis.blame import Blame
from fer_cli.errors import ResourceError
from fer_cli.pictures.volumes import write_volumes

NAMES = ("input", "local", "nearest", "class_code")
BOX = ((1, 5), (0, 3), (1, 2))


def uneven(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((8, 4, 2)).astype(np.float32)


@pytest.mark.parametrize("turned", [False, True])
def test_every_voxel_lies_where_its_indices_say(tmp_path: Path, turned: bool) -> None:
    grids = {"input": uneven(0), "local": uneven(1), "nearest": uneven(2), "class_code": uneven(3)}
    diagnosis = diagnosis_of(
        **{f"{name}_volume": grid[None] for name, grid in grids.items()},
        layers=(),
        blame=Blame("conv1", ((0, 0, 0), (1, 0, 0)), (BOX, BOX)),
    )
    matrix = np.array([[0.5, 0, 0, 3], [0, 0.25, 0, -2], [0, 0, 2, 7], [0, 0, 0, 1]])
    if turned:
        matrix = matrix[[1, 2, 0, 3]]
    image = pyvista.read(write_volumes(diagnosis, matrix, tmp_path / "new"))
    assert set(image.cell_data) == {*grids, "blamed"}
    centres = image.cell_centers().points
    indices = np.rint((np.linalg.inv(matrix) @ np.column_stack([centres, np.ones(64)]).T)[:3].T).astype(int)
    world = (matrix @ np.column_stack([indices, np.ones(64)]).T)[:3].T
    np.testing.assert_allclose(centres, world, atol=1e-5)  # VTK gives centres as float32
    assert len(np.unique(indices, axis=0)) == 64
    for name, grid in grids.items():
        np.testing.assert_array_equal(image.cell_data[name], grid[tuple(indices.T)])
    blamed = np.zeros((8, 4, 2), int)
    blamed[1:5, 0:3, 1:2] = 2
    np.testing.assert_array_equal(image.cell_data["blamed"], blamed[tuple(indices.T)])


def test_channels_are_arrays_of_their_own(tmp_path: Path) -> None:
    volumes = {f"{name}_volume": np.stack([uneven(seed), uneven(seed + 9)]) for seed, name in enumerate(NAMES)}
    blame = Blame("a", ((0, 0, 0),), (BOX,))
    image = pyvista.read(write_volumes(diagnosis_of(**volumes, layers=(), blame=blame), np.eye(4), tmp_path))
    assert set(image.cell_data) == {*(f"{name}_{channel}" for name in NAMES for channel in (0, 1)), "blamed"}
    stored = image.cell_data["local_1"].reshape((8, 4, 2), order="F")
    np.testing.assert_array_equal(stored, volumes["local_volume"][1])


def test_representatives_are_there_too(tmp_path: Path) -> None:
    diagnosis = diagnosis_of()
    image = pyvista.read(write_volumes(diagnosis, np.eye(4), tmp_path))
    for layer in diagnosis.layers:
        for path in ("feedforward", "feedback"):
            stored = image.cell_data[f"{layer.name}_{path}"].reshape((32, 32, 32), order="F")
            np.testing.assert_array_equal(stored, layer.paths[path].representative[0])


def test_folder_that_cannot_be_written_is_a_resource_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ResourceError, match=r"cannot write .*file"):
        write_volumes(diagnosis_of(), np.eye(4), tmp_path / "file")
