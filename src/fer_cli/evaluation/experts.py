"""The witnesses that the combined score pools: each says of every class how likely it is, as a log probability.

`softmax`: the mean class probabilities of the shape and of variations as in training. A layer's name: its calibrated
feedforward evidence. `nearest_<layer>`: by the distance of the layer's feature to the nearest training feature of each
class. All are calibrated on validation samples.

Feedback evidence is no witness: it follows from the class probabilities, and added nothing to them in cross-entropy on
validation samples.
"""

from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Float
from scipy.special import log_softmax

from fer_cli.calibration.temperature import fit_temperature, logarithm
from fer_cli.evaluation.encoded import Encoded
from fer_cli.evaluation.feature_scores import class_distances, unit

SOFTMAX = "softmax"
_NEAREST = "nearest_"

Table = Float[np.ndarray, "_ klass"]
Pair = tuple[Mapping[str, Table], Mapping[str, Table]]
"""What the experts say of the validation samples, and of those that are tested."""


def view_experts(validation: Encoded, probabilities: tuple[Table, Table]) -> Pair:
    """Mean class probabilities over views of the validation samples, and of the others, at a common temperature."""
    temperature = fit_temperature(logarithm(probabilities[0]), validation.labels)
    first, second = ({SOFTMAX: log_softmax(logarithm(table) / temperature, axis=1)} for table in probabilities)
    return first, second


def evidence_experts(
    evidence: tuple[Mapping[str, Table], Mapping[str, Table]],
    temperatures: Mapping[str, float],
    prior: Float[np.ndarray, " klass"],
) -> Pair:
    """Class evidence of the layers, each over its temperature, and the classes' shares."""
    first, second = (
        {
            layer: log_softmax(of[layer].astype(np.float64) / temperature + np.log(prior), axis=1)
            for layer, temperature in temperatures.items()
        }
        for of in evidence
    )
    return first, second


def nearest_experts(training: Encoded, validation: Encoded, tested: Encoded, classes: int) -> Pair:
    """Nearness to the training features of each class; features have length one, each layer has a temperature."""
    first: dict[str, Table] = {}
    second: dict[str, Table] = {}
    for layer, features in training.features.items():
        near, far = (
            -class_distances(unit(part.features[layer]), unit(features), training.labels, classes)
            for part in (validation, tested)
        )
        temperature = fit_temperature(near, validation.labels)
        first[_NEAREST + layer] = log_softmax(near / temperature, axis=1)
        second[_NEAREST + layer] = log_softmax(far / temperature, axis=1)
    return first, second


def even_weights(names: Iterable[str]) -> dict[str, float]:
    """An equal say for each kind of witness that is there, and within a kind for each of its layers."""
    kinds = {name: SOFTMAX if name == SOFTMAX else _NEAREST if name.startswith(_NEAREST) else "" for name in names}
    counts = {kind: list(kinds.values()).count(kind) for kind in kinds.values()}
    return {name: 1 / len(counts) / counts[kind] for name, kind in kinds.items()}
