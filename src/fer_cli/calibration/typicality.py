"""Typicality: a sample's distance to its codes, compared with the distances of the validation samples.

A sample unlike the clustered samples lies far from every centroid in at least one layer. Each layer's log distance is
standardised by the mean and standard deviation of the validation samples. The largest one is the score.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from fer_cli.calibration.p_value import empirical_p_value
from fer_cli.storage.artifact import Artifact


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
    """Mean and standard deviation of the validation samples' log distances by layer, and their scores, ascending."""

    mean: dict[str, float]
    deviation: dict[str, float]
    scores: Float[np.ndarray, " validation"]

    def measure(self, distances: Mapping[str, Float[np.ndarray, " sample"]]) -> list[Atypicality]:
        """The atypicality of each sample, given the distance to its codes at every layer."""
        layers, deviations = list(self.mean), self.deviations(distances)
        worst = deviations.argmax(axis=0)
        scores = deviations.max(axis=0)
        p_values = empirical_p_value(scores, self.scores)
        return [
            Atypicality(float(score), layers[layer], float(p))
            for score, layer, p in zip(scores, worst, p_values, strict=True)
        ]

    def deviations(self, distances: Mapping[str, Float[np.ndarray, " sample"]]) -> Float[np.ndarray, "layer sample"]:
        """Standard deviations above the validation samples' mean log distance, layer by layer."""
        return np.array(
            [(_logarithm(distances[layer]) - self.mean[layer]) / self.deviation[layer] for layer in self.mean]
        )


def known_typicality(distances: Mapping[str, Float[np.ndarray, " validation"]]) -> Typicality:
    """The typicality from the distances of validation samples, by layer."""
    logarithms = {layer: _logarithm(values) for layer, values in distances.items()}
    mean = {layer: float(values.mean()) for layer, values in logarithms.items()}
    # A single validation sample has no deviation; any scale says then how much farther another lies.
    deviation = {layer: float(values.std()) or 1.0 for layer, values in logarithms.items()}
    unscored = Typicality(mean, deviation, np.zeros(0))
    return Typicality(mean, deviation, np.sort(unscored.deviations(distances).max(axis=0)))


def load_typicality(calibration: Artifact, layers: Sequence[str]) -> Typicality:
    """The typicality of the validation samples of a calibration; `layers` gives the order of layers."""
    return known_typicality(load_distances(calibration, layers))


def load_distances(calibration: Artifact, layers: Sequence[str]) -> dict[str, Float[np.ndarray, " validation"]]:
    """Distances of the validation samples to their codes, by layer, in the order of `layers`."""
    return {layer: calibration.read(f"calibration/distance/{layer}") for layer in layers}


def _logarithm(distances: Float[np.ndarray, " sample"]) -> Float[np.ndarray, " sample"]:
    return np.log(np.maximum(distances, np.finfo(np.float32).tiny))
