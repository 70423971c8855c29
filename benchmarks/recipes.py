"""Which recipe of the classifier generalises best: cross-validation over the training split, every shape held out once.

    python benchmarks/recipes.py voxels.h5 FOLDER --recipe "20 epochs" --fold 0     (trains one; skipped if it is there)
    python benchmarks/recipes.py voxels.h5 FOLDER --recipe … --others MODELNET40/voxels.h5      (for a pretrained one)
    python benchmarks/recipes.py voxels.h5 FOLDER                             (compares what there is)

A pretrained recipe starts from layers trained on the classes of ModelNet40 that these voxels do not have, so that no fold
has been seen before. That archive's shapes are solid and 24 voxels long; they are made as these are, 30 long and hollow.

The hold-out of one run has a tenth of the shapes, on which recipes that differ by a point cannot be told apart. Here
recipes meet on the same folds, all shapes count, and differences are paired. The test split is not read, except by

    python benchmarks/recipes.py voxels.h5 FOLDER --recipe … --seed 0 [--whole]

which trains on what `fer train --seed 0` trains on, with --whole on the held-out tenth too, and tells the accuracy on the
test split: for a recipe that is settled.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from scipy.ndimage import binary_erosion, generate_binary_structure

from fer_cli.data.augmentation import Augmentation
from fer_cli.data.dataset import VALIDATION_FRACTION, VoxelSet, hold_out, open_voxels
from fer_cli.evaluation.detection import weighted_metrics
from fer_cli.evaluation.resampling import draw_weights, interval
from fer_cli.network.activations import batches
from fer_cli.network.backbone import OUTPUT
from fer_cli.network.fer_cnn import FERCNN, PRESETS, NetworkConfig, explain_classifier
from fer_cli.network.loop import TrainingLoop
from fer_cli.network.phases import FeedforwardPhase, TrainingData, TrainingSettings
from fer_cli.network.precision import mixed_precision
from fer_cli.network.training import preset_settings
from fer_cli.network.views import VIEWS, Views
from variants import OwnMirrors, Poses, Proportions, mirrored, within

FOLDS = 4
PLAIN = Augmentation(shift=2, mirror=True)
WIDE = Augmentation(shift=2, mirror=True, rotation=10.0, stretch=0.3)
TURNED = Augmentation(shift=2, mirror=True, quarter_turns=True, rotation=10.0, stretch=0.15)
PRETRAINING = {"epochs": 15}
LOW = {"epochs": 20, "learning_rate": 5e-4}
RECIPES = {
    "10 epochs": {"epochs": 10},
    "10 epochs, mirrors and shifts": {"epochs": 10, "augmentation": PLAIN},
    "20 epochs": {"epochs": 20},
    "20 epochs, mirrors and shifts": {"epochs": 20, "augmentation": PLAIN},
    "10 epochs, sharpness 0.1": {"epochs": 10, "phase": within(0.1)},
    "10 epochs, sharpness 0.2": {"epochs": 10, "phase": within(0.2)},
    "20 epochs, pretrained": {"epochs": 20, "pretrained": True},
    "60 epochs": {"epochs": 60},
    "377 epochs": {"epochs": 377},
    "377 epochs, rate 0.0005": {"epochs": 377, "learning_rate": 5e-4},
    "20 epochs, rate 0.001": {"epochs": 20, "learning_rate": 1e-3},
    "20 epochs, rate 0.0005": LOW,
    "20 epochs, rate 0.0005, no smoothing": {**LOW, "label_smoothing": 0.0},
    "20 epochs, rate 0.0005, proportions 0.3": {**LOW, "augmentation": WIDE, "phase": Proportions},
    "20 epochs, rate 0.0005, no mirrors": {**LOW, "phase": mirrored(False, False)},
    "20 epochs, rate 0.0005, mirrored in x": {**LOW, "phase": mirrored(True, False)},
    "20 epochs, rate 0.0005, mirrored in y": {**LOW, "phase": mirrored(False, True)},
    "20 epochs, rate 0.0005, own mirrors": {**LOW, "phase": OwnMirrors},
    "40 epochs, rate 0.0005, own mirrors": {**LOW, "epochs": 40, "phase": OwnMirrors},
    "40 epochs, rate 0.0005, mirrored in y": {**LOW, "epochs": 40, "phase": mirrored(False, True)},
    "20 epochs, rate 0.0005, poses": {**LOW, "phase": Poses},
    "20 epochs, rate 0.0005, turns": {**LOW, "augmentation": TURNED},
    "20 epochs, rate 0.0005, turns, poses": {**LOW, "augmentation": TURNED, "phase": Poses},
    "residual, 10 epochs": {"preset": "residual"},
    "residual, 10 epochs, no smoothing": {"preset": "residual", "label_smoothing": 0.0},
    "paper, 8 epochs, rate 0.002": {"preset": "paper", "epochs": 8, "learning_rate": 2e-3},
    "paper, 8 epochs, rate 0.0007": {"preset": "paper", "epochs": 8, "learning_rate": 7e-4},
    "paper, 8 epochs, rate 0.0003": {"preset": "paper", "epochs": 8, "learning_rate": 3e-4},
}


def main(
    voxels: Path,
    folder: Path,
    recipe: Annotated[str, typer.Option(help="One of RECIPES; without, compare.")] = "",
    fold: int = 0,
    others: Annotated[Path | None, typer.Option(help="Voxels of ModelNet40, to pretrain on.")] = None,
    seed: Annotated[int | None, typer.Option(help="Train as fer train does, judge on the test split.")] = None,
    whole: Annotated[bool, typer.Option("--whole", help="With --seed: hold nothing out.")] = False,
) -> None:
    """Train one recipe on one fold, or compare all that were."""
    voxel_set = open_voxels(voxels, in_memory=True)
    if not recipe:
        _compare(voxel_set, folder)
        return
    training = voxel_set.indices("train")
    labels = voxel_set.labels[training]
    if seed is None:
        held = np.flatnonzero(_folds(labels) == fold)
        judged = training[held]
        result = _result(folder, recipe, fold)
    else:
        held = np.array([], dtype=int) if whole else hold_out(labels, VALIDATION_FRACTION, seed)[1]
        judged = voxel_set.indices("test")
        result = _result(folder, f"{recipe} {'whole' if whole else 'test'}", seed)
    if not result.exists():
        folder.mkdir(parents=True, exist_ok=True)
        data = TrainingData(voxel_set, np.delete(training, held), judged, torch.device("cpu"))
        _train(data, result, recipe, fold if seed is None else seed, others)


def _train(data: TrainingData, result: Path, recipe: str, seed: int, others: Path | None) -> None:
    given = dict(RECIPES[recipe])
    kind = given.pop("phase", FeedforwardPhase)
    layers = _pretrained(data.voxels, result.parent, others) if given.pop("pretrained", False) else {}
    settings = preset_settings(seed=seed, **{"preset": "compact", "label_smoothing": 0.1, **given})
    classifier, loop = _fit(data, result, settings, layers, kind)
    network, views = explain_classifier(classifier, alone=True), Views(VIEWS, settings.augmentation)
    with torch.no_grad(), mixed_precision(data.device):
        logits = [classifier(data.batch(indices)[0]).float() for indices in batches(data.validation)]
        means = [views.probabilities(network, data.batch(indices)[0]) for indices in batches(data.validation)]
    np.savez(result, index=data.validation, logits=torch.cat(logits).numpy(), views=np.concatenate(means))
    seconds = sum(record.seconds for record in loop.history)
    print(f"{result.stem}: accuracy {loop.history[-1].validation_score:.4f}, {seconds:.0f} s", flush=True)


def _fit(
    data: TrainingData,
    result: Path,
    settings: TrainingSettings,
    layers: dict[str, torch.Tensor],
    kind: type[FeedforwardPhase],
) -> tuple[FERCNN, TrainingLoop]:
    """A classifier trained from `layers`, where there are any, and the loop that did it."""
    voxel_set = data.voxels
    torch.manual_seed(settings.seed)
    config = NetworkConfig.to_train(PRESETS[settings.preset], voxel_set.classes, voxel_set.input)
    classifier = FERCNN(config, dropout=settings.dropout).to(memory_format=torch.channels_last_3d)
    classifier.load_state_dict(layers, strict=False)
    loop = TrainingLoop(data, settings, {}, {"voxels": voxel_set.id}, result.with_suffix(".checkpoint"), lambda _: None)
    loop.run_phase(kind(data, settings, classifier), None)
    loop.checkpoint.unlink()
    return classifier.eval(), loop


def _pretrained(voxel_set: VoxelSet, folder: Path, others: Path | None) -> dict[str, torch.Tensor]:
    """Layers below the output, trained on the other archive's other classes; kept in the folder."""
    path = folder / "pretrained.pt"
    if not path.exists():
        if others is None:
            raise SystemExit("a pretrained recipe needs --others, voxels of ModelNet40.")
        other_set = other_classes(open_voxels(others, in_memory=True), voxel_set.classes)
        kept, held = hold_out(other_set.labels, VALIDATION_FRACTION, 0)
        data = TrainingData(other_set, kept, held, torch.device("cpu"))
        classifier, _ = _fit(data, path, preset_settings("compact", **PRETRAINING), {}, FeedforwardPhase)
        torch.save(classifier.state_dict(), path)
    return {name: tensor for name, tensor in torch.load(path).items() if not name.startswith(f"blocks.{OUTPUT}.")}


