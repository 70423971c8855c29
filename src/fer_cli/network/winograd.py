"""Convolutions with many filters, computed on a CPU with fewer multiplications where no gradient is wanted.

Along the first axis, four neighbouring outputs are sums of products of transformed inputs and transformed weights: of
six products instead of twelve where an output has three taps. The other axes are convolved as usual. A strided
convolution is one of stride 1 over the phases of its input, which a product takes together. A transposed convolution is
the transpose, with the matrices of inputs and outputs exchanged.

The functions and the parameters are those of `nn.Conv3d` and `nn.ConvTranspose3d`; kernels are cubic, without dilation
or groups. With gradients, in other precision and on other devices the layers are PyTorch's own.

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
"""Outputs computed together; of more, float32 loses further digits."""
_POINTS = (0.0, 1.0, -1.0, 0.5, -2.0)
"""Where polynomials are evaluated, beside infinity."""
_MANY_WEIGHTS = 1 << 13
"""Least number of filters below times filters above; measured, `docs/adr/0039`."""
_LEAST_SAVED = 1.5
"""Least ratio of the multiplications of the usual way to those of this one."""


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
    """A layer that keeps its transformed weights."""

    weight: Tensor
    _transformed: tuple[tuple[float, ...], list[Tensor]] | None = None

    def __getstate__(self) -> Any:
        """Without them: a copy has weights of its own."""
        return {**vars(self), "_transformed": None}

    def infers(self, feature: Tensor) -> bool:
        """Whether the layer goes its own way for a feature."""
        return (
            feature.dim() == 5
            and feature.device.type == "cpu"
            and feature.dtype == self.weight.dtype == torch.float32
            and not torch.is_grad_enabled()
            and not torch.is_autocast_enabled("cpu")
        )

    def transformed(self, taps: Float[Tensor, "product phase tap"]) -> list[Float[Tensor, "a b phase y z"]]:
        """The weights for each product, made once for as long as the weights are the same.

        Their sum tells that, since not all that changes a tensor counts its version up: fused optimizers do not.
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
    """Of a convolution from `wide` to `narrow` cells."""
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
    """The matrix that evaluates polynomials at the first points and at infinity, `count` in all."""
    at_infinity = np.eye(coefficients)[-1:]
    return np.concatenate([np.vander(_POINTS[: count - 1], coefficients, increasing=True), at_infinity])


def _parts(
    feature: Float[Tensor, "sample filter x y z"], matrices: Float[Tensor, "product tile phase x"]
) -> Iterator[Float[Tensor, "sample_tile filter phase y z"]]:
    """What each product reads of a feature, one at a time."""
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
    """What all products add to each cell."""
    _, filters, _, y, z = products[0].shape
    tiles, phases, x = matrices.shape[1:]
    shape = samples, tiles * phases, y * z * filters
    rows = torch.cat([each.permute(0, 2, 3, 4, 1).reshape(shape) for each in products], dim=1)
    result = torch.matmul(matrices.flatten(0, 2).T, rows).view(samples, x, y, z, filters).permute(0, 4, 1, 2, 3)
    return result if bias is None else result + bias[:, None, None, None]
