"""Samples read through network and codebook: codes, class evidence, and confidence scores, batch-wise.

The feedforward codes are those of the encoder's features; the feedback codes those of the features that the
feedback network makes of the class probabilities alone. Section 4.1 of the paper.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int

from fer_cli.codebooks.codebook import Codebook
from fer_cli.data.volumes import Volumes
from fer_cli.network.activations import FEEDFORWARD, PATHS, encode_paths
from fer_cli.network.backbone import OUTPUT, Features
from fer_cli.network.explained import ExplainedNetwork


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


def read_samples(network: ExplainedNetwork, codebook: Codebook, volumes: Volumes) -> Reading:
    """Read a batch of volumes."""
    features = encode_paths(network, volumes)
    codes: dict[str, dict[str, np.ndarray]] = {path: {} for path in PATHS}
    evidence: dict[str, dict[str, np.ndarray]] = {path: {} for path in PATHS}
    for path in PATHS:
        for layer in network.spec.layer_names:
            codes[path][layer] = codebook.layer(path, layer).assign(features[path][layer])
            evidence[path][layer] = codebook.evidence(path, layer, codes[path][layer]).sum(axis=1)
    return Reading(features, codes, evidence)


def code_distances(codebook: Codebook, reading: Reading) -> dict[str, Float[np.ndarray, " sample"]]:
    """How far the samples' feedforward features lie from their codes, layer by layer below the output.

    Squared distances to the chosen centroids, summed over locations.
    """
    features, codes = reading.features[FEEDFORWARD], reading.codes[FEEDFORWARD]
    layers = codebook.spec.layer_names[:-1]
    return {layer: codebook.layer(FEEDFORWARD, layer).distances(features[layer], codes[layer]) for layer in layers}


def margin(
    evidence: Float[np.ndarray, "sample klass"], chosen: Int[np.ndarray, " sample"]
) -> Float[np.ndarray, " sample"]:
    """Evidence for the chosen class less that for the best other class."""
    rows = np.arange(len(evidence))
    others = evidence.astype(np.float64)
    others[rows, chosen] = -np.inf
    return evidence[rows, chosen] - others.max(axis=1)
