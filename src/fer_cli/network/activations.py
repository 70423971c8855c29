"""Features of a network: of both paths, batch by batch, and at the precision that codes are looked up at."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from fer_cli.network.model import OUTPUT, Features, FERNet

FEEDFORWARD, FEEDBACK = "feedforward", "feedback"
PATHS = (FEEDFORWARD, FEEDBACK)
BATCH = 64
"""Samples the network reads at once; fixed, so that features do not depend on memory or workers."""
_HALF_MAX = torch.finfo(torch.float16).max


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


def encode_paths(network: FERNet, grids: Float[Tensor, "sample 1 x y z"]) -> dict[str, Features]:
    """Features of every level in both paths, by path."""
    forward = encode(network, grids)
    return {FEEDFORWARD: forward, FEEDBACK: feed_back(network, forward[OUTPUT])}


def round_to(feature: Float[Tensor, "*axes"], bits: int) -> Float[Tensor, "*axes"]:
    """Features at the precision that codes are looked up at: 16 bits, or the 32 that the network gives.

    What is beyond the range of half precision is brought to its end.
    """
    return feature.clamp(-_HALF_MAX, _HALF_MAX).half() if bits == 16 else feature.float()
