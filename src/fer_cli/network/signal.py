"""What a reconstruction means: occupancy or intensity.

A feedback network ends in raw numbers. A signal turns them into voxel values, and measures them against a volume.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from fer_cli.data.places import Kind
from fer_cli.data.volumes import Volumes
from fer_cli.network.backbone import NetworkSpec

_CHARBONNIER = 1e-3
"""Where the Charbonnier loss turns from a parabola to a cone, in standard deviations of the voxels."""
EMPHASIS = 1.0
"""How much more a voxel of an intensity volume weighs for each standard deviation from the background.

Chosen by `benchmarks/intensities.py` on validation samples.
"""
_MOST_DEVIATIONS = 3.0
_SSIM_WINDOW = 7
_SSIM_CONSTANTS = (0.01, 0.03)


class Signal(ABC):
    """The meaning of voxel values."""

    score_name: str
    """The score that training reports, as shown to users."""

    @abstractmethod
    def level_weights(self, spec: NetworkSpec, mean: float, deviation: float) -> Float[Tensor, " level"]:
        """What `loss` takes for a sample that enters at each level, from the output down.

        `mean` and `deviation` (standard) are those of the training voxels.
        """

    @abstractmethod
    def loss(
        self, raw: Volumes, target: Volumes, weight: Float[Tensor, " sample"], reduction: Literal["sum", "mean"]
    ) -> Float[Tensor, ""]:
        """Distance of a reconstruction from its target, over all voxels; `weight` is that of each sample."""

    @abstractmethod
    def value(self, raw: Volumes) -> Volumes:
        """Voxel values."""

    @abstractmethod
    def scores(self, value: Volumes, target: Volumes) -> Mapping[str, Float[Tensor, " sample"]]:
        """How alike reconstructions and targets are, by JSON key; the first is that of `score_name`."""


class Occupancy(Signal):
    """Each voxel is occupied or free: a logit, cross-entropy, and the intersection over union."""

    score_name = "voxel IoU"

    def level_weights(self, spec: NetworkSpec, mean: float, deviation: float) -> Float[Tensor, " level"]:
        """Weight of occupied voxels in the reconstruction from each level, from the output down.

        Most voxels are free. Weighted by the ratio of free to occupied voxels, both kinds would count the same; with
        weight 1, probabilities would be calibrated. A level with a map takes the fourth root of the ratio. A level with
        a single location takes the square root, or thin parts would never reach a probability of 0.5.
        """
        ratio = max(1 - mean, 1e-6) / max(mean, 1e-6)
        counts = [spec.locations(name) for name in spec.layer_names[::-1]]
        return torch.tensor([ratio ** (0.25 if count > 1 else 0.5) for count in counts])

    def loss(
        self, raw: Volumes, target: Volumes, weight: Float[Tensor, " sample"], reduction: Literal["sum", "mean"]
    ) -> Float[Tensor, ""]:
        """Binary cross-entropy with logits, occupied voxels weighted."""
        occupied = weight[:, None, None, None, None]
        return functional.binary_cross_entropy_with_logits(raw, target, pos_weight=occupied, reduction=reduction)

    def value(self, raw: Volumes) -> Volumes:
        """Probabilities of being occupied."""
        return torch.sigmoid(raw.float())

    def scores(self, value: Volumes, target: Volumes) -> Mapping[str, Float[Tensor, " sample"]]:
        """`iou`: intersection over union of voxels at 0.5 or more with the true ones; 1 where both are empty."""
        found, wanted = value >= 0.5, target >= 0.5
        union = (found | wanted).flatten(1).sum(1)
        iou = torch.where(union > 0, (found & wanted).flatten(1).sum(1) / union.clamp(min=1), 1.0)
        return {"iou": iou}


class Intensity(Signal):
    """Intensities: the raw output is the value; errors are in units of the voxels' standard deviation.

    With `emphasis`, voxels that are not background weigh more (`foreground_weights`).
    """

    score_name = "PSNR"

    def __init__(self, emphasis: float = EMPHASIS) -> None:
        self.emphasis = emphasis

    def level_weights(self, spec: NetworkSpec, mean: float, deviation: float) -> Float[Tensor, " level"]:
        """One over the standard deviation of the training voxels, at every level."""
        return torch.full((len(spec.layer_names),), 1 / (deviation or 1.0))

    def loss(
        self, raw: Volumes, target: Volumes, weight: Float[Tensor, " sample"], reduction: Literal["sum", "mean"]
    ) -> Float[Tensor, ""]:
        """Weighted Charbonnier loss, a smooth absolute difference, of voxels divided by their standard deviation."""
        difference = (raw - target) * weight[:, None, None, None, None]
        distance = (difference.square() + _CHARBONNIER**2).sqrt() - _CHARBONNIER
        if self.emphasis:
            distance = distance * foreground_weights(target, self.emphasis)
        return distance.sum() if reduction == "sum" else distance.mean()

    def value(self, raw: Volumes) -> Volumes:
        """The numbers themselves."""
        return raw.float()

    def scores(self, value: Volumes, target: Volumes) -> Mapping[str, Float[Tensor, " sample"]]:
        """`psnr` in decibels and `ssim`; the data range is the target's own, 1 where it is constant.

        PSNR is at most 100 dB, also of identical volumes.
        """
        flat = target.flatten(1)
        spread = flat.amax(1) - flat.amin(1)
        spread = torch.where(spread > 0, spread, 1.0)
        error = ((value - target).flatten(1) / spread[:, None]).square().mean(1)
        psnr = -10 * torch.log10(error.clamp(min=1e-10))
        return {"psnr": psnr, "ssim": structural_similarity(value, target, spread).flatten(1).mean(1)}


def signal_of(kind: Kind) -> Signal:
    """The signal of an input's kind."""
    return Occupancy() if kind == "occupancy" else Intensity()


