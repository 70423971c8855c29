from itertools import product

import pytest
import torch

from fer_cli.data.volumes import InputSpec
from fer_cli.errors import UsageError
from fer_cli.network.backbone import (
    OUTPUT,
    Backbone,
    Level,
    LocationError,
    NetworkSpec,
    middle_layer,
    receptive_field,
    response_field,
)
from fer_cli.network.fer_cnn import FERCNN, PRESETS, NetworkConfig
from fer_cli.network.receptive import LayerSpec
from networks import CLASSES, Residual, cube, explained, network

BOX = InputSpec(2, (12, 8, 16), "intensity")
LAYERS = (LayerSpec("stem", 6, 4, 2, 1), LayerSpec("mid", 8, 2, 2), LayerSpec("dense", 5))


def on_box() -> list[Backbone]:
    """FER-CNN's kind of network, and a residual one, on two channels of 12×8×16."""
    stack = network(NetworkConfig(LAYERS, CLASSES, BOX)).backbone
    return [stack, Residual(BOX, CLASSES)]


def volumes(seed: int = 0, count: int = 3) -> torch.Tensor:
    return torch.randn(count, *BOX.volume, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("index", [0, 1])
@torch.inference_mode()
def test_patching_a_level_with_its_own_feature_changes_no_logit(index: int) -> None:
    backbone, read = on_box()[index], volumes()
    features, logits = backbone.features(read), backbone.logits(read)
    assert list(features) == list(backbone.spec.layer_names)
    for name in backbone.spec.layer_names[:-1]:
        assert features[name].shape == (3, *backbone.spec.level_shape(name))
        assert torch.equal(backbone.logits(read, patch={name: features[name]}), logits)
    assert torch.equal(backbone.logits(read, patch={k: v for k, v in features.items() if k != OUTPUT}), logits)
    torch.testing.assert_close(features[OUTPUT].flatten(1), logits.softmax(1))


@pytest.mark.parametrize("index", [0, 1])
@torch.inference_mode()
def test_a_cut_decides_all_that_follows(index: int) -> None:
    backbone, one, other = on_box()[index], volumes(0), volumes(1)
    theirs, own = backbone.features(other), backbone.features(one)
    names = backbone.spec.layer_names
    for position, name in enumerate(names[:-1]):
        assert backbone.spec.levels[position].is_cut
        assert torch.equal(backbone.logits(one, patch={name: theirs[name]}), backbone.logits(other))
        patched = backbone.features(one, patch={name: theirs[name]})
        for number, level in enumerate(names):
            expected = own if number < position else theirs
            assert torch.equal(patched[level], expected[level]), (name, level)


def test_gradients_pass_through_a_patch() -> None:
    for backbone in on_box():
        for name in backbone.spec.layer_names[:-1]:
            feature = backbone.features(volumes(), [name])[name].detach().requires_grad_()
            (gradient,) = torch.autograd.grad(backbone.logits(volumes(), patch={name: feature})[:, 0].sum(), feature)
            assert gradient.any()


@torch.inference_mode()
def test_only_the_levels_asked_for_are_given() -> None:
    for backbone in on_box():
        whole = backbone.features(volumes())
        for name in backbone.spec.layer_names:
            (found,) = backbone.features(volumes(), [name]).items()
            assert found[0] == name
            assert torch.equal(found[1], whole[name])
        assert backbone.features(volumes(), []) == {}


def test_a_patch_that_does_not_fit_is_refused() -> None:
    backbone, read = on_box()[0], volumes()
    with pytest.raises(UsageError, match="no layer 'conv3'; the layers are stem, mid, dense, output"):
        backbone.logits(read, patch={"conv3": torch.zeros(3, 8, 3, 2, 4)})
    for shape in ((2, 8, 3, 2, 4), (3, 8, 2, 3, 4), (3, 7, 3, 2, 4)):
        with pytest.raises(ValueError, match="mid holds features of shape"):
            backbone.logits(read, patch={"mid": torch.zeros(shape)})


def test_fields_of_fer_cnn_are_where_the_input_matters() -> None:
    """No voxel outside the box of a location changes its feature, on two channels and three lengths."""
    backbone, generator = on_box()[0], torch.Generator().manual_seed(3)
    before = volumes(count=1)
    for level in backbone.spec.levels:
        for location in product(*map(range, level.shape)):
            box = receptive_field(backbone, level.name, location)
            outside = torch.randn(before.shape, generator=generator)
            region = (0, slice(None), *(slice(low, high) for low, high in box))
            outside[region] = before[region]
            with torch.inference_mode():
                one, two = (backbone.features(read, [level.name])[level.name] for read in (before, outside))
            assert torch.equal(one[0, :, *location], two[0, :, *location])


def test_response_fields_hold_the_locations_that_share_a_voxel() -> None:
    backbone = on_box()[0]
    for name in backbone.spec.layer_names:
        boxes = {
            location: [set(range(low, high)) for low, high in receptive_field(backbone, name, location)]
            for location in product(*map(range, backbone.spec.map_shape(name)))
        }
        for location, own in boxes.items():
            near = [other for other, box in boxes.items() if all(a & b for a, b in zip(own, box, strict=True))]
            assert response_field(backbone, name, location) == near
    for field in (receptive_field, response_field):
        with pytest.raises(LocationError, match=r"location 3,0,0 lies outside mid, whose feature map is 3×2×4"):
            field(backbone, "mid", (3, 0, 0))
    with pytest.raises(LocationError, match="a location has three indices x, y, z; got 1,0"):
        backbone.spec.require_location("mid", (1, 0))


def test_fingerprint_is_of_the_function() -> None:
    one, same, other = (network(seed=seed).backbone for seed in (0, 0, 1))
    assert one.fingerprint == same.fingerprint != other.fingerprint
    before = one.fingerprint
    with torch.no_grad():
        one.blocks["fc7"][2].bias[3] += 1
    assert one.fingerprint != before
    assert len({FERCNN(NetworkConfig(LAYERS, names, BOX)).fingerprint for names in (CLASSES, ("a", "b", "c"))}) == 2


def test_dropout_is_drawn_within_its_block_alone() -> None:
    backbone, read = network().backbone, torch.rand(4, 1, 32, 32, 32)
    assert backbone.below_dropout == "conv5"
    plain = backbone.logits(read)
    hooks = [len(module._forward_hooks) for module in backbone.modules()]
    drawn = []
    for seed in (1, 1, 2):
        with backbone.dropout(0.5, torch.Generator().manual_seed(seed)):
            drawn.append(backbone.logits(read))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], plain)
    with pytest.raises(KeyboardInterrupt), backbone.dropout(0.5, torch.Generator()):
        raise KeyboardInterrupt
    assert [len(module._forward_hooks) for module in backbone.modules()] == hooks
    assert torch.equal(backbone.logits(read), plain)


