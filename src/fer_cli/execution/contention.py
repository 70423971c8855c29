"""CPU contention: other programs on the same cores slow down OpenMP barriers."""

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    import torch

_LEAST_SECONDS = 0.2
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


@dataclass(frozen=True)
class Usage:
    """Processor seconds that the usable cores have worked by a moment, and those of this process and its children."""

    moment: float
    everyone: float
    own: float

    @classmethod
    def now(cls) -> "Usage":
        """Until now."""
        times = psutil.cpu_times(percpu=True)
        cores = [times[core] for core in usable_cores() if core < len(times)]
        own = 0.0
        for process in (me := psutil.Process(), *me.children(recursive=True)):
            with suppress(psutil.Error):  # one that has ended
                own += sum(process.cpu_times()[:2])
        return cls(time.monotonic(), sum(sum(core) - core.idle - getattr(core, "iowait", 0.0) for core in cores), own)

    def others_since(self) -> float:
        """Mean number of cores that other programs have kept busy since."""
        now = Usage.now()
        return max(0.0, now.everyone - self.everyone - (now.own - self.own)) / max(1e-3, now.moment - self.moment)


def fit_threads(device: "torch.device", since: Usage) -> int:
    """Let PyTorch compute on the CPU with as many threads as there are cores that others have left free `since`.

    A thread more than that is one that the others wait for at every step. Where OMP_NUM_THREADS is set, somebody has
    decided, and nothing is changed. Returns how many threads there are.
    """
    import torch

    threads = torch.get_num_threads()
    if device.type == "cpu" and threads > 1 and THREADS_VARIABLE not in os.environ:
        time.sleep(max(0.0, since.moment + _LEAST_SECONDS - time.monotonic()))
        free = max(1, round(len(usable_cores()) - since.others_since()))
        if free < threads:
            torch.set_num_threads(free)
    return torch.get_num_threads()


def wait_passively() -> None:
    """Let threads sleep, not spin, at OpenMP barriers, beside processes of our own that need the cores.

    Holds for a PyTorch that is imported later. Where OMP_WAIT_POLICY is set, nothing is changed.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def free_cores_if_crowded(device: "torch.device") -> int | None:
    """How many threads would have a core each, where those that compute on `device` do not; None where they have.

    None, too, where OMP_NUM_THREADS says that somebody has decided. Takes a fifth of a second.
    """
    import torch

    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1 or THREADS_VARIABLE in os.environ:
        return None
    free = max(1, round(len(usable_cores()) - busy_cores()))
    return free if free < threads else None
