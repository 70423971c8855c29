"""Features of a network over many samples, location by location, in bounded memory.

k-means wants all samples at one location; the network gives all locations of one batch. `plan_passes`
cuts layers into slabs of locations that fit the memory allowed, and `collect` runs the network over the set
once a pass. Locations are flattened in C order of (x, y, z).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

from fer_cli.dataset import VoxelSet
from fer_cli.errors import UsageError
from fer_cli.model import OUTPUT, Features, FERNet, NetworkConfig

FEEDFORWARD, FEEDBACK = "feedforward", "feedback"
PATHS = (FEEDFORWARD, FEEDBACK)
BATCH = 64
"""Samples the network reads at once; fixed, so that features do not depend on memory or workers."""


@dataclass(frozen=True)
class Slab:
    """Locations `start` to `stop` (exclusive) of a layer."""

    layer: str
    start: int
    stop: int


def device_of(network: torch.nn.Module) -> torch.device:
    """The device that a network's weights are on."""
    return next(network.parameters()).device


def batches(indices: Int[np.ndarray, " sample"], size: int = BATCH) -> Iterator[Int[np.ndarray, " batch"]]:
    """Consecutive parts of `indices`, at most `size` long."""
    for start in range(0, len(indices), size):
        yield indices[start : start + size]


@torch.inference_mode()
def encode(network: FERNet, grids: Float[Tensor, "sample 1 x y z"]) -> Features:
    """Feedforward features of every level."""
    return network.encoder.features(grids.to(device_of(network)))


@torch.inference_mode()
def feed_back(network: FERNet, probabilities: Float[Tensor, "sample klass 1 1 1"]) -> Features:
    """Feedback features of every level from class probabilities, every gate shut; `output` is the probabilities."""
    code = probabilities.to(device_of(network))
    return {OUTPUT: code, **network.decode(code, OUTPUT).features}


def class_probabilities(
    network: FERNet, voxels: VoxelSet, indices: Int[np.ndarray, " sample"]
) -> Float[Tensor, "sample klass 1 1 1"]:
    """Class probabilities of the given samples."""
    return torch.cat([encode(network, voxels.tensor(part))[OUTPUT].cpu() for part in batches(indices)])


def plan_passes(config: NetworkConfig, samples: int, memory: int) -> list[list[Slab]]:
    """Slabs that cover every location of every layer, grouped so that each group's features fit `memory` bytes.

    Raises UsageError if one location of some layer does not fit.
    """
    passes: list[list[Slab]] = [[]]
    free = memory
    for layer in config.layer_names:
        filters, *sides = config.level_shape(layer)
        locations, each = int(np.prod(sides)), samples * filters * 4
        if each > memory:
            raise UsageError(
                f"one location of {layer} needs {each / 1e6:.3g} MB for {samples} samples, more than --memory allows "
                f"({memory / 1e6:.3g} MB)."
            )
        start = 0
        while start < locations:
            if free < each:
                passes.append([])
                free = memory
            stop = min(locations, start + free // each)
            passes[-1].append(Slab(layer, start, stop))
            free -= (stop - start) * each
            start = stop
    return passes


def collect(
    network: FERNet,
    voxels: VoxelSet,
    indices: Int[np.ndarray, " sample"],
    *,
    path: str,
    slabs: list[Slab],
    probabilities: Float[Tensor, "sample klass 1 1 1"],
) -> dict[Slab, Float32[np.ndarray, "location sample filter"]]:
    """Features of the given samples at the given slabs, location first.

    `probabilities` are those of the samples (see `class_probabilities`); only the feedback path reads them.
    """
    config = network.config
    buffers = {
        slab: np.empty((slab.stop - slab.start, len(indices), config.level_shape(slab.layer)[0]), dtype=np.float32)
        for slab in slabs
    }
    done = 0
    for part in batches(indices):
        end = done + len(part)
        if path == FEEDFORWARD:
            features = encode(network, voxels.tensor(part))
        else:
            features = feed_back(network, probabilities[done:end])
        for slab, buffer in buffers.items():
            flat = features[slab.layer].flatten(2)[:, :, slab.start : slab.stop]
            buffer[:, done:end] = flat.permute(2, 0, 1).cpu().numpy()
        done = end
    return buffers
