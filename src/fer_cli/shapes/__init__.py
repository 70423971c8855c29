"""Files of shapes → occupancy grids: readers of formats, sources, voxelization, procedural furniture; `voxels.h5`."""
