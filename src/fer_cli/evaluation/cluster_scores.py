"""Confidence scores that the clusters of a network give, from class evidence, code distances and reconstructions.

Every score is high where the prediction looks trustworthy. Whatever is fitted is fitted on validation samples.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int
from scipy.special import log_softmax, logsumexp

from fer_cli.calibration.temperature import Temperatures
from fer_cli.calibration.typicality import Typicality
from fer_cli.codebooks.reconstruction import ERRORS, error_ratio
from fer_cli.network.activations import FEEDFORWARD, PATHS

Evidence = Mapping[str, Mapping[str, Float[np.ndarray, "sample klass"]]]
Prior = Float[np.ndarray, " klass"]
Scores = dict[str, Float[np.ndarray, " sample"]]
RATIO = "input_vs_code/input_vs_local"
CODE_MARGIN = "input_vs_code_margin"


def error_scores(errors: Mapping[str, Float[np.ndarray, " sample"]]) -> Scores:
    """The paper's criteria: Table I's errors, and the ratio of the last to the first, with a minus sign."""
    return {**{name: -errors[name] for name in ERRORS}, RATIO: -error_ratio(errors)}


def code_margin(
    code_errors: Float[np.ndarray, "sample klass"], predicted: Int[np.ndarray, " sample"]
) -> Float[np.ndarray, " sample"]:
    """A sharper variant of the paper's criterion: the margin of the predicted class's code to the others.

    The error of the input to the reconstruction from the nearest other class's code, less that to the reconstruction
    from the predicted class's.
    """
    rows, others = np.arange(len(predicted)), code_errors.copy()
    others[rows, predicted] = np.inf
    return others.min(axis=1) - code_errors[rows, predicted]


def calibrated_scores(
    evidence: Evidence, temperatures: Temperatures, prior: Prior, predicted: Int[np.ndarray, " sample"]
) -> Scores:
    """Log odds of the predicted class by each layer's calibrated evidence, and by the sum over a path's layers."""
    scores: Scores = {}
    for path in PATHS:
        layers = temperatures.evidence[path]
        calibrated = {layer: evidence[path][layer] / temperature for layer, temperature in layers.items()}
        sums = {**calibrated, "all": np.mean(list(calibrated.values()), axis=0)}
        for layer, values in sums.items():
            scores[f"calibrated_{path}_{layer}"] = class_log_odds(_logarithms(values, prior), predicted)
    return scores


def agreement_scores(evidence: Evidence, temperatures: Temperatures, prior: Prior) -> Scores:
    """The chance that both paths name the same class, layer by layer, and the mean over layers.

    Each path names a class by the probabilities that its calibrated evidence gives. Low where they disagree.
    """
    scores: Scores = {}
    for layer in temperatures.evidence[FEEDFORWARD]:
        named = [
            np.exp(_logarithms(evidence[path][layer] / temperatures.evidence[path][layer], prior)) for path in PATHS
        ]
        scores[f"agreement_{layer}"] = (named[0] * named[1]).sum(axis=1)
    return {**scores, "agreement_all": np.mean(list(scores.values()), axis=0)}


def typicality_scores(
    distances: Mapping[str, Float[np.ndarray, " sample"]],
    typicality: Typicality,
    predicted: Int[np.ndarray, " sample"],
) -> Scores:
    """Less the standard deviations of the log distance to the codes above the mean, by layer, and the largest."""
    deviations = typicality.deviations(distances, predicted)
    return {
        **{f"typicality_{layer}": -values for layer, values in zip(typicality.layers, deviations.T, strict=True)},
        "typicality_all": -deviations.max(axis=1),
    }


def class_log_odds(
    logarithms: Float[np.ndarray, "sample klass"], chosen: Int[np.ndarray, " sample"]
) -> Float[np.ndarray, " sample"]:
    """Log odds of a class of each sample against all others together, from log probabilities."""
    rows = np.arange(len(chosen))
    others = logarithms.astype(np.float64)
    others[rows, chosen] = -np.inf
    return logarithms[rows, chosen] - logsumexp(others, axis=1)


def _logarithms(evidence: Float[np.ndarray, "sample klass"], prior: Prior) -> Float[np.ndarray, "sample klass"]:
    return log_softmax(evidence.astype(np.float64) + np.log(prior), axis=1)
