"""File content → shape: OFF meshes; binvox, 3DShapeNets `.mat` and `.npy` grids.

OFF is read here rather than by trimesh: real files have glued headers (`OFF700 664 0`), colours and polygons, and
a median ModelNet10 mesh takes trimesh longer to read than it takes to read and voxelize it here, because
every number passes through a Python string. One compiled pass over the bytes gives all numbers and line starts,
and what a header promises is only ever compared with what is there, so that a false header costs no memory.

Not read: binary OFF, homogeneous and n-dimensional OFF, MATLAB 7.3.
"""

import io
import math
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, no_type_check

import numba
import numpy as np
from jaxtyping import Float64, Int64, UInt8

from fer_cli.errors import InputError

MAX_VOXELS = 512**3

_OFF_HEADER = re.compile(rb"\s*+(?:#[^\r\n]*+[\r\n]\s*+)*+([A-Za-z0-9]*?OFF)(\s+BINARY)?")
_HEADER_LIMIT = 4096
_LONGEST_NUMBER = 1024


@dataclass(frozen=True)
class Mesh:
    """Triangles: `vertices` in the file's own units, `faces` as rows of `vertices`."""

    vertices: Float64[np.ndarray, "vertex 3"]
    faces: Int64[np.ndarray, "face 3"]


@dataclass(frozen=True)
class Grid:
    """Voxels: 1 where occupied, else 0; `index_to_world` maps (x, y, z, 1) indices, that is voxel centres, to world."""

    occupancy: UInt8[np.ndarray, "x y z"]
    index_to_world: Float64[np.ndarray, "4 4"]


def read_shape(content: bytes, name: str) -> Mesh | Grid:
    """The shape that a file holds; the format is chosen by the suffix of `name`, which errors name.

    Raises InputError if the suffix is unknown, or the content is empty, truncated, damaged or no shape.
    """
    reader = _READERS.get(PurePath(name).suffix.lower())
    if reader is None:
        raise InputError(f"{name}: not a format that fer reads; known are {', '.join(SUFFIXES)}.")
    if not content:
        raise InputError(f"{name}: the file is empty.")
    return reader(content, name)


def index_to_world(origin: Float64[np.ndarray, " 3"], side: float) -> Float64[np.ndarray, "4 4"]:
    """Affine map of voxel indices to world where voxel (0, 0, 0) is centred on `origin` and voxels measure `side`."""
    matrix = np.diag([side, side, side, 1.0])
    matrix[:3, 3] = origin
    return matrix


def _read_off(content: bytes, name: str) -> Mesh:
    content = content.removeprefix(b"\xef\xbb\xbf")
    header = _OFF_HEADER.match(content[:_HEADER_LIMIT])
    if header is None:
        raise InputError(f"{name}: not an OFF file; it begins with {_excerpt(content)}.")
    kind = header[1].decode()
    if header[2] or not re.fullmatch("(ST)?C?N?OFF", kind):
        found = "binary OFF" if header[2] else kind
        raise InputError(f"{name}: {found} is not supported; OFF, COFF, NOFF, CNOFF and ST… are.")
    numbers, starts = _numbers_by_line(content, header.end(1), name)
    if len(starts) < 2 or starts[1] < 2:
        raise InputError(f"{name}: no line with the numbers of vertices and faces follows {kind}.")
    n_vertices, n_faces = numbers[:2].tolist()
    lines = len(starts) - 2
    if not (n_vertices >= 1 and n_faces >= 1 and n_vertices.is_integer() and n_faces.is_integer()):
        raise InputError(f"{name}: {n_vertices:g} vertices and {n_faces:g} faces make no shape.")
    if n_vertices + n_faces > lines:
        raise InputError(
            f"{name}: truncated: {n_vertices:.0f} vertices and {n_faces:.0f} faces are promised, {lines} lines follow."
        )
    body = starts[1:]
    vertices = _off_vertices(numbers, body[: int(n_vertices) + 1], name)
    faces = _off_faces(numbers, body[int(n_vertices) : int(n_vertices + n_faces) + 1], len(vertices), name)
    return Mesh(vertices, faces)


