"""Variants of the classifier's phase that `recipes.py` compares: other losses, and other variations of shapes."""

from dataclasses import replace

import numpy as np
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from fer_cli.network.backbone import OUTPUT
from fer_cli.network.phases import FeedforwardPhase, TrainingData, TrainingSettings
from fer_cli.network.precision import mixed_precision


class SharpnessAware(FeedforwardPhase):
    """Sharpness-aware minimisation: the gradient at the worst weights nearby. Source: arXiv:2010.01412."""

    radius = 0.0

    def terms(self, module: nn.Module, indices: np.ndarray, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """The loss of a batch at weights moved by `radius` up the gradient of the same batch."""
        grids, labels = self.data.varied_batch(indices, self.settings.augmentation, generator)
        weights = dict(module.named_parameters())

        def loss(at: dict[str, torch.Tensor]) -> torch.Tensor:
            with mixed_precision(self.data.device):
                logits = functional_call(module, at, (grids,))
            return cross_entropy(logits.float(), labels, label_smoothing=self.settings.label_smoothing)

        gradient = torch.autograd.grad(loss(weights), list(weights.values()))
        length = torch.stack([part.norm() for part in gradient]).norm()
        moved = {
            name: weight + self.radius * part / length
            for (name, weight), part in zip(weights.items(), gradient, strict=True)
        }
        return {"class": loss(moved)}


def within(radius: float) -> type[SharpnessAware]:
    """Sharpness-aware minimisation within a radius."""
    return type("Within", (SharpnessAware,), {"radius": radius})


class Proportions(FeedforwardPhase):
    """Shapes stretched by more, then scaled so that the longest side is as long as before, as voxelization would have it."""

    def terms(self, module: nn.Module, indices: np.ndarray, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """The loss of a batch of shapes of other proportions."""
        drawn = self.settings.augmentation.draw(len(indices), generator)
        grids = self.data.voxels.tensor(indices)
        grids = replace(drawn, scales=as_long_as_before(grids, drawn.scales)).apply(grids)
        with mixed_precision(self.data.device):
            logits = module(grids)
        labels = torch.from_numpy(self.data.voxels.labels[indices])
        return {"class": cross_entropy(logits.float(), labels, label_smoothing=self.settings.label_smoothing)}


def as_long_as_before(grids: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """The scales (sample, axis), all of a shape by one factor, with which its longest side keeps its length."""
    sides = []
    for others in ((2, 3), (1, 3), (1, 2)):
        occupied = grids[:, 0].amax(dim=others) > 0
        places = torch.arange(1, occupied.shape[1] + 1) * occupied
        sides.append(places.amax(dim=1) - occupied.int().argmax(dim=1))  # of the largest the first
    lengths = torch.stack(sides, dim=1).clamp(min=1)
    return scales * (lengths.amax(1) / (lengths * scales).amax(1))[:, None]


class Mirrors(FeedforwardPhase):
    """Shapes mirrored in some of x and y only."""

    axes = (True, True)

    def allowed(self, labels: torch.Tensor) -> torch.Tensor:
        """Whether a shape of each label may be mirrored in x, in y, and have them exchanged."""
        return torch.tensor([*self.axes, True]).expand(len(labels), 3)

    def varied(
        self, indices: np.ndarray, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Varied grids, their labels, and how each was mirrored."""
        drawn = self.settings.augmentation.draw(len(indices), generator)
        labels = torch.from_numpy(self.data.voxels.labels[indices])
        drawn = replace(drawn, flips=drawn.flips & self.allowed(labels))
        return drawn.apply(self.data.voxels.tensor(indices)), labels, drawn.flips

    def terms(self, module: nn.Module, indices: np.ndarray, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """The loss of a batch of shapes so mirrored."""
        grids, labels, _ = self.varied(indices, generator)
        with mixed_precision(self.data.device):
            logits = module(grids)
        return {"class": cross_entropy(logits.float(), labels, label_smoothing=self.settings.label_smoothing)}


class OwnMirrors(Mirrors):
    """Each class mirrored only in the axes whose two directions its training shapes do not tell apart.

    Measured by the mean cosine between the differences of two shapes to their mirror images: above 0 where they agree
    on what is in front.
    """

    most = 0.01

    def __init__(self, data: TrainingData, settings: TrainingSettings, encoder: nn.Module) -> None:
        super().__init__(data, settings, encoder)
        voxels = data.voxels
        labels = voxels.labels[data.training]
        own = []
        for label in range(len(voxels.classes)):
            grids = voxels.grids(data.training[labels == label]).astype(np.float32)
            own.append([agreement(grids - np.flip(grids, axis)) < self.most for axis in (1, 2)])
        self.own = torch.tensor([[*axes, True] for axes in own])
        print(dict(zip(voxels.classes, own, strict=True)), flush=True)

    def allowed(self, labels: torch.Tensor) -> torch.Tensor:
        """The class's own."""
        return self.own[labels]


def agreement(differences: np.ndarray) -> float:
    """Mean cosine of two rows, weighted by their lengths."""
    count = len(differences)
    ratio = np.square(differences.sum(0)).sum() / max(np.square(differences).sum(), 1.0)
    return float(ratio - 1) / (count - 1)


class Poses(Mirrors):
    """A second head tells how a shape was mirrored and turned, for each class by itself, and is dropped afterwards.

    An auxiliary task of orientation makes a network keep apart what would else be merged. Source: arXiv:1604.03351.
    """

    weight = 0.5

    def __init__(self, data: TrainingData, settings: TrainingSettings, encoder: nn.Module) -> None:
        super().__init__(data, settings, encoder)
        width = encoder.blocks[OUTPUT][-1].in_features
        encoder.poses = nn.Linear(width, 8 * len(data.voxels.classes))

    def terms(self, module: nn.Module, indices: np.ndarray, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """The losses of classes, and of classes and poses together."""
        grids, labels, flips = self.varied(indices, generator)
        with mixed_precision(self.data.device):
            feature = grids
            for block in module.blocks.values():
                below, feature = feature, block(feature)
            poses = module.poses(below.flatten(1))
        target = labels * 8 + flips.long() @ torch.tensor([1, 2, 4])
        smoothing = self.settings.label_smoothing
        return {
            "class": cross_entropy(feature.float(), labels, label_smoothing=smoothing),
            "voxel": self.weight * cross_entropy(poses.float(), target, label_smoothing=smoothing),
        }


def mirrored(*axes: bool) -> type[Mirrors]:
    """Shapes mirrored along some of x and y."""
    return type("Mirrored", (Mirrors,), {"axes": axes})
