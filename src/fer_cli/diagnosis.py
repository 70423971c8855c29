"""One sample read through the network's clusters: what they stand for, and where a wrong class comes in."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from fer_cli.activations import FEEDFORWARD, PATHS
from fer_cli.codebook import Codebook
from fer_cli.dataset import Sample
from fer_cli.model import LOCAL_LAYER, OUTPUT
from fer_cli.reading import Reading, ReferenceErrors, read_samples
from fer_cli.receptive import Box, Location, receptive_field
from fer_cli.reconstruction import (
    class_code_reconstruction,
    layer_exemplar,
    local_reconstruction,
    nearest_training_sample,
    representatives,
    table1_errors,
)
from fer_cli.run import Run

_MOST_BLAMED = 16
_BLAMED_SHARE = 1 / 8


@dataclass(frozen=True)
class LayerReading:
    """What the clusters of one layer say of a sample, in both paths.

    Evidence is in nats, summed over the layer's locations; an exemplar is the name of the training
    sample that most of the layer's chosen centroids name. A representative is the feature map made of
    the chosen centroids, decoded to occupancy probabilities (x, y, z).
    """

    name: str
    locations: int
    feedforward_class: str
    feedback_class: str
    feedforward_evidence: dict[str, float]
    feedback_evidence: dict[str, float]
    feedforward_exemplar: str
    feedback_exemplar: str
    feedforward_representative: Float[np.ndarray, "x y z"]
    feedback_representative: Float[np.ndarray, "x y z"]
    feedforward_exemplar_grid: Float[np.ndarray, "x y z"]
    feedback_exemplar_grid: Float[np.ndarray, "x y z"]


@dataclass(frozen=True)
class Blame:
    """The layer at which the evidence turns to the wrong class, and the locations that turn it most.

    `layer` is None for a correctly classified sample. `boxes` are the receptive fields of `locations`.
    """

    layer: str | None
    locations: tuple[Location, ...]
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class Suspicion:
    """How unlike a correctly classified sample this one looks.

    `score` is in [0, 1], high is suspicious; `p_value` is the conformal p-value: the share of correctly
    classified validation samples that look at least as suspicious.
    """

    score: float
    p_value: float


@dataclass(frozen=True)
class Diagnosis:
    """Everything that `fer explain` says of one sample.

    `label` and `correct` are None where the true class is unknown. `errors` are Table I's four summed
    squared errors, `reference_errors` those of the validation samples, without the ones that cannot be compared because
    theirs start from another local layer. The four grids hold occupancy (probabilities), axes (x, y, z), z up.
    """

    sample: str
    predicted: str
    label: str | None
    correct: bool | None
    probabilities: dict[str, float]
    errors: dict[str, float]
    reference_errors: ReferenceErrors
    nearest_training_sample: str
    layers: tuple[LayerReading, ...]
    blame: Blame
    suspicion: Suspicion
    verdict: str
    local_layer: str
    input_grid: Float[np.ndarray, "x y z"]
    local_grid: Float[np.ndarray, "x y z"]
    nearest_grid: Float[np.ndarray, "x y z"]
    class_code_grid: Float[np.ndarray, "x y z"]


def explain(run: Run, sample: Sample, *, local_layer: str = LOCAL_LAYER) -> Diagnosis:
    """Read one sample through a run's network and codebooks.

    Raises UsageError for an unknown `local_layer`, and what opening the run's artifacts raises.
    """
    network, codebook, voxels = run.network, run.codebook, run.voxels
    config = network.config
    config.index(local_layer)
    grid = torch.from_numpy(sample.grid).float()[None, None]
    reading = read_samples(network, codebook, grid)
    inputs = sample.grid[None].astype(np.float32)
    local = local_reconstruction(network, reading, local_layer)
    class_code = class_code_reconstruction(network, codebook, reading)
    nearest = int(nearest_training_sample(codebook, reading)[0])
    nearest_grid = voxels.grids([nearest]).astype(np.float32)
    predicted = int(reading.predicted[0])
    correct = None if sample.label is None else predicted == sample.label
    blame = Blame(None, (), ())
    if correct is False and sample.label is not None:
        blame = find_blame(codebook, reading, predicted=predicted, label=sample.label)
    suspicion_score = run.calibration.suspicion(reading.confidence_scores())
    suspicion = Suspicion(float(suspicion_score[0]), float(run.calibration.p_value(suspicion_score)[0]))
    decoded = representatives(network, codebook, reading)
    layers = tuple(_read_layer(run, reading, layer, decoded) for layer in config.layer_names)
    probabilities = reading.probabilities[0]
    label = None if sample.label is None else config.classes[sample.label]
    return Diagnosis(
        sample=sample.name,
        predicted=config.classes[predicted],
        label=label,
        correct=correct,
        probabilities=_by_class(config.classes, probabilities),
        errors={name: float(v[0]) for name, v in table1_errors(inputs, local, nearest_grid, class_code).items()},
        reference_errors=_comparable(run.calibration.reference_errors, local_layer == config.local_layer),
        nearest_training_sample=voxels.names[nearest],
        layers=layers,
        blame=blame,
        suspicion=suspicion,
        verdict=_verdict(config.classes[predicted], float(probabilities[predicted]), label, layers, blame, suspicion),
        local_layer=local_layer,
        input_grid=inputs[0],
        local_grid=local[0],
        nearest_grid=nearest_grid[0],
        class_code_grid=class_code[0],
    )


def find_blame(codebook: Codebook, reading: Reading, *, predicted: int, label: int) -> Blame:
    """The layer at which a misclassified sample's feedforward evidence turns to the predicted class, and where in it.

    It is the lowest layer from which on, up to the last below the output, the summed evidence for the predicted
    class exceeds that for the true one; `output` if it does not at the last. Its locations are those with the
    largest such difference above zero, the largest first: an eighth of the layer, at most 16.
    """
    config = codebook.config
    below = config.layer_names[:-1]
    evidence = reading.evidence[FEEDFORWARD]
    turned = [bool(evidence[layer][0, predicted] > evidence[layer][0, label]) for layer in below]
    layer = OUTPUT
    for name, wrong in zip(reversed(below), reversed(turned), strict=True):
        if not wrong:
            break
        layer = name
    shape = config.level_shape(layer)[1:]
    locations: list[Location] = [(0, 0, 0)]
    if math.prod(shape) > 1:
        parts = codebook.evidence(FEEDFORWARD, layer, reading.codes[FEEDFORWARD][layer])[0]
        difference = parts[:, predicted] - parts[:, label]
        most = min(_MOST_BLAMED, math.ceil(len(difference) * _BLAMED_SHARE))
        chosen = np.argsort(-difference, kind="stable")[:most]
        locations = [unravel(int(i), shape) for i in chosen if difference[i] > 0]
    index = config.index(layer)
    boxes = [receptive_field(config.specs, index, location, config.input_shape) for location in locations]
    return Blame(layer, tuple(locations), tuple(boxes))


def unravel(index: int, shape: tuple[int, int, int]) -> Location:
    """(x, y, z) of a flattened location (C order)."""
    x, y, z = (int(i) for i in np.unravel_index(index, shape))
    return (x, y, z)


def _comparable(errors: ReferenceErrors, same_local_layer: bool) -> ReferenceErrors:
    """Without the errors of local reconstructions, unless those of the sample start from the same layer."""
    return ReferenceErrors(
        *(
            {name: values for name, values in group.items() if same_local_layer or "local" not in name}
            for group in (errors.correct, errors.misclassified)
        )
    )


def _read_layer(run: Run, reading: Reading, layer: str, decoded: dict[str, dict[str, np.ndarray]]) -> LayerReading:
    classes = run.network.config.classes
    parts: dict[str, dict[str, Any]] = {}
    for path in PATHS:
        evidence = reading.evidence[path][layer][0]
        exemplar = int(layer_exemplar(run.codebook, reading, path, layer)[0])
        parts[path] = {
            "class": classes[int(evidence.argmax())],
            "evidence": _by_class(classes, evidence),
            "exemplar": run.voxels.names[exemplar],
            "representative": decoded[path][layer][0],
            "exemplar_grid": run.voxels.grids([exemplar])[0].astype(np.float32),
        }
    fields = {f"{path}_{part}": value for path, values in parts.items() for part, value in values.items()}
    return LayerReading(name=layer, locations=len(reading.codes[FEEDFORWARD][layer][0]), **fields)


def _verdict(
    predicted: str,
    probability: float,
    label: str | None,
    layers: tuple[LayerReading, ...],
    blame: Blame,
    suspicion: Suspicion,
) -> str:
    """Two sentences in plain words."""
    sure = f"{predicted} (probability {probability:.2f})"
    rarity = f"{suspicion.p_value:.0%} of correctly classified validation samples look at least as suspicious"
    if label is None:
        return f"Classified as {sure}; its true class is not known. {rarity}."
    if label == predicted:
        agreeing = sum(layer.feedforward_class == label for layer in layers[:-1])
        return (
            f"Correctly classified as {sure}: the feedforward clusters of {agreeing} of {len(layers) - 1} layers "
            f"speak for {label}. {rarity}."
        )
    if blame.layer == OUTPUT:
        where = (
            f"Up to the last layer the feedforward clusters favour {label}, so the mistake is made in the output layer"
        )
    elif blame.layer == layers[0].name:
        where = f"Already the clusters of {blame.layer} favour {predicted} over {label}, and every layer above agrees"
    else:
        where = f"The feedforward clusters turn from {label} to {predicted} at {blame.layer} and stay with it above"
    return f"A {label} taken for a {sure}. {where}; {rarity}."


def _by_class(classes: tuple[str, ...], values: Float[np.ndarray, " klass"]) -> dict[str, float]:
    return {name: float(value) for name, value in zip(classes, values, strict=True)}
