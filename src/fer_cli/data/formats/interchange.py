"""STL (text and binary) and GLB (by trimesh) → vertices and triangles, as the file stores them.

Nothing is merged, reordered or cleaned, no other file is opened, and nothing is logged. Of a GLB file trimesh is given
the geometry alone. What would cost memory beyond the file's size, hang, or come out wrong without a word is refused
before trimesh sees it.

Axes are kept as stored, although glTF says that y is up: turn such shapes before, if their z should be up.
Not read: glTF's compression; skins, morphs and cameras; materials, textures and normals.
"""

import io
import itertools
import json
import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from fer_cli.data.formats.accessors import COMPONENT_BYTES, COMPONENTS, read_floats, written_out
from fer_cli.data.formats.content import plain_text, without_mark
from fer_cli.data.formats.decimals import excerpt, numbers_by_line
from fer_cli.errors import InputError, first_line

MAX_SCENE_BYTES = 1 << 22
"""So long a GLB file's scene may be, which takes a hundred times as much memory; the shape itself lies elsewhere."""
MAX_INSTANCED = 1 << 24
"""So many faces and vertices a GLB file may have once every node has its own copy of its mesh."""

_Vertices = Float64[np.ndarray, "vertex 3"]
_Faces = Int64[np.ndarray, "face 3"]

_MOST_GROWTH = 16
"""Accessors may overlap, but not so that a small file becomes a shape of more than this many times its size."""
_STL_NAME = re.compile(rb"(?im)^[ \t]*+(?:end[ \t]*+)?solid\b[^\n]*+")
_STL_CORNER = re.compile(rb"(?i)\bvertex\s++(\S++)\s++(\S++)\s++(\S++)")
_STL_FACET = re.compile(rb"(?i)(?<!end )(?<!end\t)\bfacet\b")
_STL_FACET_END = re.compile(rb"(?i)\bend[ \t]?facet\b")
_NO_GEOMETRY = re.compile(r"KHR_materials_\w+|(KHR|EXT|MSFT)_texture_\w+|(KHR|EXT)_lights_\w+|KHR_xmp\w*")
"""Extensions that change how a surface looks, and not where it is."""
_INSTANCING = "EXT_mesh_gpu_instancing"
_MOST_INSTANCES = 10_000
_MODES = ("points", "lines", "line loops", "line strips", "triangles", "triangle strips", "triangle fans")


def read_stl(content: bytes, name: str) -> tuple[_Vertices, _Faces, tuple[str, ...]]:
    """Three vertices, in the file's own units, for each triangle; and what is odd of the file. Errors name `name`.

    Raises InputError if the content is no STL file, has no triangle, or is truncated or damaged.
    """
    n_faces = int.from_bytes(content[80:84], "little")
    promised = 84 + 50 * n_faces
    warnings: tuple[str, ...] = ()
    surplus = len(content) - promised
    if len(content) >= 84 and surplus == 0:
        corners = _stl_corners(content, n_faces)
    elif (text := without_mark(content)).lstrip()[:5].lower() == b"solid" and b"\0" not in text[:84]:
        corners, warnings = _stl_text(plain_text(content), name)
    elif len(content) >= 84 and n_faces and surplus > 0 and surplus % 50:
        corners, warnings = _stl_corners(content, n_faces), (f"{surplus} bytes after the last triangle are left out",)
    elif len(content) >= 84:
        raise InputError(
            f"{name}: not an STL file, or truncated: it begins with {excerpt(content)}; "
            f"{n_faces} triangles are {promised} bytes, but it has {len(content)}."
        )
    else:
        raise InputError(f"{name}: not an STL file; it begins with {excerpt(content)}.")
    if not len(corners):
        raise InputError(f"{name}: 0 triangles make no shape.")
    return corners, np.arange(len(corners)).reshape(-1, 3), warnings


def _stl_corners(content: bytes, n_faces: int) -> _Vertices:
    triangles = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
    return np.frombuffer(content, triangles, n_faces, 84)["corners"].reshape(-1, 3).astype(np.float64)


