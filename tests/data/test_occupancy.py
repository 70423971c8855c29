import itertools
import os
import zipfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_cli.data.formats.registry import Grid, Mesh, PointCloud, index_to_world, read_shape
from fer_cli.data.occupancy import (
    TIE,
    VoxelSettings,
    fill_enclosed,
    fit_grid,
    occupy_points,
    voxelize_mesh,
    voxelize_shape,
)
from fer_cli.data.triangles import TOUCH
from fer_cli.errors import ArtifactError, InputError, UsageError

EIGHT = VoxelSettings(8, 0)
EXAMPLES = int(os.environ.get("FER_LAW_EXAMPLES", "60"))
"""How often a law is tried; the variable asks for more, such as 10,000."""


def soup(seed: int, n_faces: int, *, extent: tuple[float, ...] = (8.0, 4.0, 2.0), grain: float = 0.0) -> Mesh:
    """Random triangles in a box of uneven sides; with a grain, corners lie on a lattice and many are degenerate."""
    rng = np.random.default_rng(seed)
    vertices = rng.random((3 * n_faces, 3)) * extent
    vertices = np.round(vertices / grain) * grain if grain else vertices
    vertices = np.concatenate([vertices, [[0.0, 0.0, 0.0], extent]])  # the box itself, so that its side is known
    corners = [[3 * n_faces] * 3, [3 * n_faces + 1] * 3]
    return Mesh(vertices, np.concatenate([np.arange(3 * n_faces).reshape(-1, 3), corners]))


def box(lower: tuple[float, ...], upper: tuple[float, ...]) -> Mesh:
    corners = np.array(list(itertools.product(*zip(lower, upper, strict=True))), dtype=np.float64)
    quads = np.array([[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]])
    return Mesh(corners, np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]))


def points_in_voxels(mesh: Mesh, grid: Grid, margin: int | None = None) -> np.ndarray:
    """Vertices in units of voxels, by the grid's own map to the world.

    With a margin they are moved by the tie of borders, so that voxel i spans [i, i + 1).
    """
    homogeneous = np.column_stack([mesh.vertices, np.ones(len(mesh.vertices))])
    tie = 0.0 if margin is None else TIE * (len(grid.occupancy) - 2 * margin)
    return (homogeneous @ np.linalg.inv(grid.index_to_world).T)[:, :3] + 0.5 + tie


def folded(beyond: np.ndarray, margin: int) -> np.ndarray:
    """The grid of which `beyond` has a layer more at the end of each axis, which belongs to the last voxels."""
    inner = len(beyond) - 1 - 2 * margin
    expected = np.zeros((len(beyond) - 1,) * 3, np.uint8)
    for voxel in np.argwhere(beyond):
        expected[tuple(np.minimum(voxel, margin + inner - 1))] = 1
    return expected


def clipped_is_left(triangle: np.ndarray, voxel: tuple[int, ...]) -> bool:
    """Whether anything is left of a triangle that is cut off at the six sides of a cube, in exact arithmetic."""
    touch = Fraction(TOUCH)
    polygon = [[Fraction(float(value)) for value in corner] for corner in triangle]
    for axis, sign in itertools.product(range(3), (1, -1)):
        bound = voxel[axis] - touch if sign == 1 else -(voxel[axis] + 1 + touch)
        inside = [sign * corner[axis] - bound for corner in polygon]
        kept = []
        for (a, da), (b, db) in zip(
            zip(polygon, inside, strict=True),
            zip(polygon[1:] + polygon[:1], inside[1:] + inside[:1], strict=True),
            strict=True,
        ):
            if da >= 0:
                kept.append(a)
            if (da < 0) != (db < 0):
                kept.append([x + (y - x) * da / (da - db) for x, y in zip(a, b, strict=True)])
        polygon = kept
    return bool(polygon)


def voxels_by_clipping(mesh: Mesh, grid: Grid, margin: int = 0) -> np.ndarray:
    expected = np.zeros((len(grid.occupancy) + 1,) * 3, np.uint8)
    inner = range(margin, len(expected) - margin)
    for triangle in points_in_voxels(mesh, grid, margin)[mesh.faces]:
        near = [
            [i for i in inner if low - 2 < i < high + 1]
            for low, high in zip(triangle.min(0), triangle.max(0), strict=True)
        ]
        for voxel in itertools.product(*near):
            if not expected[voxel]:
                expected[voxel] = clipped_is_left(triangle, voxel)
    return folded(expected, margin)


