"""Faults of known place, planted to see whether they are found.

- `graft`: a part of one shape is put on another; `synthetic`: the same with meshes, a chair's back on a table. Kept
  where the network is right about the shape without the part, and wrong with it. Known is where in the input.
- `feature`: a block of locations of one layer is moved towards the features of a sample of another class until the
  prediction turns. Known are layer and locations.
- `weight`: noise on the weights of one layer, doubled until the network's accuracy falls below 0.7 of what it was.
  Known is the layer.
- `dose`: the same at every dose of `DOSES`, whatever becomes of the prediction.

Receivers are correctly classified samples that the network was not trained on. Blame is told all that it is told of a
real mistake whose label is known; the departure needs no label. It is also read of every sample of the split as
it is, to see how often it finds something where nothing was planted. `plant_faults` measures one run;
`findings` counts.
"""

import copy
import math
from collections.abc import Iterable, Iterator
from itertools import product

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from fer_cli.artifacts import RunArtifacts
from fer_cli.calibration.departure import Course, Departure, return_errors
from fer_cli.data.volumes import Volumes
from fer_cli.diagnosis.blame import turning_point
from fer_cli.diagnosis.donors import Donors
from fer_cli.diagnosis.replacement import Replacement, highest
from fer_cli.execution.transfer import moved
from fer_cli.network.activations import FEEDFORWARD, batches, encode
from fer_cli.network.backbone import OUTPUT, Backbone, Features, Level
from fer_cli.network.explained import ExplainedNetwork
from fer_cli.studies.findings import CORRECT, DOSE, FEATURE, MISCLASSIFIED, WEIGHT, Attempt, Finding, Planting
from fer_cli.studies.graft_candidates import Candidate, back_grafts, part_grafts
from fer_cli.studies.rankings import rankings

MOVES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
"""How far towards the other sample's features; beyond 1 on the same straight line."""
DOSES = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Standard deviation of weight noise, in those of the layer's weights."""
CODE_DISTANCE = "code_distance"
"""The ranking of locations that a departure goes by, beside those of `attribution`."""
_FALLEN = 0.7
_WEIGHT_SAMPLES = 64


def plant_faults(
    run: RunArtifacts, *, per_layer: int = 20, grafts: int = 28, synthetic: int = 14, split: str = "test", seed: int = 0
) -> Planting:
    """Plant `per_layer` feature faults and weight faults at every layer, and up to `grafts` and `synthetic` grafts."""
    generator = np.random.default_rng(seed)
    indices = run.model.read("validation/index") if split == "validation" else run.voxels.indices(split)
    course = run.measured_course()
    as_they_are, right = unplanted(run, course, indices)
    donors = Donors(run.network, run.codebook, run.voxels, run.network.spec.map_layers)
    attempts: list[Attempt] = []
    findings = [
        *as_they_are,
        *_feature_faults(run, course, donors, right, per_layer, generator),
        *_weight_faults(run, course, right, generator),
        *_graft_faults(run, course, donors, part_grafts(run, right, generator), grafts, attempts),
        *_graft_faults(run, course, donors, back_grafts(run, generator), synthetic, attempts),
    ]
    return Planting(tuple(findings), tuple(attempts))


def locations_over(backbone: Backbone, layer: str, voxels: Bool[np.ndarray, "x y z"]) -> Bool[np.ndarray, " location"]:
    """Locations of a layer in the middle of whose receptive field some of the voxels lie.

    The middle is as wide as the layer's step, so that the middles fill the grid side by side: whole receptive fields of
    a high layer all overlap almost anything.
    """
    fields, shape = backbone.receptive_fields(layer), backbone.spec.map_shape(layer)
    steps = [math.ceil(side / cells) for side, cells in zip(voxels.shape, shape, strict=True)]
    return np.array(
        [
            voxels[tuple(slice(at * step, (at + 1) * step) for at, step in zip(location, steps, strict=True))].any()
            and all(low <= at * step < high for (low, high), at, step in zip(box, location, steps, strict=True))
            for location in product(range(shape[0]), range(shape[1]), range(shape[2]))
            for box in [fields[location].tolist()]
        ]
    )


def unplanted(
    run: RunArtifacts, course: Course, indices: Int[np.ndarray, " sample"]
) -> tuple[list[Finding], Int[np.ndarray, " right"]]:
    """Departures of samples in which nothing was planted, and which samples are classified correctly."""
    findings, right = [], []
    for part in batches(indices):
        volumes = run.voxels.tensor(part)
        features = encode(run.network, volumes)
        labels = run.voxels.labels[part]
        predicted = features[OUTPUT].flatten(1).argmax(1).cpu().numpy()
        right.append(part[predicted == labels])
        for row, departure in enumerate(_departures(run, course, volumes, features)):
            fits, blamed = predicted[row] == labels[row], None
            if not fits:
                one = {name: feature[row : row + 1] for name, feature in features.items()}
                blamed = _blamed(run, one, int(predicted[row]), int(labels[row]))
            layer, kind = run.network.spec.index(departure.layer), CORRECT if fits else MISCLASSIFIED
            findings.append(Finding(kind, run.voxels.names[part[row]], "", None, blamed, layer, departure.p_value))
    return findings, np.concatenate(right)


