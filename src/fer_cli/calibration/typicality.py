"""Typicality: a sample's distance to its codes, compared with the distances of the validation samples.

A sample unlike the clustered samples lies far from every centroid in at least one layer. Each layer's log distance is
standardised by the validation samples: by their mean, taken by predicted class, and their standard deviation. The
largest one is the score.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from fer_cli.calibration.p_value import PredictedClasses, load_predicted
from fer_cli.storage.artifact import Artifact

Distances = Mapping[str, Float[np.ndarray, " sample"]]
"""Squared distance of each sample to its codes, by layer."""


@dataclass(frozen=True)
class Atypicality:
    """Standard deviations above the validation samples' mean log distance, at the layer where there are most.

    `p_value` is the share of validation samples that lie at least as far at their own worst layer, the sample itself
    counted in.
    """

    score: float
    layer: str
    p_value: float


@dataclass(frozen=True)
class Typicality:
    """What log distances of the validation samples are usual, by layer, and the samples' own scores.

    `mean` is by predicted class. `scores` are cross-fitted: each sample's by mean and deviation of others.
    """

    layers: tuple[str, ...]
    mean: Float[np.ndarray, "classes layer"]
    deviation: Float[np.ndarray, " layer"]
    predicted: PredictedClasses
    scores: Float[np.ndarray, " validation"]

    def measure(self, distances: Distances, predicted: Int[np.ndarray, " sample"]) -> list[Atypicality]:
        """Atypicality of each sample, from its distance to the codes at every layer and its predicted class."""
        deviations = self.deviations(distances, predicted)
        worst, scores = deviations.argmax(axis=1), deviations.max(axis=1)
        p_values = self.predicted.p_values(scores, predicted, self.scores)
        return [
            Atypicality(float(score), self.layers[layer], float(p))
            for score, layer, p in zip(scores, worst, p_values, strict=True)
        ]

    def deviations(
        self, distances: Distances, predicted: Int[np.ndarray, " sample"]
    ) -> Float[np.ndarray, "sample layer"]:
        """Standard deviations above the mean log distance of the validation samples of the same predicted class."""
        return (_logarithms(distances, self.layers) - self.mean[predicted]) / self.deviation


def known_typicality(distances: Distances, predicted: PredictedClasses) -> Typicality:
    """The typicality from the distances of validation samples, by layer, and their predicted classes."""
    layers = tuple(distances)
    logarithms = _logarithms(distances, layers)
    scores = np.zeros(len(logarithms))
    for fitted, scored in predicted.folds():
        mean, deviation = _fit(logarithms[fitted], predicted.only(fitted))
        scores[scored] = ((logarithms[scored] - mean[predicted.predicted[scored]]) / deviation).max(axis=1)
    return Typicality(layers, *_fit(logarithms, predicted), predicted, scores)


def load_typicality(calibration: Artifact, layers: Sequence[str]) -> Typicality:
    """The typicality of the validation samples of a calibration; `layers` gives the order of layers."""
    return known_typicality(load_distances(calibration, layers), load_predicted(calibration))


def load_distances(calibration: Artifact, layers: Sequence[str]) -> dict[str, Float[np.ndarray, " validation"]]:
    """Distances of the validation samples to their codes, by layer, in the order of `layers`."""
    return {layer: calibration.read(f"calibration/distance/{layer}") for layer in layers}


def _fit(
    logarithms: Float[np.ndarray, "validation layer"], predicted: PredictedClasses
) -> tuple[Float[np.ndarray, "classes layer"], Float[np.ndarray, " layer"]]:
    """Means by predicted class, and the standard deviation from them."""
    mean = predicted.means(logarithms)
    deviation = (logarithms - mean[predicted.predicted]).std(axis=0)
    # A single validation sample has no deviation; any scale says then how much farther another lies.
    deviation[deviation == 0] = 1.0
    return mean, deviation


def _logarithms(distances: Distances, layers: Sequence[str]) -> Float[np.ndarray, "sample layer"]:
    floor = np.finfo(np.float32).tiny
    return np.log(np.maximum(np.stack([distances[layer] for layer in layers], axis=1), floor))
