"""Kinds and sides of volumes, and where the occupied voxels of a grid begin and end.

Apart from `volumes` and `statistics`, because PyTorch takes seconds to import, which `fer voxelize` does without.
"""

from typing import Literal

import numpy as np
from jaxtyping import Int, Shaped

Location = tuple[int, int, int]
Kind = Literal["occupancy", "intensity"]


def occupied_bounds(grid: Shaped[np.ndarray, "x y z"]) -> tuple[Int[np.ndarray, " 3"], Int[np.ndarray, " 3"]]:
    """First index that is occupied along each axis, and the one after the last; zeros where nothing is."""
    inside = [np.flatnonzero(grid.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
    if not len(inside[0]):
        return np.zeros(3, np.int64), np.zeros(3, np.int64)
    return np.array([at[0] for at in inside]), np.array([at[-1] + 1 for at in inside])
