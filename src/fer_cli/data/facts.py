"""What is worth knowing of a mesh beside its voxels: its size, whether its surface is closed, and its faults.

Vertices at one position count as one, since triangle soups repeat them in every face. Everything is counted
exactly, by sorting; nothing is repaired.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from fer_cli.data.formats.registry import Mesh

_PACKED = 2**21
"""So many numbers fit thrice in 63 bits."""


@dataclass(frozen=True)
class MeshFacts:
    """Triangles as read; edges of exactly one of the distinct triangles with three corners; faults, one line each.

    `n_stray` vertices are of no face and lie outside the bounding box of those that are.
    """

    n_faces: int
    n_open_edges: int
    warnings: tuple[str, ...]
    n_stray: int = 0


def describe_mesh(mesh: Mesh) -> MeshFacts:
    """Facts of a mesh whose faces name existing vertices at finite coordinates."""
    if not len(mesh.faces):
        return MeshFacts(0, 0, ())
    columns = np.ascontiguousarray(mesh.vertices.T)  # NumPy is several times faster along memory
    corners = _position_ids(columns)[mesh.faces]
    corners.sort(axis=1)
    a, b, c = corners.T
    sound = (a != b) & (b != c)
    a, b, c = (column[sound] for column in (a, b, c))
    distinct = _first_of_each(a, b, c)
    a, b, c = a[distinct], b[distinct], c[distinct]
    warnings = []
    if n_degenerate := len(mesh.faces) - int(sound.sum()):
        warnings.append(f"{n_degenerate} degenerate faces (corners that coincide)")
    if n_duplicate := int(sound.sum()) - len(a):
        warnings.append(f"{n_duplicate} duplicate faces")
    used = np.zeros(len(mesh.vertices), bool)
    used[mesh.faces.reshape(-1)] = True
    n_stray = _count_outside(columns, used)
    warnings += _extent_warnings(columns, used, n_stray)
    return MeshFacts(len(mesh.faces), _count_single(a, b, c), tuple(warnings), n_stray)


def _extent_warnings(
    columns: Float64[np.ndarray, "3 vertex"], used: Bool[np.ndarray, " vertex"], n_outside: int
) -> list[str]:
    """Faults of the bounding box, which decides where the shape lies in its grid."""
    found = []
    if n_outside:
        found.append(f"{n_outside} vertices of no face lie outside the bounding box of its faces")
    surface = columns if used.all() else columns[:, used]
    flat = surface.min(axis=1) == surface.max(axis=1)
    if flat.any():
        found.append(f"no extent along {', '.join(axis for axis, is_flat in zip('xyz', flat, strict=True) if is_flat)}")
    return found


def _count_outside(columns: Float64[np.ndarray, "3 vertex"], used: Bool[np.ndarray, " vertex"]) -> int:
    """Vertices of no face that lie outside the bounding box of the others."""
    if used.all():
        return 0
    surface, others = columns[:, used], columns[:, ~used]
    lower, upper = surface.min(axis=1, keepdims=True), surface.max(axis=1, keepdims=True)
    return int(((others < lower) | (others > upper)).any(axis=0).sum())


def _position_ids(columns: Float64[np.ndarray, "3 vertex"]) -> Int64[np.ndarray, " vertex"]:
    """The same number, from 0 on, for all vertices at the same position."""
    bits = (columns + 0.0).view(np.uint64)  # which makes one zero of two
    # One number per position sorts several times faster than three; that two positions share one is checked.
    mixed = bits[0] * np.uint64(0x9E3779B97F4A7C15)
    for axis in (1, 2):
        mixed = ((mixed ^ (mixed >> np.uint64(29))) + bits[axis]) * np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(32)
    order = np.argsort(mixed)
    is_new = _differs(mixed[order])
    is_other = _differs_in_any(bits, order)
    if (is_new != is_other).any():
        order = np.lexsort(bits)
        is_other = _differs_in_any(bits, order)
    ids = np.empty(len(order), np.int64)
    ids[order] = np.concatenate([[0], np.cumsum(is_other)])
    return ids


def _differs(ordered: np.ndarray) -> np.ndarray:
    """Whether each number is another than the one before, from the second on."""
    return ordered[1:] != ordered[:-1]


def _differs_in_any(columns: np.ndarray, order: np.ndarray) -> np.ndarray:
    return np.logical_or.reduce([_differs(column[order]) for column in columns])


def _first_of_each(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Where the distinct triples are."""
    if len(a) == 0:
        return np.zeros(0, np.int64)
    if int(c.max()) < _PACKED:
        packed = (a * _PACKED + b) * _PACKED + c
        order = np.argsort(packed)
        return order[np.concatenate([[True], _differs(packed[order])])]
    order = np.lexsort((c, b, a))
    return order[np.concatenate([[True], _differs_in_any(np.stack([a, b, c]), order)])]


def _count_single(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> int:
    """Number of edges that occur once among the triangles abc, whose corners are in ascending order."""
    if len(a) == 0:
        return 0
    # Ids are below 2**31: as many vertices would not fit in memory.
    edges = np.sort(np.concatenate([a << 32 | b, b << 32 | c, a << 32 | c]))
    differs = np.concatenate([[True], _differs(edges), [True]])
    return int((differs[1:] & differs[:-1]).sum())
