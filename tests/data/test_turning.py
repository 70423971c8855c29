import numpy as np
import pytest

from fer_cli.data.formats.registry import Grid, Mesh, PointCloud
from fer_cli.data.occupancy import VoxelSettings, voxelize_shape
from fer_cli.data.turning import TURNS, file_from_turned, turned_grid, turned_points
from fer_cli.network.poses import Pose, poses

# A wedge of sides 8, 4 and 2 that no right angle maps onto itself.
CORNERS = np.array([[0, 0, 0], [8, 0, 0], [0, 4, 0], [0, 0, 2]], dtype=float) + np.array([1.0, 2.0, 3.0])
WEDGE = Mesh(CORNERS, np.array([[0, 1, 2], [0, 1, 3], [0, 2, 3], [1, 2, 3]]))


def slow_turn(points: np.ndarray, up: str) -> np.ndarray:
    """Point by point, from what the option says: y up is z after it, z of the file points forward, to −y."""
    turns = {"x": lambda x, y, z: (-z, y, x), "y": lambda x, y, z: (x, -z, y), "z": lambda x, y, z: (x, y, z)}
    return np.array([turns[up](*point) for point in points])


@pytest.mark.parametrize("up", ["x", "y", "z"])
def test_the_axis_that_points_up_becomes_z_and_nothing_is_mirrored(up: str) -> None:
    points = np.random.default_rng(0).normal(size=(5, 3))
    found = turned_points(points, up)
    np.testing.assert_array_equal(found, slow_turn(points, up))
    np.testing.assert_array_equal(found[:, 2], points[:, "xyz".index(up)])
    assert np.linalg.det(file_from_turned(up)) == pytest.approx(1)
    np.testing.assert_array_equal(found @ file_from_turned(up)[:3, :3].T, points)


@pytest.mark.parametrize("up", ["x", "y"])
@pytest.mark.parametrize("kind", ["mesh", "points"])
def test_a_shape_stored_on_its_side_has_the_grid_of_the_upright_one(up: str, kind: str) -> None:
    upright = WEDGE if kind == "mesh" else PointCloud(CORNERS)
    back = file_from_turned(up)[:3, :3]
    lying = Mesh(CORNERS @ back.T, WEDGE.faces) if kind == "mesh" else PointCloud(CORNERS @ back.T)
    settings = VoxelSettings(16, 1)
    expected, found = voxelize_shape(upright, settings), voxelize_shape(lying, VoxelSettings(16, 1, up=up))
    np.testing.assert_array_equal(found.occupancy, expected.occupancy)
    assert not np.array_equal(voxelize_shape(lying, settings).occupancy, expected.occupancy)
    # The map leads to the coordinates of the file, not to those of the turned shape.
    place = np.array([3.0, 5.0, 7.0, 1.0])
    np.testing.assert_allclose((found.index_to_world @ place)[:3], back @ (expected.index_to_world @ place)[:3])


@pytest.mark.parametrize("up", ["x", "y"])
def test_a_grid_is_turned_as_its_voxels_would_be_one_by_one(up: str) -> None:
    occupancy = (np.random.default_rng(1).random((8, 4, 2)) < 0.4).astype(np.uint8)
    world = np.diag([2.0, 2.0, 2.0, 1.0])
    world[:3, 3] = (1.0, -3.0, 5.0)
    found = turned_grid(Grid(occupancy, world), up)
    centres = slow_turn(np.argwhere(occupancy), up)
    centres -= slow_turn(np.array([[0, 0, 0], np.array(occupancy.shape) - 1]), up).min(axis=0)
    assert sorted(map(tuple, np.argwhere(found.occupancy))) == sorted(map(tuple, centres))
    indices = np.argwhere(found.occupancy)
    places = (np.c_[indices, np.ones(len(indices))] @ found.index_to_world.T)[:, :3]
    expected = (np.c_[np.argwhere(occupancy), np.ones(int(occupancy.sum()))] @ world.T)[:, :3]
    assert sorted(map(tuple, places)) == sorted(map(tuple, expected))


@pytest.mark.parametrize("up", ["x", "y"])
def test_words_of_a_turn_are_those_of_the_pose_that_does_it(up: str) -> None:
    [pose] = [pose for pose in poses((4, 4, 4)) if pose.words == TURNS[up]]
    assert isinstance(pose, Pose)
    np.testing.assert_array_equal(pose.matrix, file_from_turned(up)[:3, :3].T)


def test_settings_that_were_recorded_before_have_z_up() -> None:
    recorded = VoxelSettings(16, up="y").to_json()
    assert VoxelSettings.from_json(recorded).up == "y"
    assert VoxelSettings.from_json({key: recorded[key] for key in ("resolution", "padding", "fill")}).up == "z"
