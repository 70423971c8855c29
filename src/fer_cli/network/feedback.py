"""The feedback network: from the class probabilities, or from any level's feature, down to the input.

A step leads from one level to the one below it. `steps_from_shapes` makes the steps of any network from the shapes of
its levels alone; FER-CNN brings steps that mirror its own layers (`fer_cnn`).

Source: section 2 and Fig. 1 of the paper.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from fer_cli.data.volumes import Volumes
from fer_cli.network.backbone import Feature, Features, NetworkSpec

Edit = Callable[[str, Tensor], Tensor]
_MOST_DENSE = 1 << 24
"""Most weights of a dense map."""
_MOST_RATIO = 4
"""Largest growth of an axis by a transposed convolution, whose weights grow with the cube of it."""
_GROUPS = 8
_NO_SQUARE = 1e-24
"""Features of a smaller mean square are as good as zero."""
_LARGE_MAP = 4096
"""From so many locations a step has one convolution; measured, docs/results.md."""
_HEAD_FILTERS = 32
"""Hidden filters of the last step made from shapes, at the lowest level's resolution."""


@dataclass(frozen=True)
class Decoding:
    """What a decode returns: the feedback feature of every level below the entry, and the raw reconstruction.

    `Signal.value` turns the raw reconstruction into voxel values.
    """

    features: Features
    raw: Volumes


class FeedbackNetwork(nn.Module):
    """A decoder with one module for each level, which makes the feature of the level below from that of its own.

    Decoding can start at any level, called its entry, and ends at the input. At levels below the entry the backbone's
    own features can be added: Fig. 1's skip connections. The gate of a level is open if such a feature is given for
    it, shut if not.

    `scales` are magnitudes of features by level (`feature_scales`), 1 where a level has none. A module reads its
    level's feature, and gives that of the level below, in units of these. Features outside of modules are not scaled.
    `overreach` is by how many voxels along each axis a location of the lowest level reaches in the reconstruction
    beyond its receptive field: 0 for steps that mirror the backbone's.
    """

    def __init__(
        self, steps: Mapping[str, nn.Module], scales: Mapping[str, float] | None = None, *, overreach: int = 0
    ) -> None:
        super().__init__()
        self.levels = tuple(steps)
        self.scales = dict(scales or {})
        self.overreach = overreach
        self.steps = nn.ModuleDict({_key(name): step for name, step in steps.items()})

    def forward(
        self,
        code: Feature,
        entry: str,
        *,
        skips: Mapping[str, Tensor] | None = None,
        edit: Edit | None = None,
    ) -> Decoding:
        """Decode from the feature `code` of level `entry` down to the input.

        `skips` maps levels below the entry to features to add there; every other gate is shut, and with none given the
        result depends on `code` alone. `edit(level, feature)` may replace the feature of the entry and of each level
        below it before the next step sees it; the features returned are those before a skip is added and after the
        edit.
        """
        skips = skips or {}
        features: Features = {}
        start = self.levels.index(entry)
        feature = code if edit is None else edit(entry, code)
        for name, below in zip(self.levels[start:], [*self.levels[start + 1 :], None], strict=True):
            feature = self.step(name, feature)
            if below is None:
                break
            if edit is not None:
                feature = edit(below, feature)
            features[below] = feature
            if below in skips:
                feature = feature + skips[below]
        return Decoding(features, feature)

    decode = forward

    def features_below(self, code: Feature, entry: str) -> Features:
        """The features that `decode` gives, every gate shut, without the last step, which leads to the input."""
        features: Features = {}
        for name, below in pairwise(self.levels[self.levels.index(entry) :]):
            features[below] = code = self.step(name, code)
        return features

    def step(self, level: str, feature: Feature) -> Tensor:
        """What one step makes of a level's feature: the feature of the level below, or the raw reconstruction."""
        below = self.levels[self.levels.index(level) + 1 :]
        found = self.steps[_key(level)](_times(feature, 1 / self.scales.get(level, 1.0)))
        return _times(found, self.scales.get(below[0], 1.0) if below else 1.0)

    @contextmanager
    def timed(self) -> Iterator[dict[str, float]]:
        """Within the block, the seconds that each level's module has spent forward."""
        seconds = dict.fromkeys(self.levels, 0.0)
        handles = []
        for level in self.levels:
            step = self.steps[_key(level)]

            def start(*_: object, level: str = level) -> None:
                seconds[level] -= time.monotonic()

            def stop(*_: object, level: str = level) -> None:
                seconds[level] += time.monotonic()

            handles += [step.register_forward_pre_hook(start), step.register_forward_hook(stop)]
        try:
            yield seconds
        finally:
            for handle in handles:
                handle.remove()

    def decode_each(self, codes: Features) -> Features:
        """Raw reconstructions from each of several levels, every gate shut.

        What `decode` gives level by level, but each step is taken once for all that has entered above it.
        """
        entered: list[str] = []
        counts: list[int] = []
        feature: Tensor | None = None
        for name in self.levels:
            if name in codes:
                entered.append(name)
                counts.append(len(codes[name]))
                feature = codes[name] if feature is None else torch.cat([feature, codes[name]])
            if feature is not None:
                feature = self.step(name, feature)
        parts = () if feature is None else feature.split(counts)
        return dict(zip(entered, parts, strict=True))


