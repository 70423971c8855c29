import numpy as np
import pytest

from fer_cli.data.formats.registry import Mesh, PointCloud, read_shape
from fer_cli.errors import InputError

VERTICES = [[0, 0, 0], [4, 0, 0], [4, 2, 0], [0, 2, 0], [2, 1, 3]]
POLYGONS = [[3, 2, 1, 0], [0, 1, 4], [1, 2, 4], [2, 3, 4], [3, 0, 4]]
FACES = [[3, 2, 1], [3, 1, 0], [0, 1, 4], [1, 2, 4], [2, 3, 4], [3, 0, 4]]
TYPES = {"float": "f4", "double": "f8", "int": "i4", "uint": "u4", "uchar": "u1", "ushort": "u2", "short": "i2"}


def ply(form: str, *, vertex: str = "float", index: str = "int", count: str = "uchar", newline: str = "\n") -> bytes:
    """The pyramid, with properties before and after those that are needed, and elements before and after."""
    lines = [
        "ply", f"format {form} 1.0", "comment near the end_header", "obj_info by hand", "element note 1",
        "property list uchar uchar text", f"element vertex {len(VERTICES)}", "property uchar red",
        *[f"property {vertex} {axis}" for axis in "xyz"], f"element face {len(POLYGONS)}", "property short flag",
        f"property list {count} {index} vertex_indices", "property list uchar float uv", "element edge 1",
        "property int a", "end_header", "",
    ]  # fmt: skip
    header = newline.join(lines).encode()
    if form == "ascii":
        rows = ["2 7 8", *["9 " + " ".join(map(str, v)) for v in VERTICES]]
        rows += [" ".join(map(str, [5, len(p), *p, 1, 0.5])) for p in POLYGONS] + ["3"]
        return header + newline.join([*rows, ""]).encode()
    order = "<" if "little" in form else ">"

    def packed(kind: str, *numbers: float) -> bytes:
        return np.array(numbers, order + TYPES[kind]).tobytes()

    body = [packed("uchar", 2, 7, 8)]
    body += [packed("uchar", 9) + packed(vertex, *v) for v in VERTICES]
    for p in POLYGONS:
        body.append(
            packed("short", 5) + packed(count, len(p)) + packed(index, *p) + packed("uchar", 1) + packed("float", 0.5)
        )
    return header + b"".join(body) + packed("int", 3)


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian", "binary_big_endian"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("types", [("float", "int", "uchar"), ("double", "ushort", "uint"), ("short", "uchar", "int")])
def test_ply_of_any_form_is_the_same_mesh(form: str, newline: str, types: tuple[str, str, str]) -> None:
    vertex, index, count = types
    mesh = read_shape(ply(form, vertex=vertex, index=index, count=count, newline=newline), "shape.ply")
    assert isinstance(mesh, Mesh)
    assert mesh.faces.tolist() == FACES
    assert mesh.vertices.tolist() == VERTICES


def test_elements_may_come_in_any_order() -> None:
    content = (
        b"ply\nformat ascii 1.0\nelement face 1\nproperty list uchar int vertex_index\nelement vertex 3\n"
        b"property float z\nproperty float y\nproperty float x\nend_header\n3 0 1 2\n1 2 3\n4 5 6\n7 8 9\n"
    )
    mesh = read_shape(content, "shape.ply")
    assert isinstance(mesh, Mesh)
    assert mesh.vertices.tolist() == [[3, 2, 1], [6, 5, 4], [9, 8, 7]]


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian"])
@pytest.mark.parametrize("face", ["", "element face 0\nproperty list uchar int vertex_indices\n"])
def test_ply_without_faces_is_points(form: str, face: str) -> None:
    axes = "".join(f"property float {axis}\n" for axis in "xyz")
    header = f"ply\nformat {form} 1.0\nelement vertex 2\n{axes}{face}end_header\n"
    body = b"1 2 3\n4 5 6\n" if form == "ascii" else np.array([[1, 2, 3], [4, 5, 6]], "<f4").tobytes()
    cloud = read_shape(header.encode() + body, "scan.ply")
    assert isinstance(cloud, PointCloud)
    assert cloud.points.tolist() == [[1, 2, 3], [4, 5, 6]]


def replaced(form: str, old: str, new: str) -> bytes:
    content = ply(form)
    assert old.encode() in content
    return content.replace(old.encode(), new.encode())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"solid", "not a PLY file; it begins with 'solid'"),
        (b"ply\n", "the PLY header has no line 'end_header'"),
        (b"ply\nend_header\n", "the PLY header names no format"),
        (b"ply\nformat ascii 1.0\nend_header\n", "0 vertices make no shape"),
        (replaced("ascii", "element face 5", "element face -5"), "has a line 'element face -5' that does not parse"),
        (
            replaced("ascii", "list uchar int", "list float int"),
            "'property list float int vertex_indices' that does not",
        ),
        (replaced("ascii", "format ascii", "format utf8"), "'format utf8 1.0' that does not parse"),
        (replaced("ascii", "float y", "float v"), "vertices have red, x, v, z, expected x, y and z among them"),
        (replaced("ascii", "vertex_indices", "corners"), "faces have flag, corners, uv, expected a list of whole"),
        (
            replaced("ascii", "vertex 5", "vertex 1000000000"),
            "truncated: 1000000000 rows of vertex are promised, 11 lines",
        ),
        (replaced("ascii", "face 5", "face 999999999999"), "999999999999 rows of face are promised, 6 lines follow"),
        (replaced("binary_little_endian", "vertex 5", "vertex 1000000000"), "1000000000 rows of vertex are promised, "),
        (replaced("binary_little_endian", "face 5", "face 1000000000"), "1000000000 rows of face are promised, "),
        (ply("binary_little_endian")[:-30], "truncated in row 3 of face: 5 rows of face are promised"),
        (ply("ascii").replace(b"5 3 0 1 4", b"5 9 0 1 4"), "row 1 of face has fewer numbers than it should"),
        (ply("ascii").replace(b"5 3 0 1 4 1 0.5", b"5"), "row 1 of face has fewer numbers than it should"),
        (ply("ascii").replace(b"5 3 0 1 4", b"5 0"), "face 1 has 0 corners"),
        (ply("ascii").replace(b"5 3 0 1 4", b"5 3 0 1 5"), "face 1 names vertex 5, expected 0 to 4"),
        (ply("ascii").replace(b"5 3 0 1 4", b"5 3 0 1 -1"), "face 1 names vertex -1, expected 0 to 4"),
        (ply("ascii").replace(b"9 2 1 3", b"9 2 nan 3"), r"vertex 4 is at \(2, nan, 3\), expected finite"),
        (ply("ascii").replace(b"9 2 1 3", b"9 2 inf 3"), r"vertex 4 is at \(2, inf, 3\), expected finite"),
        (ply("ascii").replace(b"9 2 1 3", b"9 2 one 3"), "'one' at byte .* is not a number"),
        (ply("binary_big_endian").replace(b"\0\5\4\0\0\0\3", b"\0\5\xff\0\0\0\3"), "truncated in row"),
        (replaced("ascii", "element edge 1", "element tristrips 1"), "faces have a, expected a list of whole numbers"),
    ],
)
def test_damaged_ply_is_named_with_what_was_found(content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_shape(content, "shape.ply")
    assert str(caught.value).startswith("shape.ply: ")
    assert "\n" not in str(caught.value)