def other_classes(others: VoxelSet, classes: tuple[str, ...]) -> VoxelSet:
    """The training shapes of classes that are not among `classes`, made 1.25 times as long and hollow."""
    chosen = others.indices("train")
    chosen = chosen[[others.classes[label] not in classes for label in others.labels[chosen]]]
    kinds = tuple(name for name in others.classes if name not in classes)
    middle = (others.input.shape[0] - 1) / 2
    places = np.clip(np.floor((np.arange(others.input.shape[0]) - middle) / 1.25 + middle + 0.5).astype(int), 0, None)
    grids = hollow(others.grids(chosen)[:, places][:, :, places][:, :, :, places])
    return replace(
        others,
        names=[others.names[i] for i in chosen],
        labels=np.array([kinds.index(others.classes[others.labels[i]]) for i in chosen]),
        splits=["train"] * len(chosen),
        classes=kinds,
        packed=np.packbits(grids.reshape(len(grids), -1), axis=1),
    )


def hollow(grids: np.ndarray) -> np.ndarray:
    """The grids without the voxels whose six neighbours are all occupied."""
    cross = generate_binary_structure(3, 1)[None]
    return (grids.astype(bool) & ~binary_erosion(grids, cross)).astype(np.uint8)


def _folds(labels: np.ndarray) -> np.ndarray:
    """Fold of each sample; every class is spread evenly over the folds."""
    folds = np.empty(len(labels), dtype=np.int64)
    generator = np.random.default_rng(0)
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        folds[members] = np.arange(len(members)) % FOLDS
    return folds


