"""Plain figures of a volume: how full it is, where it lies, how rough and how whole it is.

They need no network and no class. Compared with those of the training samples (`calibration.outliers`), they tell an
input that is damaged, or of another size or place, from one that the network was made for.
"""

from collections.abc import Callable
from itertools import product

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from fer_cli.data.places import Kind, occupied_bounds
from fer_cli.data.volumes import Volumes

_LOOSE, _EDGE = 2, 5
"""Neighbours, of 26: with at most so many a voxel hangs loose, or lies at the edge of a surface."""
_AFTER = tuple(step for step in product((-1, 0, 1), repeat=3) if step > (0, 0, 0))
"""Steps to 13 of a voxel's 26 neighbours: of each two opposite ones, that which comes later in memory."""
_FEW = 1 << 15
"""The pieces of up to so many voxels are counted without scipy, whose import would take longer than the counting."""
_SPIKE = 2.0
"""Standard deviations of the volume."""

LONGEST = "longest extent"
"""The figure that is 0 where no voxel is occupied; then all others are, and the logarithms tell nothing."""

OFF_CENTRE = "distance from the grid's middle"
"""How the names of the figures begin that moving a shape would change."""

_SHAPE = (
    "occupied voxels (log)",
    LONGEST,
    *(f"extent along {axis} (log)" for axis in "xyz"),
    *(f"{OFF_CENTRE} along {axis} (share of its side)" for axis in "xyz"),
    "share of loose voxels",
    "share of voxels at edges",
    "neighbours of a voxel",
    "number of pieces (log)",
    "asymmetry along x or y, the smaller",
    "asymmetry along x or y, the larger",
)
_SIGNAL = (
    "mean",
    "standard deviation",
    "lowest hundredth",
    "median",
    "highest hundredth",
    "share of voxels at the lowest value",
    "share of spikes",
    "roughness (log)",
    *(f"share of empty planes across {axis}" for axis in "xyz"),
    *(f"asymmetry along {axis}" for axis in "xyz"),
)


def statistic_names(kind: Kind) -> tuple[str, ...]:
    """Names of the statistics of volumes of this kind."""
    return _SHAPE if kind == "occupancy" else _SIGNAL


def input_statistics(volumes: Volumes, kind: Kind) -> Float[np.ndarray, "sample statistic"]:
    """The statistics of each volume, in the order of `statistic_names`; of several channels their mean."""
    of: Callable[[Tensor], np.ndarray] = _of_shapes if kind == "occupancy" else _of_signals
    return np.mean([of(channel) for channel in volumes.float().cpu().unbind(1)], axis=0)


def _of_shapes(grids: Float[Tensor, "sample x y z"]) -> Float[np.ndarray, "sample statistic"]:
    occupied = grids > 0.5
    number = occupied.flatten(1).sum(1)
    # One value for each occupied voxel, those of the first sample first.
    neighbours = _box_sum(occupied.to(torch.uint8))[occupied].double() - 1
    sample = torch.repeat_interleave(number)
    shares = [
        torch.zeros(len(grids), dtype=torch.float64).index_add_(0, sample, each.double()) / number
        for each in (neighbours <= _LOOSE, neighbours <= _EDGE, neighbours)
    ]
    count = _count_pieces if number.sum() <= _FEW else _label_pieces
    bounds = np.array([occupied_bounds(grid) for grid in occupied.numpy()])
    low, high = torch.from_numpy(bounds).unbind(1)
    boxes = [
        grid[tuple(slice(a, b) for a, b in zip(*ends, strict=True))]
        for grid, ends in zip(occupied.numpy(), bounds, strict=True)
    ]
    pieces = torch.tensor([[count(box)] for box in boxes])
    uneven = torch.tensor([[(box != np.flip(box, axis)).sum() for axis in (0, 1)] for box in boxes])
    sides = torch.tensor(grids.shape[1:]).double()
    extents = (high - low) / sides
    figures = [
        number[:, None].double().log(),
        extents.amax(1, keepdim=True),
        extents.log(),
        ((low + high) / sides - 1).abs() / 2,
        torch.stack(shares, dim=1),
        pieces.double().log(),
        (uneven / (2.0 * number[:, None])).sort(1).values,
    ]
    return torch.where(number[:, None] > 0, torch.cat(figures, dim=1), 0.0).numpy()


