"""A transposed convolution that a CPU computes quickly."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class SubpixelTransposedConv3d(nn.ConvTranspose3d):
    """A transposed convolution (cubic kernel, no dilation) computed as a convolution and a shuffle of phases.

    The same function of the same weights: each of the stride³ phases of the output is a convolution of the
    input with every stride-th tap. For one output filter on a large grid this is several times faster on a
    CPU, where the direct form runs at a tenth of the other layers' rate (`benchmarks/transposed.py`). Elsewhere it is
    PyTorch's own.
    The output must be exactly stride times the input.
    Source: Shi et al., "Is the deconvolution layer the same as a convolutional layer?", arXiv:1609.07009.
    """

    taps: Tensor

    def __init__(
        self,
        filters_in: int,
        filters_out: int,
        kernel: int,
        stride: int,
        padding: int,
        output_padding: int = 0,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(filters_in, filters_out, kernel, stride, padding, output_padding, bias=bias)
        if kernel - 2 * padding + output_padding != stride:
            raise ValueError(f"kernel {kernel}, stride {stride}, padding {padding} do not scale by the stride")
        # Output cell stride·q + r takes tap stride·d + r + padding of input cell q − d.
        phases = range(stride)
        self.reach = max(max((r + padding) // stride, (kernel - 1 - r - padding) // stride) for r in phases)
        offsets = range(self.reach, -self.reach - 1, -1)
        taps = [[stride * d + r + padding for d in offsets] for r in phases]
        # Index `kernel` stands for a tap that does not exist; `forward` puts a zero there.
        taps = [[tap if 0 <= tap < kernel else kernel for tap in row] for row in taps]
        self.register_buffer("taps", torch.tensor(taps), persistent=False)

    def forward(self, feature: Tensor, output_size: list[int] | None = None) -> Tensor:
        """As `nn.ConvTranspose3d`; `output_size` is not supported."""
        if feature.device.type not in ("cpu", "meta"):
            return super().forward(feature)
        stride, reach = self.stride[0], self.reach
        weight = functional.pad(self.weight, (0, 1, 0, 1, 0, 1))
        filters_in, filters_out = weight.shape[:2]
        # (in, out, kx, ky, kz) → (in, out, rx, jx, ry, jy, rz, jz) → (out·rx·ry·rz, in, jx, jy, jz)
        phased = weight[:, :, self.taps][:, :, :, :, self.taps][:, :, :, :, :, :, self.taps]
        phased = phased.permute(1, 2, 4, 6, 0, 3, 5, 7)
        side = 2 * reach + 1
        phased = phased.reshape(filters_out * stride**3, filters_in, side, side, side)
        phases = functional.conv3d(feature, phased, padding=reach)
        sample, _, x, y, z = phases.shape
        phases = phases.reshape(sample, filters_out, stride, stride, stride, x, y, z).permute(0, 1, 5, 2, 6, 3, 7, 4)
        result = phases.reshape(sample, filters_out, stride * x, stride * y, stride * z)
        return result if self.bias is None else result + self.bias[:, None, None, None]
