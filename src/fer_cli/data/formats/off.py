"""OFF text → vertices and triangles, and back.

OFF is read here rather than by trimesh: real files have glued headers (`OFF700 664 0`), colours and polygons, and
`decimals` reads numbers several times faster. What a header promises is only ever compared with what is there, so that
a false header costs no memory.

Not read: binary OFF, homogeneous and n-dimensional OFF.
"""

import re
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float64, Int, Int64

from fer_cli.data.formats.content import plain_text
from fer_cli.data.formats.decimals import excerpt, numbers_by_line
from fer_cli.data.formats.polygons import cover_concave, fan_corners
from fer_cli.errors import InputError
from fer_cli.storage.disk import writing

_HEADER = re.compile(rb"\s*+(?:#[^\r\n]*+[\r\n]\s*+)*+([A-Za-z0-9]*?OFF)(\s+BINARY)?")
_HEADER_LIMIT = 4096


def read_off(content: bytes, name: str) -> tuple[Float64[np.ndarray, "vertex 3"], Int64[np.ndarray, "face 3"]]:
    """Vertices, in the file's own units, and triangles as rows of them. Errors name `name`.

    Raises InputError if the content is no OFF text, or is truncated or damaged.
    """
    content = plain_text(content)
    header = _HEADER.match(content[:_HEADER_LIMIT])
    if header is None:
        raise InputError(f"{name}: not an OFF file; it begins with {excerpt(content)}.")
    kind = header[1].decode()
    if header[2] or not re.fullmatch("(ST)?C?N?OFF", kind):
        found = "binary OFF" if header[2] else kind
        raise InputError(f"{name}: {found} is not supported; OFF, COFF, NOFF, CNOFF and ST… are.")
    numbers, starts = numbers_by_line(content, header.end(1), name)
    if len(starts) < 2 or starts[1] < 2:
        raise InputError(f"{name}: no line with the numbers of vertices and faces follows {kind}.")
    n_vertices, n_faces = numbers[:2].tolist()
    lines = len(starts) - 2
    if not (n_vertices >= 1 and n_faces >= 1 and n_vertices.is_integer() and n_faces.is_integer()):
        raise InputError(f"{name}: {n_vertices:g} vertices and {n_faces:g} faces make no shape.")
    if n_vertices + n_faces > lines:
        raise InputError(
            f"{name}: truncated: {n_vertices:.15g} vertices and {n_faces:.15g} faces are promised, "
            f"{lines} lines follow."
        )
    body = starts[1:]
    vertices = _off_vertices(numbers, body[: int(n_vertices) + 1], name)
    polygon, faces = _off_faces(numbers, body[int(n_vertices) : int(n_vertices + n_faces) + 1], len(vertices), name)
    return vertices, cover_concave(vertices, polygon, faces)


def _off_vertices(numbers: np.ndarray, starts: np.ndarray, name: str) -> np.ndarray:
    """Positions come first on a vertex's line, whatever normals, colours or textures follow."""
    widths = np.diff(starts)
    short = int(np.argmin(widths))
    if widths[short] < 3:
        raise InputError(f"{name}: vertex {short} has {widths[short]} numbers, expected at least 3.")
    return np.asarray(numbers[starts[:-1, None] + np.arange(3)])


def _off_faces(numbers: np.ndarray, starts: np.ndarray, n_vertices: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Polygons as fans of triangles, with the face of each; one of one or two corners is a triangle without area."""
    widths, first = np.diff(starts), starts[:-1]
    declared = numbers[first]
    wrong = ~((declared >= 1) & (declared < widths) & (declared == np.floor(declared)))
    if wrong.any():
        bad = int(np.argmax(wrong))
        raise InputError(
            f"{name}: face {bad} declares {declared[bad]:g} corners, but {widths[bad] - 1} numbers follow."
        )
    corners = declared.astype(np.int64)
    face, positions = fan_corners(first + 1, corners)
    indices: np.ndarray = numbers[positions]
    outside = ~((indices >= 0) & (indices < n_vertices) & (indices == np.floor(indices)))
    if outside.any():
        row, column = np.argwhere(outside)[0]
        raise InputError(
            f"{name}: face {face[row]} names vertex {indices[row, column]:g}, expected 0 to {n_vertices - 1}."
        )
    return face, np.asarray(indices, dtype=np.int64)


def write_off(path: Path, vertices: Float[np.ndarray, "vertex 3"], faces: Int[np.ndarray, "face 3"]) -> None:
    """Write the mesh as a text OFF file, coordinates to a micrometre.

    Raises ResourceError if the file, or its folder, cannot be written.
    """
    lines = ["OFF", f"{len(vertices)} {len(faces)} 0"]
    lines += [f"{x:.6f} {y:.6f} {z:.6f}" for x, y, z in vertices.tolist()]
    lines += [f"3 {a} {b} {c}" for a, b, c in faces.tolist()]
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n", encoding="ascii")
