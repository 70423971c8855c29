"""Samples read through network and codebook: codes, class evidence, and confidence scores, batch-wise.

The feedforward codes are those of the encoder's features; the feedback codes those of the features that the
feedback network makes of the class probabilities alone. Section 4.1 of the paper.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor

from fer_cli.codebooks.codebook import Codebook
from fer_cli.network.activations import FEEDFORWARD, PATHS, encode_paths
from fer_cli.network.model import OUTPUT, Features, FERNet
from fer_cli.storage.artifact import Artifact


@dataclass(frozen=True)
class Reading:
    """A batch of samples, read: features, codes and summed evidence by path and layer.

    `evidence[path][layer]` has axes (sample, class), in nats, summed over the layer's locations.
    """

    features: dict[str, Features]
    codes: dict[str, dict[str, Int[np.ndarray, "sample location"]]]
    evidence: dict[str, dict[str, Float32[np.ndarray, "sample klass"]]]

    @property
    def probabilities(self) -> Float32[np.ndarray, "sample klass"]:
        """Class probabilities."""
        return self.features[FEEDFORWARD][OUTPUT].flatten(1).cpu().numpy()

    @property
    def predicted(self) -> Int[np.ndarray, " sample"]:
        """The most probable class."""
        return self.probabilities.argmax(axis=1)

    def confidence_scores(self) -> dict[str, Float[np.ndarray, " sample"]]:
        """Scores that are high where the prediction looks trustworthy.

        `max_softmax`, `softmax_margin` (log odds of the two most probable classes), and for each path and layer
        `evidence_<path>_<layer>`: evidence for the predicted class less that for the best other class.
        """
        probabilities = np.sort(self.probabilities.astype(np.float64), axis=1)
        tiny = np.finfo(np.float32).tiny
        scores = {
            "max_softmax": probabilities[:, -1],
            "softmax_margin": np.log(probabilities[:, -1] + tiny) - np.log(probabilities[:, -2] + tiny),
        }
        for path, layers in self.evidence.items():
            for layer, evidence in layers.items():
                if layer != OUTPUT:  # the output's codes are the prediction itself
                    scores[f"evidence_{path}_{layer}"] = margin(evidence, self.predicted)
        return scores


def read_samples(network: FERNet, codebook: Codebook, grids: Float[Tensor, "sample 1 x y z"]) -> Reading:
    """Read a batch of occupancy grids."""
    features = encode_paths(network, grids)
    codes: dict[str, dict[str, np.ndarray]] = {path: {} for path in PATHS}
    evidence: dict[str, dict[str, np.ndarray]] = {path: {} for path in PATHS}
    for path in PATHS:
        for layer in network.config.layer_names:
            codes[path][layer] = codebook.layer(path, layer).assign(features[path][layer])
            evidence[path][layer] = codebook.evidence(path, layer, codes[path][layer]).sum(axis=1)
    return Reading(features, codes, evidence)


def code_distances(codebook: Codebook, reading: Reading) -> dict[str, Float[np.ndarray, " sample"]]:
    """How far the samples' feedforward features lie from their codes, layer by layer below the output.

    Squared distances to the chosen centroids, summed over locations.
    """
    features, codes = reading.features[FEEDFORWARD], reading.codes[FEEDFORWARD]
    layers = codebook.config.layer_names[:-1]
    return {layer: codebook.layer(FEEDFORWARD, layer).distances(features[layer], codes[layer]) for layer in layers}


def margin(
    evidence: Float[np.ndarray, "sample klass"], chosen: Int[np.ndarray, " sample"]
) -> Float[np.ndarray, " sample"]:
    """Evidence for the chosen class less that for the best other class."""
    rows = np.arange(len(evidence))
    others = evidence.astype(np.float64)
    others[rows, chosen] = -np.inf
    return evidence[rows, chosen] - others.max(axis=1)


_ROUNDING = 1e-5
"""What batches of other sizes change in a score at most, in float32, as a share of it."""


@dataclass(frozen=True)
class ReferenceErrors:
    """Table I's errors of validation samples by name, of those classified correctly and of the others; may be empty."""

    correct: dict[str, Float[np.ndarray, " correct"]]
    misclassified: dict[str, Float[np.ndarray, " misclassified"]]


@dataclass(frozen=True)
class Calibration:
    """Confidence scores and Table I's errors of the validation samples, against which a new sample's are held.

    Validation samples took no part in training or clustering. Nothing here is fitted to labels, except that the
    p-value compares with the correctly classified ones.
    """

    scores: dict[str, Float[np.ndarray, " validation"]]
    correct: Bool[np.ndarray, " validation"]
    errors: dict[str, Float[np.ndarray, " validation"]] = field(default_factory=dict)

    @property
    def reference_errors(self) -> ReferenceErrors:
        """The errors by outcome."""
        return ReferenceErrors(
            {name: values[self.correct] for name, values in self.errors.items()},
            {name: values[~self.correct] for name, values in self.errors.items()},
        )

    def suspicion(self, scores: Mapping[str, Float[np.ndarray, " sample"]]) -> Float[np.ndarray, " sample"]:
        """How suspicious samples look, in [0, 1]: one less the mean rank of their scores among validation samples.

        The mean is taken within each family of scores (softmax, feedforward evidence, feedback evidence) and then
        over families, so that many layers do not outvote one softmax. Scores a rounding apart tie, so that a sample
        says the same read alone and in a batch.
        """
        families: dict[str, list[np.ndarray]] = {}
        for name, reference in self.scores.items():
            ordered = np.sort(reference)
            rounding = _ROUNDING * np.maximum(1, np.abs(scores[name]))
            below = np.searchsorted(ordered, scores[name] - rounding, side="left")
            not_above = np.searchsorted(ordered, scores[name] + rounding, side="right")
            families.setdefault(_family(name), []).append((below + not_above) / (2 * len(ordered)))
        return 1 - np.mean([np.mean(ranks, axis=0) for ranks in families.values()], axis=0)

    def p_value(self, suspicion: Float[np.ndarray, " sample"]) -> Float[np.ndarray, " sample"]:
        """Share of correctly classified samples that look at least as suspicious, the sample itself counted in.

        Source: the conformal p-value of Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World".
        """
        reference = np.sort(self.suspicion(self.scores)[self.correct])
        at_least = len(reference) - np.searchsorted(reference, suspicion, side="left")
        return (at_least + 1) / (len(reference) + 1)


def _family(score: str) -> str:
    return score.rpartition("_")[0] if score.startswith("evidence_") else "softmax"


def load_calibration(codebook: Artifact) -> Calibration:
    """The calibration that `fer cluster` wrote into a codebook."""
    scores, errors = (
        {name.rpartition("/")[2]: codebook.read(name) for name in codebook.names(f"calibration/{kind}/")}
        for kind in ("score", "error")
    )
    correct = codebook.read("calibration/label") == codebook.read("calibration/predicted")
    return Calibration(scores, correct, errors)