def deviations(target: Volumes) -> Volumes:
    """How far each voxel is from the background, in standard deviations of its volume and channel.

    The background is the median, which is its value wherever it fills more than half of a volume. Of a constant
    channel 0 everywhere.
    """
    flat = target.flatten(2)
    background, spread = flat.median(2, keepdim=True).values, flat.std(2, correction=0, keepdim=True)
    return ((flat - background).abs() / torch.where(spread > 0, spread, 1.0)).view_as(target)


def foreground_weights(target: Volumes, emphasis: float) -> Volumes:
    """Weights of voxels with a mean of 1 over each volume: 1 + `emphasis` · deviation, up to three deviations.

    Without weights, a decoder that leaves small structures out has nearly the same loss, since they have few voxels.
    """
    weights = 1 + emphasis * deviations(target).clamp(max=_MOST_DEVIATIONS)
    return weights / weights.mean((1, 2, 3, 4), keepdim=True)


def structural_similarity(
    value: Volumes, target: Volumes, spread: Float[Tensor, " sample"]
) -> Float[Tensor, "sample channel x y z"]:
    """SSIM of every window of at most 7³ voxels that lies inside the volume; `spread` is the data range.

    Sample covariances and a uniform window. Source: Wang et al., "Image Quality Assessment", 2004.
    """
    window = tuple(min(_SSIM_WINDOW, side) for side in target.shape[2:])
    count = window[0] * window[1] * window[2]

    def mean(volume: Tensor) -> Tensor:
        return functional.avg_pool3d(volume, window, stride=1)

    value, target = value.double(), target.double()
    unbiased = count / max(1, count - 1)
    mean_value, mean_target = mean(value), mean(target)
    variance_value = unbiased * (mean(value.square()) - mean_value.square())
    variance_target = unbiased * (mean(target.square()) - mean_target.square())
    covariance = unbiased * (mean(value * target) - mean_value * mean_target)
    luminance, contrast = ((share * spread.double()).square()[:, None, None, None, None] for share in _SSIM_CONSTANTS)
    similarity = (2 * mean_value * mean_target + luminance) * (2 * covariance + contrast)
    similarity = similarity / (
        (mean_value.square() + mean_target.square() + luminance) * (variance_value + variance_target + contrast)
    )
    return similarity.float()