def _stl_text(text: bytes, name: str) -> tuple[_Vertices, tuple[str, ...]]:
    """The corners of text, whatever solids they belong to."""
    text = text.replace(b"\r", b"\n")
    body = _STL_NAME.sub(b"", text)
    corners = _STL_CORNER.findall(body)
    n_corners, n_facets, n_ends = len(corners), len(_STL_FACET.findall(body)), len(_STL_FACET_END.findall(body))
    if n_corners != 3 * n_facets or n_ends != n_facets:
        raise InputError(
            f"{name}: truncated or damaged: {n_corners} vertices are there, {3 * n_ends} in {n_ends} whole facets of "
            f"{n_facets}."
        )
    numbers, starts = numbers_by_line(b"\n".join(map(b" ".join, corners)), 0, name)
    if len(numbers) != 3 * n_corners or len(starts) != n_corners + 1:
        raise InputError(f"{name}: a vertex has fewer than three numbers.")
    n_begun, n_ended = (len(re.findall(rb"(?im)^[ \t]*+%b\b" % word, text)) for word in (b"solid", b"endsolid"))
    cut = f"{n_begun - n_ended} solids end without a line 'endsolid'; the text may be cut off"
    return numbers.reshape(-1, 3), (cut,) if n_ended < n_begun else ()


def read_glb(content: bytes, name: str) -> tuple[_Vertices, _Faces]:
    """Vertices of every node of the file's scene, in the scene's units, and triangles as rows of them.

    There are none where the file holds points alone. Errors name `name`.

    Raises InputError if the content is no GLB file of version 2, holds no shape, needs another file or what is not
    supported, or is truncated or damaged.
    """
    tree, binary = _glb_parts(content, name)
    try:
        _refuse_foreign(tree, name)
        tree = _geometry(tree, binary, name)
        tree, binary = written_out(tree, binary, name, _MOST_GROWTH * len(content))
        _refuse_unsafe(tree, len(content), name)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(f"{name}: the scene does not parse: {type(error).__name__} {first_line(error)}.") from error
    with _trimesh_reads(name, "GLB"):
        from trimesh.exchange.gltf import load_glb

        loaded = load_glb(io.BytesIO(_as_glb(tree, binary)), skip_materials=True)
        placed = list(_placed(loaded))
    meshes = [part for part in placed if len(part[1])]
    if not placed:
        raise InputError(f"{name}: the scene holds no triangle and no point.")
    return _merged(meshes or placed)


def _glb_parts(content: bytes, name: str) -> tuple[dict[str, Any], bytes]:
    """The scene, and the content of the binary chunk, if there is one."""
    if content[:4] != b"glTF":
        raise InputError(f"{name}: not a GLB file; it begins with {excerpt(content)}.")
    version, length, chunk = (int.from_bytes(content[at : at + 4], "little") for at in (4, 8, 12))
    if version != 2:
        raise InputError(f"{name}: version {version} of GLB is not supported; 2 is.")
    if length > len(content) or chunk + 20 > len(content):
        raise InputError(f"{name}: truncated: {max(length, chunk + 20)} bytes are promised, {len(content)} are there.")
    if chunk > MAX_SCENE_BYTES:
        raise InputError(f"{name}: the scene takes {chunk} bytes, more than {MAX_SCENE_BYTES}.")
    try:
        tree = json.loads(without_mark(content[20 : 20 + chunk].rstrip(b"\0 \t\r\n")))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name}: the scene does not parse: {first_line(error)}.") from error
    if not isinstance(tree, dict):
        raise InputError(f"{name}: the scene does not parse: it is a {type(tree).__name__}, expected an object.")
    start = 20 + chunk
    size = int.from_bytes(content[start : start + 4], "little")
    is_binary = content[start + 4 : start + 8] == b"BIN\0"
    if is_binary and start + 8 + size > len(content):
        raise InputError(f"{name}: truncated: {start + 8 + size} bytes are promised, {len(content)} are there.")
    return tree, content[start + 8 : start + 8 + size] if is_binary else b""


