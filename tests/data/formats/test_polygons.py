"""Polygons with more than three corners, in every format that has them: what is covered is the polygon."""

import os
import struct
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_cli.data.formats.polygons import cover_concave, fan_corners
from fer_cli.data.formats.registry import Mesh, read_shape
from fer_cli.data.occupancy import VoxelSettings, voxelize_mesh

EXAMPLES = int(os.environ.get("FER_LAW_EXAMPLES", "60"))
"""How often a law is tried; the variable asks for more, such as 10,000."""

L = [(4, 0), (4, 1), (1, 1), (1, 3), (0, 3), (0, 0)]
U = [(0, 0), (5, 0), (5, 4), (4, 4), (4, 1), (1, 1), (1, 4), (0, 4)]
ARROW = [(4, 0), (2, 1), (0, 4), (0, 0)]
FRAME = [(0, 0), (6, 0), (6, 6), (0, 6), (0, 0), (1, 1), (1, 5), (5, 5), (5, 1), (1, 1)]
"""A window frame: the outline, then the opening the other way round, joined by a cut that both pass along."""
COMB = [*((x, 0) for x in (0, 9)), *((x, y) for x in range(9, -1, -1) for y in ((4, 1) if x % 2 else (1, 4)))]


def triangles_of(ring: np.ndarray) -> np.ndarray:
    """The triangles that a polygon becomes, as rows of its corners."""
    polygon, fan = fan_corners(np.array([0]), np.array([len(ring)]))
    return cover_concave(ring, polygon, fan)


def is_inside(ring: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Whether a ray from the point crosses the ring an odd number of times."""
    inside = np.zeros(len(points), bool)
    for (ax, ay), (bx, by) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        crosses = (ay > points[:, 1]) != (by > points[:, 1])
        if crosses.any():
            inside ^= crosses & (points[:, 0] < (bx - ax) * (points[:, 1] - ay) / (by - ay) + ax)
    return inside


def how_often_covered(ring: np.ndarray, triangles: np.ndarray, points: np.ndarray) -> np.ndarray:
    covered = np.zeros(len(points), int)
    for a, b, c in ring[triangles]:
        sides = [(q - p)[0] * (points - p)[:, 1] - (q - p)[1] * (points - p)[:, 0] for p, q in ((a, b), (b, c), (c, a))]
        covered += (np.minimum.reduce(sides) > 0) | (np.maximum.reduce(sides) < 0)
    return covered


def away_from_edges(ring: np.ndarray, triangles: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points that no edge passes within a millionth."""
    away = np.ones(len(points), bool)
    for a, b in ring[np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])]:
        length = np.hypot(*(b - a))
        if length:
            away &= np.abs((b - a)[0] * (points - a)[:, 1] - (b - a)[1] * (points - a)[:, 0]) > 1e-6 * length
    return away


