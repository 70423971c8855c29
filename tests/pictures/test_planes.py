import nibabel
import numpy as np
import pytest

from fer_cli.pictures.planes import axis_letters, orientation_of, spacing_words


def affine(letters: str, steps: tuple[float, float, float] = (1.0, 2.0, 3.0)) -> np.ndarray:
    """A map whose voxel axes point to these sides."""
    matrix = np.eye(4)
    matrix[:3, :3] = 0
    for voxel, letter in enumerate(letters):
        world = next(i for i, pair in enumerate(("RL", "AP", "SI")) if letter in pair)
        matrix[world, voxel] = steps[voxel] * (1 if letter in "RAS" else -1)
    return matrix


ALL = [
    "".join(letters)
    for order in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
    for choice in np.ndindex(2, 2, 2)
    for letters in [[("RL", "AP", "SI")[world][choice[world]] for world in order]]
]


@pytest.mark.parametrize("letters", ALL)
def test_whatever_the_axes_are_a_voxel_appears_on_its_own_side(letters: str) -> None:
    """One bright voxel at the right, anterior, superior corner of the patient; radiological convention places it."""
    shape = (8, 4, 2)
    grid = np.zeros(shape)
    corner = tuple(side - 1 if letter in "RAS" else 0 for side, letter in zip(shape, letters, strict=True))
    grid[corner] = 1
    matrix = affine(letters)
    axial, coronal, sagittal = orientation_of(matrix).planes
    assert [plane.name for plane in (axial, coronal, sagittal)] == ["axial", "coronal", "sagittal"]
    assert axial.edges == ("R", "L", "A", "P")
    assert coronal.edges == ("R", "L", "S", "I")
    assert sagittal.edges == ("A", "P", "S", "I")
    for plane in (axial, coronal, sagittal):
        drawn = plane.cut(grid, corner[plane.normal])
        assert drawn.shape == (shape[plane.down], shape[plane.across])
        assert np.argwhere(drawn).tolist() == [[0, 0]]  # right, anterior, superior: left and top of every plane
        assert plane.place(corner, shape) == (0, 0)
    assert axis_letters(matrix) == letters


def test_every_voxel_is_where_it_is_said_to_be() -> None:
    grid = np.random.default_rng(0).random((8, 4, 2))
    for matrix in (None, affine("RAS"), affine("LPI"), affine("SRP"), affine("AIL")):
        for plane in orientation_of(matrix).planes:
            for voxel in np.ndindex(*grid.shape):
                row, column = plane.place(voxel, grid.shape)
                assert plane.cut(grid, voxel[plane.normal])[row, column] == grid[voxel]


def test_letters_are_nibabels_for_turned_volumes() -> None:
    generator = np.random.default_rng(1)
    for _ in range(200):
        turn, _ = np.linalg.qr(generator.normal(0, 0.25, (3, 3)) + affine(str(generator.choice(ALL)))[:3, :3])
        matrix = np.eye(4)
        matrix[:3, :3] = turn * generator.uniform(0.5, 3, 3)
        assert axis_letters(matrix) == "".join(nibabel.orientations.aff2axcodes(matrix))


def test_an_oblique_volume_is_said_to_be_so() -> None:
    angle = np.radians(20)
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    assert "up to 20° off" in orientation_of(matrix).words
    assert "oblique" not in orientation_of(affine("LAS")).words


def test_without_a_map_axes_are_drawn_as_stored_and_the_words_say_so() -> None:
    orientation = orientation_of(None)
    assert orientation.words == "No orientation known: axes x, y, z as stored."
    z, y, x = orientation.planes
    assert (z.name, z.edges) == ("z slice", ("−x", "+x", "+y", "−y"))
    assert (y.name, y.edges) == ("y slice", ("−x", "+x", "+z", "−z"))
    assert (x.name, x.edges) == ("x slice", ("−y", "+y", "+z", "−z"))
    grid = np.arange(64).reshape(8, 4, 2)
    np.testing.assert_array_equal(z.cut(grid, 1), grid[:, ::-1, 1].T)
    np.testing.assert_array_equal(y.cut(grid, 3), grid[:, 3, ::-1].T)
    np.testing.assert_array_equal(x.cut(grid, 5), grid[5, :, ::-1].T)


def test_spacing_is_said() -> None:
    assert spacing_words((0.5, 0.5, 2.25)) == "Voxels measure 0.5 × 0.5 × 2.25 mm (x, y, z) and are drawn so."
    assert "not known" in spacing_words(None)
