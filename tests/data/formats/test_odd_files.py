"""Files of the forms that programs write beside what the formats' descriptions say."""

import gzip
import io
import json
import struct
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_cli.data.formats.content import looks_like_points
from fer_cli.data.formats.registry import SUFFIXES, Grid, Mesh, PointCloud, read_shape
from fer_cli.data.formats.scans import file_suffix, read_scan, stem_of
from fer_cli.errors import InputError

STEADY = settings(derandomize=True, deadline=None, database=None)
CORNERS = np.array([[0, 0, 0], [4, 0, 0], [0, 2, 0], [0, 0, 1.5]])
FACES = np.array([[0, 1, 2], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
POINTS = np.array([[2.548, 0.809, 0.061], [0.066, 2.44, 1.369], [2.427, 2.188, 0.815], [3.74, 2.448, 0.004]])


def lines(rows: np.ndarray, prefix: str = "") -> str:
    return "".join(f"{prefix}{' '.join(map(str, row))}\n" for row in rows.tolist())


TEXT = {
    "a.off": f"OFF\n4 4 0\n{lines(CORNERS)}{lines(FACES, '3 ')}",
    "a.obj": f"{lines(CORNERS, 'v ')}{lines(FACES + 1, 'f ')}",
    "a.stl": "solid a\n"
    + "".join(f"facet normal 0 0 0\nouter loop\n{lines(CORNERS[f], 'vertex ')}endloop\nendfacet\n" for f in FACES)
    + "endsolid a\n",
    "a.ply": "ply\nformat ascii 1.0\nelement vertex 4\nproperty float x\nproperty float y\nproperty float z\n"
    f"element face 4\nproperty list uchar int vertex_indices\nend_header\n{lines(CORNERS)}{lines(FACES, '3 ')}",
    "a.pcd": "VERSION 0.7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nWIDTH 4\nHEIGHT 1\nPOINTS 4\n"
    f"DATA ascii\n{lines(CORNERS)}",
    "a.xyz": lines(CORNERS),
    "a.txt": lines(CORNERS).replace(" ", ","),
}


def triangles(shape: Any) -> list[Any]:
    if isinstance(shape, PointCloud):
        return shape.points.tolist()
    assert isinstance(shape, Mesh)
    return shape.vertices[shape.faces].tolist()


EXPECTED = {name: CORNERS[FACES].tolist() if name in list(TEXT)[:4] else CORNERS.tolist() for name in TEXT}


# ----------------------------------------------------------------------------------------------------- text as it is


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", TEXT)
def test_byte_order_mark_is_no_part_of_a_text(name: str, encoding: str) -> None:
    mark = "" if encoding in ("utf-8-sig", "utf-16", "utf-32") else "\ufeff"
    assert triangles(read_shape((mark + TEXT[name]).encode(encoding), name)) == EXPECTED[name]


def test_marks_within_joined_texts_are_skipped() -> None:
    mark = "\ufeff"
    joined = mark + lines(CORNERS[:2], "v ") + mark + lines(CORNERS[2:], "v ") + mark + lines(FACES + 1, "f ")
    assert triangles(read_shape(joined.encode(), "a.obj")) == EXPECTED["a.obj"]
    assert (
        triangles(read_shape((mark + lines(CORNERS[:2]) + mark + lines(CORNERS[2:])).encode(), "a.xyz"))
        == CORNERS.tolist()
    )
    part, rest = TEXT["a.stl"].split("endfacet\n", 1)
    solids = f"{mark}{part}endfacet\nendsolid\n{mark}solid b\n{rest}"
    assert triangles(read_shape(solids.encode(), "a.stl")) == EXPECTED["a.stl"]


def test_mark_before_a_header_of_a_volume_is_skipped() -> None:
    head = b"NDims = 3\nDimSize = 2 1 1\nElementType = MET_UCHAR\nElementDataFile = LOCAL\n\0\1"
    nrrd = b"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 2 1 1\nencoding: raw\n\n\0\1"
    for content, name in ((head, "a.mha"), (nrrd, "a.nrrd")):
        found = [read_scan(mark + content, name).values.reshape(-1).tolist() for mark in (b"", b"\xef\xbb\xbf")]
        assert found == [[0, 1], [0, 1]]
    runs = b"#binvox 1\ndim 2 1 1\ndata\n\0\1\1\1"
    grid = read_shape(b"\xef\xbb\xbf" + runs, "a.binvox")
    assert isinstance(grid, Grid)
    assert grid.occupancy.reshape(-1).tolist() == [0, 1]


NUMBER = st.floats(-1e6, 1e6).map(lambda x: f"{x:.3f}")


@given(
    st.lists(st.tuples(NUMBER, NUMBER, NUMBER), min_size=1, max_size=9),
    st.sampled_from([";", "; ", " ", "\t", " ;"]),
    st.sampled_from(["\n", "\r\n", ";\n", "  # 1,5\n"]),
)
@STEADY
def test_decimal_commas_are_read_as_points_are(rows: list[tuple[str, ...]], separator: str, end: str) -> None:
    plain = "".join(separator.join(row) + end for row in rows)
    expected = np.array([[float(number) for number in row] for row in rows])
    for text in (plain, plain.replace(".", ",")):
        found = read_shape(text.encode(), "a.xyz")
        assert isinstance(found, PointCloud)
        np.testing.assert_array_equal(found.points, expected)


@given(st.lists(st.tuples(NUMBER, NUMBER, NUMBER), min_size=2, max_size=9), st.sampled_from([",", ", ", " ,"]))
@STEADY
def test_decimal_commas_between_commas_are_never_misread(rows: list[tuple[str, ...]], separator: str) -> None:
    """Refused, unless no fraction begins with a zero: then they are a list of whole numbers as any other."""
    text = "".join(separator.join(row).replace(".", ",") + "\n" for row in [*rows, ("0.061", "1.5", "2.5")])
    with pytest.raises(InputError, match="commas may mark decimals or part numbers; write decimals with a point"):
        read_shape(text.encode(), "a.xyz")


@pytest.mark.parametrize(
    "text", ["1,2 3.5 4\n", "1,5;2.5;3\n", "1.234,5;1;2\n", "1,2,3 4,5\n", "0,5 1,2\n", "0,066,2,440,1,369\n"]
)
def test_commas_that_cannot_be_told_apart_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"commas may mark decimals|has 2 numbers, expected at least 3"):
        read_shape(text.encode(), "a.xyz")


@pytest.mark.parametrize("name", ["a.off", "a.obj", "a.stl", "a.ply", "a.pcd"])
def test_decimal_comma_in_other_texts_is_refused_with_advice(name: str) -> None:
    with pytest.raises(InputError, match=r"'1,5' at byte .* is not a number; write decimals with a point"):
        read_shape(TEXT[name].replace("1.5", "1,5").encode(), name)


# --------------------------------------------------------------------------------------------------- points and none


def cloud(name: str, points: np.ndarray) -> bytes:
    count, body = len(points), points.astype("<f4").tobytes()
    pcd = f"FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nWIDTH {count}\nHEIGHT 1\nDATA "
    ply = (
        f"ply\nformat %s 1.0\nelement vertex {count}\n"
        + "".join(f"property float {a}\n" for a in "xyz")
        + "end_header\n"
    )
    save = io.BytesIO()
    np.savez(save, points=points)
    return {
        "a.xyz": lines(points).encode(),
        "a.txt": lines(points).replace(" ", ",").encode(),
        "a.obj": lines(points, "v ").encode(),
        "text.ply": (ply % "ascii" + lines(points)).encode(),
        "binary.ply": (ply % "binary_little_endian").encode() + body,
        "text.pcd": f"{pcd}ascii\n{lines(points)}".encode(),
        "binary.pcd": f"{pcd}binary\n".encode() + body,
        "a.npz": save.getvalue(),
        "a.xyz.gz": gzip.compress(lines(points).encode()),
    }[name]


CLOUDS = ["a.xyz", "a.txt", "a.obj", "text.ply", "binary.ply", "text.pcd", "binary.pcd", "a.npz", "a.xyz.gz"]


@pytest.mark.parametrize("name", CLOUDS)
def test_points_without_a_place_are_left_out_and_counted(name: str) -> None:
    holed = np.repeat(POINTS, 2, axis=0)
    holed[[1, 3, 5]] = np.nan
    holed[7, 1] = np.nan
    shape = read_shape(cloud(name, holed), name)
    assert isinstance(shape, PointCloud)
    np.testing.assert_allclose(shape.points, POINTS, rtol=1e-6)  # single precision in some
    assert shape.warnings == ("4 points without a place (NaN) are left out",)
    whole = read_shape(cloud(name, POINTS), name)
    assert isinstance(whole, PointCloud)
    assert whole.warnings == ()
    with pytest.raises(InputError, match="not one of 4 points has a place"):
        read_shape(cloud(name, POINTS * np.nan), name)
    with pytest.raises(InputError, match=r"point 2 is at \(inf"):
        read_shape(cloud(name, np.where(np.arange(4)[:, None] == 2, np.inf, POINTS)), name)


# ----------------------------------------------------------------------------------------------------------- PLY, STL

ENDS = st.sampled_from(["\n", "\r\n", "\r"])


@given(st.lists(ENDS, min_size=30, max_size=30))
@STEADY
def test_text_ply_may_end_its_lines_in_any_way(ends: list[str]) -> None:
    rows = TEXT["a.ply"].splitlines()
    content = "".join(row + end for row, end in zip(rows, ends, strict=False))
    assert triangles(read_shape(content.encode(), "a.ply")) == EXPECTED["a.ply"]


@given(st.lists(st.sampled_from(["\n", "\r\n"]), min_size=9, max_size=9), st.sampled_from([10.0, 13.0, 2.5]))
@STEADY
def test_header_of_a_binary_ply_may_mix_its_line_ends(ends: list[str], first: float) -> None:
    """Also where the body begins with a byte that is a line end."""
    header = cloud("binary.ply", POINTS).partition(b"end_header\n")[0].decode() + "end_header\n"
    header = header.replace("property float x", "property uchar q\nproperty float x")
    mixed = "".join(row + end for row, end in zip(header.splitlines(), [*ends, "\n"], strict=False))
    rows = np.zeros(4, [("q", "u1"), ("p", "<f4", 3)])
    rows["q"], rows["p"] = int(first), POINTS
    shape = read_shape(mixed.encode() + rows.tobytes(), "a.ply")
    np.testing.assert_allclose(triangles(shape), POINTS, rtol=1e-6)


@given(st.lists(st.lists(st.integers(0, 3), min_size=0, max_size=7), min_size=1, max_size=4))
@STEADY
def test_strips_of_ply_are_the_triangles_of_their_neighbours(strips: list[list[int]]) -> None:
    expected = [strip[i : i + 3] for strip in strips for i in range(len(strip) - 2)]
    indices = [index for strip in strips for index in (*strip, -1)]
    head = TEXT["a.ply"].split("element face")[0]
    text = head + f"element tristrips 1\nproperty list int int vertex_indices\nend_header\n{lines(CORNERS)}"
    shape = read_shape(f"{text}{len(indices)} {' '.join(map(str, indices))}\n".encode(), "a.ply")
    if not expected:
        assert isinstance(shape, PointCloud)
        return
    assert isinstance(shape, Mesh)
    assert shape.faces.tolist() == expected
    binary = text.replace("ascii", "binary_big_endian").partition("end_header\n")[0].encode() + b"end_header\n"
    body = CORNERS.astype(">f4").tobytes() + np.array([len(indices), *indices], ">i4").tobytes()
    assert triangles(read_shape(binary + body, "a.ply")) == triangles(shape)


def binary_stl(count: int, *, promised: int | None = None, title: bytes = b"by hand") -> bytes:
    rows = np.zeros(count, [("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
    rows["corners"] = CORNERS[FACES][:count]
    return title.ljust(80) + struct.pack("<I", count if promised is None else promised) + rows.tobytes()


@pytest.mark.parametrize("title", [b"by hand", b"solid although binary"])
@pytest.mark.parametrize("rest", [b"\0", b"made by me", b"x" * 51, b"\0" * 1000 + b"end"])
def test_bytes_after_binary_stl_are_left_out_with_a_warning(title: bytes, rest: bytes) -> None:
    shape = read_shape(binary_stl(4, title=title) + rest, "a.stl")
    assert triangles(shape) == EXPECTED["a.stl"]
    assert isinstance(shape, Mesh)
    assert shape.warnings == (f"{len(rest)} bytes after the last triangle are left out",)


def test_binary_stl_whose_count_is_too_small_is_refused() -> None:
    with pytest.raises(InputError, match="2 triangles are 184 bytes, but it has 284"):
        read_shape(binary_stl(4, promised=2), "a.stl")


@pytest.mark.parametrize(
    "ending", ["", "end solid", "end solid a part", "END SOLID", "\n\n", "end  solid\n; made by me"]
)
def test_stl_text_may_end_in_any_way_with_a_warning(ending: str) -> None:
    text = TEXT["a.stl"].replace("endsolid a\n", ending)
    shape = read_shape(text.encode(), "a.stl")
    assert triangles(shape) == EXPECTED["a.stl"]
    assert isinstance(shape, Mesh)
    assert shape.warnings == ("1 solids end without a line 'endsolid'; the text may be cut off",)


@given(st.integers(20, len(TEXT["a.stl"]) - 12))
@STEADY
def test_stl_text_that_is_cut_is_refused_or_warned_of(length: int) -> None:
    try:
        shape = read_shape(TEXT["a.stl"][:length].encode(), "a.stl")
    except InputError:
        return
    assert isinstance(shape, Mesh)
    assert shape.warnings


# ---------------------------------------------------------------------------------------------------------------- GLB


def glb(change: Any = None, *, padding: bytes = b" ", body: bytes = b"") -> bytes:
    content = CORNERS.astype("<f4").tobytes() + FACES.astype("<u2").tobytes() + body
    tree: dict[str, Any] = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1}]}],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": 4, "type": "VEC3"},
            {"bufferView": 1, "componentType": 5123, "count": 12, "type": "SCALAR"},
        ],
        "bufferViews": [{"buffer": 0, "byteLength": 48}, {"buffer": 0, "byteOffset": 48, "byteLength": 24}],
        "buffers": [{"byteLength": len(content)}],
    }
    if change:
        change(tree)
    text = json.dumps(tree).encode()
    text += padding * (-len(text) % 4 + 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(content), b"BIN\0") + content
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


