"""What is worth knowing of a mesh beside its voxels: its size, whether its surface is closed, and its faults.

Vertices at one position count as one, since triangle soups repeat them in every face. Everything is counted
exactly, by sorting; nothing is repaired.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from fer_cli.data.formats.registry import Mesh

_PACKED = 2**21
"""So many numbers fit thrice in 63 bits."""


@dataclass(frozen=True)
class MeshFacts:
    """Triangles as read; edges of exactly one of the distinct triangles with three corners; faults, one line each."""

    n_faces: int
    n_open_edges: int
    warnings: tuple[str, ...]


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
    warnings += _extent_warnings(columns, mesh.faces)
    return MeshFacts(len(mesh.faces), _count_single(a, b, c), tuple(warnings))


def _extent_warnings(columns: Float64[np.ndarray, "3 vertex"], faces: Int64[np.ndarray, "face 3"]) -> list[str]:
    """Faults of the bounding box, which decides where the shape lies in its grid."""
    used = np.zeros(columns.shape[1], bool)
    used[faces.reshape(-1)] = True
    lower, upper = columns.min(axis=1), columns.max(axis=1)
    found = []
    if not used.all() and not all(
        used[axis == bound].any() for axis, *bounds in zip(columns, lower, upper, strict=True) for bound in bounds
    ):
        found.append(f"the bounding box is enlarged by some of {int((~used).sum())} vertices of no face")
    if flat := [axis for axis, is_flat in zip("xyz", lower == upper, strict=True) if is_flat]:
        found.append(f"no extent along {', '.join(flat)}")
    return found


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
