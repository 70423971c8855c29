"""Donors: training samples of a class whose features replace those of a sample.

A donor is a training sample of the wanted class that the network classifies correctly, the one whose feature at the
layer is nearest to the sample's. It is found through the codebook: at every location the nearest centroid whose
exemplar is of that class votes for it, and those with most votes are encoded and compared.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from fer_cli.codebooks.codebook import Codebook
from fer_cli.codebooks.training_codes import TrainingCodes
from fer_cli.data.dataset import VolumeSet
from fer_cli.execution.transfer import moved
from fer_cli.network.activations import FEEDFORWARD, batches, encode
from fer_cli.network.backbone import OUTPUT, Features
from fer_cli.network.explained import ExplainedNetwork

CANDIDATES = 6
"""So many exemplars are encoded and compared."""
_NEIGHBOURS, _FEW, _LARGE = 24, 8, 48**3
"""As many where the nearest are to be shown; fewer of volumes of more voxels, where reading them takes long."""


@dataclass(frozen=True)
class Donations:
    """One donor for each sample: its index in the voxel set, and its feature at the layer."""

    index: Int[np.ndarray, " sample"]
    feature: Float[Tensor, "sample filter x y z"]


@dataclass(eq=False)
class Donors:
    """The training samples of a run as donors; each is encoded once, and the given layers of it stay on the device."""

    network: ExplainedNetwork
    codebook: Codebook
    voxels: VolumeSet
    layers: tuple[str, ...]
    _encoded: dict[int, Features] = field(default_factory=dict, init=False, repr=False)
    _predicted: dict[int, int] = field(default_factory=dict, init=False, repr=False)

    def find(
        self, layer: str, feature: Float[Tensor, "sample filter x y z"], wanted: Int[np.ndarray, " sample"]
    ) -> Donations:
        """For each sample the donor of the class wanted, given what the samples have at `layer`.

        If no candidate is classified correctly, use the nearest one.
        """
        if not len(wanted):
            return Donations(np.zeros(0, np.int64), feature)
        candidates = [
            self._candidates(layer, one, int(klass))
            for one, klass in zip(feature.detach().float(), wanted, strict=True)
        ]
        self._encode(np.unique(np.concatenate(candidates)))
        found, features = [], []
        for row, (indices, klass) in enumerate(zip(candidates, wanted, strict=True)):
            parts = torch.stack([self._encoded[int(i)][layer] for i in indices]).float()
            distance = (parts - feature[row].detach()).flatten(1).square().sum(1)
            mistaken = torch.tensor([self._predicted[int(i)] != klass for i in indices])
            if not mistaken.all():
                distance = distance.masked_fill(moved(mistaken, distance.device), torch.inf)
            nearest = int(distance.argmin())
            found.append(int(indices[nearest]))
            features.append(parts[nearest])
        return Donations(np.array(found), torch.stack(features))

    def nearest(
        self,
        layer: str,
        feature: Float[Tensor, "1 filter x y z"],
        klass: int,
        count: int,
        known: TrainingCodes | None = None,
    ) -> tuple[int, ...]:
        """The training samples of a class that are nearest to a sample at a layer, the nearest first.

        They are looked for among those nearest by the `known` codes of that layer, or else among exemplars.
        """
        own = feature[0].detach().float()
        most = _FEW if math.prod(self.network.spec.input.volume) > _LARGE else _NEIGHBOURS
        if known is not None and known.layer == layer:
            of_class = self.voxels.labels[known.index] == klass
            candidates = known.nearest(self.codebook, own, of_class, most)
        else:
            candidates = self._candidates(layer, own, klass, most)
        if not len(candidates):
            return ()
        distances = [
            (encode(self.network, self.voxels.tensor(part), [layer])[layer].float() - own).flatten(1).square().sum(1)
            for part in batches(candidates)
        ]
        order = torch.argsort(torch.cat(distances), stable=True)[:count].tolist()
        return tuple(int(candidates[row]) for row in order)

    def _candidates(
        self, layer: str, feature: Float[Tensor, "filter x y z"], klass: int, count: int = CANDIDATES
    ) -> Int[np.ndarray, " candidate"]:
        book = self.codebook.layer(FEEDFORWARD, layer)
        fits = (book.exemplar >= 0) & (self.voxels.labels[book.exemplar] == klass)
        distance = book.relative_squares(feature)
        distance[~fits] = np.inf
        rows = np.flatnonzero(fits.any(axis=1))
        voted = book.exemplar[rows, distance[rows].argmin(axis=1)]
        names, votes = np.unique(voted, return_counts=True)
        best = names[np.argsort(-votes, kind="stable")[:count]]
        if len(best):
            return best.astype(np.int64)
        of_class = self.voxels.indices("train")
        return of_class[self.voxels.labels[of_class] == klass][:count]

    def _encode(self, indices: Int[np.ndarray, " training"]) -> None:
        missing = np.array([i for i in indices if int(i) not in self._encoded], dtype=np.int64)
        for part in batches(missing):
            features = encode(self.network, self.voxels.tensor(part), (*self.layers, OUTPUT))
            predicted = features[OUTPUT].flatten(1).argmax(1).tolist()
            for row, (index, klass) in enumerate(zip(part.tolist(), predicted, strict=True)):
                self._encoded[index] = {name: features[name][row].clone() for name in self.layers}
                self._predicted[index] = klass
