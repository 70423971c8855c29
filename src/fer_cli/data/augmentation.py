"""Variations of samples: what training adds, and the turned views of a vote."""

import math
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from fer_cli.data.volumes import Volumes
from fer_cli.errors import UsageError
from fer_cli.execution.transfer import moved

USUAL = {
    "shift": "2",
    "mirror": "xy",
    "quarter_turns": "1",
    "rotation": "10",
    "stretch": "0.1",
    "contrast": "0.1",
    "brightness": "0.1",
}
"""How much samples vary in a way that is named without a value."""


@dataclass(frozen=True)
class Augmentation:
    """How samples are varied in training.

    `shift` is in voxels along each axis; `mirror` names the axes along which, such as `xy`, which True stands for;
    `quarter_turns` about z; `rotation` in degrees about z to either side; `stretch` the largest relative change of the
    extent along each axis. `contrast` is the largest relative change of all values of a volume, `brightness` the
    largest sum added to them, in standard deviations of the volume. What comes in from beyond the volume is 0, with
    `edge` the value at the border.
    """

    shift: int = 0
    mirror: str | bool = ""
    quarter_turns: bool = False
    rotation: float = 0.0
    stretch: float = 0.0
    contrast: float = 0.0
    brightness: float = 0.0
    edge: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.mirror, bool):
            object.__setattr__(self, "mirror", "xy" if self.mirror else "")
        if set(str(self.mirror)) - set("xyz"):
            raise UsageError(f"volumes are mirrored along x, y and z, not {self.mirror!r}.")
        if self.shift < 0 or min(self.rotation, self.stretch, self.contrast, self.brightness) < 0 or self.stretch >= 1:
            raise UsageError("shift, rotation, contrast and brightness are 0 or more, stretch 0 to below 1.")
        if self.rotation > 180:
            raise UsageError(f"a rotation is up to 180 degrees to either side, not {self.rotation:g}.")

    def draw(self, count: int, generator: torch.Generator) -> "Variations":
        """Draw what `count` samples undergo.

        Shift, mirroring in x and y, turns and stretch take always the same number of values, whatever is switched on.
        """
        flips = torch.randint(0, 2, (count, 3), generator=generator).bool()
        moves = torch.randint(0, 2 * self.shift + 1, (count, 3), generator=generator)
        spread = torch.rand(count, 4, generator=generator) * 2 - 1
        more = torch.zeros(count, 3)
        if "z" in str(self.mirror) or self.contrast or self.brightness:
            more = torch.rand(count, 3, generator=generator) * 2 - 1
        x, y, z = (axis in str(self.mirror) for axis in "xyz")
        return Variations(
            self,
            flips & torch.tensor([x, y, self.quarter_turns]),
            (more[:, 0] > 0) & z,
            moves,
            torch.deg2rad(spread[:, 0] * self.rotation),
            1 + spread[:, 1:] * self.stretch,
            1 + more[:, 1] * self.contrast,
            more[:, 2] * self.brightness,
        )

    @classmethod
    def parsed(cls, text: str, *, option: str = "--augment") -> "Augmentation":
        """From `none`, or settings with commas between them such as `shift=2,mirror=xy,rotation=10`.

        A name alone stands for its `USUAL` value; `turn` is another name of `rotation`.

        Raises UsageError, which names the `option`, for anything else.
        """
        known = [each.name for each in fields(cls) if each.name != "edge"]
        given: dict[str, Any] = {}
        for part in () if text == "none" else text.split(","):
            name, equals, value = part.strip().partition("=")
            name = "rotation" if name == "turn" else name
            if name not in known:
                raise UsageError(f"{option} takes none, {', '.join(known)} and turn, not {name!r}.")
            value = value if equals else USUAL[name]
            try:
                number = 0.0 if name == "mirror" else float(value)
                if not math.isfinite(number):
                    raise ValueError
            except ValueError:
                raise UsageError(f"{option} {name} takes a number, got {value!r}.") from None
            given[name] = {"mirror": value, "shift": int(number), "quarter_turns": number > 0}.get(name, number)
        return cls(**given)


