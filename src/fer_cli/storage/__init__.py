"""What outlives a run: HDF5 artifacts, their schema, and outputs written whole and held by one run at a time."""
