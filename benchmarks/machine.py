"""What the benchmarks share: the processor's name, and a command run as a process of its own."""

import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


def cpu_name() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


@dataclass(frozen=True)
class Finished:
    """A finished command: wall time, the operating system's account of its memory and processors, and its standard output.

    `peak_bytes` is the peak of the largest of its processes, `cpu_seconds` those of all of them, user and system.
    """

    seconds: float
    peak_bytes: int
    output: str
    cpu_seconds: float


_MEASURED = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[2:])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
open(sys.argv[1], "w").write(f"{used.ru_maxrss} {used.ru_utime + used.ru_stime}")
sys.exit(code)
"""
"""Starts the command from a small process: Linux counts the memory of the starting process in the command's peak."""


def run_command(command: Sequence[str | Path], *, stderr: int | None = None) -> Finished:
    """Run a command to its end; exits with what failed if it does."""
    words = [str(word) for word in command]
    with tempfile.NamedTemporaryFile() as account:
        started = time.perf_counter()
        measured = [sys.executable, "-c", _MEASURED, account.name, *words]
        done = subprocess.run(measured, stdout=subprocess.PIPE, stderr=stderr, text=True)
        seconds = time.perf_counter() - started
        if done.returncode:
            sys.exit(f"{' '.join(words)} failed with exit code {done.returncode}")
        peak, cpu = account.read().split()
        # Linux counts kilobytes, macOS bytes.
        return Finished(seconds, int(peak) * (1 if sys.platform == "darwin" else 1024), done.stdout, float(cpu))
