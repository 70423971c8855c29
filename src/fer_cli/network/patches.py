"""Convolutions with few output locations, computed as one product of matrices.

Where a layer has more weights than features, as FER-CNN's last convolutions do, a direct convolution spends its
time on the gradient of the weights. Gathering the patches first makes forward pass and both gradients plain matrix
products, three to five times faster there (`benchmarks/training.py`). The functions and the parameters are those of
`nn.Conv3d` and `nn.ConvTranspose3d`; the kernels are cubic, without dilation or groups.

Weights in `torch.channels_last_3d` are read in place; others are copied at every call. Elsewhere than on a CPU the
layers are PyTorch's own.
"""

import itertools
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

Patches = Float[Tensor, "sample px py pz kx ky kz filter"]


class PatchConv3d(nn.Conv3d):
    """As `nn.Conv3d`, by gathered patches."""

    def forward(self, feature: Tensor) -> Tensor:  # noqa: D102
        if feature.device.type not in ("cpu", "meta"):
            return super().forward(feature)
        kernel, stride, padding = self.kernel_size[0], self.stride[0], int(self.padding[0])
        patches: Tensor = _Gather.apply(  # type: ignore[no-untyped-call]
            feature.permute(0, 2, 3, 4, 1), kernel, stride, padding
        )
        rows = functional.linear(patches.flatten(0, 3).flatten(1), _rows(self.weight), self.bias)
        return rows.view(*patches.shape[:4], self.out_channels).permute(0, 4, 1, 2, 3)


class PatchConvTranspose3d(nn.ConvTranspose3d):
    """As `nn.ConvTranspose3d`, by scattered patches."""

    def forward(self, feature: Tensor, output_size: list[int] | None = None) -> Tensor:
        """As `nn.ConvTranspose3d`; `output_size` is not supported."""
        if feature.device.type not in ("cpu", "meta"):
            return super().forward(feature)
        kernel, stride, padding = self.kernel_size[0], self.stride[0], int(self.padding[0])
        feature = feature.permute(0, 2, 3, 4, 1)
        sides = [(n - 1) * stride - 2 * padding + kernel + self.output_padding[0] for n in feature.shape[1:4]]
        patches = torch.matmul(feature.flatten(0, 3), _rows(self.weight))
        patches = patches.view(*feature.shape[:4], kernel, kernel, kernel, self.out_channels)
        result: Tensor = _Scatter.apply(patches, stride, padding, sides)  # type: ignore[no-untyped-call]
        result = result.permute(0, 4, 1, 2, 3)
        return result if self.bias is None else result + self.bias.to(result)[:, None, None, None]


class _Gather(torch.autograd.Function):
    """Patches of a feature, filter last."""

    @staticmethod
    def forward(ctx: Any, feature: Tensor, kernel: int, stride: int, padding: int) -> Patches:
        ctx.stride, ctx.padding, ctx.sides = stride, padding, feature.shape[1:4]
        return _gather(feature, kernel, stride, padding)

    @staticmethod
    def backward(ctx: Any, gradient: Patches) -> tuple[Tensor, None, None, None]:
        return _scatter(gradient, ctx.stride, ctx.padding, ctx.sides), None, None, None


class _Scatter(torch.autograd.Function):
    """The adjoint of `_Gather`: patches added up where they overlap."""

    @staticmethod
    def forward(ctx: Any, patches: Patches, stride: int, padding: int, sides: list[int]) -> Tensor:
        ctx.stride, ctx.padding, ctx.kernel = stride, padding, patches.shape[4]
        return _scatter(patches, stride, padding, sides)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Patches, None, None, None]:
        return _gather(gradient, ctx.kernel, ctx.stride, ctx.padding), None, None, None


def _rows(weight: Tensor) -> Tensor:
    """(a, b, kx, ky, kz) as (a, kx·ky·kz·b)."""
    return weight.permute(0, 2, 3, 4, 1).flatten(1)


def _gather(feature: Float[Tensor, "sample x y z filter"], kernel: int, stride: int, padding: int) -> Patches:
    padded = functional.pad(feature, (0, 0, *(padding,) * 6))
    for axis in (1, 2, 3):
        padded = padded.unfold(axis, kernel, stride)
    return padded.permute(0, 1, 2, 3, 5, 6, 7, 4).contiguous()


def _scatter(
    patches: Patches, stride: int, padding: int, sides: list[int] | torch.Size
) -> Float[Tensor, "sample x y z filter"]:
    samples, x, y, z, kernel, *_, filters = patches.shape
    # Sums in float32, whatever the patches are in.
    dtype = torch.promote_types(patches.dtype, torch.float32)
    padded = torch.zeros(samples, *(side + 2 * padding for side in sides), filters, dtype=dtype, device=patches.device)
    for i, j, k in itertools.product(range(kernel), repeat=3):
        padded[:, i : i + stride * x : stride, j : j + stride * y : stride, k : k + stride * z : stride] += patches[
            ..., i, j, k, :
        ]
    spans = [slice(padding, padding + side) for side in sides]
    return padded[(slice(None), *spans)].to(patches.dtype)
