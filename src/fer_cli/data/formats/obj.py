"""OBJ text → vertices and triangles; every object and group of the file belongs to the one shape.

OBJ is read here rather than by trimesh, which takes relative indices (`f -3 -2 -1`) to count from the end of the
whole file, reads index 0 as 1, and drops what it cannot use of a face without saying so.

Not read: materials, textures and normals, lines, free-form curves and surfaces. No other file is ever opened.
"""

import re

import numpy as np
from jaxtyping import Float64, Int64

from fer_cli.data.formats.content import plain_text
from fer_cli.data.formats.decimals import numbers_by_line
from fer_cli.data.formats.polygons import cover_concave, fan_corners
from fer_cli.errors import InputError

_VERTEX = re.compile(rb"^[ \t]*v[ \t]+([^\n#]*)", re.MULTILINE)
_FACE = re.compile(rb"^[ \t]*fo?[ \t]+([^\n#]*)", re.MULTILINE)
_FREE_FORM = re.compile(rb"^[ \t]*(curv2?|surf)[ \t]", re.MULTILINE)
_BESIDE_POSITION = re.compile(rb"/[^\s]*")


def read_obj(content: bytes, name: str) -> tuple[Float64[np.ndarray, "vertex 3"], Int64[np.ndarray, "face 3"]]:
    """Vertices, in the file's own units, and triangles as rows of them, none where the file has no faces.

    Errors name `name`.

    Raises InputError if there is no vertex, or a line of a vertex or face is damaged.
    """
    text = plain_text(content).replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\\\n", b" ")
    vertex_lines, face_lines = _VERTEX.findall(text), _FACE.findall(text)
    if not vertex_lines:
        raise InputError(f"{name}: holds no vertex, that is no line such as 'v 0 0 1'.")
    if not face_lines and _FREE_FORM.search(text):
        raise InputError(f"{name}: holds free-form curves or surfaces alone; give a mesh.")
    numbers, starts = _numbers(b"\n".join(vertex_lines), len(vertex_lines), "vertex", 3, name)
    vertices = numbers[starts[:-1, None] + np.arange(3)]
    if not face_lines:
        return vertices, np.empty((0, 3), np.int64)
    references = _BESIDE_POSITION.sub(b"", b"\n".join(face_lines))
    indices, starts = _numbers(references, len(face_lines), "face", 1, name)
    face, positions = fan_corners(starts[:-1], np.diff(starts))
    corners = indices[positions]
    if (corners < 0).any():
        # Counted from the latest vertex before the face, wherever in the file that is.
        of_vertices, of_faces = ([line.start() for line in kind.finditer(text)] for kind in (_VERTEX, _FACE))
        known = np.searchsorted(of_vertices, of_faces)
        corners = np.where(corners < 0, corners + (known + 1)[face][:, None], corners)
    outside = ~((corners >= 1) & (corners <= len(vertices)) & (corners == np.floor(corners)))
    if outside.any():
        row, column = np.argwhere(outside)[0]
        raise InputError(
            f"{name}: face {face[row]} names vertex {indices[positions[row, column]]:g}, expected 1 to {len(vertices)}."
        )
    return vertices, cover_concave(vertices, face, corners.astype(np.int64) - 1)


def _numbers(text: bytes, n_lines: int, kind: str, least: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """All numbers, and the index of each line's first; InputError unless every line has at least `least`."""
    numbers, starts = numbers_by_line(text, 0, name)
    if len(starts) - 1 < n_lines:
        bad = next(i for i, line in enumerate(text.split(b"\n")) if not line.strip())
        raise InputError(f"{name}: {kind} {bad} has 0 numbers, expected at least {least}.")
    widths = np.diff(starts)
    short = int(widths.argmin())
    if widths[short] < least:
        raise InputError(f"{name}: {kind} {short} has {widths[short]} numbers, expected at least {least}.")
    return numbers, starts
