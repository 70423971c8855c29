"""OFF text → vertices and triangles.

OFF is read here rather than by trimesh: real files have glued headers (`OFF700 664 0`), colours and polygons, and
a median ModelNet10 mesh takes trimesh longer to read than it takes to read and voxelize it here, because
every number passes through a Python string. One compiled pass over the bytes gives all numbers and line starts,
and what a header promises is only ever compared with what is there, so that a false header costs no memory.

Not read: binary OFF, homogeneous and n-dimensional OFF.
"""

import re
from collections.abc import Callable
from typing import no_type_check

import numba
import numpy as np
from jaxtyping import Float64, Int64

from fer_cli.errors import InputError

_HEADER = re.compile(rb"\s*+(?:#[^\r\n]*+[\r\n]\s*+)*+([A-Za-z0-9]*?OFF)(\s+BINARY)?")
_HEADER_LIMIT = 4096
_LONGEST_NUMBER = 1024


def read_off(content: bytes, name: str) -> tuple[Float64[np.ndarray, "vertex 3"], Int64[np.ndarray, "face 3"]]:
    """Vertices, in the file's own units, and triangles as rows of them; polygons become fans. Errors name `name`.

    Raises InputError if the content is no OFF text, or is truncated or damaged.
    """
    content = content.removeprefix(b"\xef\xbb\xbf")
    header = _HEADER.match(content[:_HEADER_LIMIT])
    if header is None:
        raise InputError(f"{name}: not an OFF file; it begins with {excerpt(content)}.")
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
    return vertices, faces


def excerpt(content: bytes) -> str:
    """The first bytes of a content, fit for one line of a message."""
    return repr(content[:16].decode("ascii", errors="replace"))


def format_point(point: np.ndarray) -> str:
    """A point as messages show it."""
    return f"({', '.join(f'{value:g}' for value in point)})"


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
        raise InputError(f"{name}: vertex {bad} is at {format_point(vertices[bad])}, expected finite coordinates.")
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
            raise InputError(f"{name}: {excerpt(token)} at byte {offset} is not a number.") from None
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