@dataclass(frozen=True)
class Variations:
    """What each sample of a batch undergoes.

    Mirrored in x, in y, x and y exchanged; mirrored in z; moved; turned; stretched; its values multiplied and added to.
    """

    settings: Augmentation
    flips: Bool[Tensor, "sample 3"]
    flips_z: Bool[Tensor, " sample"]
    moves: Int[Tensor, "sample 3"]
    angles: Float[Tensor, " sample"]
    scales: Float[Tensor, "sample 3"]
    gains: Float[Tensor, " sample"]
    offsets: Float[Tensor, " sample"]

    def __getitem__(self, rows: slice) -> "Variations":
        columns = (self.flips, self.flips_z, self.moves, self.angles, self.scales, self.gains, self.offsets)
        return Variations(self.settings, *(column[rows] for column in columns))

    def apply(self, volumes: Volumes) -> Volumes:
        """The varied volumes. What leaves a volume is lost; a turn or a stretch interpolates between voxels."""
        edge = self.settings.edge
        if self.settings.rotation or self.settings.stretch:
            volumes = resample(volumes, self.angles, self.scales, edge=edge)
        if self.settings.contrast or self.settings.brightness:
            spread = volumes.flatten(1).std(1)
            gains, offsets = (moved(each, volumes.device).to(volumes) for each in (self.gains, self.offsets))
            offsets = offsets * spread
            volumes = volumes * gains.view(-1, 1, 1, 1, 1) + offsets.view(-1, 1, 1, 1, 1)
        shift, sides = self.settings.shift, volumes.shape[2:]
        if self.settings.quarter_turns and sides[0] != sides[1]:
            raise UsageError(f"volumes of {sides[0]} by {sides[1]} voxels cannot be turned by quarters about z.")
        padded = functional.pad(volumes, (shift,) * 6, mode="replicate" if edge else "constant") if shift else volumes
        # Every row along z is a run of the padded volumes' memory.
        runs = padded.contiguous().view(-1).as_strided((padded.numel() - sides[2] + 1, sides[2]), (1, 1))
        starts = moved(self._starts(volumes.shape[1], sides, padded.shape[2:]), volumes.device)
        result = runs.index_select(0, starts).view(volumes.shape)
        if not self.flips_z.any():
            return result
        return torch.where(moved(self.flips_z, volumes.device).view(-1, 1, 1, 1, 1), result.flip(4), result)

    def _starts(self, channels: int, sides: torch.Size, padded: torch.Size) -> Int[Tensor, " row"]:
        """Where each row of the moved, mirrored and turned volumes begins in the memory of the padded ones."""
        x, y = (
            torch.where(self.flips[:, axis, None], side - 1 - places, places) + self.moves[:, axis, None]
            for axis, side in ((0, sides[0]), (1, sides[1]))
            for places in [torch.arange(side)]
        )
        x = x * padded[1]
        if sides[0] == sides[1]:
            exchanged = self.flips[:, 2, None]
            x, y = torch.where(exchanged, y, x), torch.where(exchanged, x, y)
        volume = torch.arange(len(self.flips) * channels).view(-1, channels, 1, 1) * (padded[0] * padded[1])
        rows = volume + (x[:, :, None] + y[:, None, :])[:, None]
        return (rows * padded[2] + self.moves[:, 2].view(-1, 1, 1, 1)).view(-1)


def turn(volumes: Volumes, angles: Float[Tensor, " sample"]) -> Volumes:
    """Each shape turned about the vertical through the grid's centre, angles in radians, interpolated trilinearly."""
    return resample(volumes, angles, torch.ones(len(angles), 3))


def resample(
    volumes: Volumes, angles: Float[Tensor, " sample"], scales: Float[Tensor, "sample 3"], *, edge: bool = False
) -> Volumes:
    """Each shape turned about the vertical and stretched along the axes it then has, trilinearly, 0 around.

    With `edge` the values at the border go on beyond it.

    Angles in radians. The vertical stays itself, so that it is a product of a matrix along z and a bilinear step for
    whole columns: eight times as fast on a CPU as `grid_sample` voxel by voxel (`benchmarks/augmentation.py`).
    """
    samples, channels, x, y, z = volumes.shape
    angles, scales = (moved(each, volumes.device).to(volumes) for each in (angles, scales))
    places = torch.arange(z, device=volumes.device)
    sources = (places + 0.5 - z / 2) / scales[:, 2:] + z / 2 - 0.5
    sources = sources.clamp(0, z - 1) if edge else sources
    weights = (1 - (sources[:, None, :] - places[:, None]).abs()).clamp(min=0)
    columns = torch.matmul(volumes.reshape(samples, channels * x * y, z), weights)
    # `grid_sample` counts from −1 to 1 along each axis; x and y may differ in length.
    along_x, along_y = ((2 * torch.arange(n, device=volumes.device) + 1) / n - 1 for n in (x, y))
    cos, sin = torch.cos(angles)[:, None, None], torch.sin(angles)[:, None, None]
    source_x = (sin * along_y * (y / x) + cos * along_x[:, None]) / scales[:, 0, None, None]
    source_y = (cos * along_y - sin * along_x[:, None] * (x / y)) / scales[:, 1, None, None]
    columns = columns.view(samples, channels, x, y, z).permute(0, 1, 4, 2, 3).flatten(1, 2).contiguous()
    beyond = "border" if edge else "zeros"
    turned = functional.grid_sample(
        columns, torch.stack([source_y, source_x], dim=3), padding_mode=beyond, align_corners=False
    )
    return turned.unflatten(1, (channels, z)).permute(0, 1, 3, 4, 2)