def _result(folder: Path, recipe: str, fold: int) -> Path:
    return folder / f"{recipe.replace(',', '').replace(' ', '-')}.{fold}.npz"


def _compare(voxel_set: VoxelSet, folder: Path) -> None:
    """A line a recipe, on the folds that all of them have; differences to the first."""
    found = {name: [f for f in range(FOLDS) if _result(folder, name, f).exists()] for name in RECIPES}
    found = {name: folds for name, folds in found.items() if folds}
    common = sorted(set.intersection(*(set(folds) for folds in found.values())))
    first = None
    print(f"folds {common}\n\n| recipe | accuracy | mean of classes | less the first | 95 % interval | cross-entropy |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in found:
        results = [np.load(_result(folder, name, fold)) for fold in common]
        index = np.concatenate([result["index"] for result in results])
        logits = np.concatenate([result["logits"] for result in results])
        labels = voxel_set.labels[index]
        right = (logits.argmax(1) == labels).astype(float)
        first = right if first is None else first
        entropy = float(torch.nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels)))
        difference, low, high = _mean_of_classes(right - first, labels)
        mean = _mean_of_classes(right, labels)[0]
        print(
            f"| {name} | {right.mean():.4f} | {mean:.4f} | {difference:+.4f} | {low:+.4f} – {high:+.4f} | {entropy:.3f} |"
        )
    for label, kind in enumerate(voxel_set.classes):
        shares = []
        for name in found:
            results = [np.load(_result(folder, name, fold)) for fold in common]
            wanted = [r["logits"].argmax(1)[voxel_set.labels[r["index"]] == label] == label for r in results]
            shares.append(f"{np.concatenate(wanted).mean():.3f}")
        print(kind, *shares)
    of_recipes = {name: [np.load(_result(folder, name, fold)) for fold in common] for name in found}
    _compare_alarms({name: folds for name, folds in of_recipes.items() if all("views" in f for f in folds)}, voxel_set)


