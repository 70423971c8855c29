"""Samples as the encoder alone sees them: logits, and the features of its upper layers. What baselines work on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from fer_cli.network.activations import batches, encode
from fer_cli.network.dataset import VoxelSet
from fer_cli.network.model import OUTPUT, Features, FERNet, NetworkConfig


@dataclass(frozen=True)
class Encoded:
    """Samples of a voxel set with their labels, logits and features; `features[layer]` has axes (sample, number)."""

    indices: Int[np.ndarray, " sample"]
    labels: Int[np.ndarray, " sample"]
    logits: Float[np.ndarray, "sample klass"]
    features: dict[str, Float[np.ndarray, "sample _"]]

    @property
    def predicted(self) -> Int[np.ndarray, " sample"]:
        """The most probable class."""
        return self.logits.argmax(axis=1)

    @property
    def wrong(self) -> "np.ndarray":
        """Whether that is not the label."""
        return self.predicted != self.labels


def upper_layers(config: NetworkConfig) -> tuple[str, ...]:
    """The layers between the local layer and the output, which are small enough to compare samples by."""
    names = config.layer_names[:-1]
    return names[names.index(config.local_layer) + 1 :]


def encode_samples(
    network: FERNet,
    voxels: VoxelSet,
    indices: Int[np.ndarray, " sample"],
    *,
    report: Callable[[int], None] = lambda count: None,
) -> Encoded:
    """Encode the given samples; `report` is told of every batch how many it holds."""
    parts = []
    for part in batches(indices):
        parts.append(kept_features(network, encode(network, voxels.tensor(part))))
        report(len(part))
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Encoded(indices, voxels.labels[indices], joined.pop(OUTPUT), joined)


@torch.inference_mode()
def kept_features(network: FERNet, features: Features) -> Mapping[str, Float[np.ndarray, "sample _"]]:
    """Of the features of a batch those of the upper layers, flat, and logits as `output`."""
    layers = upper_layers(network.config)
    last = network.config.layer_names[-2]
    kept = {layer: features[layer].flatten(1).float().cpu().numpy() for layer in layers}
    return {**kept, OUTPUT: network.encoder.logits_from(last, features[last]).float().cpu().numpy()}
