import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer_cli.data import facts
from fer_cli.data.facts import describe_mesh
from fer_cli.data.formats.registry import Mesh


def mesh_of(vertices, faces):
    return Mesh(np.array(vertices, float).reshape(-1, 3), np.array(faces, np.int64).reshape(-1, 3))


def open_edges_by_hand(mesh):
    """The definition, one face after another."""
    triangles = {frozenset(tuple(mesh.vertices[v] + 0.0) for v in face) for face in mesh.faces}
    uses = {}
    for triangle in (t for t in triangles if len(t) == 3):
        for corner in triangle:
            uses[triangle - {corner}] = uses.get(triangle - {corner}, 0) + 1
    return sum(count == 1 for count in uses.values())


TETRAHEDRON = [(0, 0, 0), (1, 0, 0), (0, 2, 0), (0, 0, 3)]
CLOSED = [(0, 1, 2), (0, 1, 3), (0, 2, 3), (1, 2, 3)]


def test_closed_surface_has_no_open_edge():
    assert describe_mesh(mesh_of(TETRAHEDRON, CLOSED)) == facts.MeshFacts(4, 0, ())


def test_closed_soup_has_no_open_edge():
    vertices = np.array(TETRAHEDRON)[np.array(CLOSED)].reshape(-1, 3)
    assert describe_mesh(mesh_of(vertices, np.arange(12))).n_open_edges == 0


def test_missing_face_opens_three_edges():
    assert describe_mesh(mesh_of(TETRAHEDRON, CLOSED[:3])).n_open_edges == 3


def test_negative_zero_is_zero():
    vertices = [(0.0, 0, 0), (1, 0, 0), (0, 1, 1), (-0.0, 0, 0), (1, 0, 0), (0, 2, 0)]
    assert describe_mesh(mesh_of(vertices, [(0, 1, 2), (3, 4, 5)])).n_open_edges == 4


def test_duplicate_face_is_one_face_and_a_warning():
    found = describe_mesh(mesh_of(TETRAHEDRON, [*CLOSED[:3], (2, 0, 1)]))
    assert (found.n_faces, found.n_open_edges) == (4, 3)
    assert found.warnings == ("1 duplicate faces",)


def test_degenerate_face_has_no_edges_and_a_warning():
    found = describe_mesh(mesh_of(TETRAHEDRON, [*CLOSED, (0, 1, 1), (2, 2, 2)]))
    assert found.n_open_edges == 0
    assert found.warnings == ("2 degenerate faces (corners that coincide)",)


def test_stray_vertices_outside_the_box_are_counted_and_a_warning():
    inside, outside = [*TETRAHEDRON, (0.1, 0.1, 0.1)], [*TETRAHEDRON, (0, 0, 9), (0.1, 0, 0), (-1, 0, 0)]
    assert describe_mesh(mesh_of(inside, CLOSED)) == facts.MeshFacts(4, 0, (), 0)
    found = describe_mesh(mesh_of(outside, CLOSED))
    assert found.n_stray == 2
    assert found.warnings == ("2 vertices of no face lie outside the bounding box of its faces",)


def test_flat_axes_are_a_warning():
    assert describe_mesh(mesh_of([(0, 0, 5), (1, 0, 5), (0, 1, 5)], [(0, 1, 2)])).warnings == ("no extent along z",)


def test_mesh_without_faces_has_no_facts():
    assert describe_mesh(mesh_of(TETRAHEDRON, [])) == facts.MeshFacts(0, 0, ())


@given(
    vertices=st.lists(st.tuples(*[st.sampled_from([0.0, -0.0, 1.0])] * 3), min_size=1, max_size=12),
    choice=st.data(),
    packed=st.sampled_from([2, 2**21]),
)
def test_open_edges_are_those_counted_by_hand(vertices, choice, packed):
    corner = st.integers(0, len(vertices) - 1)
    faces = choice.draw(st.lists(st.tuples(corner, corner, corner), min_size=1, max_size=20))
    mesh = mesh_of(vertices, faces)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(facts, "_PACKED", packed)
        assert describe_mesh(mesh).n_open_edges == open_edges_by_hand(mesh)


def test_positions_that_mix_to_one_number_stay_apart(monkeypatch):
    # Two positions whose first two coordinates are chosen to give one mixed number.
    first, second = np.array([1.0, 2.0]).view(np.uint64)
    mix = lambda bits: (m := bits * np.uint64(0x9E3779B97F4A7C15)) ^ (m >> np.uint64(29))  # noqa: E731
    with np.errstate(over="ignore"):
        third = mix(np.array([first])) + np.array([3.0]).view(np.uint64) - mix(np.array([second]))
    y = float(third.view(np.float64)[0])
    assert np.isfinite(y)
    ids = facts._position_ids(np.array([(1.0, 2.0, 1.0), (3.0, y, 3.0), (0.0, 0.0, 0.0)]))
    assert ids[0] == ids[2] != ids[1]
