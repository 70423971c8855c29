"""Run the whole pipeline on a data set through the installed `fer` command, and write its section of docs/results.md.

    .venv/bin/python benchmarks/pipeline.py modelnet10-binvox.zip --title ModelNet10 --run RUN
    .venv/bin/python benchmarks/pipeline.py psb12-off.zip --title PSB12 --run RUN --train "--epochs 100"

Wall time and peak resident memory of each stage are the operating system's account of the finished process.
"""

import argparse
import json
import os
import platform
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import cpu_name, run_command

FER = Path(sys.executable).with_name("fer")
DOCS = Path(__file__).parents[1] / "docs"
HEAD = """# Results

One seed a data set: that says little about differences of a point or two. The test split was read by `fer evaluate` alone;
nothing was fitted on it. How voxelization compares with its peers is in [voxelize.md](voxelize.md)."""

NOTES = "## What was tried"


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
    parser.add_argument("--output", type=Path, default=DOCS / "results.md")
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
    page = arguments.output.read_text(encoding="utf-8") if arguments.output.exists() else f"{HEAD}\n"
    arguments.output.write_text(with_section(page, section), encoding="utf-8")
    print(f"written to {arguments.output}")


def with_section(page: str, section: str) -> str:
    """The page with its section of the same heading replaced, or with a new one before the notes at its end."""
    heading = section.partition("\n")[0]
    before, *parts = [part.strip() for part in re.split(r"^(?=## )", page, flags=re.MULTILINE)]
    headings = [part.partition("\n")[0] for part in parts]
    if heading in headings:
        parts[headings.index(heading)] = section.strip()
    else:
        parts.insert(headings.index(NOTES) if NOTES in headings else len(parts), section.strip())
    return "\n\n".join([before, *parts]) + "\n"


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
        "### Recognition and reconstruction",
        f"Accuracy on the test split: **{evaluation['accuracy']:.4f}** ({evaluation['n_errors']} errors in "
        f"{evaluation['n']}), mean of classes {evaluation['class_accuracy']:.4f}. {without_duplicates(evaluation)}Validation: "
        f"accuracy {training['accuracy']:.4f}, voxel IoU of the reconstruction from conv3 {training['voxel_iou']:.3f}.",
        table(
            ["class", "accuracy"],
            [[name, f"{value:.3f}"] for name, value in evaluation["per_class_accuracy"].items()],
        ),
        "Reconstruction of the test shapes from each level: voxel IoU, and mean squared error a voxel.",
        table(
            ["from", "IoU, gates shut", "IoU, gates open", "error, gates shut", "error, gates open"],
            [
                [
                    layer,
                    *(f"{by_gates[gates]['iou']:.3f}" for gates in ("shut", "open")),
                    *(f"{by_gates[gates]['mse']:.4f}" for gates in ("shut", "open")),
                ]
                for layer, by_gates in evaluation["reconstruction"].items()
            ],
        ),
        "### Table I",
        "Summed squared error a sample, means; `ratio` is input_vs_code over input_vs_local, of the means. The paper gives "
        "19.185, 22.610, 26.467, 35.837 on misclassified samples, ratio 1.87, in units that it does not name.",
        table1(evaluation["table1"]),
        verdict_on_table1(evaluation["table1"]),
        "### Detection of misclassification",
        "AUROC with a bootstrap 95 % interval over samples; AURC and AUGRC in thousandths (lower is better); FPR95 is the "
        "share of errors still accepted when 95 % of correct samples are.",
        detection_table(evaluation["detection"]),
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


def without_duplicates(evaluation: dict[str, Any]) -> str:
    """What is left of the accuracy without the test shapes that training has too."""
    rest = evaluation["without_duplicates"]
    if rest["n"] == evaluation["n"]:
        return "No test shape's grid is that of a training shape. "
    return (
        f"Without the {evaluation['n'] - rest['n']} test shapes whose grid is that of a training shape: {rest['accuracy']:.4f} "
        f"({rest['n_errors']} errors in {rest['n']}). "
    )


def table1(rows: dict[str, dict[str, float] | None]) -> str:
    """Table I, split by correct and misclassified."""
    names = ["input_vs_local", "nearest_vs_code", "local_vs_code", "input_vs_code"]
    return table(
        ["samples", *names, "ratio"],
        [
            [kind, *(f"{row[name]:.0f}" for name in names), f"{row['ratio']:.2f}"] if row else [kind, *["–"] * 5]
            for kind, row in rows.items()
        ],
    )


def verdict_on_table1(rows: dict[str, dict[str, float] | None]) -> str:
    """What the ratio says, in words that the figures choose."""
    wrong, right = rows["misclassified"], rows["correct"]
    if not wrong or not right:
        return "The ratio cannot be compared: there are no errors, or nothing else."
    larger = "larger" if wrong["ratio"] > right["ratio"] else "not larger"
    return (
        f"The ratio is {larger} on misclassified samples ({wrong['ratio']:.2f}) than on correct ones "
        f"({right['ratio']:.2f}); the paper gives it for misclassified samples alone."
    )


def detection_table(detection: dict[str, dict[str, Any]]) -> str:
    """All scores, best AUROC first."""
    ordered = sorted(detection.items(), key=lambda item: -(item[1]["auroc"] or 0))
    rows = []
    for name, metrics in ordered:
        if metrics["auroc"] is None:
            rows.append([name, *["–"] * 5])
            continue
        low, high = metrics["auroc_ci"]
        thousandths = [f"{1000 * metrics[key]:.1f}" for key in ("aurc", "augrc")]
        rows.append(
            [name, f"{metrics['auroc']:.3f}", f"{low:.3f} – {high:.3f}", *thousandths, f"{metrics['fpr95']:.3f}"]
        )
    return table(["score", "AUROC", "95 % interval", "AURC", "AUGRC", "FPR95"], rows)


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows])


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
