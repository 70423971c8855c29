"""Features of a network: of both paths, batch by batch, and at the precision that codes are looked up at."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from fer_cli.data.dataset import VolumeSet
from fer_cli.data.volumes import Volumes
from fer_cli.execution.transfer import moved
from fer_cli.network.backbone import OUTPUT, Features
from fer_cli.network.explained import ExplainedNetwork
from fer_cli.network.precision import mixed_precision

FEEDFORWARD, FEEDBACK = "feedforward", "feedback"
PATHS = (FEEDFORWARD, FEEDBACK)
BATCH = 64
"""Samples the network reads at once; fixed, so that features do not depend on memory or workers."""
_HALF_MAX = torch.finfo(torch.float16).max


def batches(indices: Int[np.ndarray, " sample"], size: int = BATCH) -> Iterator[Int[np.ndarray, " batch"]]:
    """Consecutive parts of `indices`, at most `size` long."""
    for start in range(0, len(indices), size):
        yield indices[start : start + size]


class Columns:
    """Arrays by name with a row for each of so many samples, filled batch by batch.

    Each array is allocated at full length when the first batch is added. If small arrays were kept of every batch, they
    would lie between the freed volumes, and the allocator could not use that memory for the next batch.
    """

    def __init__(self, samples: int) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        self.filled = 0
        self._samples = samples

    def add(self, batch: Mapping[str, Shaped[np.ndarray, "batch *axes"]]) -> None:
        """Add the rows of a batch, with the same names and types each time."""
        for name, values in batch.items():
            if name not in self.arrays:
                self.arrays[name] = np.empty((self._samples, *values.shape[1:]), values.dtype)
            self.arrays[name][self.filled : self.filled + len(values)] = values
        self.filled += len(next(iter(batch.values())))


@torch.inference_mode()
def encode(network: ExplainedNetwork, volumes: Volumes, levels: Sequence[str] | None = None) -> Features:
    """Feedforward features of the given levels, of all and `output` if None."""
    return network.backbone.features(moved(volumes, network.backbone.device), levels)


def predict(network: ExplainedNetwork, volumes: Volumes) -> Float[np.ndarray, "sample klass"]:
    """Class probabilities."""
    return encode(network, volumes, [OUTPUT])[OUTPUT].flatten(1).cpu().numpy()


def predict_variations(network: ExplainedNetwork, volumes: Volumes) -> Float[np.ndarray, "variation klass"]:
    """Class probabilities of variations of samples, which are wanted for their means alone.

    Computed in mixed precision where the network takes it. Rounding changes such a mean far less than other variations
    would (docs/adr/0042).
    """
    backbone = network.backbone
    with mixed_precision(backbone.device) if backbone.takes_mixed_precision else nullcontext():
        return predict(network, volumes)


def predict_samples(
    network: ExplainedNetwork, voxels: VolumeSet, indices: Int[np.ndarray, " sample"]
) -> Float[np.ndarray, "sample klass"]:
    """The probabilities that the network gives to each class, for samples of a voxel set."""
    columns = Columns(len(indices))
    for part in batches(indices):
        columns.add({OUTPUT: predict(network, voxels.tensor(part))})
    return columns.arrays[OUTPUT]


@torch.inference_mode()
def feed_back(network: ExplainedNetwork, probabilities: Float[Tensor, "sample klass 1 1 1"]) -> Features:
    """Feedback features of every level from class probabilities, every gate shut; `output` is the probabilities."""
    code = probabilities.to(network.backbone.device)
    return {OUTPUT: code, **network.feedback.features_below(code, OUTPUT)}


def encode_paths(network: ExplainedNetwork, volumes: Volumes) -> dict[str, Features]:
    """Features of every level in both paths, by path."""
    forward = encode(network, volumes)
    return {FEEDFORWARD: forward, FEEDBACK: feed_back(network, forward[OUTPUT])}


def round_to(feature: Float[Tensor, "*axes"], bits: int) -> Float[Tensor, "*axes"]:
    """Features at the precision that codes are looked up at: 16 bits, or the 32 that the network gives.

    What is beyond the range of half precision is brought to its end.
    """
    return feature.clamp(-_HALF_MAX, _HALF_MAX).half() if bits == 16 else feature.float()
