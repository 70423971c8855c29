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
from fer_cli.network.activations import Columns, batches, encode
from fer_cli.network.backbone import OUTPUT, Features
from fer_cli.network.explained import ExplainedNetwork
from fer_cli.storage.spooled import SpooledRows

Kept = Mapping[str, Float[np.ndarray, "sample _"]]
"""Features of the upper layers of a batch, flat, and logits as `output`."""


@dataclass(frozen=True)
class Labelled:
    """A selection of samples of a voxel set, with the label and the logits of each."""

    indices: Int[np.ndarray, " sample"]
    labels: Int[np.ndarray, " sample"]
    logits: Float[np.ndarray, "sample klass"]

    @property
    def predicted(self) -> Int[np.ndarray, " sample"]:
        """The most probable class."""
        return self.logits.argmax(axis=1)

    @property
    def wrong(self) -> "np.ndarray":
        """Whether that is not the label."""
        return self.predicted != self.labels


@dataclass(frozen=True)
class Encoded(Labelled):
    """The same with features; `features[layer]` has axes (sample, number)."""

    features: dict[str, Float[np.ndarray, "sample _"]]


@dataclass(frozen=True)
class Spooled(Labelled):
    """The same with features of so many samples that memory need not hold them."""

    features: dict[str, SpooledRows]


def encode_samples(
    network: ExplainedNetwork,
    voxels: VolumeSet,
    indices: Int[np.ndarray, " sample"],
    *,
    report: Callable[[int], None] = lambda count: None,
) -> Encoded:
    """Encode samples; call `report` with the size of every batch."""
    columns = Columns(len(indices))
    _encode(network, voxels, indices, columns.add, report)
    return Encoded(indices, voxels.labels[indices], columns.arrays.pop(OUTPUT), columns.arrays)


def spool_samples(
    network: ExplainedNetwork,
    voxels: VolumeSet,
    indices: Int[np.ndarray, " sample"],
    *,
    report: Callable[[int], None] = lambda count: None,
) -> Spooled:
    """The same, with features that memory need not hold."""
    logits = Columns(len(indices))
    spooled = {layer: SpooledRows(math.prod(network.spec.level_shape(layer))) for layer in network.spec.upper_layers}

    def keep(batch: Kept) -> None:
        logits.add({OUTPUT: batch[OUTPUT]})
        for layer, rows in spooled.items():
            rows.append(batch[layer])

    _encode(network, voxels, indices, keep, report)
    return Spooled(indices, voxels.labels[indices], logits.arrays[OUTPUT], spooled)


def _encode(
    network: ExplainedNetwork,
    voxels: VolumeSet,
    indices: Int[np.ndarray, " sample"],
    keep: Callable[[Kept], None],
    report: Callable[[int], None],
) -> None:
    for part in batches(indices):
        volumes = voxels.tensor(part)
        keep(kept_features(network, volumes, encode(network, volumes)))
        report(len(part))


def local_features(
    network: ExplainedNetwork, voxels: VolumeSet, indices: Int[np.ndarray, " sample"]
) -> Float[np.ndarray, "sample number"]:
    """Features of samples at the local layer, flat."""
    layer = network.spec.local_layer
    features = np.empty((len(indices), math.prod(network.spec.level_shape(layer))), np.float32)
    for rows in batches(np.arange(len(indices))):
        features[rows] = encode(network, voxels.tensor(indices[rows]), [layer])[layer].float().flatten(1).cpu().numpy()
    return features


@torch.inference_mode()
def kept_features(network: ExplainedNetwork, volumes: Volumes, features: Features) -> Kept:
    """Of the features of a batch those of the upper layers, flat, and logits as `output`."""
    *_, last = network.spec.levels
    kept = {layer: features[layer].flatten(1).float().cpu().numpy() for layer in network.spec.upper_layers}
    logits = network.backbone.logits(moved(volumes, network.backbone.device), patch={last.name: features[last.name]})
    return {**kept, OUTPUT: logits.float().cpu().numpy()}