def _departures(run: RunArtifacts, course: Course, volumes: Volumes, features: Features) -> list[Departure]:
    distances = {}
    for layer in run.network.spec.layer_names[:-1]:
        book = run.codebook.layer(FEEDFORWARD, layer)
        distances[layer] = book.distances(features[layer], book.assign(features[layer]))
    predicted = features[OUTPUT].flatten(1).argmax(1).cpu().numpy()
    return course.measure(distances, return_errors(run.network, volumes, features), predicted)


def _blamed(run: RunArtifacts, features: Features, wrong: int, true: int) -> int:
    """The layer that blame's rule names, given the features of one sample."""
    codebook, differences = run.codebook, []
    for layer in run.network.spec.layer_names[:-1]:
        worth = run.temperatures.evidence[FEEDFORWARD][layer]
        codes = codebook.layer(FEEDFORWARD, layer).assign(features[layer])
        evidence = codebook.evidence(FEEDFORWARD, layer, codes)[0].sum(axis=0)
        differences.append(float(evidence[wrong] - evidence[true]) / worth)
    return turning_point(differences)[0]


def _located(
    run: RunArtifacts,
    donors: Donors,
    features: Features,
    volume: Volumes,
    layer: str,
    truth: Bool[np.ndarray, " location"],
    *,
    wrong: int,
    true: int,
) -> tuple[dict[str, float], dict[str, float]]:
    """IoU and mean rank of the true locations by every ranking."""
    feature = features[layer].clone()
    donor = donors.find(layer, feature, np.array([true])).feature
    backbone = run.network.backbone
    wanted_class, given_class = (torch.tensor([klass], device=backbone.device) for klass in (true, wrong))
    edit = Replacement(backbone, layer, moved(volume, backbone.device), feature, donor, wanted_class, given_class)
    empty = encode(run.network, torch.zeros_like(volume), [layer])[layer]
    wanted = torch.from_numpy(truth)
    book = run.codebook.layer(FEEDFORWARD, layer)
    scores = {name: ranking(edit).cpu() for name, ranking in rankings(run.codebook, empty).items()}
    scores[CODE_DISTANCE] = torch.from_numpy(book.location_distances(feature, book.assign(feature)))
    overlap, rank = {}, {}
    for name, score in scores.items():  # on the CPU, as the truth is
        found = highest(score, int(truth.sum()))[0]
        overlap[name] = float((found & wanted).sum() / (found | wanted).sum())
        order = torch.argsort(torch.argsort(score[0], descending=True, stable=True))
        rank[name] = float(order[wanted].float().mean() / max(1, len(order) - 1))
    return overlap, rank


def _feature_faults(
    run: RunArtifacts,
    course: Course,
    donors: Donors,
    right: Int[np.ndarray, " sample"],
    per_layer: int,
    generator: np.random.Generator,
) -> Iterator[Finding]:
    network, voxels, spec = run.network, run.voxels, run.network.spec
    for number, level in enumerate(spec.levels):
        layer, shape = level.name, level.shape
        for receiver in generator.permutation(right)[:per_layer].tolist():
            others = right[voxels.labels[right] != voxels.labels[receiver]]
            if not len(others):
                continue
            other = int(generator.choice(others))
            volume = voxels.tensor([receiver])
            features = encode(network, volume)
            theirs = encode(network, voxels.tensor([other]), [layer])[layer]
            block = _block(shape, generator)
            feature = _nearer(network, level, volume, features[layer], theirs, block, int(voxels.labels[receiver]))
            if feature is None:
                continue
            planted = _with_patch(network, layer, volume, features, feature)
            wrong, true = int(planted[OUTPUT].argmax()), int(voxels.labels[receiver])
            where: tuple[dict[str, float], dict[str, float]] = ({}, {})
            if math.prod(shape) > 1:
                where = _located(run, donors, planted, volume, layer, block.ravel(), wrong=wrong, true=true)
            yield Finding(
                FEATURE,
                voxels.names[receiver],
                layer,
                number,
                _blamed(run, planted, wrong, true),
                *_departed(run, course, volume, planted),
                float(block.mean()),
                *where,
            )


def _departed(run: RunArtifacts, course: Course, volume: Volumes, features: Features) -> tuple[int, float]:
    """Layer and p-value of one sample's departure."""
    [departure] = _departures(run, course, volume, features)
    return run.network.spec.index(departure.layer), departure.p_value


