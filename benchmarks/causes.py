"""Causes that need training again: subtypes left out of training, and training labels changed.

    python benchmarks/causes.py voxels.h5 FOLDER --seed 0          (trains, clusters, and writes FOLDER/causes-0.json)

Of each class the training shapes are divided into subtypes by k-means of their grids at an eighth of the resolution.
One subtype in each of `LEFT_OUT` classes is left out of training; test shapes belong to the subtype whose centre is
nearest. What is left out joins the test split, as shapes that no network here has seen: the batch of failures that a
user meets. At the same time 3 % of the labels that stay are changed to other classes. The small residual network is
trained on the rest, by its preset. A classifier is also trained with nothing left out: of the test split proper a
planting counts where it recognises the sample, so that the gap made the mistake. Told are: the causes named for
misclassified test shapes of subtypes left out, for the misclassified training shapes left out, and for the other
mistakes; whether a group holds mostly one subtype (its ten first), against the cell of the confusion matrix, of
subtypes with three mistakes or more, as a group has; and precision and recall of the search for changed training
labels, against cleanlab's on the same cross-fitted probabilities where that is installed. Doses and subtypes are fixed
here, by seed, before anything is measured.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from sklearn.cluster import KMeans
from torch.nn import functional

import fer_cli as fer
from fer_cli.artifacts import RunArtifacts
from fer_cli.calibration.calibrate import calibrated, views_of_run
from fer_cli.codebooks.clustering import cluster_network
from fer_cli.data.dataset import VoxelSet, open_voxels
from fer_cli.diagnosis.diagnosis import Diagnosis
from fer_cli.evaluation.encoded import local_features
from fer_cli.evaluation.label_issues import cross_fitted_probabilities
from fer_cli.network.activations import batches, predict
from fer_cli.network.training import TrainingSettings, preset_settings, train
from fer_cli.storage.run_paths import RunPaths
from fer_cli.studies.causes import explain_mistakes, questionable_training_labels, score_of
from fer_cli.studies.groups import group_mistakes

SUBTYPES = 5
LEFT_OUT = 5
CHANGED = 0.03
SMALLEST, LARGEST = 0.08, 0.35
"""Share of its class that a subtype has at least, and at most."""
FIRST = 10
FEWEST = 3
PURE = 0.8


def coarse(voxels: VoxelSet, indices: np.ndarray) -> np.ndarray:
    """Grids at an eighth of the resolution, flattened."""
    parts = [functional.avg_pool3d(voxels.tensor(part), 8).flatten(1).numpy() for part in batches(indices)]
    return np.concatenate(parts)


def choose_subtypes(voxels: VoxelSet, seed: int) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """By class, the training and the test samples of the subtype that is left out."""
    generator = np.random.default_rng(seed)
    chosen: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    train_all, test_all = voxels.indices("train"), voxels.indices("test")
    for klass in generator.permutation(len(voxels.classes)).tolist():
        train_of = train_all[voxels.labels[train_all] == klass]
        test_of = test_all[voxels.labels[test_all] == klass]
        means = KMeans(SUBTYPES, n_init=4, random_state=seed).fit(coarse(voxels, train_of))
        shares = np.bincount(means.labels_, minlength=SUBTYPES) / len(train_of)
        fit = np.flatnonzero((shares >= SMALLEST) & (shares <= LARGEST))
        if not len(fit) or len(chosen) == LEFT_OUT:
            continue
        subtype = int(generator.choice(fit))
        of_test = test_of[means.predict(coarse(voxels, test_of)) == subtype]
        chosen[klass] = (train_of[means.labels_ == subtype], of_test)
    return chosen


def main(
    voxels: Annotated[Path, typer.Argument(help="Voxels of shapes with a training and a test split.")],
    folder: Path,
    seed: int = 0,
    epochs: Annotated[int | None, typer.Option(help="Of the classifier; default: the preset's.")] = None,
) -> None:
    """Train on planted gaps and labels, and measure what is named."""
    generator = np.random.default_rng(seed)
    whole = open_voxels(voxels)
    subtypes = choose_subtypes(whole, seed)
    missing = np.concatenate([of_train for of_train, _ in subtypes.values()])
    kept = np.setdiff1d(whole.indices("train"), missing)
    labels = whole.labels.copy()
    changed = np.sort(generator.permutation(kept)[: round(CHANGED * len(kept))])
    for index in changed:
        labels[index] = generator.choice([klass for klass in range(len(whole.classes)) if klass != labels[index]])

    chosen = {"seed": seed, **({"epochs": epochs} if epochs else {})}
    everything = RunPaths.in_folder(folder / f"causes-{seed}-all")
    _train(whole, whole.indices("train"), labels, everything, preset_settings("residual", feedback_epochs=0, **chosen))
    paths = RunPaths.in_folder(folder / f"causes-{seed}")
    _train(whole, kept, labels, paths, preset_settings("residual", feedback_epochs=3, **chosen))
    if not paths.calibration.exists():
        views = views_of_run(paths.model)
        cluster_network(
            paths.voxels,
            paths.model,
            paths.codebook,
            k=None,
            seed=seed,
            device=torch.device("cpu"),
            calibrate=lambda *given: calibrated(paths.calibration, *given, views=views),
            force=True,
        )
    run = RunArtifacts(paths, device=torch.device("cpu"), in_memory=True)
    reference = RunArtifacts(everything, device=torch.device("cpu"))
    indices, wrong = _tested(reference)
    recognised = {reference.voxels.names[index] for index in indices[~wrong]}
    found = measure(run, _named(whole, subtypes), recognised, [whole.names[index] for index in changed])
    text = json.dumps(found, indent=2)
    (folder / f"causes-{seed}.json").write_text(text + "\n", encoding="utf-8")
    print(text)


def _train(whole: VoxelSet, kept: np.ndarray, labels: np.ndarray, paths: RunPaths, settings: TrainingSettings) -> None:
    """Train on these samples with these labels, unless that was done before."""
    if paths.model.exists():
        return

    def items(indices: np.ndarray) -> list[tuple[np.ndarray, int, str]]:
        return [(whole.volumes([index])[0], int(labels[index]), whole.names[index]) for index in indices]

    unseen = np.setdiff1d(np.arange(len(whole.labels)), whole.indices("train"))
    others = np.setdiff1d(whole.indices("train"), kept)
    fer.save_volumes(paths.voxels, items(kept), test=items(unseen) + items(others), classes=whole.classes, force=True)
    train(paths.voxels, paths.model, settings, device=torch.device("cpu"), force=True)


def _tested(run: RunArtifacts) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the test samples, and for each whether the run misclassifies it."""
    indices = run.voxels.indices("test")
    said = np.concatenate([predict(run.network, run.voxels.tensor(part)) for part in batches(indices)]).argmax(axis=1)
    return indices, said != run.voxels.labels[indices]


