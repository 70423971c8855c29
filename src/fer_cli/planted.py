"""Faults of known place, planted to see whether blame finds them.

- `graft`: the back of a chair is put on a table; kept where the network then says chair. Known is where in the input.
- `feature`: a block of locations of one layer is moved towards the features of a sample of another class until the
  prediction turns. Known are layer and locations.
- `weight`: noise on the weights of one layer, doubled until the network's accuracy falls below 0.7 of what it was.
  Known is the layer.

Receivers are correctly classified samples that the network was not trained on. Everything is told to the rules that is
told of a real mistake whose label is known. `plant_faults` measures one run, `summarise_planted` pools runs.
"""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from fer_cli.activations import FEEDFORWARD, batches, encode
from fer_cli.attribution import rankings
from fer_cli.blame import turning_point
from fer_cli.dataset import VoxelSet
from fer_cli.donors import Donors
from fer_cli.model import OUTPUT, Features, FERNet, NetworkConfig
from fer_cli.receptive import receptive_field
from fer_cli.repair_study import repair_layers
from fer_cli.replacement import Replacement, highest
from fer_cli.resampling import mean_with_interval, shape_weights
from fer_cli.run import Run

GRAFT, FEATURE, WEIGHT = "graft", "feature", "weight"
RECEIVER, DONOR = "table", "chair"
"""Classes of a graft."""
MOVES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
"""How far towards the other sample's features; beyond 1 on the same straight line."""
NOISES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Standard deviation of weight noise, in those of the layer's weights."""
_FALLEN = 0.7
_PLATE = 0.5
_WEIGHT_SAMPLES = 64


@dataclass(frozen=True)
class Finding:
    """One planted fault: which layer was planted and which blamed (indices, None where not known or not asked).

    `overlap` and `rank` are, for each ranking, the IoU of the true locations with as many of the highest score, and the
    mean rank of the true ones among all, from 0 (first) to 1; `share` is how many of the layer's locations are true.
    """

    kind: str
    shape: str
    layer: str
    planted: int | None = None
    blamed: int | None = None
    share: float = math.nan
    overlap: dict[str, float] = field(default_factory=dict)
    rank: dict[str, float] = field(default_factory=dict)


def plant_faults(
    run: Run, *, per_layer: int = 20, grafts: int = 30, split: str = "test", seed: int = 0
) -> list[Finding]:
    """Plant `per_layer` feature faults at every layer, weight faults at every layer, and so many grafts, and look."""
    network, voxels = run.network, run.voxels
    generator = np.random.default_rng(seed)
    indices = run.model.read("validation/index") if split == "validation" else voxels.indices(split)
    predicted = _predict(network, voxels, indices)
    right = indices[predicted == voxels.labels[indices]]
    donors = Donors(network, run.codebook, voxels, repair_layers(network.config))
    return [
        *_feature_faults(run, donors, right, per_layer, generator),
        *_weight_faults(run, right, generator),
        *_graft_faults(run, donors, right, grafts, generator),
    ]


def graft_part(
    receiver: UInt8[np.ndarray, "x y z"], giver: UInt8[np.ndarray, "x y z"]
) -> tuple[UInt8[np.ndarray, "x y z"], Bool[np.ndarray, "x y z"]] | None:
    """The receiver with what the giver has above its seat, and which voxels came new; None where it does not fit.

    The seat, or the table's top, is the highest slice that has at least half as many voxels as the fullest slice of the
    lower three quarters of the shape. The part keeps its place relative to the middle of the shape below it, in x
    and y, at the nearest place where it lies within the receiver's extent.
    """
    seat, top = _plate(giver), _plate(receiver)
    if seat is None or top is None:
        return None
    part = np.argwhere(giver[:, :, seat + 1 :])
    if len(part) < 8:
        return None
    placed = part.copy()
    placed[:, 2] += top + 1
    for axis in (0, 1):
        ours, theirs = (np.flatnonzero(grid.any(axis=(1 - axis, 2))) for grid in (receiver, giver))
        behind = part[:, axis].mean() > theirs.mean()
        edge = ours[-1] - part[:, axis].max() if behind else ours[0] - part[:, axis].min()
        middle = round(ours.mean() - part[:, axis].mean())
        apart = abs(part[:, axis].mean() - theirs.mean()) > (theirs[-1] - theirs[0]) / 4
        placed[:, axis] += edge if apart else middle
    inside = ((placed >= 0) & (placed < receiver.shape[0])).all(axis=1)
    if inside.mean() < 0.9:
        return None
    placed = placed[inside]
    grafted = receiver.copy()
    grafted[tuple(placed.T)] = 1
    return grafted, (grafted > 0) & (receiver == 0)


