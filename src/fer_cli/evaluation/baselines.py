"""What a run's evidence is held against as a detector of misclassification: baselines on the same network and samples.

Parameters that a baseline has to choose are chosen on validation samples, by AUROC. Nothing here reads the codebooks.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from fer_cli.calibration.temperature import fit_temperature
from fer_cli.data.augmentation import turn
from fer_cli.data.dataset import VolumeSet
from fer_cli.evaluation import feature_scores as near
from fer_cli.evaluation import logit_scores as logit
from fer_cli.evaluation.detection import weighted_metrics
from fer_cli.evaluation.encoded import Encoded, Labelled, Spooled
from fer_cli.execution.transfer import moved
from fer_cli.network.activations import Columns, batches, predict
from fer_cli.network.backbone import OUTPUT
from fer_cli.network.explained import ExplainedNetwork

_CPU = torch.device("cpu")
TURNS = 8
MIRRORS = ((2,), (3,), (2, 3))
"""Axes of a batch of grids that are flipped: x, y, both."""
PASSES = 50
"""Passes of Monte-Carlo dropout."""
_SHAPES = 256
_TRAINING_SHAPES = 1024
_NUMBERS = 1 << 25
"""Volumes held at once: of those that are compared, of those that they are compared with, and voxels of the latter."""
NETWORK = "baseline"
TRIVIAL = "trivial"

Scores = dict[str, Float[np.ndarray, " _"]]
Pair = tuple[Scores, Scores]
"""Scores of the validation samples, and of those that are tested."""


def logit_baselines(validation: Encoded, tested: Encoded) -> Pair:
    """Scores of the logits alone."""
    temperature = fit_temperature(validation.logits, validation.labels)
    norm = _best({p: logit.max_logit_p_norm(validation.logits, p) for p in logit.P_NORMS}, validation)
    scaled = {p: _p_norm_temperature(validation, p) for p in logit.P_NORMS}
    soft = _best({p: logit.softmax_p_norm(validation.logits, p, scaled[p]) for p in logit.P_NORMS}, validation)
    scores: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "max_softmax": logit.maximum_softmax,
        "softmax_margin": logit.softmax_margin,
        "entropy": logit.negative_entropy,
        "max_logit": logit.max_logit,
        "max_logit_p_norm": lambda logits: logit.max_logit_p_norm(logits, norm),
        "softmax_p_norm": lambda logits: logit.softmax_p_norm(logits, soft, scaled[soft]),
        "energy": logit.energy,
        "gen": logit.generalized_entropy,
        "doctor": logit.doctor,
        "temperature_scaling": lambda logits: logit.scaled_softmax(logits, temperature),
    }
    return tuple({name: score(part.logits) for name, score in scores.items()} for part in (validation, tested))  # type: ignore[return-value]


def not_applicable(network: ExplainedNetwork) -> list[str]:
    """Baselines that need what the network lacks, each with what that is."""
    backbone, lacking = network.backbone, []
    if backbone.below_dropout is None:
        lacking.append("mc_dropout: no dropout above a level")
    if backbone.linear_head() is None:
        lacking.append("vim: logits are no linear map of the last level")
    return lacking


def feature_baselines(
    network: ExplainedNetwork, training: Encoded | Spooled, validation: Encoded, tested: Encoded
) -> Pair:
    """Scores of features among the training samples' features."""
    layers = list(training.features)
    last = layers[-1]
    classes = len(network.spec.classes)
    head, device = network.backbone.linear_head(), network.backbone.device
    found: list[Scores] = []
    distances, neighbours = [], []
    for part in (validation, tested):
        scores: Scores = {
            "mahalanobis": near.mahalanobis(part.features[last], training.features[last], training.labels),
            "relative_mahalanobis": near.relative_mahalanobis(
                part.features[last], training.features[last], training.labels
            ),
        }
        if head is not None:
            weight, bias = (parameter.detach().cpu().numpy() for parameter in head)
            scores["vim"] = near.virtual_logit(
                part.features[last], part.logits, training.features[last], training.logits, weight, bias
            )
        for layer in layers:
            table = near.class_distances(
                part.features[layer], training.features[layer], training.labels, classes, device
            )
            scores[f"trust_score_{layer}"] = near.trust_score(table, part.predicted)
        most = max(near.NEIGHBOURS)
        distances.append(near.neighbour_distances(part.features[last], training.features[last], most, device))
        neighbours.append(
            [
                near.neighbour_labels(part.features[layer], training.features[layer], training.labels, most, device)
                for layer in layers
            ]
        )
        found.append(scores)
    k = _best({k: near.neighbour_distance(distances[0], k) for k in near.NEIGHBOURS}, validation)
    credible = {}
    for count in near.NEIGHBOURS:
        odd = [near.nonconformity(labels, count, classes) for labels in neighbours]
        reference = odd[0][np.arange(len(validation.labels)), validation.labels]
        credible[count] = [
            near.credibility(of_part, part.predicted, reference)
            for of_part, part in zip(odd, (validation, tested), strict=True)
        ]
    count = _best({count: scores[0] for count, scores in credible.items()}, validation)
    for number, scores in enumerate(found):
        scores["feature_knn"] = near.neighbour_distance(distances[number], k)
        scores["deep_knn"] = credible[count][number]
    return found[0], found[1]


