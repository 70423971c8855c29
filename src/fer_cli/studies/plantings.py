"""Plantings: known causes of mistakes, put into a volume or into the network; their kinds and their doses.

- `label`: the label becomes that of another class, whichever;
- `pose`: the volume is turned to another pose, up elsewhere where its shape allows;
- `noise`, `holes`, `crop`, `scale`: the input is damaged; the expected cause is `input`;
- `layer`: noise on the weights of one layer, as in `planted`.

Doses were fixed before anything was measured. What is taken from a shape is empty, from a scan at its lowest value.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch.nn import functional

from fer_cli.data.places import Kind
from fer_cli.network.poses import Pose

DOSES: dict[str, tuple[float, ...]] = {
    "noise": (0.02, 0.05, 0.1),
    "holes": (0.2, 0.4, 0.6),
    "crop": (0.15, 0.3, 0.45),
    "scale": (0.75, 0.6, 0.45),
    "layer": (2.0, 4.0, 8.0),
}
"""Share of voxels exchanged, or in scans tenfold standard deviations of noise; share of voxels removed; share of the
extent cut off; factor of the size; standard deviation of weight noise in those of the layer's weights."""
EXPECTED = {"noise": "input", "holes": "input", "crop": "input", "scale": "input"}
"""The cause to be named, where it is called otherwise than the planting."""
_HOLE = 7
"""Edge of a hole in 32 voxels."""

Volume = Float[np.ndarray, "channel x y z"]


@dataclass(frozen=True)
class Damage:
    """One kind of damage at one dose."""

    kind: str
    dose: float

    def apply(self, volume: Volume, of: Kind, generator: np.random.Generator) -> Volume:
        """The damaged volume."""
        empty = 0.0 if of == "occupancy" else float(volume.min())
        return _DAMAGES[self.kind](volume, self.dose, empty, of, generator)


def tipped(every: tuple[Pose, ...], generator: np.random.Generator) -> Pose | None:
    """Another pose at random, one with up elsewhere if there is any; None of a volume without another pose."""
    others = [pose for pose in every if pose.turns]
    others = [pose for pose in others if not pose.keeps_vertical] or others
    return others[int(generator.integers(len(others)))] if others else None


def _noise(volume: Volume, dose: float, empty: float, of: Kind, generator: np.random.Generator) -> Volume:
    if of == "occupancy":
        return np.where(generator.random(volume.shape) < dose, 1 - volume, volume).astype(volume.dtype)
    spread = 10 * dose * volume.std()
    return (volume + spread * generator.standard_normal(volume.shape)).astype(volume.dtype)


def _holes(volume: Volume, dose: float, empty: float, of: Kind, generator: np.random.Generator) -> Volume:
    full = (volume > 0.5).any(axis=0) if of == "occupancy" else np.ones(volume.shape[1:], bool)
    places, left = np.argwhere(full), np.array(full)
    half: list[int] = [max(1, side * _HOLE // 64) for side in full.shape]
    while len(places) and left.sum() > (1 - dose) * full.sum():
        middle = places[generator.integers(len(places))]
        left[tuple(slice(max(0, at - by), at + by + 1) for at, by in zip(middle, half, strict=True))] = False
    return np.where(left | ~full, volume, np.float32(empty)).astype(volume.dtype)


def _crop(volume: Volume, dose: float, empty: float, of: Kind, generator: np.random.Generator) -> Volume:
    axis = int(generator.integers(3))
    others = tuple(other for other in range(4) if other != axis + 1)
    filled = np.flatnonzero((volume > 0.5).any(axis=others)) if of == "occupancy" else np.arange(volume.shape[axis + 1])
    if not len(filled):
        return volume
    low, high = int(filled[0]), int(filled[-1]) + 1
    cut = max(1, round(dose * (high - low)))
    removed = slice(low, low + cut) if generator.random() < 0.5 else slice(high - cut, high)
    cropped = volume.copy()
    cropped[(slice(None),) * (axis + 1) + (removed,)] = empty
    return cropped


def _scale(volume: Volume, dose: float, empty: float, of: Kind, generator: np.random.Generator) -> Volume:
    sides = [max(1, round(side * dose)) for side in volume.shape[1:]]
    whole = torch.from_numpy(np.ascontiguousarray(volume, dtype=np.float32))[None]
    small = (
        functional.adaptive_max_pool3d(whole, sides)
        if of == "occupancy"
        else functional.interpolate(whole, size=sides, mode="trilinear", align_corners=False, antialias=False)
    )
    scaled = np.full_like(volume, empty)
    starts = [(side - length) // 2 for side, length in zip(volume.shape[1:], sides, strict=True)]
    scaled[(slice(None), *(slice(a, a + n) for a, n in zip(starts, sides, strict=True)))] = small[0].numpy()
    return scaled


_DAMAGES: dict[str, Callable[[Volume, float, float, Kind, np.random.Generator], Volume]] = {
    "noise": _noise,
    "holes": _holes,
    "crop": _crop,
    "scale": _scale,
}
DAMAGES = tuple(_DAMAGES)
