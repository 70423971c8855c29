from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from fer_cli.data.places import Location
from fer_cli.data.volumes import InputSpec
from fer_cli.diagnosis.probe import layer_locations, probe, sweep
from fer_cli.errors import UsageError
from fer_cli.network.activations import FEEDFORWARD
from fer_cli.network.backbone import LocationError, receptive_field
from fer_cli.network.explained import ExplainedNetwork
from fer_cli.network.fer_cnn import NetworkConfig, build
from fer_cli.network.receptive import LayerSpec
from fer_cli.run import Run

LAYERS = ("conv1", "conv2", "conv3", "fc4")
Voxels = set[Location]


def seen_by_autograd(specs: tuple[LayerSpec, ...], sides: Location) -> dict[Location, Voxels]:
    """The voxels that each location of the last layer depends on: gradients through layers of ones."""
    grid = torch.ones((1, 1, *sides), dtype=torch.float64, requires_grad=True)
    feature = grid
    for spec in specs:
        if spec.is_dense:
            feature = feature.sum().reshape(1, 1, 1, 1, 1)
        else:
            ones = torch.ones((1, 1, *[spec.kernel] * 3), dtype=torch.float64)
            feature = torch.nn.functional.conv3d(feature, ones, None, spec.stride, spec.padding)
    seen = {}
    for location in np.ndindex(*feature.shape[2:]):
        (gradient,) = torch.autograd.grad(feature[0, 0, *location], grid, retain_graph=True)
        seen[tuple(location)] = {tuple(voxel) for voxel in gradient[0, 0].nonzero().tolist()}
    return seen


def read_by_autograd(specs: tuple[LayerSpec, ...], side: int, voxels: Voxels, sides: Location) -> set[Location]:
    """The last layer's locations that a decode of these voxels reads: gradients through mirrored layers of ones.

    The last step has hidden filters of 3³ cells.
    """
    feature = torch.ones((1, 1, side, side, side), dtype=torch.float64, requires_grad=True)
    decoded = feature
    for number, spec in reversed(list(enumerate(specs))):
        if number == 0:
            decoded = decoded + torch.nn.functional.conv3d(decoded, torch.ones((1, 1, 3, 3, 3)).double(), padding=1)
        ones = torch.ones((1, 1, *[spec.kernel] * 3), dtype=torch.float64)
        rounded = spec.stride + 2 * spec.padding - spec.kernel  # every map has half the cells of the one below
        decoded = torch.nn.functional.conv_transpose3d(decoded, ones, None, spec.stride, spec.padding, rounded)
    assert decoded.shape[2:] == sides
    (gradient,) = torch.autograd.grad(sum(decoded[0, 0, *voxel] for voxel in voxels), feature)
    return {tuple(location) for location in gradient[0, 0].nonzero().tolist()}


@torch.inference_mode()
def reconstruct_slowly(
    network: ExplainedNetwork, feature: torch.Tensor, layer: str, kept: list[Location]
) -> np.ndarray:
    """A decode of the feature with everything but the kept locations overwritten by zeros, one at a time."""
    masked = feature.clone()
    for location in np.ndindex(*feature.shape[2:]):
        if location not in kept:
            for channel in range(feature.shape[1]):
                masked[0, channel, *location] = 0.0
    return network.reconstruct(masked, layer)[0].numpy()


@pytest.mark.parametrize("layer", LAYERS)
def test_probe_of_every_location_is_algorithm_1_done_slowly(run: Run, layer: str) -> None:
    grid, spec = run.voxels.volumes([41])[0], run.network.spec
    layers = run.network.backbone.config.layers
    seen = seen_by_autograd(layers[: spec.index(layer) + 1], spec.input.shape)
    with torch.inference_mode():
        feature = run.network.backbone.features(torch.from_numpy(grid)[None])[layer].clone()
    swept = sweep(run.network, grid, layer, layer_locations(spec, layer))
    for (location, voxels), found in zip(seen.items(), swept, strict=True):
        field = [other for other, others in seen.items() if voxels & others]
        assert (found.layer, found.location, found.code) == (layer, location, None)
        assert found.map_shape == spec.map_shape(layer)
        assert found.response_field == field
        spans = [range(low, high) for low, high in found.receptive_field]
        assert voxels == set(product(*spans))
        expected = reconstruct_slowly(run.network, feature, layer, found.kept)
        # A batch of many locations may be summed in another order than a decode of one.
        np.testing.assert_allclose(found.reconstruction, expected, atol=1e-5)
        crop = np.zeros_like(found.crop)
        for at in np.ndindex(*crop.shape):
            channel, *inside = at
            crop[at] = expected[channel, *(span[i] for span, i in zip(spans, inside, strict=True))]
        np.testing.assert_allclose(found.crop, crop, atol=1e-5)