def locations_over(
    config: NetworkConfig, layer: str, voxels: Bool[np.ndarray, "x y z"]
) -> Bool[np.ndarray, " location"]:
    """Locations of a layer in the middle of whose receptive field some of the voxels lie.

    The middle is as wide as the layer's step, so that the middles fill the grid side by side: whole receptive fields of
    a high layer all overlap almost anything.
    """
    index, shape = config.index(layer), config.level_shape(layer)[1:]
    steps = [math.ceil(side / cells) for side, cells in zip(voxels.shape, shape, strict=True)]
    return np.array(
        [
            voxels[tuple(slice(at * step, (at + 1) * step) for at, step in zip(location, steps, strict=True))].any()
            and all(low <= at * step < high for (low, high), at, step in zip(box, location, steps, strict=True))
            for location in product(range(shape[0]), range(shape[1]), range(shape[2]))
            for box in [receptive_field(config.specs, index, location, config.input_shape)]
        ]
    )


def _plate(grid: UInt8[np.ndarray, "x y z"]) -> int | None:
    counts = grid.sum(axis=(0, 1), dtype=np.int64)
    heights = np.flatnonzero(counts)
    if not len(heights):
        return None
    low = heights[heights <= heights[0] + 0.75 * (heights[-1] - heights[0])]
    full = heights[counts[heights] >= _PLATE * counts[low].max()]
    return int(full[-1])


def _predict(network: FERNet, voxels: VoxelSet, indices: Int[np.ndarray, " sample"]) -> Int[np.ndarray, " sample"]:
    parts = [
        encode(network, voxels.tensor(part))[OUTPUT].flatten(1).argmax(1).cpu().numpy() for part in batches(indices)
    ]
    return np.concatenate(parts)


def _blamed(run: Run, features: Features, wrong: int, true: int) -> int:
    """The layer that blame's rule names, given the features of one sample."""
    codebook, differences = run.codebook, []
    for layer, worth in run.temperatures.evidence[FEEDFORWARD].items():
        codes = codebook.layer(FEEDFORWARD, layer).assign(features[layer])
        evidence = codebook.evidence(FEEDFORWARD, layer, codes)[0].sum(axis=0)
        differences.append(float(evidence[wrong] - evidence[true]) / worth)
    return turning_point(differences)[0]


def _located(
    run: Run,
    donors: Donors,
    features: Features,
    grid: Float[Tensor, "1 1 x y z"],
    layer: str,
    truth: Bool[np.ndarray, " location"],
    *,
    wrong: int,
    true: int,
) -> tuple[dict[str, float], dict[str, float]]:
    """IoU and mean rank of the true locations by every ranking."""
    feature = features[layer].clone()
    donor = donors.find(layer, feature, np.array([true])).feature
    edit = Replacement(run.network.encoder, layer, feature, donor, torch.tensor([true]), torch.tensor([wrong]))
    empty = encode(run.network, torch.zeros_like(grid))[layer]
    wanted = torch.from_numpy(truth)
    overlap, rank = {}, {}
    for name, ranking in rankings(run.codebook, grid, empty).items():
        score = ranking(edit).cpu()
        found = highest(score, int(truth.sum()))[0]
        overlap[name] = float((found & wanted).sum() / (found | wanted).sum())
        order = torch.argsort(torch.argsort(score[0], descending=True, stable=True))
        rank[name] = float(order[wanted].float().mean() / max(1, len(order) - 1))
    return overlap, rank