def feature_scales(features: Mapping[str, Tensor]) -> dict[str, float]:
    """Root mean square of each level's features, as the nearest power of two, so that dividing by it rounds nothing.

    1 where they are as good as zero.
    """
    squares = {level: float(feature.double().square().mean()) for level, feature in features.items()}
    return {
        level: 2.0 ** round(math.log2(square) / 2) if _NO_SQUARE < square < math.inf else 1.0
        for level, square in squares.items()
    }


def _times(feature: Tensor, scale: float) -> Tensor:
    return feature if scale == 1 else feature * scale


def _key(level: str) -> str:
    """A level's name as a key of a ModuleDict, which takes no dots and no names of its own attributes.

    Names of levels have no colon (`NetworkSpec`), so that keys are unique.
    """
    key = level.replace(".", ":")
    return f":{key}" if hasattr(nn.ModuleDict, key) or key == "training" else key


def steps_from_shapes(spec: NetworkSpec) -> dict[str, nn.Module]:
    """Steps of a feedback network for any levels, from the output down."""
    steps: dict[str, nn.Module] = {}
    signed = [level.signed for level in spec.levels]
    for index, name in reversed(list(enumerate(spec.layer_names))):
        above = spec.level_shape(name)
        if index == 0:
            steps[name] = _head(above, spec.input.volume)
        else:
            below = spec.level_shape(spec.layer_names[index - 1])
            steps[name] = _ShapeStep(above, below, signed=signed[index - 1])
    return steps


