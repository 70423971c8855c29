"""Layer anomaly: the first layer whose features are unusual, given those of the layers below it.

Blame finds the layer where the clusters turn to a wrong class. A departure needs no class and no label. Two figures
describe each layer:

- the code distance (quantisation error): distance of the layer's features to their centroids, and
- the return error (one-step reconstruction error): distance between the features of the layer below, or the input, and
  one step of the feedback network down from the layer's features.

A fault at a layer raises both figures there, leaves the layers below as usual, and may have any effect above. Therefore
the log figures are taken in order of computation, less their mean by predicted class, and whitened by the validation
samples' covariance: each becomes a residual, its deviation from the prediction by the figures before it. The departure
is the most likely change point.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from fer_cli.calibration.p_value import PredictedClasses, load_predicted
from fer_cli.calibration.typicality import load_distances
from fer_cli.data.places import Location
from fer_cli.data.volumes import Volumes
from fer_cli.execution.transfer import moved
from fer_cli.network.backbone import Features
from fer_cli.network.explained import ExplainedNetwork
from fer_cli.storage.artifact import Artifact

RAISED, SPREAD = 2.0, 3.0
"""Mean and standard deviation of the whitened residuals of a layer with a fault (validation samples: 0 and 1)."""
AFTER = 1.5
"""Standard deviation of residuals above that layer. All three were chosen on validation samples, `docs/adr/0018`."""
SIGNIFICANT = 0.05
_FLOOR = 0.01
"""Smallest value of which a logarithm is taken, as a share of the median over validation samples: log 0 is infinite."""

Figures = Mapping[str, Float[np.ndarray, " sample"]]
"""By layer; squared distances, summed over locations."""


@dataclass(frozen=True)
class Departure:
    """The layer at which a sample's computation most likely departs from the usual one.

    `score` is the log-likelihood ratio against no departure, `margin` that against the second best layer, both in
    nats. `p_value` is the share of validation samples with at least that score, both standardised by predicted class,
    the sample itself counted in.
    `locations` are those of the layer that lie farthest from their codes.
    """

    layer: str
    score: float
    margin: float
    p_value: float
    locations: tuple[Location, ...] = ()

    @property
    def is_significant(self) -> bool:
        """By the conventional 5 %."""
        return self.p_value <= SIGNIFICANT


@dataclass(frozen=True)
class Course:
    """Reference statistics of the figures, from validation samples.

    `layer_of` is the layer of each figure, as an index into `layers`. `mean` is by predicted class. `whitening` is the
    lower triangle that turns centred log figures into surprises: whitened residuals, independent and of unit variance,
    in order of computation. `scores` are those of the validation samples, cross-fitted.
    """

    layers: tuple[str, ...]
    layer_of: tuple[int, ...]
    floor: Float[np.ndarray, " figure"]
    mean: Float[np.ndarray, "classes figure"]
    whitening: Float[np.ndarray, "figure figure"]
    predicted: PredictedClasses
    scores: Float[np.ndarray, " validation"]

    def measure(self, distances: Figures, errors: Figures, predicted: Int[np.ndarray, " sample"]) -> list[Departure]:
        """The departure of each sample, given its code distances, return errors and predicted class."""
        scores = _scores(self.surprises(distances, errors, predicted), self.layer_of)
        best, second = scores.max(axis=1), np.sort(scores, axis=1)[:, -2]
        p_values = self.predicted.p_values(best, predicted, self.scores)
        return [
            Departure(self.layers[layer], float(score), float(score - other), float(p))
            for layer, score, other, p in zip(scores.argmax(axis=1), best, second, p_values, strict=True)
        ]

    def surprises(
        self, distances: Figures, errors: Figures, predicted: Int[np.ndarray, " sample"]
    ) -> Float[np.ndarray, "sample figure"]:
        """Whitened residual of each figure given those before it, in standard deviations of the validation samples."""
        figures = np.stack(_in_order(self.layers, distances, errors)[1], axis=1)
        return (np.log(np.maximum(figures, self.floor)) - self.mean[predicted]) @ self.whitening.T


def known_course(layers: Sequence[str], distances: Figures, errors: Figures, predicted: PredictedClasses) -> Course:
    """The reference statistics from the figures of validation samples and their predicted classes."""
    layer_of, columns = _in_order(layers, distances, errors)
    figures = np.stack(columns, axis=1)
    floor = np.maximum(_FLOOR * np.median(figures, axis=0), np.finfo(np.float32).tiny)
    logarithms = np.log(np.maximum(figures, floor))
    scores = np.zeros(len(logarithms))
    for fitted, scored in predicted.folds():
        mean, whitening = _fit(logarithms[fitted], predicted.only(fitted))
        surprises = (logarithms[scored] - mean[predicted.predicted[scored]]) @ whitening.T
        scores[scored] = _scores(surprises, layer_of).max(axis=1)
    return Course(tuple(layers), tuple(layer_of), floor, *_fit(logarithms, predicted), predicted, scores)


def _fit(
    logarithms: Float[np.ndarray, "sample figure"], predicted: PredictedClasses
) -> tuple[Float[np.ndarray, "classes figure"], Float[np.ndarray, "figure figure"]]:
    """Means by predicted class, and what whitens the deviations from them.

    Correlations are shrunk towards zero by f / (f + n), with f figures and n samples, so that few samples suffice.
    """
    mean = predicted.means(logarithms)
    centred = logarithms - mean[predicted.predicted]
    samples, count = centred.shape
    deviation = centred.std(axis=0)
    deviation[deviation == 0] = 1.0
    standard = (centred - centred.mean(axis=0)) / deviation
    correlation = standard.T @ standard / (samples + count)
    np.fill_diagonal(correlation, 1.0)
    return mean, np.linalg.inv(np.linalg.cholesky(correlation)) / deviation


def _scores(
    surprises: Float[np.ndarray, "sample figure"], layer_of: Sequence[int]
) -> Float[np.ndarray, "sample layer"]:
    """Log-likelihood ratio, in nats, of a departure at each layer against no departure."""
    of = np.array(layer_of)
    usual = surprises**2 / 2
    entering = usual - ((surprises - RAISED) / SPREAD) ** 2 / 2 - np.log(SPREAD)
    above = usual - (surprises / AFTER) ** 2 / 2 - np.log(AFTER)
    return np.stack(
        [entering[:, of == layer].sum(axis=1) + above[:, of > layer].sum(axis=1) for layer in range(of.max() + 1)],
        axis=1,
    )


def _in_order(layers: Sequence[str], distances: Figures, errors: Figures) -> tuple[list[int], list[np.ndarray]]:
    """The figures in order of computation, and the layer of each; the output has no code distance."""
    layer_of, columns = [], []
    for number, layer in enumerate(layers):
        for figures in (errors, distances):
            if layer in figures:
                layer_of.append(number)
                columns.append(np.asarray(figures[layer], dtype=np.float64))
    return layer_of, columns


@torch.inference_mode()
def return_errors(
    network: ExplainedNetwork, volumes: Volumes, features: Features
) -> dict[str, Float[np.ndarray, " sample"]]:
    """One-step reconstruction error of every layer, `output` included.

    It is the squared distance between the feature of the layer below and one feedback step from the layer's feature.
    For the lowest layer it is the squared distance to the input.
    """
    errors = {}
    below = moved(volumes, network.backbone.device)
    for layer in network.spec.layer_names:
        returned = network.step_down(layer, features[layer])
        errors[layer] = (returned.float() - below.float()).square().flatten(1).sum(1).double().cpu().numpy()
        below = features[layer]
    return errors


def load_course(calibration: Artifact, layers: Sequence[str]) -> Course | None:
    """The reference statistics of the validation samples; None for an older codebook, which does not store them."""
    prefix = "calibration/return_error/"
    errors = {name.removeprefix(prefix): calibration.read(name) for name in calibration.names(prefix)}
    if not errors:
        return None
    return known_course(layers, load_distances(calibration, layers[:-1]), errors, load_predicted(calibration))
