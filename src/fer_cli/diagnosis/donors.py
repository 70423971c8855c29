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
from fer_cli.network.activations import FEEDFORWARD, batches, encode
from fer_cli.network.backbone import OUTPUT, Features
from fer_cli.network.explained import ExplainedNetwork

CANDIDATES = 6
"""So many exemplars are encoded and compared."""
_DISTANCES = 1 << 22
"""Maximum number of distances to centroids that are in memory at a time."""
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
        own = feature.detach().float()
        candidates = self._candidates(layer, own, wanted)
        counts = np.array([len(of_sample) for of_sample in candidates])
        rows, flat = np.repeat(np.arange(len(wanted)), counts), np.concatenate(candidates)
        named, place = np.unique(flat, return_inverse=True)
        self._encode(named)
        known = torch.stack([self._encoded[int(index)][layer] for index in named]).float()
        distances = [
            (known[place[part]] - own[rows[part]]).flatten(1).square().sum(1).cpu()
            for part in batches(np.arange(len(flat)))
        ]
        is_known = np.array([self._predicted[int(index)] for index in named])[place] == wanted[rows]
        starts = np.cumsum(counts) - counts
        column = np.arange(len(flat)) - starts[rows]
        table = np.full((len(wanted), counts.max()), np.inf)
        table[rows, column] = torch.cat(distances).numpy()
        usable = np.zeros(table.shape, bool)
        usable[rows, column] = is_known
        usable[~usable.any(axis=1)] = True
        nearest = starts + np.where(usable, table, np.inf).argmin(axis=1)
        return Donations(flat[nearest], known[place[nearest]])

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
            [candidates] = self._candidates(layer, own[None], np.array([klass]), most)
        if not len(candidates):
            return ()
        distances = [
            (encode(self.network, self.voxels.tensor(part), [layer])[layer].float() - own).flatten(1).square().sum(1)
            for part in batches(candidates)
        ]
        order = torch.argsort(torch.cat(distances), stable=True)[:count].tolist()
        return tuple(int(candidates[row]) for row in order)

    def _candidates(
        self,
        layer: str,
        feature: Float[Tensor, "sample filter x y z"],
        classes: Int[np.ndarray, " sample"],
        count: int = CANDIDATES,
    ) -> list[Int[np.ndarray, " candidate"]]:
        """For each sample the training samples of its class with most votes, at most `count`."""
        book = self.codebook.layer(FEEDFORWARD, layer)
        of_code = np.where(book.exemplar >= 0, self.voxels.labels[book.exemplar], -1)
        places = np.arange(len(of_code))[:, None]
        votes = []
        for part in batches(np.arange(len(classes)), max(1, _DISTANCES // of_code.size)):
            fits = of_code[:, None] == classes[part, None]
            nearest = np.where(fits, book.relative_squares(feature[part]), np.inf).argmin(axis=2)
            votes.append(np.where(fits.any(axis=2), book.exemplar[places, nearest], -1).T)
        return [
            names[:count] if len(names) else self._of_class(klass)[:count]
            for names, klass in zip(_by_votes(np.concatenate(votes)), classes, strict=True)
        ]

    def _of_class(self, klass: int) -> Int[np.ndarray, " training"]:
        training = self.voxels.indices("train")
        return training[self.voxels.labels[training] == klass]

    def _encode(self, indices: Int[np.ndarray, " training"]) -> None:
        missing = np.array([i for i in indices if int(i) not in self._encoded], dtype=np.int64)
        for part in batches(missing):
            features = encode(self.network, self.voxels.tensor(part), (*self.layers, OUTPUT))
            predicted = features[OUTPUT].flatten(1).argmax(1).tolist()
            for row, (index, klass) in enumerate(zip(part.tolist(), predicted, strict=True)):
                self._encoded[index] = {name: features[name][row].clone() for name in self.layers}
                self._predicted[index] = klass


def _by_votes(voted: Int[np.ndarray, "sample location"]) -> list[Int[np.ndarray, " candidate"]]:
    """For each sample those that its locations vote for, most votes first, the lowest of equals; −1 votes for none."""
    valid = voted >= 0
    width = 1 + int(voted.max(initial=0))
    pairs, votes = np.unique(np.nonzero(valid)[0] * width + voted[valid], return_counts=True)
    samples, candidates = np.divmod(pairs, width)
    order = np.lexsort((candidates, -votes, samples))
    ends = np.searchsorted(samples, np.arange(1, len(voted)))
    return np.split(candidates[order], ends)