HEADED = NetworkConfig(
    (LayerSpec("conv1", 4, 6, 2, 2), LayerSpec("conv2", 4, 5, 2, 2), LayerSpec("conv3", 4, 4, 2, 1)),
    ("a", "b"),
    InputSpec(1, (32, 32, 32)),
    head_filters=8,
)
CORNERS = ((0, 0, 0), (3, 0, 2), (1, 3, 2))


@pytest.fixture
def headed() -> ExplainedNetwork:
    """A network whose last step has hidden filters that change the reconstruction a lot."""
    torch.manual_seed(3)
    network = build(HEADED).eval()
    for parameter in network.feedback.steps["conv1"].addition.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return network


@pytest.mark.parametrize(
    ("layer", "location"),
    [("conv1", (15, 15, 15)), ("conv1", (8, 7, 1)), *product(("conv1", "conv2", "conv3"), CORNERS)],
)
@torch.inference_mode()
def test_a_crop_is_that_of_the_reconstruction_from_the_whole_feature(
    headed: ExplainedNetwork, layer: str, location: Location
) -> None:
    grid = (np.random.default_rng(0).random((1, 32, 32, 32)) < 0.3).astype(np.float32)
    feature = headed.backbone.features(torch.from_numpy(grid)[None])[layer]
    whole = headed.reconstruct(feature, layer)[0].numpy()
    found = probe(headed, grid, layer, location)
    np.testing.assert_allclose(found.crop, found.cut(whole), atol=1e-5)
    narrow = reconstruct_slowly(headed, feature, layer, found.response_field)
    if layer == "conv1":  # whose response field alone is not enough
        assert np.abs(found.cut(narrow) - found.crop).max() > 0.01


@pytest.mark.parametrize(("layer", "location"), [("conv1", (2, 8, 15)), *product(("conv1", "conv2", "conv3"), CORNERS)])
def test_what_a_decode_of_the_receptive_field_reads_is_kept(
    headed: ExplainedNetwork, layer: str, location: Location
) -> None:
    specs = HEADED.layers[: HEADED.spec.index(layer) + 1]
    with torch.inference_mode():
        found = probe(headed, np.ones((1, 32, 32, 32), np.float32), layer, location)
    voxels = set(product(*(range(low, high) for low, high in found.receptive_field)))
    read = read_by_autograd(specs, HEADED.spec.map_shape(layer)[0], voxels, (32, 32, 32))
    assert set(found.kept) == read | set(found.response_field)
    assert (set(found.kept) > set(found.response_field)) == (layer == "conv1")


@pytest.mark.parametrize(("layer", "location"), [*product(("conv1", "conv2", "conv3"), CORNERS)])
def test_units_widen_what_is_seen_and_what_a_decode_reads_is_kept(layer: str, location: Location) -> None:
    plain = HEADED.spec.index(layer) + 1
    units = tuple(replace(spec, units=count) for spec, count in zip(HEADED.layers, (1, 0, 2), strict=True))
    torch.manual_seed(3)
    network = build(replace(HEADED, layers=units)).eval()
    grid = (np.random.default_rng(0).random((1, 32, 32, 32)) < 0.3).astype(np.float32)
    with torch.inference_mode():
        found = probe(network, grid, layer, location)
        whole = network.reconstruct(network.backbone.features(torch.from_numpy(grid)[None])[layer], layer)[0].numpy()
    voxels = set(product(*(range(low, high) for low, high in found.receptive_field)))
    without = receptive_field(build(HEADED).backbone, layer, location)
    assert voxels > set(product(*(range(low, high) for low, high in without)))
    assert read_by_autograd(units[:plain], HEADED.spec.map_shape(layer)[0], voxels, (32, 32, 32)) <= set(found.kept)
    np.testing.assert_allclose(found.crop, found.cut(whole), atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "location"), [("conv1", (0, 3, 1)), ("conv1", (2, 1, 3)), ("conv2", (1, 0, 1)), ("fc4", (0, 0, 0))]
)
def test_probe_of_one_location_is_that_of_a_sweep(run: Run, layer: str, location: Location) -> None:
    grid = run.voxels.volumes([41])[0]
    locations = layer_locations(run.network.spec, layer)
    swept = dict(zip(locations, sweep(run.network, grid, layer, locations), strict=True))
    alone = probe(run.network, grid, layer, location)
    np.testing.assert_allclose(swept[location].reconstruction, alone.reconstruction, atol=1e-5)
    assert swept[location].response_field == alone.response_field


