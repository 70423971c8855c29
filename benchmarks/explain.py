"""Seconds that `fer explain` takes: one sample with pictures and report, one for scripts, and a gallery of many.

And those of `fer --help`, beside the help of a bare typer program with one command.

Run: .venv/bin/python benchmarks/explain.py --run RUN [--samples 50] [--repeat 3]

Each command is a process of its own, from its start to its end, as a user waits for it; it explains test samples of the run's
voxels and writes to a temporary folder. The first is run once before, so that files are in the system's cache. The time of the processor is that of the command and the processes it waits for, and
tells more than the wall where other work has the cores. Prints a Markdown table of the fastest of the repeats beside what is
asked for.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fer_cli.data.dataset import open_voxels
from machine import cpu_name

FER = [sys.executable, "-m", "fer_cli"]
BARE = "import typer; app = typer.Typer(); app.command()(lambda: None); app(prog_name='bare')"
"""A typer program that does nothing; what its help takes no program by typer can save."""

ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
"""With that variable our modules would be compiled anew at each start, which an installed program is spared."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=50, help="samples of the gallery")
    parser.add_argument("--repeat", type=int, default=3, help="repeats of the commands with one sample")
    options = parser.parse_args()
    voxels = open_voxels(options.run / "voxels.h5")
    indices = voxels.indices("test")
    names = [voxels.names[index] for index in indices[:: max(1, len(indices) // options.samples)][: options.samples]]
    run = ["--run", str(options.run)]
    commands = {
        "one sample, pictures and report": (["explain", names[0], *run], 4.0, options.repeat),
        "one sample, `--json --no-images`": (["explain", names[0], "--json", "--no-images", *run], 2.0, options.repeat),
        f"{len(names)} samples with reports and gallery": (["explain", *names, *run], 60.0 * len(names) / 77, 1),
    }
    print(f"{cpu_name()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    print("| `fer explain` | seconds | of the processor | asked for |")
    print("|---|---|---|---|")
    bare = min(timed([sys.executable, "-c", BARE, "--help"]) for _ in range(options.repeat))
    print(f"| help of a bare typer program | {bare[0]:.2f} | {bare[1]:.2f} | – |")
    own = min(timed([*FER, "--help"]) for _ in range(options.repeat))
    print(f"| `fer --help` | {own[0]:.2f} | {own[1]:.2f} | {bare[0] + 0.25:.2f} |", flush=True)
    timed([*FER, *commands["one sample, pictures and report"][0]])
    torch = min(timed([sys.executable, "-c", "import torch"]) for _ in range(options.repeat))
    print(f"| `import torch` alone | {torch[0]:.1f} | {torch[1]:.1f} | – |", flush=True)
    for what, (words, wanted, repeats) in commands.items():
        wall, processor = min(timed([*FER, *words]) for _ in range(repeats))
        print(f"| {what} | {wall:.1f} | {processor:.1f} | {wanted:.0f} |", flush=True)


def timed(words: list[str]) -> tuple[float, float]:
    """Seconds on the clock and of the processor that a command takes; exits with its error if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        output = ["-o", folder] if "explain" in words and "--no-images" not in words else []
        before, started = os.times(), time.perf_counter()
        done = subprocess.run(
            [*words, *output], env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        seconds, after = time.perf_counter() - started, os.times()
    if done.returncode:
        sys.exit(done.stderr)
    return seconds, after.children_user + after.children_system - before.children_user - before.children_system


if __name__ == "__main__":
    main()