@pytest.mark.parametrize(
    "extension",
    ["EXT_texture_webp", "KHR_materials_transmission", "KHR_texture_basisu", "MSFT_texture_dds", "KHR_lights_punctual"],
)
def test_glb_that_requires_what_only_changes_its_looks_is_read(extension: str) -> None:
    content = glb(lambda tree: tree.update(extensionsRequired=[extension], materials=[{}], textures=[{"source": 9}]))
    assert triangles(read_shape(content, "a.glb")) == EXPECTED["a.off"]


@pytest.mark.parametrize(
    "extension", ["KHR_draco_mesh_compression", "EXT_meshopt_compression", "KHR_mesh_quantization"]
)
def test_glb_that_requires_what_changes_its_geometry_is_refused(extension: str) -> None:
    with pytest.raises(InputError, match=f"needs '{extension}', which is not supported"):
        read_shape(glb(lambda tree: tree.update(extensionsRequired=[extension])), "a.glb")


def test_glb_with_what_is_no_geometry_is_read() -> None:
    def morphed(tree: dict[str, Any]) -> None:
        tree["accessors"].insert(0, {"componentType": 5126, "count": 4, "type": "VEC3", "sparse": {"count": 1}})
        tree["meshes"][0]["primitives"][0] = {
            "attributes": {"POSITION": 1, "NORMAL": 0},
            "indices": 2,
            "targets": [{"POSITION": 0}],
        }

    assert triangles(read_shape(glb(morphed), "a.glb")) == EXPECTED["a.off"]
    for padding in (b"\0", b" ", b"\n"):
        assert triangles(read_shape(glb(padding=padding), "a.glb")) == EXPECTED["a.off"]