def _label_pieces(grid: Bool[np.ndarray, "x y z"]) -> int:
    """Number of connected pieces; voxels that share a corner are connected."""
    from scipy import ndimage  # a third of a second, which many voxels are worth

    return int(ndimage.label(grid, structure=np.ones((3, 3, 3)))[1])


def _count_pieces(grid: Bool[np.ndarray, "x y z"]) -> int:
    """The same number without scipy. It is slower, but spares a short command scipy's import.

    At first every voxel has a number of its own. Then each takes the lowest number among the voxels connected to it,
    again and again until nothing changes. In the end one voxel of each piece still has its own number.

    Source: Shiloach and Vishkin, "An O(log n) parallel connectivity algorithm", Journal of Algorithms 3, 1982.
    """
    number = np.full(np.add(grid.shape, 2), -1)
    number[1:-1, 1:-1, 1:-1][grid] = np.arange(np.count_nonzero(grid))
    here = np.flatnonzero(number >= 0)
    steps = np.array(_AFTER) @ np.array(number.strides) // number.itemsize
    beside = number.flat[here + steps[:, None]]
    at, later = np.nonzero(beside >= 0)[1], beside[beside >= 0]
    root = np.arange(len(here))
    while len(at):
        low, high = np.minimum(root[at], root[later]), np.maximum(root[at], root[later])
        np.minimum.at(root, high, low)
        while (root[root] != root).any():
            root = root[root]
        apart = root[at] != root[later]
        at, later = at[apart], later[apart]
    return int((root == np.arange(len(root))).sum())


def _of_signals(volumes: Float[Tensor, "sample x y z"]) -> Float[np.ndarray, "sample statistic"]:
    values = volumes.flatten(1)
    spread = values.std(1).clamp(min=torch.finfo(torch.float32).tiny)
    low, middle, high = torch.quantile(
        values[:, :: max(1, values.shape[1] // 2**20)], torch.tensor([0.01, 0.5, 0.99]), 1
    )
    around = (_box_sum(volumes) / _box_sum(torch.ones_like(volumes)) - volumes).abs().flatten(1)
    steps = torch.stack(
        [volumes.diff(dim=axis).abs().flatten(1).mean(1) for axis in (1, 2, 3) if volumes.shape[axis] > 1]
    )
    empty = [(volumes.amax(others) == volumes.amin(others)).float().mean(1) for others in ((2, 3), (1, 3), (1, 2))]
    uneven = [((volumes - volumes.flip(axis)).abs().flatten(1).mean(1)) / (2 * spread) for axis in (1, 2, 3)]
    columns = [
        values.mean(1),
        values.std(1),
        low,
        middle,
        high,
        (values == values.amin(1, keepdim=True)).float().mean(1),
        (around > _SPIKE * spread[:, None]).float().mean(1),
        torch.log(steps.mean(0) / spread + 1e-6),
        *empty,
        *uneven,
    ]
    return torch.stack(columns, dim=1).double().numpy()


def _box_sum(volumes: Shaped[Tensor, "sample x y z"]) -> Shaped[Tensor, "sample x y z"]:
    """Sum over each voxel and its 26 neighbours."""
    for axis in (1, 2, 3):
        total, shorter = volumes.clone(), volumes.shape[axis] - 1
        total.narrow(axis, 1, shorter).add_(volumes.narrow(axis, 0, shorter))
        total.narrow(axis, 0, shorter).add_(volumes.narrow(axis, 1, shorter))
        volumes = total
    return volumes
