"""The codes that training samples chose at one layer, by which those nearest to another sample are found.

The distance of a feature to a training sample's is estimated as that to the centroids which the training sample chose,
location by location; the nearest by that estimate are encoded and compared exactly.

Source: Jégou, Douze and Schmid, "Product quantization for nearest neighbor search", PAMI 2011, the asymmetric distance.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor
from torch.nn.functional import embedding_bag

from fer_cli.codebooks.codebook import Codebook
from fer_cli.data.dataset import VolumeSet
from fer_cli.network.activations import FEEDFORWARD, Columns, batches, encode
from fer_cli.network.explained import ExplainedNetwork

_ROWS = 1 << 13
"""How many training samples are compared in one step, which bounds the memory that it takes."""


@dataclass(frozen=True)
class TrainingCodes:
    """Training samples, as indices into the voxel set, and their feedforward codes at `layer`."""

    layer: str
    index: Int[np.ndarray, " training"]
    code: Integer[np.ndarray, "training location"]

    def nearest(
        self,
        codebook: Codebook,
        feature: Float[Tensor, "filter x y z"],
        among: Bool[np.ndarray, " training"],
        count: int,
    ) -> Int[np.ndarray, " nearest"]:
        """At most `count` of the training samples `among` all, those nearest by their centroids, the nearest first."""
        rows = np.flatnonzero(among)
        distance = self.squares(codebook, feature[None])[0, rows]
        return self.index[rows[np.argsort(distance, kind="stable")[:count]]]

    @torch.inference_mode()
    def squares(
        self, codebook: Codebook, features: Float[Tensor, "sample filter x y z"]
    ) -> Float[np.ndarray, "sample training"]:
        """Squared distance of each sample to the centroids of each training sample's codes, summed over locations.

        It estimates the squared distance to the training sample itself.
        """
        of_code = torch.from_numpy(codebook.layer(FEEDFORWARD, self.layer).relative_squares(features))
        locations, samples, codes = of_code.shape
        table = of_code.transpose(1, 2).reshape(locations * codes, samples)
        first = np.arange(locations) * codes
        squares = np.empty((samples, len(self.code)), np.float32)
        own = features.square().flatten(1).sum(1).cpu().numpy()[:, None]
        for start in range(0, len(self.code), _ROWS):
            chosen = torch.from_numpy(self.code[start : start + _ROWS] + first)
            relative = embedding_bag(chosen, table, mode="sum").T.numpy()
            squares[:, start : start + _ROWS] = np.maximum(relative + own, 0.0)
        return squares


def read_training_codes(
    network: ExplainedNetwork,
    codebook: Codebook,
    voxels: VolumeSet,
    indices: Int[np.ndarray, " training"],
    *,
    report: Callable[[int], None] = lambda done: None,
) -> TrainingCodes:
    """The codes of training samples at the local layer, read through the network; `report` gets the number done."""
    layer = network.spec.local_layer
    book, columns = codebook.layer(FEEDFORWARD, layer), Columns(len(indices))
    for part in batches(indices):
        columns.add({"code": book.assign(encode(network, voxels.tensor(part), [layer])[layer]).astype(np.uint16)})
        report(columns.filled)
    return TrainingCodes(layer, indices, columns.arrays["code"])
