import json
import logging
import time
import tracemalloc
import warnings
from typing import Any

import numpy as np
import pytest
import trimesh

from fer_cli.data.formats import interchange
from fer_cli.data.formats.registry import Mesh, PointCloud, read_shape
from fer_cli.errors import InputError

TRIANGLES = np.array([[[0, 0, 0], [4, 0, 0], [0, 2, 0]], [[0, 0, 1], [4, 0, 1], [0, 2, 1]]], np.float64)
FACETS = [
    "facet normal 0 0 1\n outer loop\n" + "".join(f"  vertex {x} {y:e} {z}\n" for x, y, z in t) + " endloop\nendfacet\n"
    for t in TRIANGLES
]
TEXT = "".join(FACETS)


def stl(triangles: np.ndarray, *, promised: int | None = None, title: bytes = b"by hand") -> bytes:
    rows = np.zeros(len(triangles), [("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
    rows["corners"] = triangles
    return (
        title.ljust(80, b" ") + np.uint32(len(triangles) if promised is None else promised).tobytes() + rows.tobytes()
    )


@pytest.mark.parametrize(
    "content",
    [
        stl(TRIANGLES),
        stl(TRIANGLES, title=b"solid although binary"),
        f"solid\n{TEXT}endsolid\n".encode(),
        f"solid a vertex of facet endsolid normal\n{TEXT}endsolid a vertex\n".encode(),
        f"solid\n{TEXT}endsolid\n".replace("\n", "\r\n").encode(),
        f"solid\n{TEXT}endsolid\n".replace("\n", "\r").encode(),
        f"SOLID caf\xe9\n{TEXT.upper()}ENDSOLID".encode("latin-1"),
        f"solid a\n{FACETS[0]}endsolid a\nsolid b\n{FACETS[1]}endsolid b\n".encode(),
    ],
)
def test_stl_of_any_form_is_the_same_triangles(content: bytes) -> None:
    mesh = read_shape(content, "shape.stl")
    assert isinstance(mesh, Mesh)
    np.testing.assert_array_equal(mesh.vertices[mesh.faces], TRIANGLES)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\x89PNG\r\n", "not an STL file; it begins with"),
        (bytes(100), "0 triangles are 84 bytes, but it has 100"),
        (stl(TRIANGLES[:0]), "0 triangles make no shape"),
        (stl(TRIANGLES, promised=10**9), "1000000000 triangles are 50000000084 bytes, but it has 184"),
        (stl(TRIANGLES)[:-1], "2 triangles are 184 bytes, but it has 183"),
        (stl(TRIANGLES * np.nan), r"vertex 0 is at \(nan, nan, nan\), expected finite"),
        (stl(np.where(TRIANGLES == 4, np.inf, TRIANGLES)), r"vertex 1 is at \(inf, 0, 0\), expected finite"),
        (b"solid\n", "0 triangles make no shape"),
        (b"solid\nendsolid\n", "0 triangles make no shape"),
        (f"solid\n{TEXT}"[:-20].encode(), "truncated or damaged: 6 vertices are there, 3 in 1 whole facets of 2"),
        (f"solid\n{TEXT}endsolid\nsolid\n{TEXT[:-30]}".encode(), "11 vertices are there, 9 in 3 whole facets of 4"),
        (stl(TRIANGLES, promised=1), "1 triangles are 134 bytes, but it has 184"),
        (
            f"solid\n{TEXT}endsolid\n".replace("vertex 4.0 ", "vertex four ", 1).encode(),
            "'four' at byte .* is not a number",
        ),
        (
            f"solid\n{TEXT}endsolid\n".replace("vertex 4.0 ", "vertex ", 1).encode(),
            "5 vertices are there, 6 in 2|'endloop'|is not a number",
        ),
        (f"solid\n{TEXT}endsolid\n".replace("vertex 4.0 ", "vertex nan ", 1).encode(), r"vertex 1 is at \(nan, 0, 0\)"),
    ],
)
def test_damaged_stl_is_named_with_what_was_found(content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_shape(content, "shape.stl")
    assert str(caught.value).startswith("shape.stl: ")
    assert "\n" not in str(caught.value)


def test_solids_of_one_name_take_no_longer_than_others() -> None:
    """Half a second here; by trimesh alone, whose time grows with their square, some minutes."""
    content = (f"solid part\n{FACETS[0]}endsolid part\n" * 20_000).encode()
    started = time.perf_counter()
    mesh = read_shape(content, "parts.stl")
    assert isinstance(mesh, Mesh)
    assert len(mesh.faces) == 20_000
    assert time.perf_counter() - started < 15


TRIANGLE = np.array([[0, 0, 0], [4, 0, 0], [0, 2, 1]], "<f4")


def glb(change: Any = None, *, body: bytes | None = None, indices: tuple[int, ...] = (0, 1, 2)) -> bytes:
    """Two nodes that show one triangle: as it is, and below a node that turns and moves it."""
    corners = np.array(indices, "<u2").tobytes()
    body = TRIANGLE.tobytes() + corners.ljust(8, b"\0") if body is None else body
    tree: dict[str, Any] = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0, 1]}],
        "nodes": [
            {"mesh": 0},
            {"name": "turned", "translation": [10, 0, 0], "children": [2]},
            {"mesh": 0, "matrix": [0, 1, 0, 0, -1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]},
        ],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1}]}],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"},
            {"bufferView": 1, "componentType": 5123, "count": 3, "type": "SCALAR"},
        ],
        "bufferViews": [{"buffer": 0, "byteLength": 36}, {"buffer": 0, "byteOffset": 36, "byteLength": 6}],
        "buffers": [{"byteLength": len(body)}],
    }
    if change:
        change(tree)
    text = json.dumps(tree).encode()
    text += b" " * (-len(text) % 4)
    chunks = len(text).to_bytes(4, "little") + b"JSON" + text + len(body).to_bytes(4, "little") + b"BIN\0" + body
    return b"glTF" + (2).to_bytes(4, "little") + (12 + len(chunks)).to_bytes(4, "little") + chunks