def placed(ring: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The ring in a plane that lies anyhow in space."""
    plane = np.linalg.qr(rng.normal(size=(3, 3)))[0][:2]
    return ring @ plane * 10 ** rng.uniform(-3, 3) + rng.normal(size=3)


def random_ring(rng: np.random.Generator) -> np.ndarray:
    """A simple polygon, mostly concave: a star, or a skyline; some corners lie on straight lines."""
    if rng.random() < 0.5:
        corners = rng.integers(4, 30)
        angle = np.sort(rng.random(corners)) * 2 * np.pi
        if np.diff(np.append(angle, angle[0] + 2 * np.pi)).max() > 3:
            angle = np.arange(corners) * 2 * np.pi / corners
        ring = np.column_stack([np.cos(angle), np.sin(angle)]) * rng.uniform(0.2, 1, corners)[:, None]
    else:
        heights = rng.integers(1, 4, rng.integers(2, 12))
        steps = [(x, h) for place, h in enumerate(heights) for x in (place, place + 1)]
        ring = np.array([*steps, (len(heights), 0), (0, 0)], float)
        ring = ring[~np.all(ring == np.roll(ring, 1, axis=0), axis=1)] / len(heights)
    if rng.random() < 0.5:
        ring = ring[::-1]
    return np.roll(ring, rng.integers(len(ring)), axis=0)


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1))
def test_law_a_polygon_is_covered_once_and_nothing_beside_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ring = random_ring(rng)
    triangles = triangles_of(placed(ring, rng))
    points = rng.uniform(ring.min(axis=0) - 0.1, ring.max(axis=0) + 0.1, (300, 2))
    points = points[away_from_edges(ring, triangles, points)]
    np.testing.assert_array_equal(how_often_covered(ring, triangles, points), is_inside(ring, points))


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1))
def test_law_edges_are_the_polygons_once_and_others_twice(seed: int) -> None:
    """So that a closed surface of polygons stays closed."""
    rng = np.random.default_rng(seed)
    ring = random_ring(rng)
    triangles = triangles_of(placed(ring, rng))
    edges = np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), axis=1)
    pairs, counts = np.unique(edges, axis=0, return_counts=True)
    outline = np.sort(np.column_stack([np.arange(len(ring)), np.roll(np.arange(len(ring)), -1)]), axis=1)
    assert {tuple(pair) for pair in pairs[counts == 1].tolist()} == {tuple(pair) for pair in outline.tolist()}
    assert set(counts) <= {1, 2}


@pytest.mark.parametrize(("ring", "area"), [(L, 6), (U, 11), (ARROW, 6), (FRAME, 20), (COMB, None)])
def test_known_polygons_have_their_area(ring: list[tuple[int, int]], area: float | None) -> None:
    if area is None:
        area = abs(shoelace(np.array(ring, float)))
    for start in range(len(ring)):
        corners = np.column_stack([np.roll(np.array(ring, float), start, axis=0), np.full(len(ring), 2.0)])
        a, b, c = corners[triangles_of(corners)].transpose(1, 0, 2)
        assert np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2 == pytest.approx(area)


def shoelace(ring: np.ndarray) -> float:
    x, y = ring.T
    return float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2)


def test_convex_polygons_stay_fans_and_polygons_without_area_do_no_harm() -> None:
    hexagon = np.array([(2, 0, 0), (1, 2, 0), (-1, 2, 0), (-2, 0, 0), (-1, -2, 0), (1, -2, 0)], float)
    assert triangles_of(hexagon).tolist() == [[0, 1, 2], [0, 2, 3], [0, 3, 4], [0, 4, 5]]
    for flat in (np.zeros((5, 3)), np.array([[0, 0, 0], [1, 0, 0], [3, 0, 0], [2, 0, 0]], float)):
        assert len(triangles_of(flat)) == len(flat) - 2
    not_finite = np.array([(0, 0, 0), (4, 0, 0), (4, np.nan, 0), (1, 1, 0), (np.inf, 3, 0)])
    assert len(triangles_of(not_finite)) == 3


def test_only_concave_polygons_are_cut_anew() -> None:
    vertices = np.array([(x, y, 0) for x, y in [*L, (9, 0), (9, 1), (8, 1)]], float)
    corners = np.array([3, 6, 3, 4])
    listed = np.array([6, 7, 8, 0, 1, 2, 3, 4, 5, 8, 7, 6, 0, 1, 2, 3])
    polygon, positions = fan_corners(np.cumsum(corners) - corners, corners)
    faces = cover_concave(vertices, polygon, listed[positions])
    assert [face for face in faces.tolist() if max(face) > 5] == [[6, 7, 8], [8, 7, 6]]
    assert len(faces) == 3 - 2 + 6 - 2 + 3 - 2 + 4 - 2


def prism(ring: list[tuple[float, float]], height: float) -> tuple[np.ndarray, list[list[int]]]:
    """An upright prism: its ends are one polygon each."""
    base = np.array(ring, float)
    n = len(ring)
    vertices = np.concatenate([np.column_stack([base, np.full(n, z)]) for z in (0.0, height)])
    sides = [[i, (i + 1) % n, n + (i + 1) % n, n + i] for i in range(n)]
    return vertices, [list(range(n))[::-1], list(range(n, 2 * n)), *sides]


def as_off(vertices: np.ndarray, faces: list[list[int]]) -> bytes:
    lines = ["OFF", f"{len(vertices)} {len(faces)} 0", *(f"{x:g} {y:g} {z:g}" for x, y, z in vertices)]
    return "\n".join([*lines, *(f"{len(f)} {' '.join(map(str, f))}" for f in faces), ""]).encode()


def as_obj(vertices: np.ndarray, faces: list[list[int]]) -> bytes:
    lines = [f"v {x:g} {y:g} {z:g}" for x, y, z in vertices]
    return "\n".join([*lines, *("f " + " ".join(f"{v + 1}//1" for v in f) for f in faces), ""]).encode()


def as_obj_counted_backwards(vertices: np.ndarray, faces: list[list[int]]) -> bytes:
    lines = [f"v {x:g} {y:g} {z:g}" for x, y, z in vertices]
    return "\n".join([*lines, *("f " + " ".join(f"{v - len(vertices)}" for v in f) for f in faces), ""]).encode()


def ply_header(kind: str, vertices: np.ndarray, faces: list[list[int]]) -> bytes:
    return (
        f"ply\nformat {kind} 1.0\nelement vertex {len(vertices)}\nproperty double x\nproperty double y\n"
        f"property double z\nelement face {len(faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    ).encode()


def as_ply(vertices: np.ndarray, faces: list[list[int]]) -> bytes:
    lines = [f"{x:g} {y:g} {z:g}" for x, y, z in vertices]
    lines += [f"{len(f)} {' '.join(map(str, f))}" for f in faces]
    return ply_header("ascii", vertices, faces) + "\n".join([*lines, ""]).encode()


def as_binary_ply(vertices: np.ndarray, faces: list[list[int]]) -> bytes:
    rows = b"".join(struct.pack(f">B{len(f)}i", len(f), *f) for f in faces)
    return ply_header("binary_big_endian", vertices, faces) + vertices.astype(">f8").tobytes() + rows


WRITERS: dict[str, Callable[[np.ndarray, list[list[int]]], bytes]] = {
    "a.off": as_off,
    "a.obj": as_obj,
    "b.obj": as_obj_counted_backwards,
    "a.ply": as_ply,
    "b.ply": as_binary_ply,
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("ring", [L, U, ARROW, COMB])
def test_a_prism_on_a_concave_polygon_has_the_voxels_of_its_triangles(
    name: str, ring: list[tuple[float, float]]
) -> None:
    vertices, faces = prism(ring, 1.5)
    mesh = read_shape(WRITERS[name](vertices, faces), name)
    assert isinstance(mesh, Mesh)
    cut = triangles_of(vertices[: len(ring)])
    sides = [corners for a, b, c, d in faces[2:] for corners in ((a, b, c), (a, c, d))]
    by_hand = Mesh(vertices, np.concatenate([cut, cut + len(ring), sides]))
    expected = voxelize_mesh(by_hand, VoxelSettings()).occupancy
    np.testing.assert_array_equal(voxelize_mesh(mesh, VoxelSettings()).occupancy, expected)
    fanned = [(0, i, i + 1) for i in range(1, len(ring) - 1)]
    too_much = Mesh(vertices, np.concatenate([fanned, np.array(fanned) + len(ring), sides]))
    assert voxelize_mesh(too_much, VoxelSettings()).occupancy.sum() > expected.sum()
