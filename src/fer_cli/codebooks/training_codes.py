"""The codes that training samples chose at one layer, by which those nearest to another sample are found.

The distance of a feature to a training sample's is estimated as that to the centroids which the training sample chose,
location by location; the nearest by that estimate are encoded and compared exactly.

Source: Jégou, Douze and Schmid, "Product quantization for nearest neighbor search", PAMI 2011, the asymmetric distance.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fer_cli.codebooks.codebook import Codebook
from fer_cli.data.dataset import VolumeSet
from fer_cli.data.volumes import Volumes
from fer_cli.network.activations import FEEDFORWARD, batches, encode
from fer_cli.network.explained import ExplainedNetwork


@dataclass(frozen=True)
class TrainingCodes:
    """Training samples, as indices into the voxel set, and their feedforward codes at `layer`."""

    layer: str
    index: Int[np.ndarray, " training"]
    code: Int[np.ndarray, "training location"]

    def nearest(
        self,
        codebook: Codebook,
        feature: Float[Tensor, "filter x y z"],
        among: Bool[np.ndarray, " training"],
        count: int,
    ) -> Int[np.ndarray, " nearest"]:
        """At most `count` of the training samples `among` all, those nearest by their centroids, the nearest first."""
        rows = np.flatnonzero(among)
        distance = self.squares(codebook, feature)[rows]
        return self.index[rows[np.argsort(distance, kind="stable")[:count]]]

    def squares(self, codebook: Codebook, feature: Float[Tensor, "filter x y z"]) -> Float[np.ndarray, " training"]:
        """Estimated squared distance to each training sample."""
        of_code = codebook.layer(FEEDFORWARD, self.layer).relative_squares(feature[None])[:, 0]
        relative = of_code[np.arange(len(of_code)), self.code].sum(axis=1)
        squares: Float[np.ndarray, " training"] = np.maximum(relative + float(feature.square().sum()), 0.0)
        return squares


def read_training_codes(
    network: ExplainedNetwork,
    codebook: Codebook,
    voxels: VolumeSet,
    indices: Int[np.ndarray, " training"],
    *,
    read: Callable[[Volumes], None] = lambda volumes: None,
    report: Callable[[int], None] = lambda done: None,
) -> TrainingCodes:
    """Encode training samples up to the local layer; `read` is given each batch, `report` told how many are done."""
    layer = network.spec.local_layer
    book, codes, done = codebook.layer(FEEDFORWARD, layer), [], 0
    for part in batches(indices):
        volumes = voxels.tensor(part)
        codes.append(book.assign(encode(network, volumes, [layer])[layer]))
        read(volumes)
        done += len(part)
        report(done)
    return TrainingCodes(layer, indices, np.concatenate(codes))
