"""Run the whole pipeline on a data set through the installed `fer` command, and write its section of docs/results.md.

    .venv/bin/python benchmarks/pipeline.py modelnet10-binvox.zip --title ModelNet10 --run RUN
    .venv/bin/python benchmarks/pipeline.py psb12-off.zip --title PSB12 --run RUN --train "--epochs 100"

Wall time and peak resident memory of each stage are the operating system's account of the finished process.
"""

import argparse
import json
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import cpu_name, run_command
from results import RESULTS, evaluation_parts, replace_section, table

FER = Path(sys.executable).with_name("fer")


@dataclass(frozen=True)
class Stage:
    """One finished command of fer."""

    command: list[str]
    seconds: float
    peak_megabytes: float
    output: str


def run_stage(*arguments: str) -> Stage:
    """Run `fer` with the given arguments; exits with its error if it fails."""
    done = run_command([FER, *arguments])
    return Stage(["fer", *arguments], done.seconds, done.peak_bytes / 2**20, done.output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--title", required=True, help="name of the data set")
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--preset", default="compact")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--train", default="", help="further options of fer train, in one string")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    shutil.rmtree(arguments.run, ignore_errors=True)
    run = ("--run", str(arguments.run))
    stages = [
        run_stage("voxelize", str(arguments.source), *run),
        run_stage(
            *("train", "--preset", arguments.preset, "--seed", arguments.seed, *arguments.train.split(), "--json", *run)
        ),
        run_stage("cluster", "--seed", arguments.seed, "--json", *run),
        run_stage("evaluate", "--json", *run),
    ]
    evaluation = json.loads(stages[-1].output)
    worst = max(evaluation["misclassified"], key=lambda mistake: mistake["max_softmax"])["sample"]
    extras = [
        run_stage("explain", worst, *run),
        run_stage("explain", worst, "--json", "--no-images", *run),
        run_stage("--help"),
    ]
    section = write_section(
        arguments, stages, extras, json.loads(stages[1].output), json.loads(stages[2].output), evaluation
    )
    replace_section(arguments.output, section)


def write_section(
    arguments: argparse.Namespace,
    stages: list[Stage],
    extras: list[Stage],
    training: dict[str, Any],
    clustering: dict[str, Any],
    evaluation: dict[str, Any],
) -> str:
    """One data set's section of the results page, every figure from this run."""
    total = sum(stage.seconds for stage in stages)
    further = f' --train "{arguments.train}"' if arguments.train else ""
    parts = [
        f"## {arguments.title}, preset {arguments.preset}",
        "Every figure of this section comes from one run of\n\n"
        "```\n"
        f".venv/bin/python benchmarks/pipeline.py {arguments.source.name} --title {arguments.title} --run RUN "
        f"--preset {arguments.preset} --seed {arguments.seed}{further}\n"
        "```",
        f"Machine: {machine()}. Seed {arguments.seed}.",
        f"Source `{arguments.source.name}`: {training['training_samples']} training, "
        f"{training['validation_samples']} validation and {evaluation['n']} test shapes; "
        f"{training['parameters'] / 1e6:.1f} M parameters with the feedback network.",
        table(
            ["stage", "wall time", "peak memory"],
            [
                [f"`{stage.command[0]} {stage.command[1]}`", duration(stage.seconds), f"{stage.peak_megabytes:.0f} MB"]
                for stage in stages
            ]
            + [["all four", duration(total), ""]],
        ),
        table(
            ["command", "wall time"],
            [
                ["`fer explain` with pictures and report", f"{extras[0].seconds:.1f} s"],
                ["`fer explain --json --no-images`", f"{extras[1].seconds:.1f} s"],
                ["`fer --help`", f"{extras[2].seconds:.2f} s"],
            ],
        ),
        f"Validation: accuracy {training['accuracy']:.4f}, voxel IoU of the reconstruction from conv3 {training['voxel_iou']:.3f}.",
        *evaluation_parts(evaluation),
        "### Codebooks",
        f"{clustering['samples']} training samples; `explained` is the share of scatter that the codes account for, "
        "`purity` the share of a code's largest class, over samples; `used` the mean number of codes of a location that "
        "hold a sample.",
        table(
            ["path", "layer", "locations", "k", "used", "explained", "purity"],
            [
                [
                    layer["path"],
                    layer["layer"],
                    str(layer["locations"]),
                    str(layer["k"]),
                    f"{layer['used']:.1f}",
                    f"{layer['explained']:.3f}",
                    f"{layer['purity']:.3f}",
                ]
                for layer in clustering["layers"]
            ],
        ),
    ]
    return "\n\n".join(parts) + "\n"


def duration(seconds: float) -> str:
    """Minutes and seconds."""
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds // 60)} min {seconds % 60:.0f} s"


def machine() -> str:
    """Processor, cores, memory and versions."""
    import torch

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{cpu_name()}, {os.cpu_count()} cores, {memory:.0f} GiB; Python {platform.python_version()}, torch {torch.__version__}"


if __name__ == "__main__":
    main()
