"""Convolutions with many filters, computed on a CPU with fewer multiplications where no gradient is wanted.

A convolution of stride 1 along one axis, with three taps, takes twelve multiplications for four neighbouring outputs.
Winograd's algorithm takes six: it multiplies linear combinations of the inputs by linear combinations of the taps, and
adds the products up to outputs. This module does so along the first axis; along the other two, each of these products
is one of PyTorch's convolutions. With a stride, every stride-th input makes a phase, and each phase is a convolution of
stride 1 with a part of the taps. A transposed convolution exchanges the matrices of inputs and outputs.

The functions and the parameters are those of `nn.Conv3d` and `nn.ConvTranspose3d`; kernels are cubic, without dilation
or groups. With gradients, in other precision, on other devices and in traces the layers are PyTorch's own.

Sources: Winograd, "Arithmetic Complexity of Computations", SIAM 1980; Lavin and Gray, "Fast Algorithms for
Convolutional Neural Networks", CVPR 2016; points of least error, Barabasz et al., "Error Analysis and Improving the
Accuracy of Winograd Convolution for Deep Neural Networks", TOMS 2020.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

_TILE = 4
"""Number of outputs that are computed together. Larger tiles save more, but with larger rounding errors."""
_POINTS = (0.0, 1.0, -1.0, 0.5, -2.0)
"""Points at which polynomials are evaluated, besides infinity."""
_MANY_WEIGHTS = 1 << 13
"""Smallest product of the numbers of filters below and above for which this form is used; measured, docs/adr/0039."""
_LEAST_SAVED = 1.5
"""Smallest ratio of the multiplications of a direct convolution to those of this form."""


def saves(filters_below: int, filters_above: int, kernel: int, stride: int, side: int) -> bool:
    """Whether a convolution is faster this way; `side` is that of the smaller map along the first axis."""
    taps = -(-kernel // stride)
    multiplications = (_TILE + taps - 1) * stride
    return (
        filters_below * filters_above >= _MANY_WEIGHTS
        and side >= _TILE
        and taps < len(_POINTS) - 1
        and _TILE * kernel >= _LEAST_SAVED * multiplications
    )


class _Inferring(nn.Module):
    """A layer that keeps the transformed weights, from which it computes without gradients."""

    weight: Tensor
    _transformed: tuple[tuple[float, ...], list[Tensor]] | None = None

    def __getstate__(self) -> Any:
        """What a copy or a pickle gets: everything but the transformed weights, which it makes from its own weights."""
        return {**vars(self), "_transformed": None}

    def infers(self, feature: Tensor) -> bool:
        """Whether the layer computes a feature in this form; otherwise it leaves it to PyTorch."""
        return (
            feature.dim() == 5
            and feature.device.type == "cpu"
            and feature.dtype == self.weight.dtype == torch.float32
            and not torch.is_grad_enabled()
            and not torch.is_autocast_enabled("cpu")
            and not torch.compiler.is_compiling()
            and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        )

    def transformed(self, taps: Float[Tensor, "product phase tap"]) -> list[Float[Tensor, "a b phase y z"]]:
        """The transformed weights of each product; they are computed again only after the weights have changed.

        A change is noticed by the tensor's version or by the sum of its values: fused optimizers, and whatever writes
        through `.data`, leave the version as it was.
        """
        weight = self.weight.detach()
        key = (0.0 if weight.is_inference() else float(weight._version), float(weight.sum()))
        if self._transformed is None or self._transformed[0] != key:
            a, b, kernel, *_ = weight.shape
            rows = weight.permute(0, 2, 3, 4, 1).reshape(a, kernel, -1)
            made = [(of @ rows).view(a, -1, kernel, kernel, b).permute(0, 4, 1, 2, 3) for of in taps]
            self._transformed = key, made
        return self._transformed[1]


class WinogradConv3d(_Inferring, nn.Conv3d):
    """As `nn.Conv3d`, with fewer multiplications."""

    def forward(self, feature: Tensor) -> Tensor:  # noqa: D102
        if not self.infers(feature):
            return super().forward(feature)
        kernel, stride, padding = self.kernel_size[0], self.stride[0], int(self.padding[0])
        wide = feature.shape[2]
        scheme = _scheme(wide, (wide + 2 * padding - kernel) // stride + 1, kernel, stride, padding)
        products = [
            functional.conv3d(part, weight, None, (1, stride, stride), (0, padding, padding))
            for part, weight in zip(_parts(feature, scheme.wide), self.transformed(scheme.taps), strict=True)
        ]
        return _sums(products, scheme.narrow, len(feature), self.bias)


class WinogradConvTranspose3d(_Inferring, nn.ConvTranspose3d):
    """As `nn.ConvTranspose3d`, with fewer multiplications."""

    def forward(self, feature: Tensor, output_size: list[int] | None = None) -> Tensor:
        """As `nn.ConvTranspose3d`; `output_size` is not supported."""
        if not self.infers(feature):
            return super().forward(feature, output_size)
        kernel, stride, padding = self.kernel_size[0], self.stride[0], int(self.padding[0])
        (first, *others), narrow = self.output_padding, feature.shape[2]
        scheme = _scheme((narrow - 1) * stride - 2 * padding + kernel + first, narrow, kernel, stride, padding)
        products = [
            functional.conv_transpose3d(
                part, weight, None, (1, stride, stride), (0, padding, padding), (0, others[0], others[1])
            )
            for part, weight in zip(_parts(feature, scheme.narrow), self.transformed(scheme.taps), strict=True)
        ]
        return _sums(products, scheme.wide, len(feature), self.bias)


@dataclass(frozen=True)
class _Scheme:
    """The matrices of the first axis: of the wider map's cells, of the narrower map's, and of the kernel's taps."""

    wide: Float[Tensor, "product tile phase wide"]
    narrow: Float[Tensor, "product tile 1 narrow"]
    taps: Float[Tensor, "product phase tap"]