def _feature_faults(
    run: Run, donors: Donors, right: Int[np.ndarray, " sample"], per_layer: int, generator: np.random.Generator
) -> Iterator[Finding]:
    network, voxels, config = run.network, run.voxels, run.network.config
    names = config.layer_names[:-1]
    for number, layer in enumerate(names):
        shape = config.level_shape(layer)[1:]
        for receiver in generator.permutation(right)[:per_layer].tolist():
            others = right[voxels.labels[right] != voxels.labels[receiver]]
            if not len(others):
                continue
            other = int(generator.choice(others))
            grid = voxels.tensor([receiver])
            features, theirs = encode(network, grid), encode(network, voxels.tensor([other]))[layer]
            block = _block(shape, generator)
            moved = _moved(network, layer, features[layer], theirs, block, int(voxels.labels[receiver]))
            if moved is None:
                continue
            planted = _above(network, layer, features, moved)
            wrong, true = int(planted[OUTPUT].argmax()), int(voxels.labels[receiver])
            where: tuple[dict[str, float], dict[str, float]] = ({}, {})
            if math.prod(shape) > 1:
                where = _located(run, donors, planted, grid, layer, block.ravel(), wrong=wrong, true=true)
            blamed = _blamed(run, planted, wrong, true)
            yield Finding(FEATURE, voxels.names[receiver], layer, number, blamed, float(block.mean()), *where)


