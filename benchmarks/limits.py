"""What keeps the classifier from more: which test shapes are wrong by chance of the seed, and which are by their form.

Run: python benchmarks/limits.py RUN RUN …

Runs of one recipe and several seeds. Where errors came from the seed, the mean of the runs' probabilities would be right
much more often than one run; a shape that every run gets wrong is wrong for a reason that they share. For those the nearest
training shape, by voxel IoU, says whether the shape looks like the other class. The test split is read, nothing is fitted.
"""

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from fer_cli.network.dataset import VoxelSet
from fer_cli.network.encoded import encode_samples
from fer_cli.run import Run
from fer_cli.storage.run_paths import RunPaths


def main() -> None:
    """Print what is found, as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    runs = [Run(RunPaths.in_folder(f), device=torch.device("cpu"), in_memory=True) for f in parser.parse_args().runs]
    voxels = runs[0].voxels
    test = voxels.indices("test")
    labels = voxels.labels[test]
    logits = np.stack([encode_samples(run.network, voxels, test).logits for run in runs])
    predicted = logits.argmax(2)
    wrong = predicted != labels
    probabilities = torch.softmax(torch.from_numpy(logits), 2).mean(0).numpy()
    voted = probabilities.argmax(1)
    print(f"{len(runs)} runs, {len(test)} test shapes\n")
    print(
        f"accuracy of one run, mean: {1 - wrong.mean():.4f}; of the mean of their probabilities: {(voted == labels).mean():.4f}\n"
    )
    print("| runs that are wrong | shapes |\n| --- | --- |")
    counts = wrong.sum(0)
    for number in range(1, len(runs) + 1):
        print(f"| {number} | {(counts == number).sum()} |")
    always = np.flatnonzero(counts == len(runs))
    print(
        f"\nShapes that all runs get wrong: {len(always)}, {len(always) / max(wrong.sum(1).mean(), 1):.2f} of a run's errors\n"
    )
    pairs = Counter((voxels.classes[labels[i]], voxels.classes[voted[i]]) for i in always)
    print("| class | taken for | shapes |\n| --- | --- | --- |")
    for (own, other), number in pairs.most_common():
        print(f"| {own} | {other} | {number} |")
    training = voxels.indices("train")
    nearest = voxels.labels[training][nearest_shapes(voxels, test, training)]
    rest = np.flatnonzero(counts == 0)
    print("\n| class of the nearest training shape | wrong in all runs | right in all runs |\n| --- | --- | --- |")
    for what, classes in (("the label", labels), ("the class predicted", voted)):
        print(f"| {what} | {(nearest == classes)[always].mean():.2f} | {(nearest == classes)[rest].mean():.2f} |")


def nearest_shapes(voxels: VoxelSet, wanted: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Position in `among` of the shape with the highest voxel IoU, for each of `wanted`."""
    best = np.full(len(wanted), -1.0)
    found = np.zeros(len(wanted), dtype=np.int64)
    own = voxels.tensor(wanted).flatten(1)
    for start in range(0, len(among), 256):
        part = voxels.tensor(among[start : start + 256]).flatten(1)
        common = (own @ part.T).numpy()
        iou = common / (own.sum(1).numpy()[:, None] + part.sum(1).numpy() - common)
        better = iou.max(1) > best
        found[better] = start + iou.argmax(1)[better]
        best[better] = iou.max(1)[better]
    return found


if __name__ == "__main__":
    main()
