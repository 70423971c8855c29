"""Execution: worker processes, Dask clusters, distributed training, signals, progress."""