def varied_probabilities(
    network: ExplainedNetwork,
    voxels: VolumeSet,
    encoded: Encoded,
    *,
    dropout: float,
    seed: int = 0,
    report: Callable[[int], None] = lambda count: None,
) -> dict[str, Float[np.ndarray, "sample klass"]]:
    """Mean class probabilities when the shape, or the network, is varied; the shape as it is counts as one view.

    `rotations`: turns about the vertical by equal angles over the full circle (Maturana and Scherer, "VoxNet", IROS
    2015). `mirrored`: mirror images in x, in y, and in both.
    `mc_dropout`: Monte-Carlo dropout at training's rate (Gal and Ghahramani, ICML 2016); absent for a network without
    dropout.
    """
    means = Columns(len(encoded.indices))
    for indices in batches(encoded.indices):
        volumes = moved(voxels.tensor(indices), network.backbone.device)
        angles = [2 * math.pi * turns / TURNS for turns in range(1, TURNS)]
        views = {
            "rotations": [turn(volumes, torch.full((len(volumes),), angle)) for angle in angles],
            "mirrored": [volumes.flip(axes) for axes in MIRRORS],
        }
        plain = predict(network, volumes)
        means.add(
            {name: np.mean([plain, *(predict(network, view) for view in seen)], axis=0) for name, seen in views.items()}
        )
        report(len(indices))
    varied = means.arrays
    if network.backbone.below_dropout is None:
        return varied
    return {**varied, "mc_dropout": dropout_probabilities(network, voxels, encoded, dropout, seed=seed)}


def variation_baselines(varied: Mapping[str, np.ndarray], predicted: Int[np.ndarray, " sample"]) -> Scores:
    """The mean probability, over variations, of the class that was predicted without them."""
    rows = np.arange(len(predicted))
    return {name: mean[rows, predicted].astype(np.float64) for name, mean in varied.items()}


@torch.inference_mode()
def dropout_probabilities(
    network: ExplainedNetwork, voxels: VolumeSet, encoded: Encoded, probability: float, *, seed: int = 0
) -> Float[np.ndarray, "sample klass"]:
    """Mean class probabilities over `PASSES` passes with dropout, for a network that has dropout.

    Only what lies above the highest kept feature below every dropout runs again; the whole network where none is kept.
    """
    backbone = network.backbone
    assert backbone.below_dropout is not None
    names = network.spec.layer_names
    kept = [name for name in encoded.features if names.index(name) <= names.index(backbone.below_dropout)]
    generator = torch.Generator().manual_seed(seed)
    means = Columns(len(encoded.indices))
    with backbone.dropout(probability, generator):
        for rows in batches(np.arange(len(encoded.indices))):
            volumes = moved(voxels.tensor(encoded.indices[rows]), backbone.device)
            patch = {}
            for name in kept[-1:]:
                feature = torch.from_numpy(encoded.features[name][rows])
                patch[name] = moved(feature.reshape(-1, *network.spec.level_shape(name)), backbone.device)
            passes = [backbone.logits(volumes, patch=patch).float() for _ in range(PASSES)]
            means.add({OUTPUT: torch.softmax(torch.stack(passes), dim=2).mean(dim=0).cpu().numpy()})
    return means.arrays[OUTPUT]


