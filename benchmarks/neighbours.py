"""Measure `fer explain` alone and beside one busy process for each core, in turn.

    python benchmarks/neighbours.py RUN SAMPLE [--repeats 3] [--fixed]

RUN is the folder of a run, SAMPLE one of its samples or a file. `--fixed` gives each command one thread for each core, which
is what PyTorch takes by itself. Prints medians, and how often as long the command takes beside the others; wanted is three
times at most. Measure on a machine where nothing else runs.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from fer_cli.execution.contention import THREADS_VARIABLE, busy_cores, usable_cores
from machine import cpu_name

BUSY = "while True: pass"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("sample")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--fixed", action="store_true")
    options = parser.parse_args()
    cores = usable_cores()
    environment = {key: value for key, value in os.environ.items() if key != THREADS_VARIABLE}
    if options.fixed:
        environment[THREADS_VARIABLE] = str(len(cores))
    print(f"{cpu_name()}, {len(cores)} cores, of which {busy_cores(1.0):.1f} are busy")
    taken: dict[int, list[float]] = {0: [], len(cores): []}
    explain(options.run, options.sample, environment)  # files are in memory from now on
    for _ in range(options.repeats):
        for neighbours, seconds in taken.items():
            seconds.append(beside(neighbours, options.run, options.sample, environment))
    alone, crowded = (statistics.median(seconds) for seconds in taken.values())
    print(f"alone {alone:.1f} s, beside {len(cores)} busy processes {crowded:.1f} s: {crowded / alone:.1f} times")


def beside(neighbours: int, run: Path, sample: str, environment: dict[str, str]) -> float:
    """Seconds of the command while so many other processes are busy."""
    with ExitStack() as at_end:
        for _ in range(neighbours):
            busy = at_end.enter_context(subprocess.Popen([sys.executable, "-c", BUSY]))
            at_end.callback(busy.kill)
        return explain(run, sample, environment)


def explain(run: Path, sample: str, environment: dict[str, str]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "fer_cli", "explain", sample, "--run", str(run), "-o", folder, "--json"]
        started = time.perf_counter()
        subprocess.run(command, env=environment, check=True, capture_output=True)
        return time.perf_counter() - started


if __name__ == "__main__":
    main()
