"""Where the forward computation departs from what the network normally does.

Blame asks where the clusters turn to a wrong class. This asks something else, without any class or label: which layer
made of the layer below it what it does not usually make. Two figures a layer say so:

- the code distance: how far its features lie from the centroids, and
- the return error: how far the feedback network, going one step down from these features, ends from the features of the
  layer below, or from the input. Local reconstruction, one layer at a time.

A fault that enters at a layer leaves both as usual in the layers below and raises them there; what comes after may look
like anything. So the figures' logarithms are taken in order of computation, each less what those before it
lead one to expect (whitened by the validation samples' covariance), and the layer is the most likely place of a change.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from fer_cli.calibration.p_value import empirical_p_value
from fer_cli.calibration.typicality import load_distances
from fer_cli.data.volumes import Location, Volumes
from fer_cli.network.backbone import Features
from fer_cli.network.explained import ExplainedNetwork
from fer_cli.storage.artifact import Artifact

RAISED, SPREAD = 2.0, 3.0
"""Mean and standard deviation of a layer's surprises where a fault enters, in those of validation samples."""
AFTER = 1.5
"""Standard deviation of surprises above that layer. All three were chosen on validation samples, `docs/adr/0018`."""
SIGNIFICANT = 0.05
_FLOOR = 0.01
"""Figures below this share of the validation samples' median are all the same."""

Figures = Mapping[str, Float[np.ndarray, " sample"]]
"""By layer; squared distances, summed over locations."""


@dataclass(frozen=True)
class Departure:
    """The layer at which a sample's computation most likely departs from the usual one.

    `score` is by how many nats that is likelier than no departure, `margin` than one at the next best layer; `p_value`
    is the share of validation samples of at least that score, the sample itself counted in. `locations` are those of
    the layer that lie farthest from their codes.
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
    """The usual course of a network's computation, known from validation samples.

    `layer_of` is the layer of each figure, as an index into `layers`; `whitening` is the lower triangle that turns
    centred log figures into surprises, independent and of unit variance, each of which knows the figures before it.
    `scores` are the validation samples' own, ascending.
    """

    layers: tuple[str, ...]
    layer_of: tuple[int, ...]
    floor: Float[np.ndarray, " figure"]
    mean: Float[np.ndarray, " figure"]
    whitening: Float[np.ndarray, "figure figure"]
    scores: Float[np.ndarray, " validation"]

    def measure(self, distances: Figures, errors: Figures) -> list[Departure]:
        """The departure of each sample, given its code distances and return errors."""
        scores = self._scores(distances, errors)
        best, second = scores.max(axis=1), np.sort(scores, axis=1)[:, -2]
        p_values = empirical_p_value(best, self.scores)
        return [
            Departure(self.layers[layer], float(score), float(score - other), float(p))
            for layer, score, other, p in zip(scores.argmax(axis=1), best, second, p_values, strict=True)
        ]

    def surprises(self, distances: Figures, errors: Figures) -> Float[np.ndarray, "sample figure"]:
        """What each figure adds to those before it, in standard deviations of the validation samples."""
        figures = np.stack(_in_order(self.layers, distances, errors)[1], axis=1)
        return (np.log(np.maximum(figures, self.floor)) - self.mean) @ self.whitening.T

    def _scores(self, distances: Figures, errors: Figures) -> Float[np.ndarray, "sample layer"]:
        """Nats for a departure at each layer rather than none."""
        surprises, of = self.surprises(distances, errors), np.array(self.layer_of)
        usual = surprises**2 / 2
        entering = usual - ((surprises - RAISED) / SPREAD) ** 2 / 2 - np.log(SPREAD)
        above = usual - (surprises / AFTER) ** 2 / 2 - np.log(AFTER)
        return np.stack(
            [
                entering[:, of == layer].sum(axis=1) + above[:, of > layer].sum(axis=1)
                for layer in range(len(self.layers))
            ],
            axis=1,
        )


def known_course(layers: Sequence[str], distances: Figures, errors: Figures) -> Course:
    """The course that validation samples of the given figures are the measure of.

    Correlations are drawn to zero by f / (f + n), with f figures and n samples, so that few samples do.
    """
    layer_of, columns = _in_order(layers, distances, errors)
    figures = np.stack(columns, axis=1)
    floor = np.maximum(_FLOOR * np.median(figures, axis=0), np.finfo(np.float32).tiny)
    logarithms = np.log(np.maximum(figures, floor))
    samples, count = logarithms.shape
    deviation = logarithms.std(axis=0)
    deviation[deviation == 0] = 1.0
    standard = (logarithms - logarithms.mean(axis=0)) / deviation
    correlation = standard.T @ standard / (samples + count)
    np.fill_diagonal(correlation, 1.0)
    whitening = np.linalg.inv(np.linalg.cholesky(correlation)) / deviation
    course = Course(tuple(layers), tuple(layer_of), floor, logarithms.mean(axis=0), whitening, np.zeros(0))
    scores = np.sort(course._scores(distances, errors).max(axis=1))
    return Course(course.layers, course.layer_of, floor, course.mean, whitening, scores)


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
    """By layer, `output` included: how far one step of the feedback network leads past what lies below.

    The squared distance between what the step makes of the layer's feature and the feature of the layer below; below
    the lowest lies the input, where the step gives voxel values.
    """
    errors = {}
    below = volumes.to(network.backbone.device)
    for layer in network.spec.layer_names:
        returned = network.step_down(layer, features[layer])
        errors[layer] = (returned.float() - below.float()).square().flatten(1).sum(1).double().cpu().numpy()
        below = features[layer]
    return errors


def load_course(calibration: Artifact, layers: Sequence[str]) -> Course | None:
    """The course of the validation samples; None in a codebook of before that was stored."""
    prefix = "calibration/return_error/"
    errors = {name.removeprefix(prefix): calibration.read(name) for name in calibration.names(prefix)}
    return known_course(layers, load_distances(calibration, layers[:-1]), errors) if errors else None
