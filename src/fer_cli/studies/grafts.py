"""Shapes with a part of another shape put on them: where in the input the fault is, is known.

A part of voxels is what a shape has above its seat (`graft_part`); a part of a mesh is a chair's back, put on a
synthetic table before it is voxelized (`graft_back`). In both the whole is brought to the size that shapes have in the
grid, so that what is grafted on makes the rest smaller; `Graft.without` is the rest alone, just as small.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, UInt8

from fer_cli.data.fittings import chair_back
from fer_cli.data.formats.registry import Grid, Mesh
from fer_cli.data.furniture import furniture_parts
from fer_cli.data.occupancy import VoxelSettings, fit_grid, voxelize_mesh
from fer_cli.data.solids import merge

_PLATE = 0.5
_SMALLEST = 8
_RISE = (0.7, 1.3)
"""How high a back rises above a table, in heights of the table; a chair's rises about as high as its seat."""


@dataclass(frozen=True)
class Graft:
    """A shape with a part grafted on, and which voxels came with the part."""

    grid: UInt8[np.ndarray, "x y z"]
    new: Bool[np.ndarray, "x y z"]

    @property
    def without(self) -> UInt8[np.ndarray, "x y z"]:
        """The shape in the same place without the part."""
        return np.where(self.new, 0, self.grid).astype(np.uint8)


def graft_part(
    receiver: UInt8[np.ndarray, "x y z"], giver: UInt8[np.ndarray, "x y z"], *, padding: int
) -> Graft | None:
    """The receiver with what the giver has above its seat; None where either has no seat, or nothing is above it.

    The seat, or the table's top, is the highest slice that has at least half as many voxels as the fullest slice of the
    lower three quarters of the shape. The giver is stretched along x and y until its seat is as wide as the receiver's,
    and along z by the mean of both. The whole keeps `padding` voxels from the border.
    """
    seat, top = _plate(giver), _plate(receiver)
    if seat is None or top is None or giver[:, :, seat + 1 :].sum() < _SMALLEST:
        return None
    ours, theirs = _extent(receiver[:, :, top]), _extent(giver[:, :, seat])
    scale = [(high - low) / (up - down) for (low, high), (down, up) in zip(ours, theirs, strict=True)]
    rise = float(np.mean(scale))
    side = receiver.shape[0]
    canvas = np.zeros((3 * side, 3 * side, 3 * side), np.uint8)
    canvas[side : 2 * side, side : 2 * side, :side] = receiver
    # Each voxel of the canvas is what lies at its middle in the giver.
    places = [
        np.floor((np.arange(3 * side) - side + 0.5 - low) / stretch + down).astype(int)
        for (low, _), (down, _), stretch in zip(ours, theirs, scale, strict=True)
    ]
    places.append(np.floor((np.arange(3 * side) - top - 0.5) / rise).astype(int) + seat + 1)
    places[2][: top + 1] = -1
    inside = [(place >= 0) & (place < side) for place in places]
    part = np.zeros_like(canvas)
    part[np.ix_(*inside)] = giver[np.ix_(*(place[there] for place, there in zip(places, inside, strict=True)))]
    part[canvas > 0] = 0
    if not part.any():
        return None
    box = tuple(slice(*_range(canvas | part, axis)) for axis in range(3))
    fitted, without = (_fitted(grid[box], side, padding) for grid in (canvas | part, canvas))
    new = (fitted > 0) & (without == 0)
    return Graft(fitted, new) if new.any() else None


def graft_back(rng: np.random.Generator, settings: VoxelSettings) -> Graft:
    """A synthetic table with a chair's back at its far edge, as wide as the table."""
    table = furniture_parts("table", rng)
    top = max(float(part.vertices[:, 2].max()) for part in table)
    corners = np.concatenate([part.vertices for part in table if part.name == "top"])
    (left, _, _), (right, rear, _) = corners.min(axis=0), corners.max(axis=0)
    back = chair_back(rng, width=0.95 * (right - left), y=float(rear) - 0.03, z=top, height=top * rng.uniform(*_RISE))
    grid = voxelize_mesh(Mesh(*merge([*table, *back])), settings)
    heights = grid.index_to_world[2, 2] * np.arange(settings.resolution) + grid.index_to_world[2, 3]
    return Graft(grid.occupancy, (grid.occupancy > 0) & (heights > top))


def _plate(grid: UInt8[np.ndarray, "x y z"]) -> int | None:
    counts = grid.sum(axis=(0, 1), dtype=np.int64)
    heights = np.flatnonzero(counts)
    if not len(heights):
        return None
    low = heights[heights <= heights[0] + 0.75 * (heights[-1] - heights[0])]
    full = heights[counts[heights] >= _PLATE * counts[low].max()]
    return int(full[-1])


def _extent(plate: UInt8[np.ndarray, "x y"]) -> list[tuple[int, int]]:
    """Half-open ranges of the occupied rows along x, and along y."""
    return [(int(rows[0]), int(rows[-1]) + 1) for rows in (np.flatnonzero(plate.any(axis=1 - i)) for i in (0, 1))]


def _range(grid: UInt8[np.ndarray, "x y z"], axis: int) -> tuple[int, int]:
    rows = np.flatnonzero(grid.any(axis=tuple(other for other in range(3) if other != axis)))
    return int(rows[0]), int(rows[-1]) + 1


def _fitted(grid: UInt8[np.ndarray, "x y z"], side: int, padding: int) -> UInt8[np.ndarray, "cell cell cell"]:
    return np.pad(fit_grid(Grid(grid, np.eye(4)), side - 2 * padding).occupancy, padding)
