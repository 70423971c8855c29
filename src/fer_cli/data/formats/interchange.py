"""STL (text and binary) and GLB → vertices and triangles, by trimesh, which is asked for what the file stores alone.

Nothing is merged, reordered or cleaned, no other file is opened, and nothing is logged. What would cost memory beyond
the file's size, hang, or come out wrong without a word is refused before trimesh sees it.

Axes are kept as stored, although glTF says that y is up: turn such shapes before, if their z should be up.
Not read: glTF's compression and sparse accessors; skins, morphs and cameras; materials, textures and normals.
"""

import io
import itertools
import json
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from fer_cli.data.formats.decimals import excerpt
from fer_cli.errors import InputError, first_line

MAX_SCENE_BYTES = 1 << 22
"""So long a GLB file's scene may be, which takes a hundred times as much memory; the shape itself lies elsewhere."""
MAX_INSTANCED = 1 << 24
"""So many faces and vertices a GLB file may have once every node has its own copy of its mesh."""

_Vertices = Float64[np.ndarray, "vertex 3"]
_Faces = Int64[np.ndarray, "face 3"]

_COMPONENT_BYTES = {5120: 1, 5121: 1, 5122: 2, 5123: 2, 5125: 4, 5126: 4}
_COMPONENTS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
_MODES = ("points", "lines", "line loops", "line strips", "triangles", "triangle strips", "triangle fans")


def read_stl(content: bytes, name: str) -> tuple[_Vertices, _Faces]:
    """Three vertices, in the file's own units, for each triangle. Errors name `name`.

    Raises InputError if the content is no STL file, has no triangle, or is truncated or damaged.
    """
    n_faces = int.from_bytes(content[80:84], "little")
    promised = 84 + 50 * n_faces
    if len(content) >= 84 and len(content) == promised:
        with _trimesh_reads(name, "binary STL"):
            from trimesh.exchange.stl import load_stl_binary

            parts = [load_stl_binary(io.BytesIO(content))]
    elif content.lstrip()[:5].lower() == b"solid":
        text = re.sub(rb"[\r\n]\s*", b"\n", content)  # of empty lines, trimesh would take each for a string
        # trimesh finds the keywords wherever they are, so that names must not hold any; and it takes a time that grows
        # with the square of the solids of one name.
        number = itertools.count()
        text = re.sub(
            rb"(?im)^[ \t]*(end)?solid\b[^\n]*", lambda found: b"%bsolid %d" % (found[1] or b"", next(number)), text
        )
        with _trimesh_reads(name, "STL text"):
            from trimesh.exchange.stl import load_stl_ascii

            loaded = load_stl_ascii(io.StringIO(text.decode("latin-1")))
        parts = list(loaded["geometry"].values()) if "geometry" in loaded else [loaded]
        n_corners, n_read = len(re.findall(rb"(?i)\bvertex\b", text)), sum(len(part["vertices"]) for part in parts)
        if n_corners != n_read or n_corners != 3 * len(re.findall(rb"(?im)^[ \t]*facet\b", text)):
            raise InputError(f"{name}: truncated or damaged: {n_corners} vertices are there, {n_read} in whole solids.")
    elif len(content) >= 84:
        raise InputError(
            f"{name}: not an STL file, or truncated: it begins with {excerpt(content)}; "
            f"{n_faces} triangles are {promised} bytes, but it has {len(content)}."
        )
    else:
        raise InputError(f"{name}: not an STL file; it begins with {excerpt(content)}.")
    meshes = [part for part in parts if len(part.get("faces", ()))]
    if not meshes:
        raise InputError(f"{name}: 0 triangles make no shape.")
    return _merged([(part["vertices"], part["faces"]) for part in meshes])


def read_glb(content: bytes, name: str) -> tuple[_Vertices, _Faces]:
    """Vertices of every node of the file's scene, in the scene's units, and triangles as rows of them.

    There are none where the file holds points alone. Errors name `name`.

    Raises InputError if the content is no GLB file of version 2, holds no shape, needs another file or what is not
    supported, or is truncated or damaged.
    """
    tree = _glb_tree(content, name)
    try:
        _refuse_unsafe(tree, len(content), name)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(f"{name}: the scene does not parse: {type(error).__name__} {first_line(error)}.") from error
    with _trimesh_reads(name, "GLB"):
        from trimesh.exchange.gltf import load_glb

        loaded = load_glb(io.BytesIO(content), skip_materials=True)
        placed = list(_placed(loaded))
    meshes = [part for part in placed if len(part[1])]
    if not placed:
        raise InputError(f"{name}: the scene holds no triangle and no point.")
    return _merged(meshes or placed)


def _glb_tree(content: bytes, name: str) -> dict[str, Any]:
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
        tree = json.loads(content[20 : 20 + chunk])
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name}: the scene does not parse: {first_line(error)}.") from error
    if not isinstance(tree, dict):
        raise InputError(f"{name}: the scene does not parse: it is a {type(tree).__name__}, expected an object.")
    return tree


def _refuse_unsafe(tree: dict[str, Any], n_bytes: int, name: str) -> None:
    """Raise InputError for what trimesh would read wrong, or with more memory or time than the file is worth."""
    if required := sorted(set(tree.get("extensionsRequired", [])) - {"KHR_materials_unlit", "KHR_texture_transform"}):
        raise InputError(f"{name}: needs {required[0]!r}, which is not supported; export it without.")
    for buffer in tree.get("buffers", []):
        if "uri" in buffer and not buffer["uri"].startswith("data:"):
            raise InputError(f"{name}: refers to another file, {buffer['uri'][:60]!r}; export it in one piece.")
    accessors = tree.get("accessors", [])
    sizes = [_accessor_bytes(accessor, index, name) for index, accessor in enumerate(accessors)]
    # Accessors may overlap, but not so that a small file becomes a large shape.
    if sum(sizes) > 16 * n_bytes:
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
    if "sparse" in accessor or "bufferView" not in accessor:
        raise InputError(f"{name}: accessor {index} is sparse or has no buffer, which is not supported.")
    if not isinstance(count, int) or count < 1:
        raise InputError(f"{name}: accessor {index} has the count {count!r}.")
    return count * _COMPONENT_BYTES[accessor["componentType"]] * _COMPONENTS[accessor["type"]]


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
