"""What the benchmarks share: the processor's name, and a command run as a process of its own."""

import os
import platform
import subprocess
import sys
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
    """A finished command: wall time, the operating system's account of its own peak memory, and its standard output."""

    seconds: float
    peak_bytes: int
    output: str


def run_command(command: Sequence[str | Path], *, stderr: int | None = None) -> Finished:
    """Run a command to its end; exits with what failed if it does."""
    started = time.perf_counter()
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stderr=stderr, text=True)
    assert process.stdout is not None
    with process.stdout:
        output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - started
    if process.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed with exit code {process.returncode}")
    # Linux counts kilobytes, macOS bytes.
    return Finished(seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024), output)
