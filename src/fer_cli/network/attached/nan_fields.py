"""Receptive fields of any network, for every location of every level at once, by NaN propagation.

A plane of the input is set to NaN: exactly the locations that read a voxel of it become NaN. Convolution, pooling,
batch norm in evaluation mode, ReLU and skip connections all carry NaN. One pass a plane of each axis gives every field.
Squeeze-excitation, attention, group and instance norm rightly give the whole input. Operations that hide NaN
(`nan_to_num`, `where(x > 0, …)`, `fmax`) are found by perturbing what lies outside the fields. Where a network refuses
NaN, noise takes its place, several times.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from fer_cli.data.volumes import Volumes
from fer_cli.errors import UsageError
from fer_cli.network.backbone import FoundBy

Fields = Int[np.ndarray, "x y z 3 2"]
Run = Callable[[Volumes], Mapping[str, Float[Tensor, "sample filter x y z"]]]
_PLANES = 8
"""Planes tried in one pass, each in a sample of its own."""
_PERTURBATIONS = 20
_GRADIENTS = 16
_NOISES = 12


def receptive_fields(run: Run, volumes: Volumes, *, seed: int = 0) -> dict[str, tuple[Fields, FoundBy]]:
    """Of every level that `run` gives features of: the box of each location, and how it was found.

    `volumes` are typical inputs. A box is half-open, [[x0, x1], [y0, y1], [z0, z1]]. `exact` fields were confirmed by
    perturbations outside them; where those changed a feature, `gradient` fields join where the gradients of some
    locations are not zero with what NaN showed, and may be too small. `noise` fields are what noise in the place of NaN
    showed, and may be too small as well.
    """
    sides = tuple(volumes.shape[2:])
    by: FoundBy = "exact"
    try:
        seen = _seen_planes(run, volumes[:1], torch.full_like(volumes[:1], torch.nan))
    except UsageError:  # the network's own error: it looks for NaN
        seen, by = _seen_planes_by_noise(run, volumes, seed), "noise"
    found: dict[str, tuple[Fields, FoundBy]] = {}
    fields = {level: _boxes(planes, sides) for level, planes in seen.items()}
    hidden = _contradicted(run, volumes, fields, seed)
    for level, field in fields.items():
        if level in hidden:
            field = _widened(run, volumes, level, field)
        if bool((field[..., 0] == 0).all() and (field[..., 1] == sides).all()):
            found[level] = (field, "whole")
        else:
            found[level] = (field, "gradient" if level in hidden else by)
    return found


@torch.no_grad()
def _seen_planes(run: Run, volume: Volumes, other: Volumes) -> dict[str, list[Tensor]]:
    """For each level and axis whether planes of another volume in one volume change each location: (plane, x, y, z)."""
    seen: dict[str, list[Tensor]] = {}
    blank = bool(other.isnan().any())
    for axis in range(3):
        side = volume.shape[2 + axis]
        parts: dict[str, list[Tensor]] = {}
        for start in range(0, side, _PLANES):
            planes = range(start, min(side, start + _PLANES))
            batch = volume.repeat(1 + len(planes), 1, 1, 1, 1)
            for row, plane in enumerate(planes, start=1):
                batch[row].select(1 + axis, plane).copy_(other[0].select(1 + axis, plane))
            for level, feature in run(batch).items():
                changed = feature.isnan()[1:] if blank else feature[1:] != feature[:1]
                parts.setdefault(level, []).append(changed.any(dim=1).cpu())
        for level, of_level in parts.items():
            seen.setdefault(level, []).append(torch.cat(of_level))
    return seen


def _seen_planes_by_noise(run: Run, volumes: Volumes, seed: int) -> dict[str, list[Tensor]]:
    """`_seen_planes` of noise of the volumes' range, in the trials joined."""
    generator = torch.Generator().manual_seed(seed)
    low, high = float(volumes.min()), float(volumes.max())
    seen: dict[str, list[Tensor]] = {}
    for trial in range(_NOISES):
        volume = volumes[trial % len(volumes)][None]
        noise = low + (high - low) * torch.rand(volume.shape, generator=generator).to(volume)
        for level, planes in _seen_planes(run, volume, noise).items():
            known = seen.setdefault(level, planes)
            seen[level] = [a | b for a, b in zip(known, planes, strict=True)]
    return seen