def _named(whole: VoxelSet, subtypes: dict[int, tuple[np.ndarray, np.ndarray]]) -> dict[str, tuple[set[str], set[str]]]:
    """By class, the subtype that is left out: the names of its training samples, and those of its test samples."""
    return {
        whole.classes[klass]: ({whole.names[i] for i in of_train}, {whole.names[i] for i in of_test})
        for klass, (of_train, of_test) in subtypes.items()
    }


def measure(
    run: RunArtifacts, subtypes: dict[str, tuple[set[str], set[str]]], recognised: set[str], changed: list[str]
) -> dict[str, object]:
    """What is named for the subtypes left out, how groups hold them, and how well changed labels are found.

    `recognised` names the test samples that a network trained without any of this classifies correctly: of the test
    split proper, only mistakes on these are counted as due to what was left out.
    """
    indices, wrong = _tested(run)
    mistakes = explain_mistakes(run, indices[wrong])
    groups = group_mistakes(run, mistakes, indices[~wrong])
    by_name = {found.sample: found for found in mistakes.values()}
    left_out = set().union(*(of_train for of_train, _ in subtypes.values()))
    proper = np.array([run.voxels.names[index] not in left_out for index in indices])
    rows, of_subtypes = [], set()
    for klass, (of_train, of_test) in subtypes.items():
        members = of_train | of_test
        of_subtypes |= members
        cells: dict[str, list[str]] = {}
        for found in mistakes.values():
            if found.label == klass:
                cells.setdefault(found.predicted, []).append(found.sample)
        own = [group["samples"] for group in groups if group["true"] == klass]
        rows.append(
            {
                "class": klass,
                "left_out": len(of_train),
                "test": len(of_test),
                "misclassified": len(members & by_name.keys()),
                "named": _causes(by_name, of_test & recognised),
                "left_out_named": _causes(by_name, of_train),
                "purest_group": _purest(own, members),
                "purest_cell": _purest([sorted(cell) for cell in cells.values()], members),
            }
        )
    enough = [row for row in rows if row["misclassified"] >= FEWEST]
    return {
        "accuracy": float(1 - wrong[proper].mean()),
        "subtypes": rows,
        "gap": _gaps([row["named"] for row in rows]),
        "gap_left_out": _gaps([row["left_out_named"] for row in rows]),
        "others": dict(Counter(found.cause.name for name, found in by_name.items() if name not in of_subtypes)),
        "pure": {kind: score_of([row[kind][0] >= PURE for row in enough]) for kind in ("purest_group", "purest_cell")},
        "training_labels": _labels_found(run, changed),
    }


def _causes(mistakes: dict[str, Diagnosis], names: set[str]) -> dict[str, int]:
    """How often each cause is named for the misclassified ones among these samples."""
    return dict(Counter(mistakes[name].cause.name for name in sorted(names & mistakes.keys())))


def _gaps(named: list[dict[str, int]]) -> dict[str, object]:
    return dict(score_of([name == "gap" for causes in named for name, count in causes.items() for _ in range(count)]))


def _purest(groups: list[list[str]], members: set[str]) -> tuple[float, int]:
    """Share of the subtype among the ten first of the purest of these groups of three at least, and the group's size."""
    found = [
        (float(np.mean([name in members for name in group[:FIRST]])), len(group))
        for group in groups
        if len(group) >= FEWEST
    ]
    return max(found, default=(0.0, 0))


def _labels_found(run: RunArtifacts, changed: list[str]) -> dict[str, object]:
    ours = _precision_recall(questionable_training_labels(run), changed)
    try:
        from cleanlab.filter import find_label_issues
    except ImportError:
        return {"ours": ours}
    training = run.voxels.indices("train")
    features = local_features(run.network, run.voxels, training)
    labels = run.voxels.labels[training]
    issues = find_label_issues(labels, cross_fitted_probabilities(features, labels), n_jobs=1)
    return {"ours": ours, "cleanlab": _precision_recall([run.voxels.names[i] for i in training[issues]], changed)}


def _precision_recall(suspects: list[str], changed: list[str]) -> dict[str, object]:
    hits = len(set(suspects) & set(changed))
    return {
        "suspects": len(suspects),
        "changed": len(changed),
        "precision": score_of([True] * hits + [False] * (len(suspects) - hits)),
        "recall": score_of([True] * hits + [False] * (len(changed) - hits)),
    }


if __name__ == "__main__":
    typer.run(main)