def sparse(
    places: list[int],
    rows: np.ndarray,
    *,
    accessor: int = 0,
    based: bool = True,
    kind: int = 5121,
    at: int = 0,
    **changed: Any,
) -> bytes:
    """The tetrahedron, of which an accessor has other values at some places; without a base it is 0 elsewhere."""
    packed = np.array(places, {5121: "<u1", 5123: "<u2", 5125: "<u4", 5126: "<f4"}[kind]).tobytes()
    packed += bytes(-len(packed) % 4)

    def change(tree: dict[str, Any]) -> None:
        start, content = 72, rows.tobytes()
        for part in (packed, content):
            tree["bufferViews"].append({"buffer": at, "byteOffset": start, "byteLength": len(part)})
            start += len(part)
        told = tree["accessors"][accessor]
        told["sparse"] = {
            "count": len(places),
            "indices": {"bufferView": 2, "componentType": kind},
            "values": {"bufferView": 3},
        } | changed
        if not based:
            del told["bufferView"]

    return glb(change, body=packed + rows.tobytes())


@pytest.mark.parametrize("kind", [5121, 5123, 5125])
@pytest.mark.parametrize("based", [True, False])
def test_sparse_positions_of_glb_are_those_that_they_stand_for(kind: int, based: bool) -> None:
    moved = np.array([[7, 1, 0], [0, 3, 9]], "<f4")
    expected = CORNERS.copy() if based else np.zeros((4, 3))
    expected[[1, 3]] = moved
    found = read_shape(sparse([1, 3], moved, based=based, kind=kind), "a.glb")
    assert triangles(found) == expected[FACES].tolist()