def _as_glb(tree: dict[str, Any], binary: bytes) -> bytes:
    text = json.dumps(tree).encode()
    text += b" " * (-len(text) % 4)
    binary += b"\0" * (-len(binary) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(binary), b"BIN\0") + binary
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def _geometry(tree: dict[str, Any], binary: bytes, name: str) -> dict[str, Any]:
    """The scene with its positions, triangles and nodes alone, and a node for each instance of a mesh."""
    needed: dict[int, int] = {}
    meshes = []
    for mesh in tree.get("meshes", []):
        primitives = []
        for primitive in mesh["primitives"]:
            position, indices = primitive["attributes"]["POSITION"], primitive.get("indices")
            kept: dict[str, Any] = {"attributes": {"POSITION": needed.setdefault(position, len(needed))}}
            if indices is not None:
                kept["indices"] = needed.setdefault(indices, len(needed))
            if "mode" in primitive:
                kept["mode"] = primitive["mode"]
            primitives.append(kept)
        meshes.append({"primitives": primitives})
    nodes = [{key: node[key] for key in _PLACING if key in node} for node in tree.get("nodes", [])]
    for node, whole in zip(list(nodes), tree.get("nodes", []), strict=True):
        if "mesh" in node and _INSTANCING in whole.get("extensions", {}):
            copies = _instances(tree, binary, whole["extensions"][_INSTANCING]["attributes"], name)
            if len(nodes) + len(copies) > _MOST_INSTANCES + len(tree["nodes"]):
                raise InputError(f"{name}: has more than {_MOST_INSTANCES} instances of its meshes.")
            mesh_index = node.pop("mesh")
            node["children"] = [*node.get("children", []), *range(len(nodes), len(nodes) + len(copies))]
            nodes += [{"mesh": mesh_index, **copy} for copy in copies]
    accessors = tree.get("accessors", [])
    kept_keys: dict[str, Any] = {
        key: tree[key] for key in ("asset", "scene", "scenes", "buffers", "bufferViews") if key in tree
    }
    return {**kept_keys, "meshes": meshes, "nodes": nodes, "accessors": [accessors[index] for index in needed]}


_PLACING = ("mesh", "children", "matrix", "translation", "rotation", "scale")


def _instances(tree: dict[str, Any], binary: bytes, attributes: dict[str, int], name: str) -> list[dict[str, Any]]:
    """Where the copies of a mesh are, as nodes of a scene say it."""
    columns = {}
    for key in ("TRANSLATION", "ROTATION", "SCALE"):
        if key in attributes:
            width = 4 if key == "ROTATION" else 3
            columns[key.lower()] = read_floats(tree, binary, attributes[key], width, name).tolist()
    counts = {len(rows) for rows in columns.values()}
    if len(counts) != 1 or max(counts) > _MOST_INSTANCES:
        raise InputError(
            f"{name}: instances of a mesh are {sorted(counts)}, expected one count up to {_MOST_INSTANCES}."
        )
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _refuse_foreign(tree: dict[str, Any], name: str) -> None:
    """Raise InputError for a scene that needs an extension of its geometry, or another file."""
    required = {str(item) for item in tree.get("extensionsRequired", [])} - {_INSTANCING}
    if foreign := sorted(item for item in required if not _NO_GEOMETRY.fullmatch(item)):
        raise InputError(f"{name}: needs {foreign[0][:60]!r}, which is not supported; export it without.")
    for buffer in tree.get("buffers", []):
        if "uri" in buffer and not buffer["uri"].startswith("data:"):
            raise InputError(f"{name}: refers to another file, {buffer['uri'][:60]!r}; export it in one piece.")


