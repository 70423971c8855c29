"""PLY, in text or binary of either byte order → vertices and triangles.

PLY is read here rather than by trimesh, which takes the first face's number of corners for every face's and
so refuses binary files that mix triangles with other polygons. What a header promises is only ever compared with what
is there, so that a false header costs no memory.

Not read: colours, normals, materials; elements after those that are needed.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import no_type_check

import numpy as np
from jaxtyping import Float64, Int64

from fer_cli.data.formats.compiling import compiled
from fer_cli.data.formats.content import without_mark
from fer_cli.data.formats.decimals import excerpt, numbers_by_line
from fer_cli.data.formats.polygons import cover_concave, fan_corners
from fer_cli.errors import InputError

_HEADER_LIMIT = 1 << 16
_TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "float": "f4",
    "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4",
    "float32": "f4", "float64": "f8",
}  # fmt: skip
_END = {
    False: re.compile(rb"[\r\n]end_header[ \t]*+(\r\n|\n|\r)"),
    True: re.compile(rb"[\r\n]end_header[ \t]*+(\r|\n)"),
}
_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}


@dataclass(frozen=True)
class _Property:
    """A number, or with `count` (the type of its length) a list of numbers; types are NumPy's."""

    name: str
    type: np.dtype
    count: np.dtype | None = None


@dataclass(frozen=True)
class _Element:
    """So many rows, each with every property in turn."""

    name: str
    rows: int
    properties: tuple[_Property, ...]

    def index(self, names: tuple[str, ...]) -> int | None:
        """Which property has one of the names."""
        return next((i for i, item in enumerate(self.properties) if item.name in names), None)


def read_ply(content: bytes, name: str) -> tuple[Float64[np.ndarray, "vertex 3"], Int64[np.ndarray, "face 3"]]:
    """Vertices, in the file's own units, and triangles as rows of them, none where the file has no faces.

    Errors name `name`.

    Raises InputError if the content is no PLY file, or is truncated or damaged.
    """
    content = without_mark(content)
    order, elements, start = _read_header(content, name)
    body: _Text | _Binary = _Binary(content, start, order, name) if order else _Text(content, start, name)
    vertices: np.ndarray | None = None
    polygons: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
    strips: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
    wanted = {element.name for element in elements if element.rows} & {"vertex", "face", "tristrips"}
    for element in elements:
        if element.name == "vertex" and element.rows:
            vertices = np.stack([body.numbers(element, axis) for axis in _axes(element, name)], axis=1)
        elif element.name == "face" and element.rows:
            polygons = body.lists(element, _corners(element, name))
        elif element.name == "tristrips" and element.rows:
            strips = body.lists(element, _corners(element, name))
        body.skip(element)
        wanted.discard(element.name)
        if not wanted:
            break
    if vertices is None:
        raise InputError(f"{name}: 0 vertices make no shape.")
    faces = np.empty((0, 3), np.int64) if polygons is None else _triangles(*polygons, vertices, name)
    if strips is not None:
        faces = np.concatenate([faces, _of_strips(*strips, len(vertices), name)])
    return vertices, faces


def _read_header(content: bytes, name: str) -> tuple[str, list[_Element], int]:
    """Byte order (none for text), elements, and where the body begins."""
    opening = re.match(rb"ply[ \t]*(\r\n|\n|\r)", content)
    if opening is None:
        raise InputError(f"{name}: not a PLY file; it begins with {excerpt(content)}.")
    # If the header's lines end in CR alone, a LF behind the header is the first byte of the binary body.
    end = _END[opening[1] == b"\r"].search(content, opening.start(1), _HEADER_LIMIT)
    if end is None:
        raise InputError(f"{name}: the PLY header has no line 'end_header'.")
    order: str | None = None
    elements: list[_Element] = []
    for line in content[opening.end() : end.start()].decode("latin-1").replace("\r", "\n").split("\n"):
        match line.split():
            case ["format", kind, _] if kind in _ORDERS:
                order = _ORDERS[kind]
            case ["element", element, rows] if (
                order is not None and rows.isascii() and rows.isdecimal() and len(rows) < 19
            ):
                elements.append(_Element(element, int(rows), ()))
            case ["property", kind, item] if elements and kind in _TYPES:
                elements[-1] = _with(elements[-1], _Property(item, np.dtype(f"{order}{_TYPES[kind]}")))
            case ["property", "list", count, kind, item] if (
                elements and _TYPES.get(count, "f")[0] != "f" and kind in _TYPES
            ):
                types = (np.dtype(f"{order}{_TYPES[key]}") for key in (kind, count))
                elements[-1] = _with(elements[-1], _Property(item, *types))
            case [] | ["comment" | "obj_info", *_]:
                pass
            case _:
                raise InputError(f"{name}: the PLY header has a line {line[:60].strip()!r} that does not parse.")
    if order is None:
        raise InputError(f"{name}: the PLY header names no format; {', '.join(_ORDERS)} are.")
    return order, elements, end.end()


