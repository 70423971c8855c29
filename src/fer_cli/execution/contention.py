"""CPU contention: other programs on the same cores slow down OpenMP barriers."""

import os

import psutil
import torch

THREADS_VARIABLE = "OMP_NUM_THREADS"


def usable_cores() -> list[int]:
    """The numbers of the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def busy_cores(seconds: float = 0.2) -> float:
    """Mean number of busy usable cores over `seconds`, while this process sleeps."""
    percent = psutil.cpu_percent(seconds, percpu=True)
    return sum(percent[core] for core in usable_cores() if core < len(percent)) / 100


def free_cores_if_crowded(device: torch.device) -> int | None:
    """How many threads would have a core each, where those that compute on `device` do not; None where they have.

    None, too, where OMP_NUM_THREADS says that somebody has decided. Takes a fifth of a second.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1 or THREADS_VARIABLE in os.environ:
        return None
    free = max(1, round(len(usable_cores()) - busy_cores()))
    return free if free < threads else None
