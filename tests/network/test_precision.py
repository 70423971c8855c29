from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fer_cli.network.precision import is_safe, mixed_precision

CPU = torch.device("cpu")
THIN = [
    # batch, filters below and above, kernel, stride, padding, extents; wrong in bfloat16 with AMX or AVX-512 BF16
    (22, 1, 6, 4, 2, 1, (8, 6, 2)),
    (4, 1, 6, 3, 1, 1, (1, 2, 8)),
    (4, 16, 32, 3, 2, 1, (8, 3, 2)),
    (4, 3, 6, 5, 1, 2, (4, 6, 12)),
    (9, 6, 6, 4, 1, 1, (3, 12, 7)),
    (4, 16, 1, 4, 2, 0, (15, 6, 30)),
]
WIDE = [(4, 1, 16, 4, 2, 1, (30, 30, 30)), (4, 16, 32, 3, 1, 1, (8, 10, 6)), (4, 16, 8, 1, 1, 0, (2, 2, 2))]


def passed(volumes: Tensor, weight: Tensor, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Output of a convolution, and the gradients of a weighted sum of it by input and by weight."""
    volumes, weight = volumes.clone().requires_grad_(), weight.clone().requires_grad_()
    values = functional.conv3d(volumes, weight, **options)
    values.float().backward(torch.linspace(-1, 1, values.numel()).view(values.shape))
    assert volumes.grad is not None
    assert weight.grad is not None
    return values.detach(), volumes.grad, weight.grad


@pytest.mark.parametrize("case", [*THIN, *WIDE])
def test_convolutions_of_any_extent_are_those_of_float32(case: tuple[Any, ...]) -> None:
    count, below, above, kernel, stride, padding, extents = case
    generator = torch.Generator().manual_seed(0)
    volumes = torch.randn(count, below, *extents, generator=generator)
    weight = torch.randn(above, below, kernel, kernel, kernel, generator=generator)
    volumes, weight = (value.contiguous(memory_format=torch.channels_last_3d) for value in (volumes, weight))
    expected = passed(volumes, weight, stride=stride, padding=padding)
    with mixed_precision(CPU):
        found = passed(volumes, weight, stride=stride, padding=padding)
    for value, right in zip(found, expected, strict=True):
        assert (value.float() - right).abs().max() <= 0.02 * right.abs().max()


def test_only_thin_maps_are_unsafe() -> None:
    for cases, safe in ((THIN, False), (WIDE, True)):
        for count, below, above, kernel, stride, padding, extents in cases:
            volumes, weight = torch.empty(count, below, *extents), torch.empty(above, below, kernel, kernel, kernel)
            assert is_safe(volumes, weight, None, (stride,) * 3, (padding,) * 3, (1, 1, 1), 1) is safe
            assert is_safe(volumes, weight, stride=stride, padding=[padding]) is safe
            assert not is_safe(volumes, weight, None, stride, padding, 2)
            assert not is_safe(volumes, weight, padding="same")


def test_thin_maps_are_computed_in_float32_and_others_not() -> None:
    fast = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    layer = torch.nn.Conv3d(4, 4, 3, padding=1)
    back = torch.nn.ConvTranspose3d(4, 4, 4, 2, 1)
    with torch.no_grad(), mixed_precision(CPU):
        for module in (layer, back):
            assert module(torch.zeros(1, 4, 2, 8, 8)).dtype is torch.float32
            assert module(torch.zeros(1, 4, 8, 8, 8)).dtype is (torch.bfloat16 if fast else torch.float32)
            if fast:  # elsewhere nothing converts the input
                assert module(torch.zeros(1, 4, 2, 8, 8, dtype=torch.bfloat16)).dtype is torch.float32
    assert layer(torch.zeros(1, 4, 8, 8, 8)).dtype is torch.float32
