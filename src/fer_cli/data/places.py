"""Where something lies: a cell of a volume or feature map, a box of voxels, the occupied part of a grid.

Apart from `volumes` and `statistics`, so that what draws or voxelizes does without PyTorch, which takes seconds to
import.
"""

from typing import Literal

import numpy as np
from jaxtyping import Int, Shaped

Location = tuple[int, int, int]
"""Index of a cell along x, y and z."""
Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""Half-open ranges of voxel indices, ((x0, x1), (y0, y1), (z0, z1))."""
Kind = Literal["occupancy", "intensity"]


def occupied_bounds(grid: Shaped[np.ndarray, "x y z"]) -> tuple[Int[np.ndarray, " 3"], Int[np.ndarray, " 3"]]:
    """First index that is occupied along each axis, and the one after the last; zeros where nothing is."""
    inside = [np.flatnonzero(grid.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
    if not len(inside[0]):
        return np.zeros(3, np.int64), np.zeros(3, np.int64)
    return np.array([at[0] for at in inside]), np.array([at[-1] + 1 for at in inside])
