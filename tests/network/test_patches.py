import pytest
import torch
from torch import Tensor, nn

from fer_cli.network.patches import PatchConv3d, PatchConvTranspose3d

SETTINGS = [
    # kernel, stride, padding, cells of the map above
    (2, 2, 0, (1, 1, 1)),  # FER-CNN's conv5
    (3, 2, 1, (2, 2, 2)),  # FER-CNN's conv4
    (4, 2, 1, (2, 3, 1)),
    (3, 1, 1, (2, 2, 3)),
    (5, 2, 2, (3, 1, 2)),
    (1, 1, 0, (2, 1, 1)),
    (2, 3, 0, (2, 2, 2)),  # cells of the input that no patch holds
]


def same(mine: nn.Module, theirs: nn.Module, feature: Tensor) -> None:
    """The same value and gradients, sums in another order, in float64."""
    theirs.load_state_dict(mine.state_dict())
    results = [layer(feature) for layer in (mine, theirs)]
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)
    direction = torch.randn_like(results[1])
    gradients = [
        torch.autograd.grad(result, [feature, *layer.parameters()], direction)
        for result, layer in zip(results, (mine, theirs), strict=True)
    ]
    for mine_gradient, their_gradient in zip(*gradients, strict=True):
        torch.testing.assert_close(mine_gradient, their_gradient, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("kernel", "stride", "padding", "above"), SETTINGS)
def test_it_is_the_convolution_in_value_and_gradient(
    kernel: int, stride: int, padding: int, above: tuple[int, int, int], bias: bool, memory: torch.memory_format
) -> None:
    torch.manual_seed(1)
    below = [(n - 1) * stride - 2 * padding + kernel + (stride - 1 if n > 1 else 0) for n in above]
    feature = torch.randn(3, 4, *below, dtype=torch.float64).to(memory_format=memory).requires_grad_()
    mine, theirs = (
        kind(4, 5, kernel, stride, padding, bias=bias).double().to(memory_format=memory)
        for kind in (PatchConv3d, nn.Conv3d)
    )
    same(mine, theirs, feature)


@pytest.mark.parametrize("output_padding", [0, 1])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("kernel", "stride", "padding", "above"), SETTINGS)
def test_it_is_the_transposed_convolution_in_value_and_gradient(
    kernel: int, stride: int, padding: int, above: tuple[int, int, int], bias: bool, output_padding: int
) -> None:
    torch.manual_seed(2)
    output_padding = min(output_padding, stride - 1)
    feature = torch.randn(3, 5, *above, dtype=torch.float64).requires_grad_()
    mine, theirs = (
        kind(5, 4, kernel, stride, padding, output_padding, bias=bias).double()
        for kind in (PatchConvTranspose3d, nn.ConvTranspose3d)
    )
    same(mine, theirs, feature)


def test_overlaps_are_added_up_in_float32_under_autocast() -> None:
    torch.manual_seed(3)
    mine, theirs = PatchConvTranspose3d(64, 8, 3, 1, 1), nn.ConvTranspose3d(64, 8, 3, 1, 1)
    theirs.load_state_dict(mine.state_dict())
    feature = torch.randn(2, 64, 2, 2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        result = mine(feature)
    assert result.dtype == torch.bfloat16
    # bfloat16 has 8 significant bits; each patch is rounded once, their sum once more.
    torch.testing.assert_close(result.float(), theirs(feature), rtol=2**-7, atol=2e-2)
