"""Accuracy on the test split and fidelity of reconstructions of trained runs that were not clustered.

    python benchmarks/recognition.py RUN RUN RUN
    python benchmarks/recognition.py RUN RUN RUN --reconstruct RUN      (reconstructs with some of them only)

What `fer evaluate` finds of the same runs, without codebooks, which take longer than this at the paper's widths. Prints
Markdown. The test split is read, nothing is fitted.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fer_cli.evaluation.encoded import encode_samples
from fer_cli.evaluation.fidelity import Fidelity
from fer_cli.network.activations import batches, encode
from fer_cli.run import Run
from fer_cli.storage.run_paths import RunPaths
from fer_cli.studies.evaluate import accuracy_of, mean_reconstruction
from results import recognition_parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--reconstruct", type=Path, nargs="+", help="runs to reconstruct with; all of them")
    options = parser.parse_args()
    runs = [opened(folder) for folder in options.runs]
    decoding = [opened(folder) for folder in options.reconstruct] if options.reconstruct else runs
    print("\n\n".join(recognition_parts(recognise(runs, decoding))))


def opened(folder: Path) -> Run:
    """A run of which voxels and model are there."""
    return Run(RunPaths.in_folder(folder), device=torch.device("cpu"), in_memory=True)


def recognise(runs: list[Run], decoding: list[Run]) -> dict[str, Any]:
    """Accuracies of `runs` and the mean fidelity of `decoding` on the test split, by the names of `fer evaluate`."""
    voxels = runs[0].voxels
    test = voxels.indices("test")
    labels = np.tile(voxels.labels[test], len(runs))
    repeated = np.tile(voxels.repeats_training(test), len(runs))
    wrong = np.stack([encode_samples(run.network, voxels, test).wrong for run in runs])
    pooled = wrong.ravel()
    return {
        "runs": [
            {"seed": run.model.seed, **accuracy_of(of_run, voxels.labels[test])}
            for run, of_run in zip(runs, wrong, strict=True)
        ],
        **accuracy_of(pooled, labels),
        "per_class_accuracy": {
            name: float(1 - pooled[labels == label].mean()) for label, name in enumerate(voxels.classes)
        },
        "without_duplicates": accuracy_of(pooled[~repeated], labels[~repeated]),
        "reconstruction": mean_reconstruction([reconstruction(run) for run in decoding]),
    }


def reconstruction(run: Run) -> dict[str, Any]:
    """Fidelity of one run on the test split, by level and gates."""
    fidelity = Fidelity(run.network)
    for indices in batches(run.voxels.indices("test")):
        grids = run.voxels.tensor(indices)
        fidelity.add(grids, encode(run.network, grids))
    return fidelity.means()


if __name__ == "__main__":
    main()