def _block(shape: tuple[int, ...], generator: np.random.Generator) -> Bool[np.ndarray, "x y z"]:
    """A cube of half the layer's extent along each axis, somewhere."""
    edges = [max(1, side // 2) for side in shape]
    starts = [int(generator.integers(0, side - edge + 1)) for side, edge in zip(shape, edges, strict=True)]
    block = np.zeros(shape, bool)
    block[tuple(slice(start, start + edge) for start, edge in zip(starts, edges, strict=True))] = True
    return block


@torch.inference_mode()
def _nearer(
    network: ExplainedNetwork,
    level: Level,
    volume: Volumes,
    own: Tensor,
    other: Tensor,
    block: Bool[np.ndarray, "x y z"],
    true: int,
) -> Tensor | None:
    """The feature with its block moved as little as turns the prediction; None if nothing does."""
    mask = torch.from_numpy(block).to(own.device)
    volume = moved(volume, own.device)
    for share in MOVES:
        nearer = torch.where(mask, own + share * (other - own), own)
        if not level.signed:
            nearer = nearer.clamp(min=0)
        if int(network.backbone.logits(volume, patch={level.name: nearer}).argmax()) != true:
            return nearer
    return None


@torch.inference_mode()
def _with_patch(
    network: ExplainedNetwork, layer: str, volume: Volumes, features: Features, feature: Tensor
) -> Features:
    """The features with `feature` at a layer, and what follows from it above."""
    names = network.spec.layer_names
    above = names[names.index(layer) :]
    patched = network.backbone.features(moved(volume, feature.device), above, patch={layer: feature})
    return {name: patched.get(name, features[name]) for name in names}


def _weight_faults(
    run: RunArtifacts, course: Course, right: Int[np.ndarray, " sample"], generator: np.random.Generator
) -> Iterator[Finding]:
    voxels = run.voxels
    chosen = np.sort(generator.permutation(right)[:_WEIGHT_SAMPLES])
    if not len(chosen):
        return
    volumes = voxels.tensor(chosen)
    seed = int(generator.integers(1 << 31))
    for number, layer in enumerate(run.network.spec.layer_names):
        fallen = False
        for dose in DOSES:
            faulty = with_weight_noise(run.network, layer, dose, seed + number)
            features = encode(faulty, volumes)
            predicted = features[OUTPUT].flatten(1).argmax(1).cpu().numpy()
            is_wrong = predicted != voxels.labels[chosen]
            for index, turned, found in zip(chosen, is_wrong, _departures(run, course, volumes, features), strict=True):
                at, name = run.network.spec.index(found.layer), voxels.names[index]
                yield Finding(DOSE, name, layer, number, None, at, found.p_value, dose=dose, turned=bool(turned))
            if fallen or (is_wrong.mean() <= 1 - _FALLEN and dose != DOSES[-1]):
                continue
            fallen = True
            for row in np.flatnonzero(is_wrong):
                one = {name: feature[row : row + 1] for name, feature in features.items()}
                blamed = _blamed(run, one, int(predicted[row]), int(voxels.labels[chosen[row]]))
                departed = _departed(run, course, volumes[row : row + 1], one)
                yield Finding(WEIGHT, voxels.names[chosen[row]], layer, number, blamed, *departed, dose=dose)


def with_weight_noise(network: ExplainedNetwork, layer: str, noise: float, seed: int) -> ExplainedNetwork:
    """A copy with noise on the weights of a layer, of so many of their standard deviations."""
    faulty = copy.deepcopy(network)
    generator = torch.Generator().manual_seed(seed)
    for weight in faulty.backbone.weights_of(layer):
        if weight.dim() > 1 and weight.numel() > 1:  # of the layer itself, not of its norm
            drawn = torch.randn(weight.shape, generator=generator).to(weight)
            with torch.no_grad():
                weight.add_(noise * weight.std() * drawn)
    return faulty


def _graft_faults(
    run: RunArtifacts,
    course: Course,
    donors: Donors,
    candidates: Iterable[Candidate],
    most: int,
    attempts: list[Attempt],
) -> Iterator[Finding]:
    """Findings of the first `most` grafts that turn the prediction; what was tried is added to `attempts`."""
    network, classes = run.network, run.voxels.classes
    turned: set[tuple[str, tuple[str, str]]] = set()
    for candidate in candidates:
        if len(turned) == most:
            return
        key = (candidate.receiver, candidate.pair)
        if key in turned:
            continue
        both = torch.from_numpy(np.stack([candidate.graft.without, candidate.graft.grid])).float()[:, None]
        features = encode(network, both)
        true = classes.index(candidate.pair[0])
        without, wrong = features[OUTPUT].flatten(1).argmax(1).tolist()
        if without != true:
            continue
        attempts.append(Attempt(candidate.kind, *candidate.pair, turned=wrong != true))
        if wrong == true:
            continue
        turned.add(key)
        volume, grafted = both[1:], {name: feature[1:] for name, feature in features.items()}
        blamed, departed = _blamed(run, grafted, wrong, true), _departed(run, course, volume, grafted)
        for layer in network.spec.map_layers:
            truth = locations_over(network.backbone, layer, candidate.graft.new)
            if truth.any():
                where = _located(run, donors, grafted, volume, layer, truth, wrong=wrong, true=true)
                share = float(truth.mean())
                yield Finding(candidate.kind, candidate.receiver, layer, None, blamed, *departed, share, *where)
