import copy
import pickle
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fer_cli.data.volumes import InputSpec
from fer_cli.network.fer_cnn import NetworkConfig, build, fer_cnn_layers
from fer_cli.network.winograd import WinogradConv3d, WinogradConvTranspose3d, saves

SETTINGS = [(5, 2, 2), (4, 2, 1), (3, 1, 1), (2, 1, 0), (6, 2, 2), (5, 3, 1), (6, 2, 0), (7, 3, 3)]
SIDES = [(16, 6, 7), (8, 6, 6), (13, 9, 8), (10, 8, 7)]
"""Tiles fit the first axis, or do not; the axes differ."""
PYTORCHS = {WinogradConv3d: nn.Conv3d, WinogradConvTranspose3d: nn.ConvTranspose3d}


def assert_near(found: Tensor, wanted: Tensor) -> None:
    """Equal but for rounding in float32."""
    assert found.shape == wanted.shape
    assert float((found - wanted).abs().max()) < 2e-5 * float(wanted.std())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize(("kernel", "stride", "padding"), SETTINGS)
@torch.no_grad()
def test_it_is_the_convolution(kernel: int, stride: int, padding: int, sides: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(3)
    layer = WinogradConv3d(6, 9, kernel, stride, padding, bias=bias)
    feature = torch.randn(2, 6, *sides)
    offset = layer.bias.double() if layer.bias is not None else None
    wanted = functional.conv3d(feature.double(), layer.weight.double(), offset, stride, padding)
    assert_near(layer(feature), wanted)
    assert not torch.equal(layer(feature), nn.Conv3d.forward(layer, feature))  # it went its own way


@pytest.mark.parametrize("more", [(0, 0, 0), (1, 0, 1)])
@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize(("kernel", "stride", "padding"), SETTINGS)
@torch.no_grad()
def test_it_is_the_transposed_convolution(
    kernel: int, stride: int, padding: int, sides: tuple[int, ...], more: tuple[int, int, int]
) -> None:
    if stride == 1:
        more = (0, 0, 0)
    torch.manual_seed(3)
    layer = WinogradConvTranspose3d(6, 9, kernel, stride, padding, more, bias=sum(more) > 0)
    feature = torch.randn(2, 6, *sides)
    offset = layer.bias.double() if layer.bias is not None else None
    wanted = functional.conv_transpose3d(feature.double(), layer.weight.double(), offset, stride, padding, more)
    assert_near(layer(feature), wanted)
    assert not torch.equal(layer(feature), nn.ConvTranspose3d.forward(layer, feature))


@pytest.mark.parametrize("kind", PYTORCHS)
def test_where_gradients_are_wanted_it_is_pytorchs(kind: type[nn.Module]) -> None:
    layer = kind(6, 9, 5, 2, 2)
    feature = torch.randn(1, 6, 8, 8, 8, requires_grad=True)
    found, own = layer(feature), PYTORCHS[kind].forward(layer, feature)
    torch.testing.assert_close(found, own, rtol=0, atol=0)
    for mine, theirs in zip(*(torch.autograd.grad(of.sum(), layer.weight) for of in (found, own)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


@torch.inference_mode()
def test_in_other_precision_it_is_pytorchs() -> None:
    layer, feature = WinogradConv3d(6, 9, 5, 2, 2).double(), torch.randn(1, 6, 8, 8, 8).double()
    assert torch.equal(layer(feature), nn.Conv3d.forward(layer, feature))
    with torch.autocast("cpu", torch.bfloat16):
        assert layer.float()(feature.float()).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", PYTORCHS)
def test_weights_that_change_are_noticed(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    layer, other = kind(6, 9, 5, 2, 2, bias=False), kind(6, 9, 5, 2, 2, bias=False)
    feature = torch.randn(1, 6, 8, 8, 8)

    @torch.inference_mode()
    def check() -> Tensor:
        found = layer(feature)
        assert_near(found, PYTORCHS[kind].forward(layer, feature))
        return found

    outcomes = [check()]
    with torch.no_grad():
        layer.weight.mul_(-1.5)
    outcomes.append(check())
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, fused=True)
    layer(feature).square().sum().backward()
    optimizer.step()  # which changes no version
    outcomes.append(check())
    layer.weight.data.add_(0.1)  # nor does this
    outcomes.append(check())
    layer.load_state_dict(other.state_dict())
    outcomes.append(check())
    layer.weight = nn.Parameter(other.weight.detach() * 2)
    outcomes.append(check())
    layer.to(memory_format=torch.channels_last_3d)
    check()
    assert all(not torch.allclose(before, after) for before, after in pairwise(outcomes))
    assert set(layer.state_dict()) == {"weight"}


def test_it_serves_the_wide_layers_of_the_paper_alone() -> None:
    grids = InputSpec(1, (32, 32, 32))
    layers = fer_cnn_layers((64, 196, 512, 1024, 2048, 1500, 500))
    network = build(NetworkConfig.to_train(layers, ("a", "b"), grids))
    served = [name for name, module in network.named_modules() if isinstance(module, WinogradConv3d)]
    assert served == ["backbone.blocks.conv2.0", "backbone.blocks.conv3.0"]
    served = [name for name, module in network.named_modules() if isinstance(module, WinogradConvTranspose3d)]
    assert served == ["feedback.steps.conv3.0.layer", "feedback.steps.conv2.0.layer"]
    assert not saves(49, 128, 4, 2, 4)  # compact's
    assert not saves(512, 1024, 3, 2, 4)  # three taps of two phases: ten products for twelve
    assert not saves(196, 512, 4, 2, 2)  # no whole tile


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
@torch.inference_mode()
def test_a_copy_has_weights_of_its_own(copied: Callable[[nn.Module], nn.Module]) -> None:
    layer, feature = WinogradConv3d(6, 9, 5, 2, 2), torch.randn(1, 6, 8, 8, 8)
    size = len(pickle.dumps(layer))
    found = layer(feature)
    assert len(pickle.dumps(layer)) == size
    other = copied(layer)
    other.weight.mul_(2)
    assert_near(layer(feature), found)
    assert_near(other(feature), nn.Conv3d.forward(other, feature))


@torch.inference_mode()
def test_one_sample_without_a_batch_is_pytorchs() -> None:
    layer, feature = WinogradConv3d(6, 9, 5, 2, 2), torch.randn(6, 8, 8, 8)
    assert torch.equal(layer(feature), nn.Conv3d.forward(layer, feature))


@torch.inference_mode()
def test_a_samples_features_do_not_depend_on_its_batch() -> None:
    torch.manual_seed(1)
    layer = WinogradConv3d(64, 196, 5, 2, 2, bias=False).to(memory_format=torch.channels_last_3d)
    features = torch.randn(5, 64, 16, 16, 16).relu()
    together = layer(features)
    for row, feature in enumerate(features):
        assert_near(layer(feature[None])[0], together[row])


@pytest.mark.parametrize("kind", PYTORCHS)
@torch.inference_mode()
def test_no_sample_gives_no_map(kind: type[nn.Module]) -> None:
    layer, feature = kind(6, 9, 5, 2, 2), torch.randn(0, 6, 8, 8, 8)
    assert layer(feature).shape == PYTORCHS[kind].forward(layer, feature).shape


@pytest.mark.parametrize("kind", PYTORCHS)
@pytest.mark.filterwarnings("ignore:.torch.jit.trace:DeprecationWarning")
@torch.no_grad()
def test_a_trace_is_pytorchs(kind: type[nn.Module]) -> None:
    layer, feature = kind(4, 5, 3, padding=1), torch.randn(2, 4, 8, 6, 7)
    exported = torch.export.export(layer, (feature,))
    called = {str(node.target) for node in exported.graph.nodes if node.op == "call_function"}
    assert called in ({"aten.conv3d.default"}, {"aten.conv_transpose3d.input"}), called
    assert_near(exported.module()(feature), layer(feature))
    assert_near(torch.jit.trace(layer, feature)(feature), layer(feature))
