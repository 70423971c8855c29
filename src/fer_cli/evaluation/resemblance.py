"""How near an input is to the local reconstructions of other samples: what its own has to be held against."""

import math

import numpy as np
import torch
from jaxtyping import Float, Int

from fer_cli.data.dataset import VolumeSet
from fer_cli.execution.transfer import moved
from fer_cli.network.activations import batches, encode
from fer_cli.network.explained import ExplainedNetwork

_NUMBERS = 1 << 25
"""Voxels of reconstructions that are kept at once: 1024 volumes of 32³."""


@torch.inference_mode()
def nearest_other_errors(
    network: ExplainedNetwork, voxels: VolumeSet, indices: Int[np.ndarray, " sample"]
) -> Float[np.ndarray, " sample"]:
    """Summed squared error of each sample's input to the nearest local reconstruction of another sample.

    The others are those of `indices`, evenly spaced where memory does not hold them all. Not a number for a sample
    without another.
    """
    layer, most = network.spec.local_layer, max(2, _NUMBERS // math.prod(voxels.input.volume))
    spaced = np.linspace(0, len(indices) - 1, min(len(indices), most)).round().astype(np.int64)
    others = indices[spaced]
    decoded = []
    for part in batches(others):
        feature = encode(network, voxels.tensor(part), [layer])[layer]
        decoded.append(network.reconstruct(feature, layer).flatten(1).float())
    known = torch.cat(decoded)
    centre = known.mean(dim=0)  # squares of large numbers cancel
    known -= centre
    sizes = known.square().sum(dim=1)
    nearest = []
    for part in batches(indices):
        own = moved(voxels.tensor(part), centre.device).flatten(1) - centre
        errors = own.square().sum(dim=1, keepdim=True) + sizes - 2 * own @ known.T
        errors.masked_fill_(moved(torch.from_numpy(part[:, None] == others), centre.device), math.inf)
        nearest.append(errors.min(dim=1).values.clamp(min=0))
    found = torch.cat(nearest).double().cpu().numpy()
    return np.where(np.isinf(found), np.nan, found)
