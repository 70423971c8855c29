"""Files of shapes → occupancy grids → voxels.h5 → samples, splits and variations; synthetic furniture."""
