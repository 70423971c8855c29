"""Whether blame finds faults of known layer and location in a run, or in several runs' pooled.

Run: python benchmarks/planted.py RUN… [--split validation|test] [--per-layer 20] [--grafts 28] [--synthetic 14] [--seed 0] [--json FILE]

Prints Markdown tables: layer hits of departure and blame, departures where nothing is planted, grafts tried and turned,
and IoU and mean rank of the true locations for every ranking. See docs/adr/0015 and 0018.
"""

import argparse
import json
import time
from pathlib import Path

import torch

from fer_cli.run import Run
from fer_cli.storage.run_paths import RunPaths
from fer_cli.studies.findings import summarise_planted
from fer_cli.studies.planted import plant_faults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--split", choices=("test", "validation"), default="validation")
    parser.add_argument("--per-layer", type=int, default=20)
    parser.add_argument("--grafts", type=int, default=28)
    parser.add_argument("--synthetic", type=int, default=14)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    plantings, layers = [], ()
    for folder in options.runs:
        run = Run(RunPaths.in_folder(folder), device=torch.device("cpu"))
        layers = run.network.spec.layer_names
        wall, processor = time.perf_counter(), time.process_time()
        plantings.append(
            plant_faults(
                run,
                per_layer=options.per_layer,
                grafts=options.grafts,
                synthetic=options.synthetic,
                split=options.split,
                seed=options.seed,
            )
        )
        print(
            f"{folder.name}: {time.perf_counter() - wall:.0f} s, of the processor {time.process_time() - processor:.0f} s"
        )
    summary = summarise_planted(plantings, layers=layers)
    if options.json:
        options.json.write_text(json.dumps(summary, indent=2))
    for kind, rows in summary["layer"].items():
        print(f"\n| {kind} fault at | n | departure | within one | at 5 % | blame | within one | chance |")
        print("|---|---|---|---|---|---|---|---|")
        keys = ("departure_hit", "departure_near", "significant", "hit", "near")
        for layer, row in rows.items():
            hits = " | ".join(figure(row[key], row[f"{key}_ci"]) for key in keys)
            print(f"| {layer} | {row['n']} | {hits} | {row['chance']:.2f} |")
    print("\n| nothing planted | n | departure at 5 % |\n|---|---|---|")
    for kind, row in summary["unplanted"].items():
        print(f"| {kind} | {row['n']} | {figure(row['significant'], row['significant_ci'])} |")
    print("\n| graft | part | tried | turned |\n|---|---|---|---|")
    for kind, grafts in summary["grafts"].items():
        for name, counts in grafts.items():
            print(f"| {kind} | {name} | {counts['tried']} | {counts['turned']} |")
    for kind, rows in summary["location"].items():
        for layer, row in rows.items():
            print(f"\n**{kind}**, {layer}, n = {row['n']}\n\n| ranking | IoU | mean rank |\n|---|---|---|")
            print(f"| chance | {row['chance_iou']:.2f} | {row['chance_rank']:.2f} |")
            for name, found in row["rankings"].items():
                print(
                    f"| {name} | {figure(found['iou'], found['iou_ci'])} | {figure(found['rank'], found['rank_ci'])} |"
                )


def figure(value: float, interval: list[float]) -> str:
    return f"{value:.2f} [{interval[0]:.2f}, {interval[1]:.2f}]"


if __name__ == "__main__":
    main()