def _with(element: _Element, item: _Property) -> _Element:
    return _Element(element.name, element.rows, (*element.properties, item))


def _axes(element: _Element, name: str) -> list[int]:
    found = [element.index((axis,)) for axis in "xyz"]
    axes = [i for i in found if i is not None and element.properties[i].count is None]
    if len(axes) < 3:
        raise InputError(f"{name}: vertices have {_named(element)}, expected x, y and z among them.")
    return axes


def _corners(element: _Element, name: str) -> int:
    found = element.index(("vertex_indices", "vertex_index"))
    if found is None or element.properties[found].count is None or element.properties[found].type.kind == "f":
        raise InputError(f"{name}: faces have {_named(element)}, expected a list of whole numbers 'vertex_indices'.")
    return found


def _named(element: _Element) -> str:
    return ", ".join(item.name for item in element.properties)[:80] or "no property"


def _triangles(
    numbers: np.ndarray, first: np.ndarray, corners: np.ndarray, vertices: np.ndarray, name: str
) -> np.ndarray:
    if corners.min() < 1:
        raise InputError(f"{name}: face {int(corners.argmin())} has {int(corners.min())} corners.")
    face, positions = fan_corners(first, corners)
    indices = _checked(numbers[positions], face, len(vertices), name)
    return cover_concave(vertices, face, indices)


def _of_strips(numbers: np.ndarray, first: np.ndarray, lengths: np.ndarray, n_vertices: int, name: str) -> np.ndarray:
    """Every three neighbours of a list are a triangle, unless −1 is among them, which ends a strip."""
    triples = np.maximum(lengths - 2, 0)
    row = np.repeat(np.arange(len(first)), triples)
    start = first[row] + np.arange(len(row)) - np.repeat(np.cumsum(triples) - triples, triples)
    indices = numbers[start[:, None] + np.arange(3)]
    whole = (indices != -1).all(axis=1)
    return _checked(indices[whole], row[whole], n_vertices, name)


def _checked(indices: np.ndarray, face: np.ndarray, n_vertices: int, name: str) -> np.ndarray:
    outside = ~((indices >= 0) & (indices < n_vertices) & (indices == np.floor(indices)))
    if outside.any():
        row, column = np.argwhere(outside)[0]
        raise InputError(
            f"{name}: face {face[row]} names vertex {indices[row, column]:g}, expected 0 to {n_vertices - 1}."
        )
    return indices.astype(np.int64)