def test_logits_of_fer_cnn_are_linear_in_its_last_level() -> None:
    backbone, read = network().backbone, torch.rand(4, 1, 32, 32, 32)
    weight, bias = backbone.linear_head()
    feature = backbone.features(read, ["fc7"])["fc7"].flatten(1)
    torch.testing.assert_close(feature @ weight.T + bias, backbone.logits(read))


@pytest.mark.parametrize("resolution", [32, 64, 96, 128])
@pytest.mark.parametrize("preset", ["paper", "compact", "smoke"])
def test_local_layer_of_fer_cnn_is_conv3(preset: str, resolution: int) -> None:
    spec = NetworkConfig(PRESETS[preset], CLASSES, cube(resolution)).spec
    assert spec.local_layer == "conv3"
    assert spec.upper_layers == ("conv4", "conv5", "fc6", "fc7")


def test_local_layer_of_the_residual_preset_is_in_the_middle_of_its_maps() -> None:
    small, large = (NetworkConfig(PRESETS["residual"], CLASSES, cube(side)).spec for side in (32, 64))
    assert (small.map_layers, small.local_layer) == (("conv1", "conv2", "conv3"), "conv2")
    assert (large.map_layers, large.local_layer) == (("conv1", "conv2", "conv3", "conv4"), "conv3")


def test_local_layer_of_any_network_is_in_the_middle_of_its_maps() -> None:
    assert middle_layer([("a", 64), ("b", 8), ("c", 1)]) == "b"
    assert middle_layer([("a", 64), ("b", 1), ("c", 1)]) == "a"
    assert middle_layer([("a", 1), ("b", 1), ("c", 1)]) == "b"
    alone = NetworkSpec((Level("only", 4, (1, 1, 1)),), BOX, ("p", "q"))
    assert (alone.local_layer, alone.upper_layers, alone.map_layers) == ("only", ("only",), ())


def test_input_is_told_in_words_and_survives_json() -> None:
    assert [str(read) for read in (cube(32), InputSpec(1, (12, 8, 16)), BOX)] == [
        "32³",
        "12×8×16",
        "2 channels of 12×8×16",
    ]
    for read in (cube(32), BOX, InputSpec(3, (4, 5, 6), "intensity", (1.0, 0.5, 2.0))):
        assert InputSpec.from_json(read.to_json()) == read
    for broken in ({}, BOX.to_json() | {"kind": "colour"}, BOX.to_json() | {"shape": [3, 4]}):
        with pytest.raises((KeyError, TypeError, ValueError)):
            InputSpec.from_json(broken)


def test_config_of_cubes_keeps_its_key_and_others_name_their_input() -> None:
    cubic = NetworkConfig(PRESETS["smoke"], CLASSES, cube(32)).to_json()
    assert (cubic["resolution"], "input" in cubic) == (32, False)
    boxed = NetworkConfig(LAYERS, CLASSES, BOX).to_json()
    assert (boxed["input"], "resolution" in boxed) == (BOX.to_json(), False)
    assert NetworkConfig.from_json(boxed).input == BOX
    assert NetworkConfig.from_json(NetworkConfig(LAYERS, CLASSES, InputSpec(1, (16, 16, 16), "intensity")).to_json())
    with pytest.raises(UsageError, match=r"too deep for volumes of 2 channels of 12×1×16: stem has no location\."):
        NetworkConfig(LAYERS, CLASSES, InputSpec(2, (12, 1, 16)))


def test_a_network_is_made_again_untrained() -> None:
    built = explained(Residual(BOX, CLASSES))
    fresh = built.untrained()
    assert fresh.spec == built.spec
    assert any(not torch.equal(a, b) for a, b in zip(built.parameters(), fresh.parameters(), strict=True))


@pytest.mark.parametrize("names", [(), ("",), ("a/b",), ("a:b",), ("output",), ("all",), ("nearest_one",), ("a", "a")])
def test_names_of_levels_that_collide_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="level"):
        NetworkSpec(tuple(Level(name, 2, (1, 1, 1)) for name in names), BOX, ("p", "q"))