def _off_vertices(numbers: np.ndarray, starts: np.ndarray, name: str) -> np.ndarray:
    """Positions come first on a vertex's line, whatever normals, colours or textures follow."""
    widths = np.diff(starts)
    short = int(np.argmin(widths))
    if widths[short] < 3:
        raise InputError(f"{name}: vertex {short} has {widths[short]} numbers, expected at least 3.")
    vertices = numbers[starts[:-1, None] + np.arange(3)]
    finite = np.isfinite(vertices).all(axis=1)
    if not finite.all():
        bad = int(np.argmin(finite))
        raise InputError(f"{name}: vertex {bad} is at {_point(vertices[bad])}, expected finite coordinates.")
    return vertices


def _off_faces(numbers: np.ndarray, starts: np.ndarray, n_vertices: int, name: str) -> np.ndarray:
    """Polygons as fans of triangles; a face of one or two corners becomes a triangle without area."""
    widths, first = np.diff(starts), starts[:-1]
    declared = numbers[first]
    wrong = ~((declared >= 1) & (declared < widths) & (declared == np.floor(declared)))
    if wrong.any():
        bad = int(np.argmax(wrong))
        raise InputError(
            f"{name}: face {bad} declares {declared[bad]:g} corners, but {widths[bad] - 1} numbers follow."
        )
    corners = declared.astype(np.int64)
    triangles = np.maximum(corners - 2, 1)
    face = np.repeat(np.arange(len(first)), triangles)
    step = np.arange(len(face)) - np.repeat(np.cumsum(triangles) - triangles, triangles)
    last = corners[face] - 1
    fan = np.stack([np.zeros_like(step), np.minimum(step + 1, last), np.minimum(step + 2, last)], axis=1)
    indices: np.ndarray = numbers[(first[face] + 1)[:, None] + fan]
    outside = ~((indices >= 0) & (indices < n_vertices) & (indices == np.floor(indices)))
    if outside.any():
        row, column = np.argwhere(outside)[0]
        raise InputError(
            f"{name}: face {face[row]} names vertex {indices[row, column]:g}, expected 0 to {n_vertices - 1}."
        )
    return np.asarray(indices, dtype=np.int64)


