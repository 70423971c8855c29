from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from fer_cli.data.places import Box, Location
from fer_cli.data.volumes import InputSpec
from fer_cli.network.backbone import LocationError, as_box
from fer_cli.network.backbone import receptive_field as field_of
from fer_cli.network.backbone import response_field as response_of
from fer_cli.network.fer_cnn import FERCNN, PRESETS, NetworkConfig
from fer_cli.network.receptive import LayerSpec, feature_map_shape, receptive_fields
from networks import cube

FER = PRESETS["paper"][:5]


class Stack(FERCNN):
    """The geometry of a stack of layers of any shape, without weights."""

    def __init__(self, layers: tuple[LayerSpec, ...], input_shape: Location) -> None:
        nn.Module.__init__(self)
        self.config = NetworkConfig.__new__(NetworkConfig)
        named = tuple(
            LayerSpec(f"{i}.{s.name}", s.filters, s.kernel, s.stride, s.padding, s.units) for i, s in enumerate(layers)
        )
        for key, value in {
            "layers": named,
            "classes": ("a",),
            "input": InputSpec(1, input_shape),
            "head_filters": 0,
        }.items():
            object.__setattr__(self.config, key, value)
        self._spec = self.config.spec


def receptive_field(layers: tuple[LayerSpec, ...], layer: int, location: Location, input_shape: Location) -> Box:
    stack = Stack(tuple(layers), input_shape)
    return field_of(stack, stack.spec.layer_names[layer], location)


def response_field(
    layers: tuple[LayerSpec, ...], layer: int, location: Location, input_shape: Location
) -> list[Location]:
    stack = Stack(tuple(layers), input_shape)
    return response_of(stack, stack.spec.layer_names[layer], location)


def dependence(layers: tuple[LayerSpec, ...], input_shape: Location) -> np.ndarray:
    """Whether each voxel reaches each location, (x, y, z, lx, ly, lz), through torch's convolutions of ones."""
    voxels = int(np.prod(input_shape))
    feature = torch.eye(voxels).reshape(voxels, 1, *input_shape)  # one voxel a sample
    for spec in layers:
        for kernel, stride, padding in ((spec.kernel, spec.stride, spec.padding), *[(3, 1, 1)] * (2 * spec.units)):
            convolution = nn.Conv3d(1, 1, kernel, stride, padding, bias=False)
            nn.init.ones_(convolution.weight)
            # All weights are positive, so that nothing cancels; clamped, so that nothing overflows.
            feature = convolution(feature).detach().clamp(max=1)
    return (feature[:, 0] > 0).numpy().reshape(*input_shape, *feature.shape[2:])


def hull(voxels: np.ndarray) -> tuple[tuple[int, int], ...]:
    where = np.argwhere(voxels)
    return tuple((int(low), int(high) + 1) for low, high in zip(where.min(axis=0), where.max(axis=0), strict=True))


@pytest.mark.parametrize(
    ("depth", "input_shape"), [(1, (16, 8, 4)), (2, (16, 8, 4)), (3, (32, 16, 8)), (4, (32, 16, 8))]
)
def test_fields_of_fer_cnn_are_what_convolutions_depend_on(depth: int, input_shape: Location) -> None:
    layers = FER[:depth]
    depends = dependence(layers, input_shape)
    shape = depends.shape[3:]
    assert feature_map_shape(layers, depth - 1, input_shape) == shape
    flat = depends.reshape(-1, np.prod(shape)).astype(np.float32)
    shared = flat.T @ flat > 0
    locations = list(product(*map(range, shape)))
    for index, location in enumerate(locations):
        box = receptive_field(layers, depth - 1, location, input_shape)
        seen = depends[:, :, :, *location]
        assert box == hull(seen)
        assert seen.sum() == np.prod([high - low for low, high in box])
        near = [other for i, other in enumerate(locations) if shared[index, i]]
        assert response_field(layers, depth - 1, location, input_shape) == near


def test_fields_of_conv5_along_one_axis_are_what_convolutions_depend_on() -> None:
    feature = torch.eye(96)[:, None]
    for spec in FER:
        feature = functional.conv1d(feature, torch.ones(1, 1, spec.kernel), None, spec.stride, spec.padding).clamp(
            max=1
        )
    depends = (feature[:, 0] > 0).numpy()
    assert depends.shape == (96, 3)
    for x in range(3):
        assert receptive_field(FER, 4, (x, 0, 0), (96, 32, 32))[:1] == hull(depends[:, x])
        near = [other for other in range(3) if (depends[:, x] & depends[:, other]).any()]
        assert response_field(FER, 4, (x, 0, 0), (96, 32, 32)) == [(other, 0, 0) for other in near]


