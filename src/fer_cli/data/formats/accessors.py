"""Arrays of numbers of a GLB file (glTF's accessors) in its binary chunk, stored whole or sparse.

A sparse accessor replaces some rows of another array, or of zeros. It is written out here, since trimesh passes over
sparse values without a word.
"""

from typing import Any

import numpy as np

from fer_cli.errors import InputError

COMPONENT_BYTES = {5120: 1, 5121: 1, 5122: 2, 5123: 2, 5125: 4, 5126: 4}
COMPONENTS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
_TYPES = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_UNSIGNED = (5121, 5123, 5125)

Rows = np.ndarray[Any, np.dtype[Any]]


def read_floats(tree: dict[str, Any], binary: bytes, index: int, width: int, name: str) -> Rows:
    """The rows of an accessor of floats. Errors name `name`."""
    accessor = tree["accessors"][index]
    if accessor["componentType"] != 5126 or "sparse" in accessor or COMPONENTS[accessor["type"]] != width:
        raise InputError(f"{name}: accessor {index} is not stored as whole rows of {width} floats, as fer reads it.")
    return _rows(tree, binary, accessor, accessor["count"], 5126, width, name)


def written_out(tree: dict[str, Any], binary: bytes, name: str, most_bytes: int) -> tuple[dict[str, Any], bytes]:
    """The same scene and binary chunk, sparse accessors being stored whole.

    Raises InputError where a sparse accessor does not fit the file, or all take more than `most_bytes`.
    """
    accessors, views = list(tree["accessors"]), list(tree.get("bufferViews", []))
    sparse = [index for index, accessor in enumerate(accessors) if "sparse" in accessor]
    parts, end = [binary], len(binary)
    for index in sparse:
        rows = _dense(tree, binary, accessors[index], name, most_bytes - end + len(binary)).tobytes()
        padding = -end % 4
        parts += [b"\0" * padding, rows]
        views.append({"buffer": 0, "byteOffset": end + padding, "byteLength": len(rows)})
        end += padding + len(rows)
        kept = {key: accessors[index][key] for key in ("componentType", "count", "type")}
        accessors[index] = {**kept, "bufferView": len(views) - 1}
    if not sparse:
        return tree, binary
    first = {**tree["buffers"][0], "byteLength": end}
    return {**tree, "accessors": accessors, "bufferViews": views, "buffers": [first, *tree["buffers"][1:]]}, b"".join(
        parts
    )


def _dense(tree: dict[str, Any], binary: bytes, accessor: dict[str, Any], name: str, most_bytes: int) -> Rows:
    """The rows of a sparse accessor."""
    component, width = accessor["componentType"], COMPONENTS[accessor["type"]]
    count, sparse = _whole(accessor["count"], name), accessor["sparse"]
    if count * width * COMPONENT_BYTES[component] > most_bytes:
        raise InputError(f"{name}: a sparse accessor of {count} rows is promised, too many for a file of its size.")
    if "bufferView" in accessor:
        rows = _rows(tree, binary, accessor, count, component, width, name).copy()
    else:
        rows = np.zeros((count, width), _TYPES[component])
    n_changed, by = _whole(sparse["count"], name), sparse["indices"]
    if by["componentType"] not in _UNSIGNED:
        raise InputError(f"{name}: rows of a sparse accessor are named by type {by['componentType']}.")
    places = _rows(tree, binary, by, n_changed, by["componentType"], 1, name)[:, 0].astype(np.int64)
    if places[-1] >= count or (np.diff(places) <= 0).any():
        raise InputError(f"{name}: a sparse accessor of {count} rows names row {places.max()}, or rows out of order.")
    rows[places] = _rows(tree, binary, sparse["values"], n_changed, component, width, name)
    return rows


def _rows(
    tree: dict[str, Any], binary: bytes, where: dict[str, Any], count: int, component: int, width: int, name: str
) -> Rows:
    """Rows in the binary chunk, a view of it; `where` says in which part of it they begin."""
    view = tree["bufferViews"][where["bufferView"]]
    if view["buffer"] != 0 or "uri" in tree["buffers"][0]:
        raise InputError(f"{name}: sparse values or instances lie outside the binary chunk, which is not supported.")
    size = width * COMPONENT_BYTES[component]
    stride, begin = view.get("byteStride", size), where.get("byteOffset", 0)
    start = view.get("byteOffset", 0) + begin
    end = start + stride * (_whole(count, name) - 1) + size
    if min(start, begin) < 0 or stride < size or end > min(len(binary), start - begin + view["byteLength"]):
        raise InputError(f"{name}: {count} rows up to byte {end} are promised, the file has {len(binary)} bytes.")
    return np.ndarray((count, width), _TYPES[component], binary, start, (stride, COMPONENT_BYTES[component]))


def _whole(count: Any, name: str) -> int:
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise InputError(f"{name}: an accessor has the count {count!r}.")
    return count