def test_sparse_triangles_of_glb_are_those_that_they_stand_for() -> None:
    found = read_shape(sparse([0, 11], np.array([2, 0], "<u2"), accessor=1), "a.glb")
    changed = FACES.flatten()
    changed[[0, 11]] = 2, 0
    assert triangles(found) == CORNERS[changed.reshape(-1, 3)].tolist()


def test_sparse_positions_may_replace_rows_of_an_interleaved_array() -> None:
    rows = np.column_stack([CORNERS, np.full((4, 3), 77)]).astype("<f4")
    content = rows.tobytes() + FACES.astype("<u2").tobytes() + bytes([2, 0, 0, 0]) + np.float32([1, 5, 1]).tobytes()
    tree = {
        "scenes": [{"nodes": [0]}],
        "asset": {"version": "2.0"},
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 1}, "indices": 0}]}],
        "accessors": [
            {"bufferView": 1, "componentType": 5123, "count": 12, "type": "SCALAR"},
            {"bufferView": 0, "componentType": 5126, "count": 4, "type": "VEC3", "sparse": {
                "count": 1, "indices": {"bufferView": 2, "componentType": 5121},
                "values": {"bufferView": 2, "byteOffset": 4},
            }},
        ],
        "bufferViews": [
            {"buffer": 0, "byteLength": 96, "byteStride": 24},
            {"buffer": 0, "byteOffset": 96, "byteLength": 24},
            {"buffer": 0, "byteOffset": 120, "byteLength": 16},
        ],
        "buffers": [{"byteLength": 136}],
    }  # fmt: skip
    text = json.dumps(tree).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(content), b"BIN\0") + content
    found = read_shape(struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks, "a.glb")
    expected = CORNERS.copy()
    expected[2] = 1, 5, 1
    assert triangles(found) == expected[FACES].tolist()


