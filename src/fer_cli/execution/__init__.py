"""Who does the work, and what it tells: worker processes, a Dask cluster, processes that train together, signals."""
