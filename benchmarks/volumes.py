"""Recognition of trained runs of one data set that were not clustered, with what `fer evaluate` says of unequal classes.

    python benchmarks/volumes.py RUN RUN RUN                        (on the test split)
    python benchmarks/volumes.py RUN RUN RUN --split validation     (to choose between recipes)

Prints Markdown, a line a run and their means: accuracy, AUC, balanced accuracy (the mean over classes), and both accuracies at
the threshold that is best for balanced accuracy on the validation samples.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from fer_cli.evaluation.recognition import recognise
from fer_cli.network.activations import predict_samples
from fer_cli.run import Run
from fer_cli.storage.run_paths import RunPaths
from fer_cli.studies.evaluate import accuracy_of

COLUMNS = ("accuracy", "AUC", "balanced", "threshold", "accuracy at it", "balanced at it")


def main(runs: list[Path], split: Annotated[str, typer.Option(help="test or validation.")] = "test") -> None:
    """Recognise."""
    print(f"| run | {' | '.join(COLUMNS)} |\n| {' | '.join(['---'] * (1 + len(COLUMNS)))} |")
    rows = []
    for folder in runs:
        run = Run(RunPaths.in_folder(folder), device=torch.device("cpu"), in_memory=True)
        row, majority = recognised(run, split)
        rows.append(row)
        print(f"| {folder.name} | {' | '.join(f'{value:.3f}' for value in row)} |", flush=True)
    print(f"| mean | {' | '.join(f'{value:.3f}' for value in np.mean(rows, axis=0))} |")
    print(f"\nAlways guessing the larger class: {majority:.3f}.")


def recognised(run: Run, split: str) -> tuple[list[float], float]:
    """The values of `COLUMNS`, NaN where there is no threshold, and the share of the larger class."""
    validation = run.model.read("validation/index")
    judged = validation if split == "validation" else run.voxels.indices(split)
    (held, held_labels), (found, labels) = (probabilities(run, indices) for indices in (validation, judged))
    said = recognise(found, labels, held, held_labels)
    accuracy = accuracy_of(found.argmax(1) != labels, labels)
    row = [accuracy["accuracy"], said["auc"], accuracy["class_accuracy"]]
    at = said["at_threshold"]
    row += [at["threshold"], at["accuracy"], at["class_accuracy"]] if at else [np.nan] * 3
    return row, said["majority"]


def probabilities(run: Run, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Class probabilities and labels of samples."""
    return predict_samples(run.network, run.voxels, indices), run.voxels.labels[indices]


if __name__ == "__main__":
    typer.run(main)