@cache
def _scheme(wide: int, narrow: int, kernel: int, stride: int, padding: int) -> _Scheme:
    """The matrices of a convolution that maps `wide` cells to `narrow` ones along the first axis."""
    taps, tiles = -(-kernel // stride), -(-narrow // _TILE)
    count = _TILE + taps - 1
    # A polynomial of the taps times one of as many coefficients as a tile has outputs: evaluate, multiply, interpolate.
    # Correlation is the transpose of that in the second factor.
    inputs = np.linalg.inv(_evaluation(count, count)).T
    powers = 2.0 ** np.round(np.log2(np.abs(inputs).sum(axis=1, keepdims=True)))
    inputs, weights, outputs = inputs / powers, _evaluation(count, taps) * powers, _evaluation(count, _TILE)
    of_wide = np.zeros((count, tiles, stride, wide))
    of_narrow = np.zeros((count, tiles, 1, narrow))
    of_taps = np.zeros((count, stride, kernel))
    for phase in range(stride):
        of_taps[:, phase, phase::stride] = weights[:, : len(range(phase, kernel, stride))]
        for tile in range(tiles):
            cells = stride * (_TILE * tile + np.arange(count)) + phase - padding
            inside = (cells >= 0) & (cells < wide)
            of_wide[:, tile, phase, cells[inside]] = inputs[:, inside]
    for tile in range(tiles):
        of_narrow[:, tile, 0, _TILE * tile : _TILE * (tile + 1)] = outputs[:, : narrow - _TILE * tile]
    return _Scheme(*(torch.from_numpy(matrix).float() for matrix in (of_wide, of_narrow, of_taps)))


def _evaluation(count: int, coefficients: int) -> np.ndarray:
    """The matrix from the coefficients of a polynomial to its values at `count` points, the last at infinity."""
    at_infinity = np.eye(coefficients)[-1:]
    return np.concatenate([np.vander(_POINTS[: count - 1], coefficients, increasing=True), at_infinity])


def _parts(
    feature: Float[Tensor, "sample filter x y z"], matrices: Float[Tensor, "product tile phase x"]
) -> Iterator[Float[Tensor, "sample_tile filter phase y z"]]:
    """Yields for each product the linear combinations of inputs that are to be multiplied by its weights."""
    samples, filters, x, y, z = feature.shape
    rows = feature.permute(0, 2, 3, 4, 1).reshape(samples, x, y * z * filters)
    _, tiles, phases, _ = matrices.shape
    for of in matrices:
        part = torch.matmul(of.flatten(0, 1), rows)
        yield part.view(samples * tiles, phases, y, z, filters).permute(0, 4, 1, 2, 3)


def _sums(
    products: Sequence[Float[Tensor, "sample_tile filter phase y z"]],
    matrices: Float[Tensor, "product tile phase x"],
    samples: int,
    bias: Tensor | None,
) -> Float[Tensor, "sample filter x y z"]:
    """The outputs: for each cell of the first axis, a linear combination of the products."""
    _, filters, _, y, z = products[0].shape
    tiles, phases, x = matrices.shape[1:]
    shape = samples, tiles * phases, y * z * filters
    rows = torch.cat([each.permute(0, 2, 3, 4, 1).reshape(shape) for each in products], dim=1)
    result = torch.matmul(matrices.flatten(0, 2).T, rows).view(samples, x, y, z, filters).permute(0, 4, 1, 2, 3)
    return result if bias is None else result + bias[:, None, None, None]