def trivial_baselines(
    network: ExplainedNetwork, voxels: VolumeSet, training: Labelled, parts: tuple[Encoded, Encoded], *, seed: int = 0
) -> Pair:
    """Scores that no explanation should fall behind, since they know nothing of what the network sees.

    `class_mean_grid`: less the squared distance to the mean training volume of the predicted class. `nearest_grid`:
    how much nearer the nearest training volume of the predicted class is than that of any other class (a trust score on
    voxels). `random_class_code`: less the squared error of what the feedback network makes of a class drawn at random.
    `random_decoder`: less that of what a feedback network that was never trained makes of the class probabilities.
    """
    classes = len(network.spec.classes)
    means = np.stack([_mean_volume(voxels, training.indices[training.labels == label]) for label in range(classes)])
    painted = _decoded(network, np.eye(classes, dtype=np.float32))
    untrained = untrained_network(network, seed=seed)
    found = []
    for number, part in enumerate(parts):
        drawn = np.random.default_rng([seed, number]).integers(0, classes, len(part.indices))
        columns = Columns(len(part.indices))
        for rows in batches(np.arange(len(part.indices))):
            shapes = voxels.volumes(part.indices[rows]).reshape(len(rows), -1)
            batch = {
                "class_mean_grid": -np.square(shapes - means[part.predicted[rows]]).sum(axis=1),
                "random_class_code": -np.square(shapes - painted[drawn[rows]]).sum(axis=1),
                "random_decoder": -np.square(shapes - _decoded(untrained, _softmax(part.logits[rows]))).sum(axis=1),
            }
            columns.add({name: values.astype(np.float64) for name, values in batch.items()})
        distances = volume_distances(voxels, part.indices, training, classes, network.backbone.device)
        found.append(
            {
                **columns.arrays,
                "nearest_grid": near.trust_score(distances, part.predicted),
            }
        )
    return found[0], found[1]


def volume_distances(
    voxels: VolumeSet,
    samples: Int[np.ndarray, " sample"],
    training: Labelled,
    classes: int,
    device: torch.device = _CPU,
) -> Float[np.ndarray, "sample klass"]:
    """Squared distance of each volume to the nearest training volume of each class; infinite for a class without one.

    Of occupancy, the number of voxels in which they differ.
    """
    nearest = torch.full((len(samples), classes), torch.inf, device=device)
    # Squares of large numbers cancel; occupancy is exact as it is.
    centre = None if voxels.input.kind == "occupancy" else torch.from_numpy(_mean_volume(voxels, training.indices))

    def flat(chosen: Int[np.ndarray, " chosen"]) -> Float[Tensor, "chosen voxel"]:
        volumes = voxels.tensor(chosen).flatten(1)
        return moved(volumes if centre is None else volumes - centre, device)

    at_once = max(1, min(_TRAINING_SHAPES, _NUMBERS // math.prod(voxels.input.volume)))
    for label in np.unique(training.labels):
        for of_class in batches(training.indices[training.labels == label], at_once):
            known = flat(of_class)
            size = torch.einsum("sv,sv->s", known, known)
            for start in range(0, len(samples), _SHAPES):
                part = flat(samples[start : start + _SHAPES])
                own = torch.einsum("sv,sv->s", part, part)
                distance = (own[:, None] + size - 2 * part @ known.T).clamp(min=0)
                rows = nearest[start : start + _SHAPES, label]
                torch.minimum(rows, distance.min(dim=1).values, out=rows)
            del known  # before the next are read
    return nearest.double().cpu().numpy()


def _mean_volume(voxels: VolumeSet, samples: Int[np.ndarray, " sample"]) -> Float[np.ndarray, " voxel"]:
    """Mean of some volumes, flat; zeros of none."""
    total = np.zeros(math.prod(voxels.input.volume), np.float64)
    for part in batches(samples):
        total += voxels.volumes(part).reshape(len(part), -1).sum(axis=0, dtype=np.float64)
    return (total / max(1, len(samples))).astype(np.float32)


def untrained_network(network: ExplainedNetwork, *, seed: int) -> ExplainedNetwork:
    """The network with the weights that training starts from, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = network.untrained()
    return fresh.eval().requires_grad_(False).to(network.backbone.device)


def best_on_validation(scores: Mapping[str, np.ndarray], wrong: np.ndarray) -> str:
    """The score with the highest AUROC; the first where none is defined, or several are equal."""
    ones = np.ones((1, len(wrong)), np.int64)
    values = {name: float(weighted_metrics(score, wrong, ones)["auroc"][0]) for name, score in scores.items()}
    return max(values, key=lambda name: -1.0 if math.isnan(values[name]) else values[name])


def _best(candidates: Mapping[int, np.ndarray], validation: Encoded) -> int:
    named = {str(parameter): scores for parameter, scores in candidates.items()}
    return int(best_on_validation(named, validation.wrong))


def _p_norm_temperature(validation: Encoded, p: int) -> float:
    return fit_temperature(logit.over_p_norm(validation.logits, p), validation.labels)


@torch.inference_mode()
def _decoded(
    network: ExplainedNetwork, probabilities: Float[np.ndarray, "sample klass"]
) -> Float[np.ndarray, "sample voxel"]:
    code = torch.from_numpy(probabilities).float().to(network.backbone.device)
    return network.reconstruct_classes(code).flatten(1).cpu().numpy()


def _softmax(logits: Float[np.ndarray, "sample klass"]) -> Float[np.ndarray, "sample klass"]:
    return torch.softmax(torch.from_numpy(logits), dim=1).numpy()