def _boxes(planes: list[Tensor], sides: tuple[int, ...]) -> Fields:
    """Boxes from the planes that each location reads; an empty box where it reads none."""
    boxes = np.zeros((*planes[0].shape[1:], 3, 2), np.int64)
    for axis, (read, side) in enumerate(zip(planes, sides, strict=True)):
        found = read.numpy()
        some = found.any(axis=0)
        boxes[..., axis, 0] = np.where(some, found.argmax(axis=0), 0)
        boxes[..., axis, 1] = np.where(some, side - found[::-1].argmax(axis=0), 0)
    return boxes


@torch.no_grad()
def _contradicted(run: Run, volumes: Volumes, fields: Mapping[str, Fields], seed: int) -> set[str]:
    """Levels at which noise outside the field of a random location changed that location's feature."""
    generator = torch.Generator().manual_seed(seed)
    drawn = np.random.default_rng(seed)
    found: set[str] = set()
    spread = float(volumes.float().std()) or 1.0
    for level, field in fields.items():
        if bool((field[..., 1] - field[..., 0] == volumes.shape[2:]).all()):
            continue
        for trial in range(_PERTURBATIONS):
            i, j, k = (int(drawn.integers(side)) for side in field.shape[:3])
            volume = volumes[trial % len(volumes)][None]
            noisy = volume + spread * torch.randn(volume.shape, generator=generator).to(volume)
            (x0, x1), (y0, y1), (z0, z1) = field[i, j, k]
            noisy[:, :, x0:x1, y0:y1, z0:z1] = volume[:, :, x0:x1, y0:y1, z0:z1]
            # Both in one batch, so that sums are taken in the same order.
            one, other = run(torch.cat([volume, noisy]))[level][:, :, i, j, k]
            if not torch.equal(one, other):
                found.add(level)
                break
    return found


def _widened(run: Run, volumes: Volumes, level: str, field: Fields) -> Fields:
    """The fields joined with where gradients of the central location are not zero.

    The growth of its box is given to all, so that a field is rather too large than too small.
    """
    sides = np.array(volumes.shape[2:])
    grown = np.zeros((3, 2), np.int64)
    i, j, k = (side // 2 for side in field.shape[:3])
    for trial in range(_GRADIENTS):
        volume = volumes[trial % len(volumes)][None].clone().float()
        volume += torch.randn(volume.shape, generator=torch.Generator().manual_seed(trial)).to(volume) * volume.std()
        volume.requires_grad_()
        feature = run(volume)[level][0, :, i, j, k]
        gradient = None
        if feature.requires_grad:
            (gradient,) = torch.autograd.grad(feature.square().sum(), volume, allow_unused=True)
        if gradient is None:  # the network cuts them off: nothing is known
            return np.broadcast_to(np.stack([np.zeros(3, np.int64), sides], 1), field.shape).copy()
        reached = (gradient[0] != 0).any(dim=0).cpu().numpy()
        for axis in range(3):
            hit = np.flatnonzero(reached.any(axis=tuple(a for a in range(3) if a != axis)))
            if hit.size:
                low, high = field[i, j, k, axis]
                grown[axis, 0] = max(grown[axis, 0], low - hit[0])
                grown[axis, 1] = max(grown[axis, 1], hit[-1] + 1 - high)
    wide = field.copy()
    wide[..., 0] = np.maximum(0, wide[..., 0] - grown[:, 0])
    wide[..., 1] = np.minimum(sides, wide[..., 1] + grown[:, 1])
    return wide
