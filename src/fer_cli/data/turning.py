"""Shapes whose files have another axis up than the network's z, turned by a right angle."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
from jaxtyping import Float64

from fer_cli.data.formats.registry import Grid

Axis = Literal["x", "y", "z"]

TURNS: Mapping[Axis, str] = {"z": "as it is", "y": "90° about x", "x": "-90° about y"}
"""How a shape is turned whose file has that axis up, in the words of `network.poses`."""
_MATRICES: Mapping[Axis, tuple[tuple[int, int, int], ...]] = {
    "z": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "y": ((1, 0, 0), (0, 0, -1), (0, 1, 0)),
    "x": ((0, 0, -1), (0, 1, 0), (1, 0, 0)),
}


def turned_points(points: Float64[np.ndarray, "point 3"], up: Axis) -> Float64[np.ndarray, "point 3"]:
    """Coordinates with the axis `up` of their file as z: turned by a right angle about x or y, nothing is mirrored."""
    if up == "z":
        return points
    order, signs = _permutation(up)
    found: np.ndarray = points[:, order] * signs
    return found


def turned_grid(grid: Grid, up: Axis) -> Grid:
    """The same of a grid. Its map still leads to the coordinates of its file."""
    if up == "z":
        return grid
    order, signs = _permutation(up)
    occupancy = grid.occupancy.transpose(order)
    backwards = tuple(axis for axis, sign in enumerate(signs) if sign < 0)
    back = file_from_turned(up)
    for axis in backwards:
        back[:3, 3] -= back[:3, axis] * (occupancy.shape[axis] - 1)
    return Grid(np.ascontiguousarray(np.flip(occupancy, backwards)), grid.index_to_world @ back)


def file_from_turned(up: Axis) -> Float64[np.ndarray, "4 4"]:
    """Affine map from coordinates of the turned shape to those of its file."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(_MATRICES[up], dtype=float).T
    return matrix


def _permutation(up: Axis) -> tuple[list[int], Float64[np.ndarray, " 3"]]:
    """For each new axis the old one, and 1 or −1 where it runs backwards."""
    matrix = np.array(_MATRICES[up], dtype=float)
    return np.abs(matrix).argmax(axis=1).tolist(), matrix.sum(axis=1)
