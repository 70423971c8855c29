import io
import re

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_cli.data.formats.registry import Mesh, read_shape
from fer_cli.errors import InputError

TRIANGLE = "OFF\n3 1 3\n0 0 0\n1 0 0\n0 2 0\n3 0 1 2\n"

PYRAMID = b"OFF\n5 5 8\n0 0 0\n4 0 0\n4 2 0\n0 2 0\n2 1 3\n4 0 3 2 1\n3 0 1 4\n3 1 2 4\n3 2 3 4\n3 3 0 4\n"

PYRAMID_FACES = [[0, 3, 2], [0, 2, 1], [0, 1, 4], [1, 2, 4], [2, 3, 4], [3, 0, 4]]


def read_mesh(content: bytes | str) -> Mesh:
    shape = read_shape(content.encode() if isinstance(content, str) else content, "shape.off")
    assert isinstance(shape, Mesh)
    return shape


def test_off_polygons_become_fans_in_file_order() -> None:
    mesh = read_mesh(PYRAMID)
    assert mesh.faces.tolist() == PYRAMID_FACES
    assert mesh.vertices.tolist() == [[0, 0, 0], [4, 0, 0], [4, 2, 0], [0, 2, 0], [2, 1, 3]]


@pytest.mark.parametrize(
    "variant",
    [
        PYRAMID.replace(b"OFF\n5", b"OFF5"),
        PYRAMID.replace(b"OFF\n5", b"OFF 5"),
        PYRAMID.replace(b"\n", b"\r\n"),
        PYRAMID.replace(b"\n", b"\r"),
        PYRAMID.replace(b" 8\n", b" 700\n"),
        PYRAMID.replace(b" 8\n", b"\n"),
        PYRAMID.replace(b"\n", b" # 1 2 3 OFF\n\n# another\n"),
        b"# OFF 1 2 3\n\n  " + PYRAMID,
        b"\xef\xbb\xbf" + PYRAMID,
        PYRAMID.rstrip(b"\n"),
        PYRAMID + b"1 2 3 4\n",
        re.sub(rb"(\n[34] [^\n]+ \d)(?=\n)(?!\n[024] \d \d\n)", rb"\1", PYRAMID).replace(
            b"3 0 1 4", b"3 0 1 4 255 0 0 0.5"
        ),
        re.sub(rb"(?m)^(\d \d \d)$", rb"\1 0.1 0.2 0.3 1", PYRAMID.replace(b"OFF", b"COFF").replace(b"5 5 8", b"5 5")),
        PYRAMID.replace(b"OFF", b"STOFF").replace(b"4 2 0\n", b"+4.0 2e0 -0.0E1 0.5 0.5\n"),
    ],
)
def test_off_faults_of_real_files_do_not_change_the_mesh(variant: bytes) -> None:
    assert read_mesh(variant).faces.tolist() == PYRAMID_FACES
    np.testing.assert_array_equal(read_mesh(variant).vertices, read_mesh(PYRAMID).vertices)


def test_off_faces_of_one_and_two_corners_are_triangles_without_area() -> None:
    assert read_mesh("OFF\n3 2 0\n0 0 0\n1 0 0\n0 2 0\n2 0 1\n1 2\n").faces.tolist() == [[0, 1, 1], [2, 2, 2]]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=3, max_size=3))
def test_off_numbers_are_read_to_the_last_bit(numbers: list[float]) -> None:
    for texts in ([repr(v) for v in numbers], [f"{v:.6g}" for v in numbers], [f"{v:.3f}" for v in numbers]):
        mesh = read_mesh(f"OFF\n1 1 0\n{' '.join(texts)}\n1 0\n")
        assert mesh.vertices.tolist() == [[float(text) for text in texts]]


def test_off_agrees_with_trimesh() -> None:
    sphere = trimesh.creation.icosphere(subdivisions=2)
    content = trimesh.exchange.off.export_off(sphere, digits=12)
    expected = trimesh.exchange.off.load_off(io.BytesIO(content.encode()))
    mesh = read_mesh(content)
    np.testing.assert_array_equal(mesh.vertices, expected["vertices"])
    np.testing.assert_array_equal(mesh.faces, expected["faces"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "shape.off: the file is empty"),
        ("hello", "not an OFF file; it begins with 'hello'"),
        ("\0\1\2", "not an OFF file"),
        ("# only a comment" * 400, "not an OFF file"),
        ("OFF", "no line with the numbers of vertices and faces follows OFF"),
        ("OFF\n3\n", "no line with the numbers of vertices and faces"),
        ("OFF BINARY\n\0\0", "binary OFF is not supported"),
        ("4OFF\n1 1 0\n0 0 0 1\n1 0", "4OFF is not supported"),
        ("OFF\n3 1 3\n0 0 0\n1 0 0\n", "truncated: 3 vertices and 1 faces are promised, 2 lines follow"),
        ("OFF\n1000000000 1000000000 0\n0 0 0\n", "1000000000 vertices and 1000000000 faces are promised, 1 lines"),
        ("OFF\n1e300 1 0\n0 0 0\n", "truncated"),
        ("OFF\n3 0 0\n0 0 0\n1 0 0\n0 2 0\n", "3 vertices and 0 faces make no shape"),
        ("OFF\n0 1 0\n3 0 1 2\n", "0 vertices and 1 faces make no shape"),
        ("OFF\n-1 1 0\n3 0 1 2\n", "-1 vertices and 1 faces make no shape"),
        ("OFF\nnan 1 0\n3 0 1 2\n", "nan vertices and 1 faces make no shape"),
        (TRIANGLE.replace("3 0 1 2", "3 0 1 3"), "face 0 names vertex 3, expected 0 to 2"),
        (TRIANGLE.replace("3 0 1 2", "3 0 1 -1"), "face 0 names vertex -1, expected 0 to 2"),
        (TRIANGLE.replace("3 0 1 2", "3 0 1 0.5"), "face 0 names vertex 0.5"),
        (TRIANGLE.replace("3 0 1 2", "3 0 1"), "face 0 declares 3 corners, but 2 numbers follow"),
        (TRIANGLE.replace("3 0 1 2", "1e9 0 1 2"), r"face 0 declares 1e\+09 corners, but 3 numbers follow"),
        (TRIANGLE.replace("3 0 1 2", "0 0 1 2"), "face 0 declares 0 corners"),
        (TRIANGLE.replace("1 0 0", "1 nan 0"), r"vertex 1 is at \(1, nan, 0\), expected finite"),
        (TRIANGLE.replace("1 0 0", "1 0 -inf"), r"vertex 1 is at \(1, 0, -inf\)"),
        (TRIANGLE.replace("1 0 0", "1 0 1e999"), r"vertex 1 is at \(1, 0, inf\)"),
        (TRIANGLE.replace("1 0 0", "1 0"), "vertex 1 has 2 numbers, expected at least 3"),
        (TRIANGLE.replace("1 0 0", "1 zero 0"), "'zero' at byte 18 is not a number"),
        (TRIANGLE.replace("1 0 0", "1 1e 0"), "is not a number"),
        (TRIANGLE.replace("1 0 0", "1 1_0 0"), "is not a number"),
    ],
)
def test_damaged_off_is_named_with_what_was_found(content: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_mesh(content)
    assert str(caught.value).startswith("shape.off: ")
    assert "\n" not in str(caught.value)