ROW = np.ones((1, 3), "<f4")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (sparse([4], ROW), "a sparse accessor of 4 rows names row 4"),
        (sparse([2, 1], np.ones((2, 3), "<f4")), "or rows out of order"),
        (sparse([1, 1], np.ones((2, 3), "<f4")), "or rows out of order"),
        (sparse([1], ROW, kind=5126), "rows of a sparse accessor are named by type 5126"),
        (sparse([1], ROW, count=0), "an accessor has the count 0"),
        (sparse([1], ROW, count=True), "an accessor has the count True"),
        (sparse([1], ROW, count=9), "9 rows up to byte 81 are promised"),
        (sparse([1], ROW, values={"bufferView": 3, "byteOffset": 4}), "1 rows up to byte 92 are promised"),
        (sparse([1], ROW, values={"bufferView": 3, "byteOffset": -4}), "1 rows up to byte 84 are promised"),
        (sparse([1], ROW, values={"bufferView": 9}), "the scene does not parse: IndexError"),
        (sparse([1], ROW, values={}), "the scene does not parse: KeyError"),
        (sparse([1], np.full((1, 3), np.nan, "<f4")), r"vertex 1 is at \(nan, nan, nan\)"),
        (
            glb(lambda tree: tree["accessors"].__setitem__(0, {
                "componentType": 5126, "count": 10**9, "type": "VEC3", "sparse": {"count": 1}})),
            "a sparse accessor of 1000000000 rows is promised, too many",
        ),
        (glb(lambda tree: tree["accessors"][0].pop("bufferView")), "accessor 0 has no buffer, so that all its values"),
        (sparse([1], ROW, at=1), "lie outside the binary chunk"),
    ],
)  # fmt: skip
def test_sparse_accessors_that_do_not_fit_are_refused(content: bytes, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        read_shape(content, "a.glb")
    assert "\n" not in str(caught.value)


def instanced(**columns: np.ndarray) -> bytes:
    body = b"".join(values.astype("<f4").tobytes() for values in columns.values())

    def change(tree: dict[str, Any]) -> None:
        start = 72
        attributes = {}
        for key, values in columns.items():
            tree["bufferViews"].append({"buffer": 0, "byteOffset": start, "byteLength": values.size * 4})
            kind = f"VEC{values.shape[1]}"
            tree["accessors"].append(
                {"bufferView": len(tree["bufferViews"]) - 1, "componentType": 5126, "count": len(values), "type": kind}
            )
            attributes[key] = len(tree["accessors"]) - 1
            start += values.size * 4
        tree["nodes"] = [
            {"translation": [100, 0, 0], "children": [1]},
            {"mesh": 0, "extensions": {"EXT_mesh_gpu_instancing": {"attributes": attributes}}},
        ]
        tree["extensionsRequired"] = ["EXT_mesh_gpu_instancing"]

    return glb(change, body=body)


def test_instances_of_glb_are_placed() -> None:
    shift, turn = np.array([[0, 0, 0], [0, 9, 0], [5, 0, 7]]), np.array([[0, 0, 0, 1], [0, 0, 1, 0], [0, 0, 0, 1]])
    scale = np.array([[1, 1, 1], [1, 1, 1], [2, 3, 4]])
    turned = CORNERS * [-1, -1, 1]  # by half a turn around z
    copies = [CORNERS, np.add(turned, [0, 9, 0]), np.add(CORNERS * [2, 3, 4], [5, 0, 7])]
    expected = sorted(np.add(copies, [100, 0, 0])[:, FACES].reshape(-1, 9).round(4).tolist())
    shape = read_shape(instanced(TRANSLATION=shift, ROTATION=turn, SCALE=scale), "a.glb")
    assert sorted(np.array(triangles(shape)).reshape(-1, 9).round(4).tolist()) == expected
    shape = read_shape(instanced(TRANSLATION=shift[:2]), "a.glb")
    assert len(triangles(shape)) == 8


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"TRANSLATION": np.zeros((2, 3)), "SCALE": np.ones((3, 3))}, r"instances of a mesh are \[2, 3\]"),
        ({"TRANSLATION": np.zeros((10_001, 3))}, "10001.*up to 10000"),
        ({"TRANSLATION": np.full((2, 3), np.nan)}, r"at \(nan, nan, nan\), expected finite"),
    ],
)
def test_instances_of_glb_that_make_no_sense_are_refused(columns: dict[str, np.ndarray], said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_shape(instanced(**columns), "a.glb")


# -------------------------------------------------------------------------------------------------- packed, and HDF5


@pytest.mark.parametrize("name", [name for name in TEXT if f".{name.partition('.')[2]}.gz" in SUFFIXES])
def test_shapes_compressed_by_gzip_are_read(name: str) -> None:
    assert triangles(read_shape(gzip.compress(TEXT[name].encode()), f"{name}.GZ")) == EXPECTED[name]
    assert (file_suffix(f"x/{name}.gz"), stem_of(f"{name}.gz")) == (f".{name[2:]}.gz", "a")
    with pytest.raises(InputError, match=r"gz: cannot be unpacked: "):
        read_shape(TEXT[name].encode(), f"{name}.gz")
    with pytest.raises(InputError, match="refused as a bomb"):
        read_shape(gzip.compress(bytes(30 << 20)), f"{name}.gz")
    with pytest.raises(InputError, match="the file is empty"):
        read_shape(gzip.compress(b""), f"{name}.gz")


GRID = (np.arange(64).reshape(8, 4, 2) % 3 == 0).astype(np.uint8)


def mat73(**arrays: np.ndarray) -> bytes:
    """As MATLAB stores it: the first index varies fastest, which HDF5 says by axes in reverse."""
    with h5py.File(stream := io.BytesIO(), "w", userblock_size=512) as file:
        for key, values in arrays.items():
            file.create_dataset(key, data=values.transpose())
    return b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM" + stream.getvalue()[128:]


@pytest.mark.parametrize("dtype", ["uint8", "float64", "int16"])
def test_mat_of_version_7_3_is_read(dtype: str) -> None:
    shape = read_shape(mat73(instance=GRID.astype(dtype), label=np.array([3.0])), "a.mat")
    assert isinstance(shape, Grid)
    np.testing.assert_array_equal(shape.occupancy, GRID)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (mat73(volume=GRID), r"MATLAB 7.3 \(HDF5\) with 'volume' 2×4×8, expected 'instance' on three axes"),
        (mat73(instance=GRID[0]), "'instance' 2×4, expected 'instance' on three axes"),
        (mat73(), "with no array, expected 'instance'"),
        (mat73(instance=GRID)[:600], r"MATLAB 7.3 \(HDF5\) that cannot be used: "),
    ],
)
def test_other_mats_of_version_7_3_are_named(content: bytes, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_shape(content, "a.mat")


def npz(**arrays: np.ndarray) -> bytes:
    np.savez(stream := io.BytesIO(), **arrays)
    return stream.getvalue()


def test_npz_of_a_grid_or_of_points_is_a_shape() -> None:
    for arrays in ({"a": GRID}, {"voxels": GRID * 255, "id": np.array(3)}):
        shape = read_shape(npz(**arrays), "a.npz")
        assert isinstance(shape, Grid)
        np.testing.assert_array_equal(shape.occupancy, GRID)
    for arrays in ({"any": POINTS}, {"points": POINTS, "normals": -POINTS}, {"pc": POINTS, "label": np.array([1])}):
        assert triangles(read_shape(npz(**arrays), "a.npz")) == POINTS.tolist()
    for arrays in ({"a": POINTS, "b": POINTS}, {"a": GRID, "b": GRID}, {}, {"a": POINTS[:, :2]}):
        with pytest.raises(InputError, match=r"a\.npz: holds .*; expected one grid, or points \(point, 3\)"):
            read_shape(npz(**arrays), "a.npz")


# ------------------------------------------------------------------------------------------------------------- others


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_pointer_of_git_lfs_is_named_for_what_it_is(suffix: str) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    with pytest.raises(InputError, match=rf"a\{suffix}: a pointer of Git LFS, not the file itself; run 'git lfs pull'"):
        read_shape(pointer, f"a{suffix}")
    with pytest.raises(InputError, match="a pointer of Git LFS"):
        read_scan(pointer, "a.nii.gz")


@pytest.mark.parametrize(
    ("head", "are_points"),
    [
        (b"0.1,0.2,0.3,0,0,1\n", True),
        (b"# x y z\n\n1 2 3\n", True),
        (b"\xef\xbb\xbf17\n1;2;3\n", True),
        (b"1,5;2,5;3\n", True),
        (b"", False),
        (b"airplane\nbathtub\n", False),
        (b"1 2\n", False),
        (b"3 blind mice and more\n", False),
        (b"\0\1\2", False),
    ],
)
def test_text_of_points_is_told_by_its_first_line(head: bytes, are_points: bool) -> None:
    assert looks_like_points(head) == are_points