def test_glb_shows_every_node_where_the_scene_puts_it_with_axes_as_stored() -> None:
    mesh = read_shape(glb(), "scene.glb")
    assert isinstance(mesh, Mesh)
    turned = TRIANGLE[:, [1, 0, 2]] * [-1, 1, 1] + [10, 0, 0]
    found = sorted(mesh.vertices[mesh.faces].tolist())
    assert found == sorted([TRIANGLE.tolist(), turned.tolist()])


def test_trimesh_and_fer_agree_on_what_trimesh_writes() -> None:
    scene = trimesh.Scene([trimesh.creation.box((8, 4, 2)), trimesh.creation.icosphere(1)])
    scene.apply_transform(trimesh.transformations.rotation_matrix(0.3, (1, 2, 3), (4, 5, 6)))
    expected = scene.to_mesh()
    mesh = read_shape(scene.export(file_type="glb"), "scene.glb")
    assert isinstance(mesh, Mesh)
    ours, theirs = (np.sort(np.round(m.vertices[m.faces].reshape(-1, 9), 4), axis=0) for m in (mesh, expected))
    np.testing.assert_allclose(ours, theirs, atol=2e-4)  # glTF stores single precision


def with_strip(tree: dict[str, Any]) -> None:
    tree["meshes"][0]["primitives"] = [
        {"attributes": {"POSITION": 0}, "mode": 5},
        {"attributes": {"POSITION": 0}, "mode": 1},
    ]


def with_points(tree: dict[str, Any]) -> None:
    tree["meshes"][0]["primitives"][0] = {"attributes": {"POSITION": 0}, "mode": 0}


def test_glb_strips_are_triangles_and_lines_are_nothing() -> None:
    mesh = read_shape(glb(with_strip), "scene.glb")
    assert isinstance(mesh, Mesh)
    assert len(mesh.faces) == 2


def test_glb_of_points_alone_is_points() -> None:
    cloud = read_shape(glb(with_points), "scan.glb")
    assert isinstance(cloud, PointCloud)
    assert len(cloud.points) == 6