@pytest.mark.parametrize(("layer", "location"), [("conv1", (3, 0, 2)), ("conv2", (0, 1, 1)), ("fc4", (0, 0, 0))])
@pytest.mark.parametrize("code", [None, 0, 2])
def test_centroids_fill_the_response_field(run: Run, layer: str, location: Location, code: int | None) -> None:
    grid = run.voxels.volumes([41])[0]
    book = run.codebook.layer(FEEDFORWARD, layer)
    feature = run.network.backbone.features(torch.from_numpy(grid)[None])[layer].clone()
    nearest = {}
    for number, place in enumerate(np.ndindex(*feature.shape[2:])):
        distances = [float(np.square(feature[0, :, *place].numpy() - c).sum()) for c in book.centroids[number]]
        nearest[place] = int(np.argmin(distances))
        chosen = code if code is not None and place == location else nearest[place]
        feature[0, :, *place] = torch.from_numpy(book.centroids[number, chosen])
    found = probe(run.network, grid, layer, location, centroids_of=run.codebook, code=code)
    assert found.code == (nearest[location] if code is None else code)
    expected = reconstruct_slowly(run.network, feature, layer, found.kept)
    np.testing.assert_allclose(found.reconstruction, expected, atol=1e-5)
    own = probe(run.network, grid, layer, location)
    assert (own.response_field, own.receptive_field) == (found.response_field, found.receptive_field)
    assert (own.reconstruction != found.reconstruction).any()


def test_probe_does_not_see_beyond_the_receptive_fields_of_the_locations_it_keeps(run: Run) -> None:
    grid = run.voxels.volumes([3])[0]
    before = probe(run.network, grid, "conv1", (0, 0, 0))
    seen = np.zeros(run.network.spec.input.shape, bool)
    for location in before.kept:
        (x0, x1), (y0, y1), (z0, z1) = receptive_field(run.network.backbone, "conv1", location)
        seen[x0:x1, y0:y1, z0:z1] = True
    assert not seen.all()
    other = np.where(seen, grid, 1 - grid)
    np.testing.assert_array_equal(probe(run.network, other, "conv1", (0, 0, 0)).reconstruction, before.reconstruction)
    inside = np.where(seen, 1 - grid, grid)
    assert (probe(run.network, inside, "conv1", (0, 0, 0)).reconstruction != before.reconstruction).any()


def test_locations_of_a_layer_can_be_taken_slice_by_slice(run: Run) -> None:
    config = run.network.spec
    assert layer_locations(config, "conv2") == list(np.ndindex(2, 2, 2))
    assert layer_locations(config, "conv1", [3, 1, 3]) == [
        (x, y, z) for x in range(4) for y in range(4) for z in (1, 3)
    ]
    assert layer_locations(config, "fc4") == [(0, 0, 0)]
    with pytest.raises(UsageError, match=r"conv2 has the slices 0 to 1, not -1, 2\."):
        layer_locations(config, "conv2", [0, 2, -1])


def test_what_cannot_be_probed_is_refused(run: Run) -> None:
    grid = run.voxels.volumes([0])[0]
    with pytest.raises(LocationError, match="location 0,2,0 lies outside conv2, whose feature map is 2×2×2"):
        probe(run.network, grid, "conv2", (0, 2, 0))
    with pytest.raises(UsageError, match="no layer 'conv7'; the layers are conv1, conv2, conv3, fc4, output"):
        probe(run.network, grid, "conv7", (0, 0, 0))
    with pytest.raises(UsageError, match="output has no features of the input; probe one of conv1, conv2, conv3, fc4"):
        probe(run.network, grid, "output", (0, 0, 0))
    for code in (-1, 4):
        with pytest.raises(UsageError, match=rf"conv2 has the codes 0 to 3 at 0,0,0, not {code}\."):
            probe(run.network, grid, "conv2", (0, 0, 0), centroids_of=run.codebook, code=code)
