"""Files that once came out as another shape, or as none, and what their voxels are."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from fer_cli.data.formats.registry import GreyError, Mesh, read_shape
from fer_cli.data.occupancy import VoxelSettings, voxelize_shape

pytestmark = pytest.mark.real_data


def voxels_of(path: Path, settings: VoxelSettings | None = None) -> np.ndarray:
    return voxelize_shape(read_shape(path.read_bytes(), path.name), settings or VoxelSettings()).occupancy


def test_concave_polygons_are_the_reference(shared_cases: Path) -> None:
    reference = voxels_of(shared_cases / "REFERENCE_L_shape.obj")
    assert reference.sum() == 1820
    for name in ("obj_concave_ngon_overfilled.obj", "off_concave_ngon_overfilled.off"):
        np.testing.assert_array_equal(voxels_of(shared_cases / name), reference)


def test_a_real_railing_has_its_openings(shared_cases: Path) -> None:
    """As fans around the first corner its polygons occupied 892 voxels."""
    assert voxels_of(shared_cases / "real_railing_concave_ngons.obj").sum() < 700


def test_unused_vertices_do_not_set_the_scale(shared_cases: Path) -> None:
    file = shared_cases / "obj_unused_vertex_shrinks_to_one_voxel.obj"
    np.testing.assert_array_equal(voxels_of(file), voxels_of(shared_cases / "REFERENCE_L_shape.obj"))
    assert voxels_of(file, VoxelSettings(bounds="all")).sum() == 1


def test_a_millionth_changes_no_box(shared_cases: Path) -> None:
    at, beside = (voxels_of(shared_cases / f"off_box_halfwidth_{half}.off") for half in ("12", "12.00001"))
    np.testing.assert_array_equal(at, beside)


def test_a_signed_distance_is_refused(shared_cases: Path) -> None:
    with pytest.raises(GreyError, match="--threshold T"):
        voxels_of(shared_cases / "npy_sdf_read_inverted.npy")


def test_no_real_bathtub_shrinks(shared_data: Path) -> None:
    """Six of the 79 have vertices of no face that enlarge the box of all."""
    strays = 0
    with zipfile.ZipFile(shared_data / "modelnet10-off.zip") as opened:
        for member in (m for m in opened.namelist() if "/bathtub/" in m and m.endswith(".off")):
            mesh = read_shape(opened.read(member), member)
            assert isinstance(mesh, Mesh)
            used, everything = (
                voxelize_shape(mesh, VoxelSettings()),
                voxelize_shape(mesh, VoxelSettings(bounds="all")),
            )
            spans = np.ptp(np.argwhere(used.occupancy), axis=0) + 1
            assert spans.max() == 30
            strays += not np.array_equal(used.index_to_world, everything.index_to_world)
    assert strays == 6