class _Text:
    """The body of a text file: one row a line."""

    def __init__(self, content: bytes, start: int, name: str) -> None:
        self._numbers, self._starts = numbers_by_line(content, start, name)
        self._line, self._name = 0, name

    def numbers(self, element: _Element, wanted: int) -> np.ndarray:
        """One number of each row."""
        return self._numbers[self._found(element, wanted)[0]]

    def lists(self, element: _Element, wanted: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All numbers, and for each row where its list begins among them and how long it is."""
        return self._numbers, *self._found(element, wanted)

    def skip(self, element: _Element) -> None:
        """Go on to the next element."""
        self._line += element.rows if element.properties else 0

    def _found(self, element: _Element, wanted: int) -> tuple[np.ndarray, np.ndarray]:
        lines = len(self._starts) - 1 - self._line
        if element.rows > lines:
            raise InputError(
                f"{self._name}: truncated: {element.rows} rows of {element.name} are promised, "
                f"{max(lines, 0)} lines follow."
            )
        starts = self._starts[self._line : self._line + element.rows + 1]
        cursor, end = starts[:-1], starts[1:]
        for item in element.properties[: wanted + 1]:
            _require(cursor < end, element, self._name)
            first, length = cursor, np.ones_like(cursor)
            if item.count is not None:
                declared = self._numbers[cursor]
                _require(
                    (declared >= 0) & (declared < end - cursor) & (declared == np.floor(declared)), element, self._name
                )
                first, length = cursor + 1, declared.astype(np.int64)
            cursor = first + length
        return first, length


class _Binary:
    """The body of a binary file."""

    def __init__(self, content: bytes, start: int, order: str, name: str) -> None:
        self._bytes = np.frombuffer(content, np.uint8)
        self._offset, self._is_big, self._name = start, order == ">", name

    def numbers(self, element: _Element, wanted: int) -> np.ndarray:
        """One number of each row."""
        return self._read(element, wanted)[0].astype(np.float64)

    def lists(self, element: _Element, wanted: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All numbers, and for each row where its list begins among them and how long it is."""
        numbers, lengths = self._read(element, wanted)
        return numbers, np.cumsum(lengths) - lengths, lengths

    def skip(self, element: _Element) -> None:
        """Go on to the next element."""
        if element.rows and element.properties:
            self._offset = self._walk(element, 0)[2]

    def _read(self, element: _Element, wanted: int) -> tuple[np.ndarray, np.ndarray]:
        item = element.properties[wanted]
        starts, lengths, _ = self._walk(element, wanted)
        gathered = np.empty(int(lengths.sum()) * item.type.itemsize, np.uint8)
        _gather(self._bytes, starts, lengths * item.type.itemsize, gathered)
        return gathered.view(item.type), lengths

    def _walk(self, element: _Element, wanted: int) -> tuple[np.ndarray, np.ndarray, int]:
        """For each row where the property stands and how many numbers it has; and where the last row ends."""
        left = len(self._bytes) - self._offset
        counts = np.array([0 if item.count is None else item.count.itemsize for item in element.properties])
        sizes = np.array([item.type.itemsize for item in element.properties])
        least = int(np.where(counts > 0, counts, sizes).sum())
        promised = f"{element.rows} rows of {element.name} are promised, {left} bytes follow"
        if element.rows * least > left:
            raise InputError(f"{self._name}: truncated: {promised}.")
        starts, lengths = np.empty(element.rows, np.int64), np.empty(element.rows, np.int64)
        end = _walk_rows(self._bytes, self._offset, counts, sizes, self._is_big, wanted, starts, lengths)
        if end < 0:
            raise InputError(f"{self._name}: truncated in row {-end - 1} of {element.name}: {promised}.")
        return starts, lengths, end


def _require(sound: np.ndarray, element: _Element, name: str) -> None:
    if not sound.all():
        raise InputError(f"{name}: row {int(np.argmin(sound))} of {element.name} has fewer numbers than it should.")


@no_type_check
def _walk_bytes(content, offset, counts, sizes, big, wanted, starts, lengths):
    """Fill where the wanted property of each row stands; the end, or −1 − row where the content ends too early."""
    end = len(content)
    for row in range(len(starts)):
        for item in range(len(sizes)):
            length = 1
            if counts[item]:
                if offset + counts[item] > end:
                    return -1 - row
                length = 0
                for i in range(counts[item]):
                    place = i if big else counts[item] - 1 - i
                    length = length * 256 + np.int64(content[offset + place])
                offset += counts[item]
            if length * sizes[item] > end - offset:
                return -1 - row
            if item == wanted:
                starts[row] = offset
                lengths[row] = length
            offset += length * sizes[item]
    return offset


@no_type_check
def _gather_bytes(content, starts, n_bytes, gathered):
    at = 0
    for row in range(len(starts)):
        for i in range(n_bytes[row]):
            gathered[at] = content[starts[row] + i]
            at += 1


_walk_rows: Callable[..., int] = compiled(_walk_bytes)
_gather: Callable[..., None] = compiled(_gather_bytes)
