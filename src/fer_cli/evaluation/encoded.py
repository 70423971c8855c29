"""Samples as the encoder alone sees them: logits, and the features of its upper layers. What baselines work on."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from fer_cli.data.dataset import VolumeSet
from fer_cli.data.volumes import Volumes
from fer_cli.execution.transfer import moved
from fer_cli.network.activations import batches, encode
from fer_cli.network.backbone import OUTPUT, Features
from fer_cli.network.explained import ExplainedNetwork


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


def encode_samples(
    network: ExplainedNetwork,
    voxels: VolumeSet,
    indices: Int[np.ndarray, " sample"],
    *,
    report: Callable[[int], None] = lambda count: None,
) -> Encoded:
    """Encode samples; call `report` with the size of every batch."""
    parts = []
    for part in batches(indices):
        volumes = voxels.tensor(part)
        parts.append(kept_features(network, volumes, encode(network, volumes)))
        report(len(part))
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Encoded(indices, voxels.labels[indices], joined.pop(OUTPUT), joined)


def local_features(
    network: ExplainedNetwork, voxels: VolumeSet, indices: Int[np.ndarray, " sample"]
) -> Float[np.ndarray, "sample number"]:
    """Features of samples at the local layer, flat."""
    layer = network.spec.local_layer
    parts = [
        encode(network, voxels.tensor(part), [layer])[layer].float().flatten(1).cpu().numpy()
        for part in batches(indices)
    ]
    return np.concatenate(parts) if parts else np.zeros((0, math.prod(network.spec.level_shape(layer))), np.float32)


@torch.inference_mode()
def kept_features(
    network: ExplainedNetwork, volumes: Volumes, features: Features
) -> Mapping[str, Float[np.ndarray, "sample _"]]:
    """Of the features of a batch those of the upper layers, flat, and logits as `output`."""
    *_, last = network.spec.levels
    kept = {layer: features[layer].flatten(1).float().cpu().numpy() for layer in network.spec.upper_layers}
    logits = network.backbone.logits(moved(volumes, network.backbone.device), patch={last.name: features[last.name]})
    return {**kept, OUTPUT: logits.float().cpu().numpy()}
