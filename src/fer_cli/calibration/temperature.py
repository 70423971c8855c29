"""Temperatures of evidence and of class probabilities, fitted on the validation samples.

A layer's evidence is a sum over locations, as if they were independent. Neighbouring locations see the same
voxels, so the sum counts the same fact several times, in layers of many locations most. Divided by its
temperature, evidence is calibrated on samples that took no part in training or clustering, and
can be compared between layers. The class probabilities have a temperature too.

Source: temperature scaling, Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch  # also for softmax: scipy's import would take a fifth of a second
from jaxtyping import Float, Float32, Int

from fer_cli.network.activations import FEEDFORWARD, PATHS
from fer_cli.storage.artifact import Artifact

_LOWEST, _HIGHEST = 1e-3, 1e7
_HALVINGS = 60


@dataclass(frozen=True)
class Temperatures:
    """What evidence, by path and layer below the output, and log probabilities are divided by."""

    probability: float
    evidence: dict[str, dict[str, float]]

    def calibrated(self, probabilities: Float[np.ndarray, "sample klass"]) -> Float[np.ndarray, "sample klass"]:
        """Class probabilities that were right as often as they say, on the validation samples."""
        return torch.softmax(torch.from_numpy(logarithm(probabilities) / self.probability), 1).numpy()


def fit_temperature(
    scores: Float[np.ndarray, "sample klass"],
    labels: Int[np.ndarray, " sample"],
    prior: Float[np.ndarray, " klass"] | None = None,
) -> float:
    """The temperature T for which softmax(scores / T + log prior) tells the labels best, in cross-entropy.

    One sample more is imagined, like the others but labelled at random, so that scores which are right on every sample
    do not become infinitely sure.
    """
    count, classes = scores.shape
    # Classes first: PyTorch's softmax is four times as fast along an axis that is not the last.
    own = torch.from_numpy(np.ascontiguousarray(scores.T, dtype=np.float64))
    offset = torch.from_numpy(np.log(np.full((classes, 1), 1 / classes) if prior is None else prior[:, None]))
    share = 1 / (count + 1)
    wanted = torch.from_numpy((1 - share) * np.eye(classes)[:, labels] + share / classes)

    def slope(temperature: float) -> float:
        """Of the cross-entropy, along 1 / T; it is convex, so the slope rises with 1 / T."""
        return float(((torch.softmax(own / temperature + offset, 0) - wanted) * own).sum())

    low, high = np.log(_LOWEST), np.log(_HIGHEST)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(np.exp(middle)) > 0 else (low, middle)
    return float(np.exp((low + high) / 2))


def load_evidence(
    calibration: Artifact, layers: Sequence[str]
) -> dict[str, dict[str, Float32[np.ndarray, "validation klass"]]]:
    """Evidence of the validation samples by path and layer, as a calibration holds it; `layers` gives their order."""
    return {
        path: {layer: calibration.read(f"calibration/evidence/{path}/{layer}") for layer in layers} for path in PATHS
    }


def implied_class(
    evidence: Mapping[str, Float[np.ndarray, "sample klass"]],
    temperatures: Temperatures,
    predicted: Int[np.ndarray, " sample"],
) -> Int[np.ndarray, " sample"]:
    """The class, other than the predicted one, that the feedforward clusters of all layers speak for most.

    Evidence is calibrated layer by layer, and summed.
    """
    total = sum(evidence[layer] / worth for layer, worth in temperatures.evidence[FEEDFORWARD].items())
    others = np.array(total, dtype=np.float64)
    others[np.arange(len(others)), predicted] = -np.inf
    return others.argmax(axis=1)


def load_temperatures(calibration: Artifact, prior: Float[np.ndarray, " klass"], layers: Sequence[str]) -> Temperatures:
    """Temperatures fitted on the validation samples of a calibration; `layers` gives their order."""
    labels = calibration.read("calibration/label")
    evidence = {
        path: {layer: fit_temperature(values, labels, prior) for layer, values in layers.items()}
        for path, layers in load_evidence(calibration, layers).items()
    }
    return Temperatures(fit_temperature(logarithm(calibration.read("calibration/probability")), labels), evidence)


def logarithm(probabilities: Float[np.ndarray, "sample klass"]) -> Float[np.ndarray, "sample klass"]:
    """Logarithms of probabilities, those of zero finite."""
    return np.log(np.maximum(probabilities.astype(np.float64), np.finfo(np.float32).tiny))
