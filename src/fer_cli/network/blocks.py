"""Building blocks of FER-CNN: a block for each level of the classifier, and the mirrors that lead down again.

The feedback network mirrors a level's first convolution alone; residual units have no mirror (`docs/adr/0032`).
"""

from collections.abc import Sequence

import numpy as np
from torch import Tensor, nn

from fer_cli.execution.world import SharedDropout
from fer_cli.network.patches import PatchConv3d, PatchConvTranspose3d
from fer_cli.network.receptive import UNIT_KERNEL, LayerSpec
from fer_cli.network.subpixel import SubpixelTransposedConv3d
from fer_cli.network.winograd import WinogradConv3d, WinogradConvTranspose3d, saves

_FEW_LOCATIONS = 8
"""Up to this many locations of the smaller map, a convolution is computed by patches; measured, `docs/adr/0009`."""


class ConvBlock(nn.Sequential):
    """A level with a map of `sides` cells: Conv3d → batch norm → ReLU, then its residual units."""

    def __init__(self, filters_below: int, spec: LayerSpec, sides: Sequence[int]) -> None:
        super().__init__(
            _convolution(sides, filters_below, spec.filters, spec.kernel, spec.stride, spec.padding),
            nn.BatchNorm3d(spec.filters),
            nn.ReLU(),
            *(_ResidualUnit(spec.filters, sides) for _ in range(spec.units)),
        )


class _ResidualUnit(nn.Module):
    """ReLU of a map and what two convolutions make of it, which is nothing before training.

    Source: He et al. 2016 (arXiv:1512.03385), Fig. 2; the zeros: Goyal et al. 2017 (arXiv:1706.02677), section 5.1.
    """

    def __init__(self, filters: int, sides: Sequence[int]) -> None:
        super().__init__()
        kernel = UNIT_KERNEL, 1, UNIT_KERNEL // 2
        last = nn.BatchNorm3d(filters)
        nn.init.zeros_(last.weight)
        self.addition = nn.Sequential(
            _convolution(sides, filters, filters, *kernel),
            nn.BatchNorm3d(filters),
            nn.ReLU(),
            _convolution(sides, filters, filters, *kernel),
            last,
        )
        self.activation = nn.ReLU()

    def forward(self, feature: Tensor) -> Tensor:
        result: Tensor = self.activation(feature + self.addition(feature))
        return result


def _convolution(sides: Sequence[int], below: int, above: int, kernel: int, stride: int, padding: int) -> nn.Conv3d:
    """A convolution whose map has `sides` cells."""
    kind: type[nn.Conv3d] = nn.Conv3d
    if np.prod(sides) <= _FEW_LOCATIONS:
        kind = PatchConv3d
    elif saves(below, above, kernel, stride, sides[0]):
        kind = WinogradConv3d
    return kind(below, above, kernel, stride, padding, bias=False)


class DenseBlock(nn.Sequential):
    """A level with one location: dense → ReLU."""

    def __init__(self, below: tuple[int, ...], spec: LayerSpec, dropout: float) -> None:
        super().__init__(
            nn.Flatten(),
            SharedDropout(dropout),
            nn.Linear(int(np.prod(below)), spec.filters),
            nn.ReLU(),
            nn.Unflatten(1, (spec.filters, 1, 1, 1)),
        )


class TransposedLayer(nn.Module):
    """Maps the feature of one level to the shape of the level below it."""

    def __init__(self, spec: LayerSpec, above: tuple[int, ...], below: tuple[int, ...], *, head: bool) -> None:
        super().__init__()
        self.layer: nn.Module
        if spec.is_dense:
            self.layer = nn.Sequential(nn.Flatten(), nn.Linear(above[0], int(np.prod(below))), nn.Unflatten(1, below))
            return
        # What the classifier's strided convolution rounded away has to be given back.
        remainders = tuple(
            of - ((cells - 1) * spec.stride - 2 * spec.padding + spec.kernel)
            for cells, of in zip(above[1:], below[1:], strict=True)
        )
        kind: type[nn.ConvTranspose3d] = nn.ConvTranspose3d
        x, y, z = remainders
        if x != y or x != z:
            sizes = (spec.kernel, spec.stride, spec.padding, (x, y, z))
            self.layer = nn.ConvTranspose3d(above[0], below[0], *sizes, bias=head)
            return
        if head and spec.kernel - 2 * spec.padding + x == spec.stride:
            kind = SubpixelTransposedConv3d
        elif np.prod(above[1:]) <= _FEW_LOCATIONS:
            kind = PatchConvTranspose3d
        elif saves(above[0], below[0], spec.kernel, spec.stride, above[1]):
            kind = WinogradConvTranspose3d
        self.layer = kind(above[0], below[0], spec.kernel, spec.stride, spec.padding, x, bias=head)

    def forward(self, feature: Tensor) -> Tensor:  # noqa: D102
        result: Tensor = self.layer(feature)
        return result


class Head(nn.Module):
    """The last step: the mirror of the lowest convolution, and what hidden filters on that convolution's map add to it.

    A linear map cannot give back what a ReLU has cut off; hidden filters see it in the neighbourhood. The addition is
    nothing before training.
    """

    def __init__(self, spec: LayerSpec, above: tuple[int, ...], below: tuple[int, ...], filters: int) -> None:
        super().__init__()
        self.mirror = TransposedLayer(spec, above, below, head=True)
        self.hidden = nn.Sequential(
            nn.Conv3d(above[0], filters, 3, padding=1, bias=False), nn.BatchNorm3d(filters), nn.ReLU()
        )
        self.addition = TransposedLayer(spec, (filters, *above[1:]), below, head=True)
        for parameter in self.addition.parameters():
            nn.init.zeros_(parameter)

    def forward(self, feature: Tensor) -> Tensor:  # noqa: D102
        result: Tensor = self.mirror(feature) + self.addition(self.hidden(feature))
        return result
