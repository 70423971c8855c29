"""What keeps the classifier from more: which test shapes are wrong by chance of the seed, and which are by their form.

Run: python benchmarks/limits.py RUN RUN …

Runs of one recipe and several seeds. Prints Markdown:

- the validation shapes against the test shapes: accuracy, the same with classes weighted as in the test split, and how
  near the nearest of the shapes trained on is, by voxel IoU;
- how many runs get the same test shape wrong, and what the mean of their probabilities gets right: where errors came from
  the seed, that would be right much more often than one run;
- of the shapes that every run gets wrong, what they are taken for, and whether they look like it: the class of the
  nearest training shape;
- of every class, how long its shapes are and how many stand on a square, in the training and in the test split.

The test split is read, nothing is fitted.
"""

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from fer_cli.data.dataset import VoxelSet
from fer_cli.evaluation.encoded import encode_samples
from fer_cli.run import Run
from fer_cli.storage.run_paths import RunPaths


def main() -> None:
    """Print what is found, as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    folders = parser.parse_args().runs
    runs = [Run(RunPaths.in_folder(folder), device=torch.device("cpu"), in_memory=True) for folder in folders]
    voxels = runs[0].voxels
    test = voxels.indices("test")
    logits = np.stack([encode_samples(run.network, voxels, test).logits for run in runs])
    print(f"{len(runs)} runs, {len(test)} test shapes\n")
    print_splits(runs, logits)
    print_errors(voxels, test, logits)
    print_proportions(voxels)


def print_splits(runs: list[Run], logits: np.ndarray) -> None:
    """Validation against test, a line each, means over the runs."""
    voxels = runs[0].voxels
    training, test = voxels.indices("train"), voxels.indices("test")
    shares = np.bincount(voxels.labels[test], minlength=len(voxels.classes)) / len(test)
    rows: dict[str, list[tuple[float, ...]]] = {"validation": [], "test": []}
    for run, of_test in zip(runs, logits, strict=True):
        held = run.model.read("validation/index")
        trained = np.setdiff1d(training, held)
        of_held = encode_samples(run.network, voxels, held).logits
        for name, index, found in (("validation", held, of_held), ("test", test, of_test)):
            labels = voxels.labels[index]
            right = found.argmax(1) == labels
            weighted = sum(share * right[labels == label].mean() for label, share in enumerate(shares))
            nearest, iou = nearest_shapes(voxels, index, trained)
            alike = voxels.labels[trained][nearest] == labels
            rows[name].append((right.mean(), weighted, float(np.median(iou)), alike.mean()))
    print(
        "| shapes | accuracy | classes weighted as in test | median IoU with the nearest | the nearest has the class |"
    )
    print("| --- | --- | --- | --- | --- |")
    for name, values in rows.items():
        accuracy, weighted, iou, alike = np.mean(values, axis=0)
        print(f"| {name} | {accuracy:.4f} | {weighted:.4f} | {iou:.3f} | {alike:.3f} |")


def print_errors(voxels: VoxelSet, test: np.ndarray, logits: np.ndarray) -> None:
    """Which errors the runs share."""
    labels = voxels.labels[test]
    wrong = logits.argmax(2) != labels
    voted = torch.softmax(torch.from_numpy(logits), 2).mean(0).argmax(1).numpy()
    print(
        f"\nAccuracy of one run, mean: {1 - wrong.mean():.4f}; of the mean probabilities: {(voted == labels).mean():.4f}\n"
    )
    print("| wrong in so many runs | shapes |\n| --- | --- |")
    counts = wrong.sum(0)
    for number in range(1, len(logits) + 1):
        print(f"| {number} | {(counts == number).sum()} |")
    always, never = counts == len(logits), counts == 0
    print(f"\nWrong in all: {always.sum()}, {always.sum() / max(wrong.sum(1).mean(), 1):.2f} of a run's errors\n")
    pairs = Counter((voxels.classes[labels[i]], voxels.classes[voted[i]]) for i in np.flatnonzero(always))
    print("| class | taken for | shapes |\n| --- | --- | --- |")
    for (own, other), number in pairs.most_common():
        print(f"| {own} | {other} | {number} |")
    training = voxels.indices("train")
    nearest = voxels.labels[training][nearest_shapes(voxels, test, training)[0]]
    print("\n| the nearest training shape has | wrong in all runs | right in all runs |\n| --- | --- | --- |")
    for what, classes in (("the class", labels), ("the class predicted", voted)):
        print(f"| {what} | {(nearest == classes)[always].mean():.2f} | {(nearest == classes)[never].mean():.2f} |")


def print_proportions(voxels: VoxelSet) -> None:
    """Proportions of each class's shapes in both splits."""
    found = {split: proportions(voxels, split) for split in ("train", "test")}
    print("\n| class | median x × y × z, train | test | on a square, train | test |\n| --- | --- | --- | --- | --- |")
    for label, name in enumerate(voxels.classes):
        (trained, of_training), (tested, of_test) = ((row[label][0], row[label][1]) for row in found.values())
        lengths = (" × ".join(f"{length:.0f}" for length in row) for row in (trained, tested))
        print(f"| {name} | {' | '.join(lengths)} | {of_training:.2f} | {of_test:.2f} |")


def proportions(voxels: VoxelSet, split: str) -> list[tuple[np.ndarray, float]]:
    """Of each class the median extents along x, y and z in voxels, and the share whose x and y are the same."""
    chosen = voxels.indices(split)
    grids, labels = voxels.grids(chosen), voxels.labels[chosen]
    sides = []
    for others in ((2, 3), (1, 3), (1, 2)):
        occupied = grids.any(axis=others)
        sides.append(occupied.shape[1] - occupied[:, ::-1].argmax(1) - occupied.argmax(1))
    lengths = np.stack(sides, axis=1)
    square = lengths[:, 0] == lengths[:, 1]
    return [
        (np.median(lengths[labels == c], axis=0), float(square[labels == c].mean())) for c in range(labels.max() + 1)
    ]


def nearest_shapes(voxels: VoxelSet, wanted: np.ndarray, among: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each of `wanted` the position in `among` of the shape with the highest voxel IoU, and that IoU."""
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
    return found, best


if __name__ == "__main__":
    main()
