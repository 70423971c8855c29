"""Where something lies: a cell of a volume or feature map, and a box of voxels.

Plain tuples, so that what only draws them needs no PyTorch.
"""

Location = tuple[int, int, int]
"""Index of a cell along x, y and z."""
Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""Half-open ranges of voxel indices, ((x0, x1), (y0, y1), (z0, z1))."""
