"""The alarm and the answers of runs on their test splits, a row a run: what `fer evaluate --planted` says of them, without the rest.

    python benchmarks/alarms.py RUN RUN …

Prints Markdown. Shares are those of p ≤ 0.05; beside that of all correct samples stands the worst class of thirty or more. *Valid* is the
95 % range of valid p-values for so many references. The best baseline is chosen on the split itself.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from fer_cli.evaluation.failures import detect_failures
from fer_cli.evaluation.false_alarms import false_alarms
from fer_cli.evaluation.pooled import Pool
from fer_cli.evaluation.resampling import draw_weights
from fer_cli.evaluation.results import FalseAlarms
from fer_cli.evaluation.scored import score_run
from fer_cli.evaluation.split_reading import read_split
from fer_cli.run import Run
from fer_cli.storage.run_paths import RunPaths
from fer_cli.studies.findings import answer_shares
from fer_cli.studies.planted import unplanted

SCORES = ("departure", "suspicion", "atypicality")
HEAD = "run, mistakes, references, departure, suspicion, atypicality, valid, AUROC, softmax, best baseline, difference, flagged, layer, input, correct: layer"
_FEWEST = 30


def main(runs: Annotated[list[Path], typer.Argument(help="Folders of runs.")]) -> None:
    """Measure."""
    names = HEAD.split(", ")
    print(f"| {' | '.join(names)} |\n|{'---|' * len(names)}")
    for folder in runs:
        run = Run(RunPaths.in_folder(folder), device=torch.device("cpu"), in_memory=True)
        print(f"| {folder.name} | {' | '.join(cells(run))} |", flush=True)


def cells(run: Run) -> list[str]:
    """The cells of one run, but for its name."""
    reading = read_split(run, "test")
    pool = Pool((score_run(run, reading),))
    detected = detect_failures(pool, draw_weights(pool.outcomes.index), repeated=True)
    found, alarms = detected["detection"], false_alarms([run], [reading])
    best = next(each for each in detected["comparisons"] if each["why"].endswith("this very split"))
    low, high = best["auroc"]["ci"] or (np.nan, np.nan)
    findings, _ = unplanted(run, run.measured_course(), run.voxels.indices("test"))
    answers, correct = answer_shares(findings, run.network.spec.layer_names), run.calibration.correct
    ranges = dict.fromkeys(f"{low:.3f} – {high:.3f}" for low, high in (alarms[s]["expected"] or () for s in SCORES))
    return [
        f"{pool.outcomes.wrong.sum()} of {len(pool.outcomes.wrong)}",
        f"{len(correct)}, {correct.sum()} correct",
        *(flagged(alarms[score]) for score in SCORES),
        ", ".join(ranges),
        f"{found['suspicion']['auroc']:.3f}",
        f"{found['max_softmax']['auroc']:.3f}",
        f"{best['theirs']} {found[best['theirs']]['auroc']:.3f}",
        f"{best['auroc']['difference']:+.3f} ({low:+.3f} – {high:+.3f})",
        f"{alarms['suspicion']['misclassified'][0]:.2f}",
        *(f"{answers['misclassified'][outcome][0]:.2f}" for outcome in ("layer", "input")),
        f"{answers['correct']['layer'][0]:.3f}",
    ]


def flagged(of_score: FalseAlarms) -> str:
    """The share of correct samples, and that of the worst class."""
    share, name = max((share or 0.0, name) for name, (share, n) in of_score["by_class"].items() if n and n >= _FEWEST)
    return f"{of_score['rate']:.3f} ({name} {share:.2f})"


if __name__ == "__main__":
    typer.run(main)