def _numbers_by_line(content: bytes, start: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """All numbers of a text, and where each line that holds any begins among them, closed by their count."""
    room = (len(content) - start) // 2 + 2
    numbers, lines, unusual = np.empty(room), np.empty(room, np.int64), np.empty((room, 2), np.int64)
    n_numbers, n_lines, n_unusual = _scan_numbers(
        np.frombuffer(content, np.uint8), start, numbers, lines, unusual, _POWERS_OF_TEN
    )
    for index, offset in unusual[:n_unusual].tolist():
        token = content[offset : offset + _LONGEST_NUMBER].split(None, 1)[0].partition(b"#")[0]
        try:
            if b"_" in token or len(token) == _LONGEST_NUMBER:  # 1_000 is Python's own way to write 1000
                raise ValueError
            numbers[index] = float(token)
        except ValueError:
            raise InputError(f"{name}: {_excerpt(token)} at byte {offset} is not a number.") from None
    return numbers[:n_numbers], np.append(lines[:n_lines], n_numbers)


@no_type_check
def _scan(text, start, numbers, lines, unusual, powers):
    """Decimal numbers of `text` from `start` on; `unusual` takes (index, offset) of tokens left to Python's `float`."""
    n_numbers = n_lines = n_unusual = 0
    end = len(text)
    i = start
    new_line = True
    while i < end:
        byte = text[i]
        if byte == 35:  # a comment, to the end of the line
            while i < end and text[i] != 10 and text[i] != 13:
                i += 1
            continue
        if byte == 32 or 9 <= byte <= 13:
            new_line = new_line or byte == 10 or byte == 13
            i += 1
            continue
        if new_line:
            lines[n_lines] = n_numbers
            n_lines += 1
            new_line = False
        offset = i
        if byte == 45 or byte == 43:
            i += 1
        mantissa = digits = exponent = 0
        in_fraction = False
        while i < end and (48 <= text[i] <= 57 or (text[i] == 46 and not in_fraction)):
            if text[i] == 46:
                in_fraction = True
            else:
                if mantissa < 10**17:  # beyond, more digits would overflow; such numbers are left to `float`
                    mantissa = 10 * mantissa + (text[i] - 48)
                digits += 1
                exponent -= in_fraction
            i += 1
        regular = digits > 0
        if regular and i < end and (text[i] == 101 or text[i] == 69):
            i += 1
            sign = 1
            if i < end and (text[i] == 45 or text[i] == 43):
                sign = 44 - np.int64(text[i])
                i += 1
            regular = i < end and 48 <= text[i] <= 57
            power = 0
            while i < end and 48 <= text[i] <= 57:
                power = min(10 * power + (text[i] - 48), 10**6)
                i += 1
            exponent += sign * power
        at_end = i == end or text[i] == 32 or 9 <= text[i] <= 13 or text[i] == 35
        # Integers up to 2^53 and powers of ten up to 10^22 are exact, so that one operation rounds once, correctly.
        if regular and at_end and mantissa <= 2**53 and -22 <= exponent <= 22:
            value = mantissa / powers[-exponent] if exponent < 0 else mantissa * powers[exponent]
            numbers[n_numbers] = -value if byte == 45 else value
        else:
            unusual[n_unusual, 0] = n_numbers
            unusual[n_unusual, 1] = offset
            n_unusual += 1
            while i < end and not (text[i] == 32 or 9 <= text[i] <= 13 or text[i] == 35):
                i += 1
        n_numbers += 1
    return n_numbers, n_lines, n_unusual


_POWERS_OF_TEN = np.array([float(f"1e{power}") for power in range(23)])
_scan_numbers: Callable[..., tuple[int, int, int]] = numba.njit(cache=True, nogil=True)(_scan)


def _read_binvox(content: bytes, name: str) -> Grid:
    """Runs in (x, z, y) order, y fastest; voxels are cubes, the longest side measures `scale`, `translate` is a corner.

    Some files, ModelNet10's among them, centre the shape in the cube but record the corner of the shape's own
    bounding box; nothing in the file tells, and the header is taken at its word.
    """
    if not content.startswith(b"#binvox"):
        raise InputError(f"{name}: not a binvox file; it begins with {_excerpt(content)}.")
    end = content.find(b"\ndata", 0, _HEADER_LIMIT)
    start = content.find(b"\n", end + 1, end + 8) + 1
    if end < 0 or start < 1:
        raise InputError(f"{name}: the binvox header has no line 'data'.")
    fields = {words[0]: words[1:] for line in content[:end].splitlines() if (words := line.split())}
    try:
        size_x, size_z, size_y = (int(word) for word in fields.get(b"dim", []))
        corner = np.array([float(word) for word in fields.get(b"translate", [0, 0, 0])])
        (scale,) = (float(word) for word in fields.get(b"scale", [1]))
    except ValueError:
        found = {
            key.decode(errors="replace"): b" ".join(words).decode(errors="replace") for key, words in fields.items()
        }
        raise InputError(f"{name}: the binvox header does not parse: {found}.") from None
    if corner.shape != (3,) or not (np.isfinite(corner).all() and 0 < scale < np.inf):
        raise InputError(f"{name}: translate {_point(corner)} and scale {scale:g} make no grid.")
    n_voxels = _checked_size((size_x, size_y, size_z), name)
    if (len(content) - start) % 2:
        raise InputError(f"{name}: the last run is cut off: {len(content) - start} bytes do not make pairs.")
    runs = np.frombuffer(content, np.uint8, offset=start).reshape(-1, 2)
    covered = int(runs[:, 1].sum(dtype=np.int64))
    if covered != n_voxels:
        raise InputError(f"{name}: the runs cover {covered} voxels, but {size_x}×{size_y}×{size_z} are {n_voxels}.")
    if runs[:, 0].max() > 1:
        raise InputError(f"{name}: a voxel has the value {runs[:, 0].max()}, expected 0 or 1.")
    occupancy = np.repeat(runs[:, 0], runs[:, 1]).reshape(size_x, size_z, size_y).transpose(0, 2, 1)
    side = scale / max(size_x, size_y, size_z)
    return _as_grid(occupancy, name, index_to_world(corner + side / 2, side))


def _read_mat(content: bytes, name: str) -> Grid:
    """3DShapeNets: a numeric array `instance` of three axes in MATLAB 5 format."""
    from scipy.io import loadmat, whosmat  # a fifth of a second that only these files need

    _refuse_inflation(content, name)
    try:
        # What the header claims is looked at first: scipy would allocate cell arrays of any size.
        found = {key: (shape, kind) for key, shape, kind in whosmat(io.BytesIO(content))}
        if "instance" not in found:
            raise InputError(f"{name}: holds {', '.join(found) or 'no variable'}, expected 'instance'.")
        shape, kind = found["instance"]
        if kind not in _MATLAB_NUMBERS or len(shape) != 3:
            raise InputError(
                f"{name}: 'instance' is {kind} {'×'.join(map(str, shape))}, expected numbers on three axes."
            )
        _checked_size(shape, name)
        values = loadmat(io.BytesIO(content), variable_names=["instance"])["instance"]
    except InputError:
        raise
    except Exception as error:  # scipy raises whatever its parser stumbles over, IndexError and zlib.error included
        raise InputError(f"{name}: not a readable MATLAB 5 file: {_first_line(error)}.") from error
    return _as_grid(values, name, np.eye(4))


_MATLAB_NUMBERS = {"logical", "double", "single", *(f"{u}int{bits}" for u in ("", "u") for bits in (8, 16, 32, 64))}


def _refuse_inflation(content: bytes, name: str) -> None:
    """Raise InputError if a compressed element would grow beyond what a grid can need."""
    limit = 8 * MAX_VOXELS
    order: Any = "big" if content[126:128] == b"MI" else "little"
    offset = 128
    while offset + 8 <= len(content):
        kind = int.from_bytes(content[offset : offset + 4], order)
        length = int.from_bytes(content[offset + 4 : offset + 8], order)
        if kind == 15:
            inflater, pending, size = zlib.decompressobj(), content[offset + 8 : offset + 8 + length], 0
            try:
                while pending and size <= limit:
                    size += len(inflater.decompress(pending, 1 << 20))
                    pending = inflater.unconsumed_tail
            except zlib.error as error:
                raise InputError(f"{name}: not a readable MATLAB 5 file: {error}.") from None
            if size > limit:
                raise InputError(f"{name}: {len(content)} bytes grow to more than {limit}; refused.")
        offset += 8 + length


def _read_npy(content: bytes, name: str) -> Grid:
    """A plain array of three axes; what exceeds a half is occupied."""
    stream = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = read_header(stream)
    except Exception as error:  # NumPy parses the header as Python and lets SyntaxError and TokenError through
        raise InputError(f"{name}: not a readable .npy file: {_first_line(error)}.") from None
    if dtype.kind not in "biuf" or len(shape) != 3:
        raise InputError(f"{name}: holds {dtype} {'×'.join(map(str, shape))}, expected numbers on three axes.")
    n_voxels = _checked_size(shape, name)
    found = len(content) - stream.tell()
    if found != n_voxels * dtype.itemsize:
        raise InputError(f"{name}: holds {found} bytes of voxels, expected {n_voxels * dtype.itemsize}.")
    values = np.frombuffer(content, dtype, offset=stream.tell()).reshape(shape, order="F" if is_fortran else "C")
    return _as_grid(values, name, np.eye(4))


def _as_grid(values: np.ndarray, name: str, matrix: np.ndarray) -> Grid:
    if values.dtype.kind not in "biuf":
        raise InputError(f"{name}: holds {values.dtype} values, expected real numbers.")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise InputError(f"{name}: a voxel is {values[~np.isfinite(values)][0]}, expected finite numbers.")
    occupancy = np.ascontiguousarray(values > 0.5).view(np.uint8)
    if not occupancy.any():
        raise InputError(f"{name}: not one of {'×'.join(map(str, occupancy.shape))} voxels is occupied.")
    return Grid(occupancy, matrix)


def _checked_size(shape: tuple[int, ...], name: str) -> int:
    """Number of voxels of a grid. Raises InputError if there are none or more than any grid needs."""
    n_voxels = math.prod(shape)
    if not 0 < n_voxels <= MAX_VOXELS or min(shape) < 0:
        size = "×".join(map(str, shape))
        raise InputError(f"{name}: a grid of {size} voxels, expected 1 to {MAX_VOXELS} in all.")
    return n_voxels


def _excerpt(content: bytes) -> str:
    """The first bytes of a content, fit for one line of a message."""
    return repr(content[:16].decode("ascii", errors="replace"))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def _point(point: np.ndarray) -> str:
    return f"({', '.join(f'{value:g}' for value in point)})"


_READERS: dict[str, Callable[[bytes, str], Mesh | Grid]] = {
    ".off": _read_off,
    ".binvox": _read_binvox,
    ".mat": _read_mat,
    ".npy": _read_npy,
}
SUFFIXES = tuple(_READERS)