def voxels_by_projection(mesh: Mesh, grid: Grid) -> np.ndarray:
    """Every triangle against every voxel: all thirteen axes, written as dot products with their vectors."""
    size = len(grid.occupancy) + 1
    centres = np.stack(np.meshgrid(*[np.arange(size) + 0.5] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    expected = np.zeros(len(centres), bool)
    for triangle in points_in_voxels(mesh, grid, 0)[mesh.faces]:
        edges = triangle - np.roll(triangle, 1, axis=0)
        axes = np.concatenate([np.eye(3), [np.cross(edges[0], edges[1])], *(np.cross(np.eye(3), e) for e in edges)])
        shadow = triangle @ axes.T
        reach = (0.5 + TOUCH) * np.abs(axes).sum(axis=1)
        cubes = centres @ axes.T
        expected |= ((cubes + reach >= shadow.min(0)) & (cubes - reach <= shadow.max(0))).all(axis=1)
    return folded(expected.reshape(size, size, size), 0)


@pytest.mark.parametrize(
    ("mesh", "settings"),
    [
        (soup(0, 3), EIGHT),
        (soup(1, 12, grain=1.0), EIGHT),
        (soup(2, 12, grain=0.5), VoxelSettings(10, 1)),
        (soup(3, 4, extent=(0.3, 7.0, 2.6)), VoxelSettings(9, 2)),
        (soup(4, 30, extent=(2.0, 2.0, 8.0), grain=2.0), EIGHT),
        (box((-4, -2, -1), (4, 2, 1)), EIGHT),
    ],
    ids=["oblique", "on borders", "half-way", "flat", "degenerate", "box"],
)
def test_voxels_are_what_clipping_every_triangle_leaves(mesh: Mesh, settings: VoxelSettings) -> None:
    grid = voxelize_mesh(mesh, settings)
    np.testing.assert_array_equal(grid.occupancy, voxels_by_clipping(mesh, grid, settings.padding))


def test_slivers_are_the_line_that_they_hide() -> None:
    """Their normal is rounding noise; taken at its word, it makes gaps in about half of these."""
    rng = np.random.default_rng(12)
    settings = VoxelSettings(64, 0, bounds="all")
    for _ in range(40):
        start, end = rng.random((2, 3)) * [8, 4, 2]
        vertices = np.array([start, end, start + (end - start) * rng.random(), [0, 0, 0], [8, 4, 2]])
        sliver = voxelize_mesh(Mesh(vertices, np.array([[0, 1, 2]])), settings)
        line = voxelize_mesh(Mesh(vertices, np.array([[0, 1, 1]])), settings)
        np.testing.assert_array_equal(sliver.occupancy, line.occupancy)
        along = Mesh(start + (end - start) * np.linspace(0, 1, 999)[:, None], np.array([[0, 1, 2]]))
        voxels = np.minimum(np.floor(points_in_voxels(along, sliver, 0)).astype(int), 63)
        assert sliver.occupancy[tuple(voxels.T)].all()


@pytest.mark.parametrize("half", range(1, 8))
@pytest.mark.parametrize(("resolution", "padding"), [(16, 0), (32, 8), (19, 1)])
def test_walls_on_borders_are_one_voxel_thick(half: int, resolution: int, padding: int) -> None:
    inner = resolution - 2 * padding
    mesh = box((-half, -inner / 2, -half), (half, inner / 2, half))
    found = [np.flatnonzero(voxelize_mesh(mesh, VoxelSettings(resolution, padding)).occupancy.any(axis=(1, 2)))]
    found.append(np.flatnonzero(voxelize_mesh(mesh, VoxelSettings(resolution, padding)).occupancy.any(axis=(0, 1))))
    lowest, wide = padding + inner / 2 - half, 2 * half + 1
    for layers in found:
        assert layers.tolist() == list(range(int(lowest), int(lowest) + wide))
    grid = voxelize_mesh(mesh, VoxelSettings(resolution, padding)).occupancy
    assert grid.sum() == wide * wide * inner - (wide - 2) ** 2 * (inner - 2)


@pytest.mark.parametrize("half", [12.0, 5.0, 7.5, 1.0])
@pytest.mark.parametrize("by", [1e-5, -1e-5, 3e-6])
def test_a_box_does_not_change_for_a_millionth(half: float, by: float) -> None:
    """Sides of 60, of which a voxel is 2: half a box's width on a border, and as little beside it as text keeps."""
    boxes = [box((-h, -30, -12.5), (h, 30, 12.5)) for h in (half, half + by)]
    at, beside = (voxelize_mesh(mesh, VoxelSettings()).occupancy for mesh in boxes)
    np.testing.assert_array_equal(at, beside)


def parts_in_a_frame(rng: np.random.Generator) -> list[Mesh]:
    """The frame of a cube first, which sets the scale; then boxes on a lattice of whole and half voxels, or anyhow."""
    parts = [box((0, 0, 0), (30, 30, 30))]
    for _ in range(rng.integers(1, 5)):
        corners = np.sort(rng.integers(2, 58, (2, 3)) / 2 if rng.random() < 0.7 else rng.uniform(1, 29, (2, 3)), axis=0)
        parts.append(box(tuple(corners[0]), tuple(corners[1])))
    if rng.random() < 0.5:
        loose = soup(int(rng.integers(2**32)), int(rng.integers(1, 12)), extent=(20.0, 10.0, 5.0))
        parts.append(Mesh(loose.vertices[:-2] + 5, loose.faces[:-2]))
    return parts


def merged(parts: list[Mesh]) -> Mesh:
    before = np.cumsum([0, *(len(part.vertices) for part in parts[:-1])])
    faces = [part.faces + start for part, start in zip(parts, before, strict=True)]
    return Mesh(np.concatenate([part.vertices for part in parts]), np.concatenate(faces))


@given(seed=st.integers(0, 2**32 - 1), resolution=st.sampled_from([8, 17, 32, 64]))
@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
def test_law_small_moves_change_few_voxels(seed: int, resolution: int) -> None:
    """The shape, turned or not, somewhere else; and one part within it by a millionth of the shape's side."""
    rng = np.random.default_rng(seed)
    parts = parts_in_a_frame(rng)
    mesh = merged(parts)
    wanted = VoxelSettings(resolution, 1)
    at = voxelize_mesh(mesh, wanted).occupancy
    chosen = int(rng.integers(1, len(parts)))
    shift = rng.uniform(-1, 1, 3) * 30e-6
    parts[chosen] = Mesh(parts[chosen].vertices + shift, parts[chosen].faces)
    scale = 10.0 ** rng.integers(-6, 7)
    elsewhere = Mesh((mesh.vertices + rng.uniform(-1, 1, 3) * rng.choice([30e-6, 1e5])) * scale, mesh.faces)
    for moved in (merged(parts), elsewhere):
        changed = int((voxelize_mesh(moved, wanted).occupancy != at).sum())
        assert changed <= max(3, 0.01 * at.sum())  # corners that happen to lie by a border


@given(seed=st.integers(0, 2**32 - 1), reach=st.sampled_from([0.5, 3.0, 1e6, 1e300]))
@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
def test_law_vertices_of_no_face_change_nothing(seed: int, reach: float) -> None:
    rng = np.random.default_rng(seed)
    mesh = soup(seed, 5)
    stray = rng.uniform(-1, 1, (int(rng.integers(1, 9)), 3)) * reach
    order = rng.permutation(len(mesh.vertices) + len(stray))
    place = np.argsort(order)
    with_stray = Mesh(np.concatenate([mesh.vertices, stray])[order], place[mesh.faces])
    at, found = (voxelize_mesh(each, VoxelSettings(12, 1)) for each in (mesh, with_stray))
    np.testing.assert_array_equal(found.occupancy, at.occupancy)
    np.testing.assert_array_equal(found.index_to_world, at.index_to_world)
    if reach > 1e3:
        with_all = voxelize_mesh(with_stray, VoxelSettings(12, 1, bounds="all"))
        assert with_all.occupancy.sum() < at.occupancy.sum()
        assert with_all.index_to_world[0, 0] > at.index_to_world[0, 0]


def test_face_between_two_voxels_belongs_to_the_later_one() -> None:
    lower = Mesh(box((0, 0, 0), (8, 4, 2)).vertices, np.array([[0, 2, 6]]))
    # z = 3 is the lower side of the box, between layers 2 and 3.
    grid = voxelize_mesh(lower, VoxelSettings(8, 0, bounds="all"))
    assert np.flatnonzero(grid.occupancy.any(axis=(0, 1))).tolist() == [3]


@pytest.mark.parametrize("vertices", [[[1.0, 2, 3]] * 3, [[5e-324, 0, 0], [0, 0, 0], [0, 0, 0]]])
def test_mesh_without_extent_is_one_voxel_on_its_point(vertices: list[list[float]]) -> None:
    grid = voxelize_mesh(Mesh(np.array(vertices), np.array([[0, 1, 2]])), VoxelSettings(9, 0))
    assert np.argwhere(grid.occupancy).tolist() == [[4, 4, 4]]
    np.testing.assert_allclose(grid.index_to_world @ [4, 4, 4, 1], [*vertices[1], 1])


def test_line_and_sheet_are_as_thick_as_what_they_touch() -> None:
    line = Mesh(np.array([[0.0, 0, 0], [0, 0, 5]]), np.array([[0, 1, 1]]))
    assert voxelize_mesh(line, VoxelSettings(9, 1)).occupancy.sum() == 7
    assert voxelize_mesh(line, EIGHT).occupancy.sum() == 8  # although four columns meet along it
    assert voxelize_mesh(box((0, 0, 0), (8, 4, 0)), VoxelSettings(9, 0)).occupancy.any(axis=(0, 1)).sum() == 1


def test_meshes_that_are_no_shape_are_refused() -> None:
    good = box((0, 0, 0), (8, 4, 2))
    for mesh, message in [
        (Mesh(np.zeros((0, 3)), np.zeros((0, 3), np.int64)), "0 vertices and 0 faces"),
        (Mesh(good.vertices, np.zeros((0, 3), np.int64)), "8 vertices and 0 faces has no surface"),
        (Mesh(good.vertices, np.array([[0, 1, 8]])), "faces name vertices 0 to 8 of 8"),
        (Mesh(good.vertices, np.array([[0, 1, -1]])), "faces name vertices -1 to 1 of 8"),
        (Mesh(good.vertices * np.nan, good.faces), "extends from nan to nan"),
        (Mesh(good.vertices + np.inf, good.faces), "extends from inf to inf"),
    ]:
        with pytest.raises(InputError, match=message):
            voxelize_mesh(mesh, EIGHT)


@pytest.mark.parametrize("scale", [1e-300, 1e-3, 1e5, 1.7e308 / 8])
def test_scale_and_place_do_not_matter(scale: float) -> None:
    # Small integers and halves, so that scaling and moving are exact but for the voxelizer's own arithmetic.
    mesh = soup(5, 20, grain=0.5)
    expected = voxelize_mesh(mesh, VoxelSettings(20, 2)).occupancy
    for offset in ([0.0, 0, 0], [1024.0, -65536, 0.5]):
        if scale > 1e300 and any(offset):
            continue
        moved = Mesh((mesh.vertices + offset) * scale, mesh.faces)
        np.testing.assert_array_equal(voxelize_mesh(moved, VoxelSettings(20, 2)).occupancy, expected)


def test_swapping_axes_swaps_the_grid() -> None:
    mesh = soup(6, 20, grain=0.25)
    expected = voxelize_mesh(mesh, EIGHT)
    for order in itertools.permutations(range(3)):
        swapped = voxelize_mesh(Mesh(mesh.vertices[:, order], mesh.faces), EIGHT)
        np.testing.assert_array_equal(swapped.occupancy, expected.occupancy.transpose(order))


def test_a_quarter_turn_about_z_turns_the_grid() -> None:
    mesh = soup(7, 20, extent=(8.0, 4.3, 2.2))  # on borders it would not: they belong to the later voxel
    x, y, z = mesh.vertices.T
    turned = voxelize_mesh(Mesh(np.column_stack([-y, x, z]), mesh.faces), EIGHT)
    np.testing.assert_array_equal(turned.occupancy, np.rot90(voxelize_mesh(mesh, EIGHT).occupancy, axes=(0, 1)))


def test_padding_is_empty_and_changes_nothing_within() -> None:
    mesh = soup(8, 20, grain=0.5)
    inner = voxelize_mesh(mesh, VoxelSettings(30, 0)).occupancy
    np.testing.assert_array_equal(voxelize_mesh(mesh, VoxelSettings(36, 3)).occupancy, np.pad(inner, 3))


def test_longest_side_spans_the_grid_within_the_padding() -> None:
    for padding in (0, 3):
        grid = voxelize_mesh(box((100, 200, 300), (140, 280, 320)), VoxelSettings(16, padding))
        ends = points_in_voxels(Mesh(np.array([[100.0, 200, 300], [140, 280, 320]]), np.array([[0, 1, 1]])), grid)
        side = 16 - 2 * padding
        # Relative to coordinates of hundreds, inverted: a few roundings of 1e-14 are the map's own.
        np.testing.assert_allclose(ends.mean(axis=0), [8, 8, 8], atol=1e-12)
        np.testing.assert_allclose(ends[1] - ends[0], [side / 2, side, side / 4], atol=1e-12)


def test_solid_fills_what_is_enclosed_and_nothing_else() -> None:
    settings = VoxelSettings(16, 1, "solid")
    closed = box((0, 0, 0), (8, 4, 2))
    filled = voxelize_mesh(closed, settings).occupancy
    lower, upper = np.argwhere(filled).min(axis=0), np.argwhere(filled).max(axis=0)
    assert filled.sum() == np.prod(upper - lower + 1)
    opened = Mesh(closed.vertices, closed.faces[1:])
    surface = voxelize_mesh(opened, VoxelSettings(16, 1)).occupancy
    np.testing.assert_array_equal(voxelize_mesh(opened, settings).occupancy, surface)


def test_solid_fills_a_shell_that_fills_the_whole_grid() -> None:
    shell = np.ones((8, 4, 2 + 1), np.uint8)
    shell[1:-1, 1:-1, 1:-1] = 0
    assert fill_enclosed(Grid(shell, np.eye(4))).occupancy.all()


def test_smaller_grid_is_centred() -> None:
    occupancy = (np.random.default_rng(9).random((30, 20, 11)) < 0.3).astype(np.uint8)
    grid = fit_grid(Grid(occupancy, index_to_world(np.array([5.0, 6.0, 7.0]), 0.5)), 32)
    np.testing.assert_array_equal(grid.occupancy, np.pad(occupancy, [(1, 1), (6, 6), (10, 11)]))
    np.testing.assert_array_equal(grid.index_to_world @ [1, 6, 10, 1], [5, 6, 7, 1])


@pytest.mark.parametrize("resolution", [8, 13, 39])
def test_larger_grid_is_reduced_to_the_voxels_that_hold_its_centres(resolution: int) -> None:
    occupancy = (np.random.default_rng(10).random((40, 24, 9)) < 0.02).astype(np.uint8)
    world = index_to_world(np.array([1.0, 2.0, 3.0]), 0.25)
    grid = fit_grid(Grid(occupancy, world), resolution)
    indices = np.argwhere(occupancy)
    centres = np.column_stack([indices, np.ones(len(indices))]) @ world.T @ np.linalg.inv(grid.index_to_world).T
    expected = np.zeros_like(grid.occupancy)
    expected[tuple(np.floor(centres[:, :3] + 0.5 + 1e-9).astype(int).T)] = 1  # a centre on a border counts to the right
    np.testing.assert_array_equal(grid.occupancy, expected)


def test_grid_that_fits_is_left_alone() -> None:
    grid = Grid(
        (np.random.default_rng(11).random((16, 16, 16)) < 0.2).astype(np.uint8), index_to_world(np.ones(3), 3.0)
    )
    same = voxelize_shape(grid, VoxelSettings(16, 5))
    np.testing.assert_array_equal(same.occupancy, grid.occupancy)
    np.testing.assert_array_equal(same.index_to_world, grid.index_to_world)
    assert (
        voxelize_shape(Grid(np.ones((3, 2, 1), np.uint8), np.eye(4)), VoxelSettings(8, 0, "solid")).occupancy.sum() == 6
    )


def test_settings_survive_json_and_refuse_what_cannot_be() -> None:
    settings = VoxelSettings(16, 2, "solid")
    assert VoxelSettings.from_json(settings.to_json()) == settings
    for bad, message in [
        ((7, 0), "resolution 7 is out of range; give 8 to 128"),
        ((129, 0), "resolution 129"),
        ((8, 4), "padding 4 leaves no room in 8 voxels; give 0 to 3"),
        ((8, -1), "padding -1"),
    ]:
        with pytest.raises(UsageError, match=message):
            VoxelSettings(*bad)
    assert (
        VoxelSettings.from_json({"resolution": 8, "padding": 1, "fill": "solid"}).bounds == "all"
    )  # as older ones did
    for recorded in (
        {},
        {"resolution": 8, "padding": 9, "fill": "surface"},
        settings.to_json() | {"fill": "foam"},
        settings.to_json() | {"bounds": "most"},
    ):
        with pytest.raises(ArtifactError, match="recorded voxelization"):
            VoxelSettings.from_json(recorded)


@pytest.mark.real_data
def test_real_mesh_is_voxelized_as_every_triangle_against_every_voxel(shared_data: Path) -> None:
    with zipfile.ZipFile(shared_data / "modelnet10-off.zip") as opened:
        for name in ("bathtub_0025", "bathtub_0108"):
            member = next(m for m in opened.namelist() if m.endswith(f"{name}.off"))
            mesh = read_shape(opened.read(member), member)
            assert isinstance(mesh, Mesh)
            grid = voxelize_mesh(mesh, VoxelSettings(16, 0))
            np.testing.assert_array_equal(grid.occupancy, voxels_by_projection(mesh, grid))


@pytest.mark.real_data
def test_real_meshes_agree_with_their_binvox(shared_data: Path) -> None:
    """binvox widens voxels by about a hundredth, so that agreement is not exact."""
    overlaps = []
    with (
        zipfile.ZipFile(shared_data / "modelnet10-off.zip") as meshes,
        zipfile.ZipFile(shared_data / "modelnet10-binvox.zip") as grids,
    ):
        members = sorted(
            m.filename for m in meshes.infolist() if "/bathtub/" in m.filename and m.filename.endswith(".off")
        )
        for member in members:
            twin = member.replace("-off/", "-binvox/").replace(".off", ".binvox")
            as_binvox = VoxelSettings(30, 0, bounds="all")
            ours = voxelize_shape(read_shape(meshes.read(member), member), as_binvox).occupancy
            theirs = voxelize_shape(read_shape(grids.read(twin), twin), VoxelSettings(30, 0)).occupancy
            overlaps.append((ours & theirs).sum() / (ours | theirs).sum())
    assert len(overlaps) == 79
    assert np.median(overlaps) >= 0.99
    assert min(overlaps) >= 0.95


@pytest.mark.parametrize(("resolution", "padding"), [(8, 0), (16, 2), (33, 5)])
@pytest.mark.parametrize("extent", [(8.0, 4.0, 2.0), (1e-3, 1e6, 1.0)])
def test_points_occupy_the_voxels_that_they_lie_in(resolution: int, padding: int, extent: tuple[float, ...]) -> None:
    points = np.random.default_rng(7).random((200, 3)) * extent + 5
    settings = VoxelSettings(resolution, padding)
    grid = occupy_points(PointCloud(points), settings)
    lower, upper = points.min(axis=0), points.max(axis=0)
    side = (upper - lower).max() / (resolution - 2 * padding)
    expected = set()
    for point in points:
        voxel = np.floor((point - (lower + upper) / 2) / side + resolution / 2 + TIE * (resolution - 2 * padding))
        expected.add(tuple(int(np.clip(v, padding, resolution - padding - 1)) for v in voxel))
    assert {tuple(voxel) for voxel in np.argwhere(grid.occupancy).tolist()} == expected
    # A mesh of the same vertices is placed alike and occupies these voxels too.
    mesh = voxelize_mesh(Mesh(points, np.arange(len(points)).repeat(3).reshape(-1, 3)), settings)
    np.testing.assert_array_equal(grid.index_to_world, mesh.index_to_world)
    assert (mesh.occupancy >= grid.occupancy).all()
    np.testing.assert_array_equal(voxelize_shape(PointCloud(points), settings).occupancy, grid.occupancy)


def test_points_that_enclose_can_be_filled() -> None:
    lattice = np.argwhere(np.ones((6, 6, 6))).astype(float)
    hollow = PointCloud(lattice[((lattice == 0) | (lattice == 5)).any(axis=1)])
    counts = [int(occupy_points(hollow, VoxelSettings(8, 1, fill)).occupancy.sum()) for fill in ("surface", "solid")]
    assert counts[0] < counts[1]


def test_points_that_coincide_are_one_voxel_and_none_are_refused() -> None:
    grid = occupy_points(PointCloud(np.full((3, 3), 7.0)), EIGHT)
    assert np.argwhere(grid.occupancy).tolist() == [[4, 4, 4]]
    np.testing.assert_array_equal(grid.index_to_world @ [4, 4, 4, 1], [7, 7, 7, 1])
    with pytest.raises(InputError, match="a cloud of 0 points has no shape"):
        occupy_points(PointCloud(np.zeros((0, 3))), EIGHT)
    with pytest.raises(InputError, match="give finite coordinates"):
        occupy_points(PointCloud(np.array([[0.0, 0.0, np.nan]])), EIGHT)