def _compare_alarms(of_recipes: dict[str, list[Mapping[str, np.ndarray]]], voxel_set: VoxelSet) -> None:
    """How well mistakes are told: by maximum softmax, and by the mean over views of the predicted class's probability.

    Metrics are means over folds, since each fold has a network of its own; differences to the first are paired over samples.
    """
    first: dict[str, dict[str, np.ndarray]] = {}
    print("\n| recipe | score | metric | value | less the first | 95 % interval |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, folds in of_recipes.items():
        for score in ("softmax", "views"):
            parts = [_drawn_metrics(part, voxel_set.labels[part["index"]], score, at) for at, part in enumerate(folds)]
            drawn = {metric: np.mean([part[metric] for part in parts], axis=0) for metric in parts[0]}
            first.setdefault(score, drawn)
            for metric, values in drawn.items():
                less = values - first[score][metric]
                low, high = interval(less[1:]) or (np.nan, np.nan)
                print(f"| {name} | {score} | {metric} | {values[0]:.4f} | {less[0]:+.4f} | {low:+.4f} – {high:+.4f} |")


def _drawn_metrics(fold: Mapping[str, np.ndarray], labels: np.ndarray, score: str, seed: int) -> dict[str, np.ndarray]:
    """Accuracy, AUROC and AUGRC of a fold: of all samples, then of each draw of them."""
    logits = torch.from_numpy(fold["logits"]).double()
    predicted = logits.argmax(1).numpy()
    trust = logits.softmax(1).amax(1).numpy() if score == "softmax" else fold["views"][range(len(labels)), predicted]
    weights = np.concatenate([np.ones((1, len(labels)), np.int64), draw_weights(np.arange(len(labels)), seed=seed)])
    chosen = predicted if score == "softmax" else fold["views"].argmax(1)
    found = weighted_metrics(trust, predicted != labels, weights)
    return {"accuracy": weights @ (chosen == labels) / len(labels), **{key: found[key] for key in ("auroc", "augrc")}}


def _mean_of_classes(values: np.ndarray, labels: np.ndarray) -> tuple[float, float, float]:
    """Mean over classes of the classes' means, and its 95 % interval by a bootstrap within classes."""
    generator = np.random.default_rng(0)
    draws = np.zeros(2000)
    classes = np.unique(labels)
    for label in classes:
        members = values[labels == label]
        draws += generator.choice(members, (len(draws), len(members))).mean(1) / len(classes)
    mean = float(np.mean([values[labels == label].mean() for label in classes]))
    return mean, float(np.quantile(draws, 0.025)), float(np.quantile(draws, 0.975))


if __name__ == "__main__":
    typer.run(main)