def layer_specs() -> st.SearchStrategy[LayerSpec]:
    return st.integers(1, 4).flatmap(
        lambda kernel: st.builds(
            LayerSpec,
            st.just("conv"),
            st.just(1),
            st.just(kernel),
            st.integers(1, 4),
            st.integers(0, kernel - 1),
            st.integers(0, 2),
        )
    )


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(layer_specs(), min_size=1, max_size=3), st.permutations([5, 4, 7]))
def test_fields_of_any_convolutions_are_what_they_depend_on(specs: list[LayerSpec], sides: list[int]) -> None:
    layers, input_shape = tuple(specs), (sides[0], sides[1], sides[2])
    shapes = [feature_map_shape(layers, layer, input_shape) for layer in range(len(layers))]
    assume(all(0 < np.prod(shape) <= 100 for shape in shapes))
    shape = shapes[-1]
    depends = dependence(layers, input_shape)
    assert depends.shape[3:] == shape
    boxes = {}
    for location in product(*map(range, shape)):
        boxes[location] = receptive_field(layers, len(layers) - 1, location, input_shape)
        seen = depends[:, :, :, *location]
        if seen.any() and all(spec.kernel >= spec.stride for spec in layers):
            assert boxes[location] == hull(seen)
        outside = seen.copy()
        outside[tuple(slice(low, high) for low, high in boxes[location])] = False
        assert not outside.any()  # gaps between strides may be inside the box, nothing seen is outside
    for location, box in boxes.items():
        near = [
            other
            for other, theirs in boxes.items()
            if all(max(a[0], b[0]) < min(a[1], b[1]) for a, b in zip(box, theirs, strict=True))
        ]
        assert response_field(layers, len(layers) - 1, location, input_shape) == near


def test_dense_layer_sees_everything_and_has_one_location() -> None:
    layers = (*FER[:2], LayerSpec("fc", 7), LayerSpec("out", 3))
    for layer in (2, 3):
        assert feature_map_shape(layers, layer, (16, 8, 4)) == (1, 1, 1)
        assert receptive_field(layers, layer, (0, 0, 0), (16, 8, 4)) == ((0, 16), (0, 8), (0, 4))
        assert response_field(layers, layer, (0, 0, 0), (16, 8, 4)) == [(0, 0, 0)]
    apart = (LayerSpec("conv", 1, 2, 2), LayerSpec("fc", 7))  # no padding or overlap that would hide a missing cell
    assert receptive_field(apart, 1, (0, 0, 0), (16, 8, 4)) == ((0, 16), (0, 8), (0, 4))


@pytest.mark.parametrize("location", [(4, 0, 0), (0, 2, 0), (0, 0, 1), (-1, 0, 0)])
def test_location_outside_the_map_is_refused(location: Location) -> None:
    x, y, z = location
    message = rf"location {x},{y},{z} lies outside 1\.conv2, whose feature map is 4×2×1 \(indices from 0\)\."
    for field in (receptive_field, response_field):
        with pytest.raises(LocationError, match=message):
            field(FER, 1, location, (16, 8, 4))


@pytest.mark.parametrize(
    ("layer", "location"),
    [("conv1", (0, 5, 15)), ("conv2", (3, 0, 7)), ("conv3", (1, 2, 3)), ("conv3", (0, 0, 0)), ("conv4", (0, 1, 1))],
)
def test_feature_of_the_network_hangs_on_its_receptive_field_alone(layer: str, location: Location) -> None:
    torch.manual_seed(1)
    config = NetworkConfig(PRESETS["smoke"], ("a", "b"), cube(32))
    encoder = FERCNN(config).eval()
    generator = torch.Generator().manual_seed(2)
    before = torch.rand(1, 1, 32, 32, 32, generator=generator)
    outside = torch.rand(1, 1, 32, 32, 32, generator=generator)
    inside = before.clone()
    box = field_of(encoder, layer, location)
    region = (0, 0, *(slice(low, high) for low, high in box))
    outside[region] = before[region]
    inside[region] = torch.rand(before[region].shape, generator=generator)
    with torch.inference_mode():
        feature, same, other = (encoder.features(grid)[layer][0, :, *location] for grid in (before, outside, inside))
    assert torch.equal(feature, same)
    assert not torch.equal(feature, other)
    assert feature.any()


UNITS = (LayerSpec("low", 3, 3, 2, 1, 1), LayerSpec("mid", 4, 2, 2, 0, 2), LayerSpec("high", 2, 3, 2, 1))


@pytest.mark.parametrize(
    ("layers", "box"), [(PRESETS["smoke"], (32, 32, 32)), (UNITS, (40, 33, 64)), (PRESETS["residual"], (64, 28, 96))]
)
def test_every_corner_of_the_receptive_field_matters(layers: tuple[LayerSpec, ...], box: Location) -> None:
    """Single voxels at the field's corners and just outside it, in the gradient of a network without dead ReLUs."""
    config = NetworkConfig(layers, ("a", "b"), InputSpec(1, box))
    torch.manual_seed(1)
    encoder = FERCNN(config).double().eval()
    for module in list(encoder.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.Softplus())
            if isinstance(child, nn.BatchNorm3d):
                nn.init.ones_(child.weight)  # units add nothing before training
    for layer in config.spec.map_layers:
        sides = config.spec.map_shape(layer)
        location = (min(1, sides[0] - 1), 0, sides[2] // 2)
        grid = torch.rand(1, 1, *box, dtype=torch.float64, requires_grad=True)
        encoder.features(grid, [layer])[layer][0, :, *location].square().sum().backward()
        assert grid.grad is not None
        assert hull(grid.grad[0, 0].numpy() != 0) == field_of(encoder, layer, location)


def test_fields_of_all_locations_are_those_of_each() -> None:
    layers, shape = FER[:3], (32, 16, 8)
    fields = receptive_fields(layers, 2, shape)
    assert fields.shape == (*feature_map_shape(layers, 2, shape), 3, 2)
    assert as_box(fields[1, 0, 0]) == receptive_field(layers, 2, (1, 0, 0), shape)
    assert as_box(fields[0, 1, 0]) != as_box(fields[1, 0, 0])