def _block(shape: tuple[int, ...], generator: np.random.Generator) -> Bool[np.ndarray, "x y z"]:
    """A cube of half the layer's extent along each axis, somewhere."""
    edges = [max(1, side // 2) for side in shape]
    starts = [int(generator.integers(0, side - edge + 1)) for side, edge in zip(shape, edges, strict=True)]
    block = np.zeros(shape, bool)
    block[tuple(slice(start, start + edge) for start, edge in zip(starts, edges, strict=True))] = True
    return block


@torch.inference_mode()
def _moved(
    network: FERNet, layer: str, own: Tensor, other: Tensor, block: Bool[np.ndarray, "x y z"], true: int
) -> Tensor | None:
    """The feature with its block moved as little as turns the prediction; None if nothing does."""
    mask = torch.from_numpy(block).to(own.device)
    for share in MOVES:
        # A feature is what a ReLU lets through.
        moved = torch.where(mask, own + share * (other - own), own).clamp(min=0)
        if int(network.encoder.logits_from(layer, moved).argmax()) != true:
            return moved
    return None


@torch.inference_mode()
def _above(network: FERNet, layer: str, features: Features, moved: Tensor) -> Features:
    """The features with `moved` at a layer, and what follows from it above."""
    found, names = dict(features), list(network.encoder.blocks)
    found[layer] = feature = moved
    for name in names[names.index(layer) + 1 :]:
        feature = network.encoder.blocks[name](feature)
        found[name] = feature
    found[OUTPUT] = torch.softmax(feature.float(), dim=1)[:, :, None, None, None]
    return found


def _weight_faults(run: Run, right: Int[np.ndarray, " sample"], generator: np.random.Generator) -> Iterator[Finding]:
    voxels = run.voxels
    chosen = np.sort(generator.permutation(right)[:_WEIGHT_SAMPLES])
    grids = voxels.tensor(chosen)
    seed = int(generator.integers(1 << 31))
    for number, layer in enumerate(run.network.config.layer_names):
        for noise in NOISES:
            faulty = _with_noise(run.network, layer, noise, seed + number)
            features = encode(faulty, grids)
            predicted = features[OUTPUT].flatten(1).argmax(1).cpu().numpy()
            wrong = np.flatnonzero(predicted != voxels.labels[chosen])
            if len(wrong) > (1 - _FALLEN) * len(chosen):
                break
        for row in wrong:
            one = {name: feature[row : row + 1] for name, feature in features.items()}
            blamed = _blamed(run, one, int(predicted[row]), int(voxels.labels[chosen[row]]))
            yield Finding(WEIGHT, voxels.names[chosen[row]], layer, number, blamed)


def _with_noise(network: FERNet, layer: str, noise: float, seed: int) -> FERNet:
    faulty = copy.deepcopy(network)
    generator = torch.Generator().manual_seed(seed)
    for weight in faulty.encoder.blocks[layer].parameters():
        if weight.dim() > 1:  # of the layer itself, not of its norm
            drawn = torch.randn(weight.shape, generator=generator).to(weight)
            weight.data += noise * weight.std() * drawn
    return faulty


def _graft_faults(
    run: Run, donors: Donors, right: Int[np.ndarray, " sample"], most: int, generator: np.random.Generator
) -> Iterator[Finding]:
    network, voxels, config = run.network, run.voxels, run.network.config
    if not {RECEIVER, DONOR} <= set(voxels.classes):
        return
    true, wrong = voxels.classes.index(RECEIVER), voxels.classes.index(DONOR)
    receivers = generator.permutation(right[voxels.labels[right] == true])
    givers = generator.permutation(right[voxels.labels[right] == wrong])
    done = 0
    for receiver, giver in zip(receivers, np.resize(givers, len(receivers)) if len(givers) else [], strict=False):
        grafted = graft_part(*voxels.grids([int(receiver), int(giver)]))
        if grafted is None:
            continue
        grid = torch.from_numpy(grafted[0]).float()[None, None]
        features = encode(network, grid)
        if int(features[OUTPUT].argmax()) != wrong:
            continue
        for layer in repair_layers(config):
            truth = locations_over(config, layer, grafted[1])
            if truth.any():
                where = _located(run, donors, features, grid, layer, truth, wrong=wrong, true=true)
                yield Finding(GRAFT, voxels.names[receiver], layer, None, None, float(truth.mean()), *where)
        done += 1
        if done == most:
            return


def summarise_planted(findings: Sequence[Finding], *, layers: Sequence[str], seed: int = 0) -> dict[str, Any]:
    """Figures of the faults of one run or of several pooled, with 95 % intervals over shapes.

    `hit` is the share of faults whose layer was blamed, `near` counts the layers beside it too; `chance` is that of a
    guess. Of locations: IoU and mean rank by layer and ranking, with what a random choice would have.
    """
    answer: dict[str, Any] = {"layer": {}, "location": {}}
    for kind in (FEATURE, WEIGHT):
        rows = [found for found in findings if found.kind == kind]
        for name in ("all", *layers):
            some = [found for found in rows if name in ("all", found.layer)]
            if some:
                answer["layer"].setdefault(kind, {})[name] = _layer_hits(some, len(layers), seed)
    for kind in (GRAFT, FEATURE):
        for layer in layers:
            some = [found for found in findings if found.kind == kind and found.layer == layer and found.overlap]
            if some:
                answer["location"].setdefault(kind, {})[layer] = _location_scores(some, seed)
    return answer


def _layer_hits(rows: Sequence[Finding], layers: int, seed: int) -> dict[str, Any]:
    weights = shape_weights([found.shape for found in rows], seed=seed)
    away = np.array([abs((found.blamed or 0) - (found.planted or 0)) for found in rows])
    result: dict[str, Any] = {"n": len(rows), "chance": 1 / layers}
    for name, hit in (("hit", away == 0), ("near", away <= 1)):
        values = hit.astype(np.float64)
        result[name], result[f"{name}_ci"] = mean_with_interval(values, weights)
    return result


def _location_scores(rows: Sequence[Finding], seed: int) -> dict[str, Any]:
    weights = shape_weights([found.shape for found in rows], seed=seed)
    share = np.array([found.share for found in rows])
    result: dict[str, Any] = {
        "n": len(rows),
        # Of n locations with a share s true, n·s drawn at random meet n·s² of them.
        "chance_iou": float((share / (2 - share)).mean()),
        "chance_rank": 0.5,
        "rankings": {},
    }
    for name in rows[0].overlap:
        scores: Mapping[str, np.ndarray] = {
            "iou": np.array([found.overlap[name] for found in rows]),
            "rank": np.array([found.rank[name] for found in rows]),
        }
        row: dict[str, Any] = {}
        for key, values in scores.items():
            row[key], row[f"{key}_ci"] = mean_with_interval(values, weights)
        result["rankings"][name] = row
    return result
