"""Variations of shapes that stand upright: what training adds, and the turned views of a vote."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from fer_cli.data.volumes import Volumes
from fer_cli.errors import UsageError


@dataclass(frozen=True)
class Augmentation:
    """How shapes that stand upright are varied in training.

    `shift` is in voxels along each axis; `mirror` in x and in y; `quarter_turns` about the vertical; `rotation` in
    degrees about the vertical to either side; `stretch` the largest relative change of the extent along each axis.
    """

    shift: int = 0
    mirror: bool = False
    quarter_turns: bool = False
    rotation: float = 0.0
    stretch: float = 0.0

    def draw(self, count: int, generator: torch.Generator) -> "Variations":
        """Draw what `count` shapes undergo; always the same number of values, whatever is switched on."""
        flips = torch.randint(0, 2, (count, 3), generator=generator).bool()
        moves = torch.randint(0, 2 * self.shift + 1, (count, 3), generator=generator)
        spread = torch.rand(count, 4, generator=generator) * 2 - 1
        return Variations(
            self,
            flips & torch.tensor([self.mirror, self.mirror, self.quarter_turns]),
            moves,
            torch.deg2rad(spread[:, 0] * self.rotation),
            1 + spread[:, 1:] * self.stretch,
        )


@dataclass(frozen=True)
class Variations:
    """What each shape of a batch undergoes: mirrored in x, in y, x and y exchanged; moved; turned; stretched."""

    settings: Augmentation
    flips: Bool[Tensor, "sample 3"]
    moves: Int[Tensor, "sample 3"]
    angles: Float[Tensor, " sample"]
    scales: Float[Tensor, "sample 3"]

    def __getitem__(self, rows: slice) -> "Variations":
        return Variations(self.settings, self.flips[rows], self.moves[rows], self.angles[rows], self.scales[rows])

    def apply(self, volumes: Volumes) -> Volumes:
        """The varied volumes. What leaves a volume is lost; a turn or a stretch interpolates between voxels."""
        if self.settings.rotation or self.settings.stretch:
            volumes = resample(volumes, self.angles, self.scales)
        shift, sides = self.settings.shift, volumes.shape[2:]
        if self.settings.quarter_turns and sides[0] != sides[1]:
            raise UsageError(f"volumes of {sides[0]} by {sides[1]} voxels cannot be turned by quarters about z.")
        padded = functional.pad(volumes, (shift,) * 6)
        result = torch.empty_like(volumes)
        for sample, (flips, (x, y, z)) in enumerate(zip(self.flips.tolist(), self.moves.tolist(), strict=True)):
            moved = padded[sample, :, x : x + sides[0], y : y + sides[1], z : z + sides[2]]
            axes = [axis for axis, flip in zip((1, 2), flips, strict=False) if flip]
            moved = moved.flip(axes) if axes else moved
            result[sample] = moved.transpose(1, 2) if flips[2] else moved
        return result


def turn(volumes: Volumes, angles: Float[Tensor, " sample"]) -> Volumes:
    """Each shape turned about the vertical through the grid's centre, angles in radians, interpolated trilinearly."""
    return resample(volumes, angles, torch.ones(len(angles), 3))


def resample(volumes: Volumes, angles: Float[Tensor, " sample"], scales: Float[Tensor, "sample 3"]) -> Volumes:
    """Each shape turned about the vertical and stretched along the axes it then has, trilinearly, free space around.

    Angles in radians. The vertical stays itself, so that it is a product of a matrix along z and a bilinear step for
    whole columns: eight times as fast on a CPU as `grid_sample` voxel by voxel (`benchmarks/augmentation.py`).
    """
    samples, channels, x, y, z = volumes.shape
    angles, scales = angles.to(volumes), scales.to(volumes)
    places = torch.arange(z, device=volumes.device)
    sources = (places + 0.5 - z / 2) / scales[:, 2:] + z / 2 - 0.5
    weights = (1 - (sources[:, None, :] - places[:, None]).abs()).clamp(min=0)
    columns = torch.matmul(volumes.reshape(samples, channels * x * y, z), weights)
    # `grid_sample` counts from −1 to 1 along each axis; x and y may differ in length.
    along_x, along_y = ((2 * torch.arange(n, device=volumes.device) + 1) / n - 1 for n in (x, y))
    cos, sin = torch.cos(angles)[:, None, None], torch.sin(angles)[:, None, None]
    source_x = (sin * along_y * (y / x) + cos * along_x[:, None]) / scales[:, 0, None, None]
    source_y = (cos * along_y - sin * along_x[:, None] * (x / y)) / scales[:, 1, None, None]
    columns = columns.view(samples, channels, x, y, z).permute(0, 1, 4, 2, 3).flatten(1, 2).contiguous()
    turned = functional.grid_sample(columns, torch.stack([source_y, source_x], dim=3), align_corners=False)
    return turned.unflatten(1, (channels, z)).permute(0, 1, 3, 4, 2)
