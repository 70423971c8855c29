"""Shells: closed, facing outwards, and of the volume and extent that was asked for."""

from collections import Counter

import numpy as np
import pytest

from fer_cli.data.solids import (
    RECTANGLE,
    Part,
    both,
    bowl,
    box,
    curved_wall,
    cylinder,
    merge,
    oval,
    skin,
    tub,
    tube,
    volume,
)


def assert_sound(part: Part) -> None:
    """Finite, closed, facing outwards, every vertex used, no triangle without area."""
    assert np.isfinite(part.vertices).all()
    assert set(part.faces.ravel().tolist()) == set(range(len(part.vertices)))
    edges = Counter((int(face[i]), int(face[(i + 1) % 3])) for face in part.faces for i in range(3))
    assert all(count == 1 and edges[end, start] == 1 for (start, end), count in list(edges.items()))
    assert volume(part) > 0
    a, b, c = (part.vertices[part.faces[:, corner]] for corner in range(3))
    assert np.linalg.norm(np.cross(b - a, c - a), axis=1).min() > 1e-9


def test_box_encloses_its_volume_between_its_corners() -> None:
    part = box("box", (1, 2, 3), (8, 4, 2))
    np.testing.assert_array_equal(part.vertices.min(axis=0), [-3, 0, 3])
    np.testing.assert_array_equal(part.vertices.max(axis=0), [5, 4, 5])
    assert volume(part) == pytest.approx(8 * 4 * 2)


def test_tapered_box_is_a_frustum_and_leaning_keeps_its_volume() -> None:
    frustum = 2 / 3 * (32 + 8 + np.sqrt(32 * 8))
    assert volume(box("box", (0, 0, 0), (8, 4, 2), top=0.5)) == pytest.approx(frustum)
    assert volume(box("box", (0, 0, 0), (8, 4, 2), top=0.5, lean=(3, 1))) == pytest.approx(frustum)


def test_round_shells_approach_the_volumes_of_their_solids() -> None:
    # Regular polygons of 20 and 8 sides have 0.9836 and 0.9003 of their circle's area.
    assert volume(cylinder("cylinder", (0, 0, 0), (8, 4, 2))) == pytest.approx(np.pi * 16 * 0.9836, rel=1e-3)
    assert volume(tube("tube", [(0, 0, 0), (3, 4, 0)], 0.2)) == pytest.approx(5 * np.pi * 0.01 * 0.9003, rel=1e-3)
    # Straight flanks between six levels lie inside the ellipsoid: a few per cent less than the solid.
    assert 0.9 < volume(bowl("bowl", (0, 0, 0), (8, 4, 2))) / (2 / 3 * np.pi * 4 * 2 * 2) < 1


def test_tub_is_hollow() -> None:
    full = cylinder("full", (0, 0, 0), (8, 4, 2), squareness=4.0)
    hollow = tub("tub", (0, 0, 0), (8, 4, 2), wall=0.1, bottom=1.0, squareness=4.0)
    assert 0.25 < volume(hollow) / volume(full) < 0.45  # The floor alone is a quarter of the height.


def test_oval_fills_its_square_more_the_squarer_it_is() -> None:
    areas = [volume(cylinder("oval", (0, 0, 0), (1, 1, 1), squareness=s)) for s in (2.0, 4.0, 8.0)]
    assert areas == sorted(areas)
    assert 0.95 < areas[-1] < 1
    assert np.abs(oval(8.0)).max() <= 0.5


def test_curved_wall_bends_around_the_rear() -> None:
    part = curved_wall("wall", (0, 0, 1), (8, 4, 2), thickness=0.1, arc=180.0)
    assert_sound(part)
    np.testing.assert_allclose(part.vertices.min(axis=0), [-4, 0, 1], atol=1e-12)
    np.testing.assert_allclose(part.vertices.max(axis=0), [4, 2, 3], atol=1e-12)


def test_skin_faces_outwards_whichever_way_its_rings_turn() -> None:
    rings = np.stack([np.insert(RECTANGLE, 2, height, axis=1) for height in (0.0, 1.0)])
    for turned in (rings, rings[:, ::-1], rings[::-1]):
        assert volume(skin("cube", turned)) == pytest.approx(1)


def test_merged_shells_keep_their_faces_apart() -> None:
    first, second = box("one", (0, 0, 0), (8, 4, 2)), cylinder("two", (0, 0, 1), (2, 2, 2))
    vertices, faces = merge([first, second])
    np.testing.assert_array_equal(vertices[faces[: len(first.faces)]], first.vertices[first.faces])
    np.testing.assert_array_equal(vertices[faces[len(first.faces) :]], second.vertices[second.faces])


def test_both_is_the_part_and_its_mirror_image() -> None:
    part = box("leg", (3, 1, 0), (2, 1, 4), lean=(1, 0))
    for axis in (0, 1):
        same, mirrored = both(part, axis=axis)
        assert same is part
        assert_sound(mirrored)
        np.testing.assert_allclose(mirrored.vertices[:, axis], -part.vertices[:, axis])