class _ShapeStep(nn.Module):
    """From one feature shape to another: to the map's size, then a residual block; a final ReLU unless `signed`.

    The block has two convolutions, on a large map one, which costs half and reconstructs no worse.
    """

    def __init__(self, above: tuple[int, ...], below: tuple[int, ...], *, signed: bool) -> None:
        super().__init__()
        filters = below[0]
        self.resize = _to_shape(above, below)
        # A kernel that sees a single location has one cell.
        kernel = 3 if math.prod(below[1:]) > 1 else 1
        convolutions = 1 if math.prod(below[1:]) >= _LARGE_MAP else 2
        self.block = nn.Sequential()
        for last in range(convolutions):
            convolution = nn.Conv3d(filters, filters, kernel, padding=kernel // 2, bias=last == convolutions - 1)
            self.block.extend([_normalised(below), nn.ReLU(), convolution])
        self.signed = signed

    def forward(self, feature: Tensor) -> Tensor:
        resized = self.resize(feature)
        result: Tensor = resized + self.block(resized)
        return result if self.signed else functional.relu(result)


def _head(above: tuple[int, ...], volume: tuple[int, ...]) -> nn.Module:
    """The last step: from the lowest level to the raw reconstruction."""
    return _dense(above[0], volume) if math.prod(above[1:]) == 1 else _PhaseHead(above, volume)


class _PhaseHead(nn.Module):
    """A linear map of the lowest level, and what hidden filters add to it, all at the resolution of the level's map.

    Every cell gives the voxels that it covers, one filter to a voxel of them, which the spread puts in their places. A
    linear map cannot give back what a ReLU has cut off; hidden filters see it in the neighbourhood. Their addition is
    nothing before training.

    Source: Shi et al., "Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional
    Neural Network", 2016.
    """

    def __init__(self, above: tuple[int, ...], volume: tuple[int, ...]) -> None:
        super().__init__()
        axes = [_phase_axis(of, to) for of, to in zip(above[1:], volume[1:], strict=True)]
        fitting = [axis for axis in axes if axis is not None]
        self.spread: nn.Module
        if len(fitting) == 3:
            stride, padding = zip(*fitting, strict=True)
            phases = volume[0] * math.prod(stride)
            self.spread = _Shuffle(stride, volume)
        else:
            padding, phases = (1, 1, 1), volume[0]
            self.spread = nn.Upsample(volume[1:], mode="trilinear")
        self.map = nn.Conv3d(above[0], phases + _HEAD_FILTERS, 3, padding=padding)
        self.normalise = nn.GroupNorm(_GROUPS, _HEAD_FILTERS)
        self.addition = nn.Conv3d(_HEAD_FILTERS, phases, 1)
        for parameter in self.addition.parameters():
            nn.init.zeros_(parameter)

    def forward(self, feature: Tensor) -> Tensor:
        mapped: Tensor = self.map(feature)
        direct, hidden = mapped.split([mapped.shape[1] - _HEAD_FILTERS, _HEAD_FILTERS], 1)
        result: Tensor = self.spread(direct + self.addition(functional.relu(self.normalise(hidden))))
        return result


class _Shuffle(nn.Module):
    """From a map with a filter for each voxel of a cell to voxels; what lies outside the volume is cut off."""

    def __init__(self, stride: tuple[int, ...], volume: tuple[int, ...]) -> None:
        super().__init__()
        self.stride, self.volume = stride, volume

    def forward(self, phases: Tensor) -> Tensor:
        sample, _, *cells = phases.shape
        phases = phases.reshape(sample, self.volume[0], *self.stride, *cells).permute(0, 1, 5, 2, 6, 3, 7, 4)
        voxels = [cell * stride for cell, stride in zip(cells, self.stride, strict=True)]
        starts = [(of - to) // 2 for of, to in zip(voxels, self.volume[1:], strict=True)]
        x, y, z = (slice(start, start + to) for start, to in zip(starts, self.volume[1:], strict=True))
        return phases.reshape(sample, self.volume[0], *voxels)[:, :, x, y, z]


def _phase_axis(cells: int, of: int) -> tuple[int, int] | None:
    """Voxels that a cell covers along one axis, and the padding of a kernel of 3 that makes cells for all of them.

    None where cells and voxels do not fit together so.
    """
    axis = _transposed_axis(cells, of)
    if axis is None or cells == 1:
        return None
    stride = axis[1]
    beyond = max(0, -(-of // stride) - cells)
    padding = 1 + -(-beyond // 2)
    return (stride, padding) if padding <= 2 else None


def _to_shape(above: tuple[int, ...], below: tuple[int, ...]) -> nn.Module:
    """A linear map from features of shape `above` to features of shape `below`, both (filter, x, y, z).

    Dense from a single location; where every axis grows by less than 4 and a half, the transposed convolution with the
    next smaller stride whose kernel fills the rest; otherwise a convolution and trilinear interpolation, the
    convolution at the lower resolution.
    """
    if math.prod(above[1:]) == 1:
        return _dense(above[0], below)
    axes = [_transposed_axis(of, to) for of, to in zip(above[1:], below[1:], strict=True)]
    fitting = [axis for axis in axes if axis is not None]
    if len(fitting) == 3:
        kernel, stride, padding = zip(*fitting, strict=True)
        return nn.ConvTranspose3d(above[0], below[0], kernel, stride, padding)
    steps = [nn.Conv3d(above[0], below[0], 3, padding=1), nn.Upsample(below[1:], mode="trilinear")]
    return nn.Sequential(*(steps if math.prod(below[1:]) >= math.prod(above[1:]) else steps[::-1]))


def _transposed_axis(cells: int, of: int) -> tuple[int, int, int] | None:
    """Kernel, stride and padding of the transposed convolution from `cells` to `of` along one axis, None if none.

    The mirror of the convolution that leads from `of` to `cells`. Kernels overlap by two cells at least, so that
    neighbouring locations share what lies between them.
    """
    if cells == 1:
        return (of, 1, 0) if of <= _MOST_RATIO + 2 else None
    for stride in (-(-of // cells), of // cells):
        span = of - (cells - 1) * stride
        padding = 0 if span >= stride + 2 else 1
        kernel = span + 2 * padding
        if 1 <= stride <= _MOST_RATIO and stride + 2 <= kernel <= 3 * stride + 2:
            return (kernel, stride, padding)
    return None


def _dense(filters: int, below: tuple[int, ...]) -> nn.Module:
    """A dense map from one location, of at most `_MOST_DENSE` weights.

    Where that is too few for the map, to a coarser map or fewer filters, which interpolation and a convolution bring to
    the shape wanted.
    """
    coarse = below[1:]
    while filters * math.prod(coarse) > _MOST_DENSE and max(coarse) > 1:
        coarse = tuple(-(-side // 2) for side in coarse)
    locations = math.prod(coarse)
    narrow = max(1, min(below[0], _MOST_DENSE // (filters * locations)))
    layers = [nn.Flatten(), nn.Linear(filters, narrow * locations), nn.Unflatten(1, (narrow, *coarse))]
    if coarse != below[1:]:
        layers.append(nn.Upsample(below[1:], mode="trilinear"))
    if coarse != below[1:] or narrow < below[0]:
        layers.append(nn.Conv3d(narrow, below[0], 1))
    return nn.Sequential(*layers)


def _normalised(shape: tuple[int, ...]) -> nn.Module:
    """Normalisation of each sample's feature by itself, so that it works for batches of any size.

    A group needs several values: with a single location all filters are one group, and a single number stays as it is.
    """
    filters, locations = shape[0], math.prod(shape[1:])
    if filters * locations == 1:
        return nn.Identity()
    return nn.GroupNorm(math.gcd(filters, _GROUPS) if locations > 1 else 1, filters)
