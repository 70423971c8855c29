"""Seconds and bytes of one report of a volume of 96×96×64 grey values.

Run: .venv/bin/python benchmarks/large_volume.py [--run FOLDER]

Made-up scans of a ball or a box in noise, 40 for training and 12 for validation; preset `smoke`, three and one epochs, and a
codebook of all its 168,522 locations, made once in FOLDER (three minutes). Then `fer explain` of one test sample, three times,
from the start of the process to its end. Asked for: 6 s and 8 MB.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

import fer_cli as fer
from machine import cpu_name, run_command

SHAPE = (96, 96, 64)


def main(run: Annotated[Path | None, typer.Option(help="Folder of the run, made where there is none.")] = None) -> None:
    """Make the run where it is missing, and time its reports."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = run or Path(temporary) / "run"
        if not (folder / "voxels.h5").exists():
            rng = np.random.default_rng(0)
            parts = {name: scans(rng, count) for name, count in (("train", 40), ("val", 12), ("test", 6))}
            fer.save_volumes(folder / "voxels.h5", classes=["ball", "box"], **parts)
        if not (folder / "codebook.h5").exists():
            call("train", "--preset", "smoke", "--epochs", 3, "--feedback-epochs", 1, "--force", "--run", folder)
            call("cluster", "--run", folder)
        print(f"{cpu_name()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        for _ in range(3):
            output = Path(temporary) / "report"
            seconds = call("explain", "test_00000", "--run", folder, "-o", output)
            print(f"{seconds:.1f} s, {(output / 'index.html').stat().st_size / 1e6:.1f} MB", flush=True)


def call(*words: object) -> float:
    """Seconds of a command, from its start to its end; exits where it fails."""
    return run_command([sys.executable, "-m", "fer_cli", *map(str, words)]).seconds


def scans(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Scans `sample channel x y z` of a bright ball (0) or box (1) somewhere in noise, and their labels."""
    places = np.stack(np.meshgrid(*(np.arange(side) for side in SHAPE), indexing="ij"), axis=-1)
    volumes = np.empty((count, 1, *SHAPE), np.float32)
    for number in range(count):
        away = np.abs(places - rng.uniform(0.3, 0.7, 3) * SHAPE)
        distance = away.max(axis=-1) if number % 2 else np.sqrt((away**2).sum(axis=-1))
        volumes[number, 0] = 100 * (distance < rng.uniform(12, 20)) + 20 * rng.standard_normal(SHAPE)
    return volumes.astype(np.float16).astype(np.float32), np.arange(count) % 2


if __name__ == "__main__":
    typer.run(main)