def _refuse_unsafe(tree: dict[str, Any], n_bytes: int, name: str) -> None:
    """Raise InputError for what trimesh would read wrong, or with more memory or time than the file is worth."""
    accessors = tree.get("accessors", [])
    sizes = [_accessor_bytes(accessor, index, name) for index, accessor in enumerate(accessors)]
    if sum(sizes) > _MOST_GROWTH * n_bytes:
        raise InputError(f"{name}: accessors of {sum(sizes)} bytes are promised, the file has {n_bytes}.")
    weights = []
    for mesh in tree.get("meshes", []):
        weights.append(0)
        for primitive in mesh["primitives"]:
            if (mode := primitive.get("mode", 4)) == 6 or not 0 <= mode <= 6:
                kind = _MODES[mode] if mode == 6 else f"primitives of mode {mode}"
                raise InputError(f"{name}: {kind} are not supported; triangles, strips and points are.")
            position = accessors[primitive["attributes"]["POSITION"]]
            if position["type"] != "VEC3" or position["componentType"] != 5126:
                raise InputError(f"{name}: positions are of type {position['componentType']}, expected floats (5126).")
            used = [position] + ([accessors[primitive["indices"]]] if "indices" in primitive else [])
            weights[-1] += sum(accessor["count"] for accessor in used)
    nodes = tree.get("nodes", [])
    parents = [0] * len(nodes)
    roots = tree["scenes"][tree.get("scene", 0)].get("nodes", []) if tree.get("scenes") else []
    for child in itertools.chain(roots, *(node.get("children", []) for node in nodes)):
        parents[child] += 1
        if child < 0 or parents[child] > 1:
            raise InputError(f"{name}: node {child} hangs on more than one place of the scene.")
    total = sum(weights[node["mesh"]] for node in nodes if "mesh" in node)
    if total > MAX_INSTANCED:
        raise InputError(f"{name}: copies of its meshes make {total} faces and vertices, more than {MAX_INSTANCED}.")


def _accessor_bytes(accessor: dict[str, Any], index: int, name: str) -> int:
    count = accessor["count"]
    if "bufferView" not in accessor:
        raise InputError(f"{name}: accessor {index} has no buffer, so that all its values are 0.")
    if not isinstance(count, int) or count < 1:
        raise InputError(f"{name}: accessor {index} has the count {count!r}.")
    return count * COMPONENT_BYTES[accessor["componentType"]] * COMPONENTS[accessor["type"]]


def _placed(loaded: dict[str, Any]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Vertices and faces of every node that has any, where the nodes above it put them."""
    places = {loaded["base_frame"]: np.eye(4)}
    for edge in loaded["graph"]:
        matrix = places[edge["frame_from"]] @ edge["matrix"]
        places[edge["frame_to"]] = matrix
        part = loaded["geometry"].get(edge.get("geometry"))
        if part is None or "entities" in part:
            continue
        vertices = np.asarray(part["vertices"], np.float64)
        if not np.array_equal(matrix, np.eye(4)):
            vertices = vertices @ matrix[:3, :3].T + matrix[:3, 3]
        yield vertices, np.asarray(part.get("faces", np.empty((0, 3))), np.int64)


def _merged(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[_Vertices, _Faces]:
    before = np.cumsum([0, *(len(vertices) for vertices, _ in parts)])
    # An index that its own part does not have must not come to name a vertex of the next.
    faces = [
        np.where((part >= 0) & (part < len(vertices)), part + offset, -1)
        for (vertices, part), offset in zip(parts, before, strict=False)
    ]
    return np.concatenate([vertices for vertices, _ in parts]).astype(np.float64), np.concatenate(faces).astype(
        np.int64
    )


@contextmanager
def _trimesh_reads(name: str, kind: str) -> Iterator[None]:
    """Turn whatever trimesh raises into an InputError, and let it log and warn of nothing."""
    from trimesh.util import log  # half a second that only these files need

    was_disabled, log.disabled = log.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # NumPy only warns where text ends in what is no number, and returns what came before.
            warnings.filterwarnings("error", "string or file could not be read", DeprecationWarning)
            yield
    except MemoryError:
        raise
    except Exception as error:
        raise InputError(f"{name}: not a readable {kind} file: {first_line(error)}.") from error
    finally:
        log.disabled = was_disabled