def setting(*path: Any) -> Any:
    *above, key, value = path

    def change(tree: dict[str, Any]) -> None:
        place: Any = tree
        for step in above:
            place = place[step]
        place[key] = value

    return change


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"glTF", "version 0 of GLB is not supported"),
        (b"solid", "not a GLB file; it begins with 'solid'"),
        (
            b"glTF\2\0\0\0\xff\xff\xff\xff\xff\xff\xff\x7fJSON{}",
            "truncated: 4294967295 bytes are promised, 22 are there",
        ),
        (glb()[:-4], "truncated: "),
        (glb().replace(b'{"asset"', b'["asset"'), "the scene does not parse: "),
        (glb(setting("buffers", 0, "uri", "../../etc/passwd")), "refers to another file, '../../etc/passwd'"),
        (glb(setting("buffers", 0, "uri", "http://127.0.0.1/x")), "refers to another file, 'http://127.0.0.1/x'"),
        (
            glb(setting("extensionsRequired", ["KHR_draco_mesh_compression"])),
            "needs 'KHR_draco_mesh_compression', which",
        ),
        (glb(setting("accessors", 0, "count", 10**9)), "accessors of 12000000006 bytes are promised"),
        (glb(setting("accessors", 0, "count", 20)), "not a readable GLB file"),
        (glb(setting("accessors", 0, "count", -1)), "accessor 0 has the count -1"),
        (glb(setting("accessors", 0, "count", 1e9)), "accessor 0 has the count 1000000000.0"),
        (glb(setting("accessors", 0, "sparse", {})), "the scene does not parse: KeyError"),
        (glb(setting("accessors", 0, "componentType", 5122)), "positions are of type 5122, expected floats"),
        (glb(setting("bufferViews", 0, "byteLength", 10**9)), "not a readable GLB file"),
        (glb(setting("meshes", 0, "primitives", 0, "mode", 6)), "triangle fans are not supported"),
        (glb(setting("meshes", 0, "primitives", 0, "mode", 9)), "primitives of mode 9 are not supported"),
        (glb(setting("nodes", 2, "children", [1])), "node 1 hangs on more than one place of the scene"),
        (glb(setting("nodes", 0, "children", [2])), "node 2 hangs on more than one place of the scene"),
        (glb(setting("nodes", 0, "mesh", 7)), "the scene does not parse: IndexError"),
        (glb(setting("meshes", [])), "the scene does not parse"),
        (glb(setting("scenes", [{"nodes": []}])), "the scene holds no triangle and no point"),
        (glb(indices=(0, 1, 3)), "face 0 names a vertex that does not exist"),
        (glb(body=(TRIANGLE * np.float32(np.nan)).tobytes() + bytes(8)), r"vertex 0 is at \(nan, nan, nan\), expected"),
        (glb(setting("nodes", 1, "translation", [float("inf"), 0, 0])), "expected finite coordinates"),
    ],
)
def test_damaged_glb_is_named_with_what_was_found(content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_shape(content, "scene.glb")
    assert str(caught.value).startswith("scene.glb: ")
    assert "\n" not in str(caught.value)


def test_glb_whose_copies_grow_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interchange, "MAX_INSTANCED", 10)
    with pytest.raises(InputError, match="copies of its meshes make 12 faces and vertices, more than 10"):
        read_shape(glb(), "scene.glb")


def test_glb_of_a_long_scene_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    content = trimesh.creation.box().export(file_type="glb")
    monkeypatch.setattr(interchange, "MAX_SCENE_BYTES", 100)
    with pytest.raises(InputError, match=r"a\.glb: the scene takes \d+ bytes, more than 100"):
        read_shape(content, "a.glb")


def test_empty_lines_of_stl_cost_little() -> None:
    tracemalloc.start()
    try:
        mesh = read_shape(b"solid\n" + TEXT.encode() + b" \n" * 1_000_000 + b"endsolid\n", "a.stl")
        assert tracemalloc.get_traced_memory()[1] < 40_000_000  # a string for each takes over 100 MB
    finally:
        tracemalloc.stop()
    assert isinstance(mesh, Mesh)
    assert len(mesh.faces) == len(TRIANGLES)


def test_trimesh_neither_warns_nor_logs(caplog: pytest.LogCaptureFixture) -> None:
    def with_extension(tree: dict[str, Any]) -> None:
        tree["meshes"][0]["primitives"][0]["extensions"] = {"KHR_draco_mesh_compression": {"bufferView": 0}}

    with warnings.catch_warnings(), caplog.at_level(logging.DEBUG):
        warnings.simplefilter("error")
        read_shape(glb(with_extension), "scene.glb")
    assert not caplog.records
    assert not trimesh.util.log.disabled
