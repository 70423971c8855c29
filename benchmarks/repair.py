"""Causal repair of a run's mistakes, or of several runs' pooled: which ranking of locations carries them?

Run: python benchmarks/repair.py RUN… [--split test|validation] [--layers conv3 …] [--seed 0] [--json FILE]

Prints Markdown tables: repair rate by m for every ranking, area, normalised score with its 95 % interval over shapes, ours
less each baseline, and specificity. See docs/adr/0015.
"""

import argparse
import json
import time
from pathlib import Path

import torch

from fer_cli.run import Run
from fer_cli.storage.run_paths import RunPaths
from fer_cli.studies.repair_study import study_repairs, summarise_repairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--split", choices=("test", "validation"), default="test")
    parser.add_argument("--layers", nargs="+")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    studies = []
    for folder in options.runs:
        run = Run(RunPaths.in_folder(folder), device=torch.device("cpu"))
        held = run.model.read("validation/index") if options.split == "validation" else None
        wall, processor = time.perf_counter(), time.process_time()
        studies.append(study_repairs(run, samples=held, layers=options.layers, seed=options.seed))
        print(
            f"{folder.name}: {time.perf_counter() - wall:.0f} s, of the processor {time.process_time() - processor:.0f} s"
        )
    summary = summarise_repairs(studies)
    if options.json:
        options.json.write_text(json.dumps(summary, indent=2))
    print_tables(summary)


def print_tables(summary: dict) -> None:
    print(f"\n{summary['n_errors']} errors of {summary['runs']} runs; implied class is the true one for "
          f"{figure(summary['implied_class_is_true'], summary['implied_class_is_true_ci'])}")  # fmt: skip
    for layer, row in summary["layers"].items():
        for donor, table in row["donors"].items():
            print(f"\n**{layer}**, {row['locations']} locations, donor by {donor}\n")
            print(f"| blame by | {' | '.join(f'm = {m}' for m in row['m'])} | area | normalised | ours less this |")
            print("|---|" + "---|" * (len(row["m"]) + 3))
            for name, found in table.items():
                rates = " | ".join(f"{rate:.2f}" for rate in found["rate"])
                rest = (figure(found.get(key), found.get(f"{key}_ci")) for key in ("normalised", "ours_less"))
                print(f"| {name} | {rates} | {found['area']:.3f} | {' | '.join(rest)} |")
        for what, groups in row["specificity"].items():
            for name, found in groups.items():
                cells = " | ".join(figure(*pair) for pair in zip(found["rate"], found["rate_ci"], strict=True))
                print(f"| {what}: {name} | {cells} |")


def figure(value: float | None, interval: list[float | None] | None) -> str:
    if value is None or interval is None:
        return "–"
    return f"{value:.2f} [{interval[0]:.2f}, {interval[1]:.2f}]"


if __name__ == "__main__":
    main()
