import numpy as np
import pytest

from fer_cli.data.formats.registry import Mesh, PointCloud, read_shape
from fer_cli.errors import InputError

PYRAMID = """v 0 0 0
v 4 0 0
v 4 2 0
v 0 2 0
v 2 1 3
f 4 3 2 1
f 1 2 5
f 2 3 5
f 3 4 5
f 4 1 5
"""
FACES = [[3, 2, 1], [3, 1, 0], [0, 1, 4], [1, 2, 4], [2, 3, 4], [3, 0, 4]]


def read_mesh(content: str | bytes) -> Mesh:
    shape = read_shape(content.encode() if isinstance(content, str) else content, "shape.obj")
    assert isinstance(shape, Mesh)
    return shape


@pytest.mark.parametrize(
    "variant",
    [
        PYRAMID,
        PYRAMID.replace("\n", "\r\n"),
        PYRAMID.replace("\n", "\r"),
        "# made by hand\nmtllib ../../etc/passwd\nusemtl red\ns 1\n" + PYRAMID,
        PYRAMID.replace("v 0 0 0", "\tv\t0.0  0e5 -0 # the origin"),
        PYRAMID.replace("v 4 0 0", "v 4 0 0 0.1 0.2 0.3"),
        PYRAMID.replace("f 1 2 5", "f 1/7 2/8 5/9").replace("f 2 3 5", "f 2//1 3//1 5//1"),
        PYRAMID.replace("f 1 2 5", "f 1/7/3 2/8/3 5/9/3\nvn 0 0 1\nvt 0 1\nl 1 2\np 3"),
        PYRAMID.replace("f 4 3 2 1", "f 4 3 \\\n 2 1"),
        PYRAMID.replace("f 4 3 2 1", "f -2 -3 -4 -5").replace("f 1 2 5", "o roof\ng side\nf -5 2 -1"),
        PYRAMID.rstrip("\n"),
    ],
)
def test_obj_of_any_dress_is_the_same_mesh(variant: str) -> None:
    mesh = read_mesh(variant)
    assert mesh.faces.tolist() == FACES
    assert mesh.vertices.tolist() == [[0, 0, 0], [4, 0, 0], [4, 2, 0], [0, 2, 0], [2, 1, 3]]


def test_relative_indices_count_from_the_face_and_objects_are_merged() -> None:
    first = "o a\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf -3 -2 -1\n"
    mesh = read_mesh(first + first.replace("v 0 0 0", "v 0 0 5").replace("o a", "o b"))
    assert mesh.faces.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_names_may_be_of_any_encoding() -> None:
    assert read_mesh(b"o caf\xe9 \xff\n" + PYRAMID.encode()).faces.tolist() == FACES


def test_vertices_without_faces_are_points() -> None:
    cloud = read_shape(b"v 1 2 3\nv 4 5 6\n", "scan.obj")
    assert isinstance(cloud, PointCloud)
    np.testing.assert_array_equal(cloud.points, [[1, 2, 3], [4, 5, 6]])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty"),
        ("# header only\no thing\n", "holds no vertex, that is no line such as 'v 0 0 1'"),
        ("f 1 2 3\n", "holds no vertex"),
        ("\0\1\2\3", "holds no vertex"),
        ("OFF\n3 1 3\n0 0 0\n1 0 0\n0 2 0\n3 0 1 2\n", "holds no vertex"),
        (PYRAMID + "f 1 2 6\n", "face 5 names vertex 6, expected 1 to 5"),
        (PYRAMID + "f 1 2 0\n", "face 5 names vertex 0, expected 1 to 5"),
        (PYRAMID + "f 1 2 -6\n", "face 5 names vertex -6, expected 1 to 5"),
        (PYRAMID + "f 1 2 999999999999\n", r"face 5 names vertex 1e\+12, expected 1 to 5"),
        (PYRAMID + "f 1 2 1.5\n", "face 5 names vertex 1.5"),
        (PYRAMID + "f 1 2 nan\n", "face 5 names vertex nan"),
        (PYRAMID + "f 1 two 3\n", "'two' at byte .* is not a number"),
        (PYRAMID + "f  \n", "face 5 has 0 numbers"),
        (PYRAMID + "v 1 2\n", "vertex 5 has 2 numbers, expected at least 3"),
        (PYRAMID.replace("v 2 1 3", "v 2 nan 3"), r"vertex 4 is at \(2, nan, 3\), expected finite"),
        (PYRAMID.replace("v 2 1 3", "v 2 1 1e999"), r"vertex 4 is at \(2, 1, inf\), expected finite"),
        ("v 1 2 3\ncurv 0 1 1\n", "free-form curves or surfaces alone"),
    ],
)
def test_damaged_obj_is_named_with_what_was_found(content: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_shape(content.encode(), "shape.obj")
    assert str(caught.value).startswith("shape.obj: ")
    assert "\n" not in str(caught.value)
