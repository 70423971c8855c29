import pytest
import torch
from torch.nn import functional

from fer_cli.network.subpixel import SubpixelTransposedConv3d

SETTINGS = [
    (6, 2, 2, 0),  # FER-CNN's
    (5, 2, 2, 1),
    (4, 2, 1, 0),
    (3, 2, 1, 1),
    (2, 2, 0, 0),
    (8, 2, 3, 0),
    (7, 2, 3, 1),
    (1, 2, 0, 1),
    (3, 1, 1, 0),
    (5, 1, 2, 0),
    (1, 1, 0, 0),
    (3, 3, 0, 0),
    (5, 3, 1, 0),
    (6, 3, 2, 1),
    (4, 4, 0, 0),
    (9, 4, 4, 3),
]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("kernel", "stride", "padding", "output_padding"), SETTINGS)
def test_it_is_the_transposed_convolution_in_value_and_gradient(
    kernel: int, stride: int, padding: int, output_padding: int, bias: bool
) -> None:
    torch.manual_seed(4)
    layer = SubpixelTransposedConv3d(3, 2, kernel, stride, padding, output_padding, bias=bias).double()
    feature = torch.randn(2, 3, 5, 3, 2, dtype=torch.float64, requires_grad=True)
    weights = [layer.weight, *([layer.bias] if bias else [])]
    mine = layer(feature)
    theirs = functional.conv_transpose3d(feature, layer.weight, layer.bias, stride, padding, output_padding)
    assert mine.shape == (2, 2, 5 * stride, 3 * stride, 2 * stride)
    torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)  # sums in another order, in float64
    direction = torch.randn_like(mine)
    for mine_grad, their_grad in zip(
        torch.autograd.grad(mine, [feature, *weights], direction),
        torch.autograd.grad(theirs, [feature, *weights], direction),
        strict=True,
    ):
        torch.testing.assert_close(mine_grad, their_grad, rtol=1e-12, atol=1e-12)


def test_weights_are_those_of_a_transposed_convolution() -> None:
    mine = SubpixelTransposedConv3d(3, 2, 6, 2, 2)
    theirs = torch.nn.ConvTranspose3d(3, 2, 6, 2, 2)
    assert {name: t.shape for name, t in mine.state_dict().items()} == {
        name: t.shape for name, t in theirs.state_dict().items()
    }
    theirs.load_state_dict(mine.state_dict())
    feature = torch.randn(1, 3, 4, 2, 3)
    torch.testing.assert_close(mine(feature), theirs(feature))


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "output_padding"), [(5, 2, 2, 0), (3, 1, 0, 0), (2, 3, 0, 0), (4, 2, 2, 1)]
)
def test_output_that_is_not_stride_times_the_input_is_refused(
    kernel: int, stride: int, padding: int, output_padding: int
) -> None:
    message = f"kernel {kernel}, stride {stride}, padding {padding} do not scale by the stride"
    with pytest.raises(ValueError, match=message):
        SubpixelTransposedConv3d(1, 1, kernel, stride, padding, output_padding)
