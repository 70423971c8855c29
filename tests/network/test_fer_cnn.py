import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fer_cli.data.volumes import InputSpec
from fer_cli.errors import UsageError
from fer_cli.network.backbone import OUTPUT
from fer_cli.network.fer_cnn import FERCNN, PRESETS, NetworkConfig, build, fer_cnn_layers, require_resolution, unreduced
from fer_cli.network.receptive import LayerSpec
from networks import CLASSES, SMOKE, cube, grids, network

LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7")
SIDES = (16, 8, 4, 2, 1, 1, 1)

# Kernel and stride of other networks: one that halves a 12³ grid, one as VoxNet has it (no padding), one with
# remainders at every level, a stride of 3, and one all dense.
OTHERS = {
    "three_convolutions": ((LayerSpec("a", 4, 3, 2, 1), LayerSpec("b", 5, 3, 1, 1), LayerSpec("c", 6, 2, 2)), 12),
    "valid_convolutions": ((LayerSpec("a", 4, 5, 2), LayerSpec("b", 5, 3), LayerSpec("d", 7)), 16),
    "remainders": ((LayerSpec("a", 4, 4, 2), LayerSpec("b", 5, 2, 2), LayerSpec("c", 6, 2, 1, 1)), 12),
    "thirds": ((LayerSpec("a", 4, 3, 3), LayerSpec("b", 5, 5, 3, 2), LayerSpec("d", 7)), 9),
    "dense": ((LayerSpec("d", 7), LayerSpec("e", 6)), 5),
    "units": ((LayerSpec("a", 4, 4, 2, 1, 2), LayerSpec("b", 5, 3, 2, 1, 1), LayerSpec("d", 7)), 12),
}


@pytest.mark.parametrize("preset", PRESETS)
def test_every_level_of_every_preset_has_its_shape(preset: str) -> None:
    config = NetworkConfig(PRESETS[preset], CLASSES, cube(32))
    widths = {
        "paper": (64, 196, 512, 1024, 2048, 1500, 500),
        "compact": (16, 49, 128, 256, 512, 375, 125),
        "smoke": (8, 16, 32, 48, 64, 48, 32),
        "residual": (16, 32, 64, 128),
    }[preset]
    layers, sides = (LAYERS, SIDES) if preset != "residual" else (LAYERS[:4], (8, 4, 2, 1))
    expected = {
        **{layer: (w, s, s, s) for layer, w, s in zip(layers, widths, sides, strict=True)},
        OUTPUT: (3, 1, 1, 1),
    }
    assert {layer: config.spec.level_shape(layer) for layer in config.spec.layer_names} == expected
    with torch.device("meta"):
        built = build(config).eval()
        features = built.backbone.features(torch.empty(2, 1, 32, 32, 32))
        assert {layer: tuple(feature.shape) for layer, feature in features.items()} == {
            layer: (2, *shape) for layer, shape in expected.items()
        }
        for index, entry in enumerate(config.spec.layer_names):
            decoding = built.decode(features[entry], entry)
            assert {layer: tuple(feature.shape) for layer, feature in decoding.features.items()} == {
                layer: (2, *expected[layer]) for layer in config.spec.layer_names[:index]
            }
            assert decoding.raw.shape == (2, 1, 32, 32, 32)
            assert built.signal.value(decoding.raw).shape == (2, 1, 32, 32, 32)


def test_paper_preset_has_the_papers_number_of_parameters() -> None:
    with torch.device("meta"):
        built = build(NetworkConfig(PRESETS["paper"], tuple(map(str, range(10))), cube(32)))
    counts = [sum(p.numel() for p in module.parameters()) for module in (built.backbone, built)]
    assert counts == pytest.approx([42.8e6, 85.5e6], abs=0.06e6)  # the paper gives one decimal, cut or rounded


def test_other_multiples_of_32_are_read() -> None:
    assert NetworkConfig(PRESETS["paper"], CLASSES, cube(64)).spec.level_shape("conv5") == (2048, 2, 2, 2)


@pytest.mark.parametrize(("resolution", "advice"), [(30, 32), (33, 32), (8, 32), (50, 64)])
def test_resolution_that_does_not_fit_is_refused_with_advice(resolution: int, advice: int) -> None:
    message = (
        rf"needs a resolution that is a multiple of 32, but the voxels are {resolution}³\. "
        rf"Run 'fer voxelize --resolution {advice}'"
    )
    with pytest.raises(UsageError, match=message):
        require_resolution(PRESETS["smoke"], cube(resolution))


@pytest.mark.parametrize("preset", ["smoke", "residual"])
@pytest.mark.parametrize("shape", [(28, 28, 28), (16, 20, 12), (30, 30, 30), (5, 4, 9), (40, 33, 64)])
def test_any_box_is_read_and_reconstructed(shape: tuple[int, int, int], preset: str) -> None:
    config = NetworkConfig.to_train(PRESETS[preset], CLASSES, InputSpec(2, shape, "intensity"))
    strides = [spec.stride for spec in config.layers if not spec.is_dense]
    assert strides[1:] == sorted(strides[1:])
    assert strides[0] == PRESETS[preset][0].stride  # the lowest layer keeps its stride longest
    # A lowest layer of stride 4 leaves 1×1×2 cells of the thinnest.
    assert strides[-1] == (1 if (preset, shape) == ("residual", (5, 4, 9)) else 2)
    assert [spec.units for spec in config.layers] == [spec.units for spec in PRESETS[preset]]
    assert NetworkConfig.from_json(config.to_json()) == config
    network = build(config).eval()
    volumes = torch.rand(2, 2, *shape)
    with torch.inference_mode():
        features = network.backbone.features(volumes)
        for level, feature in features.items():
            assert feature.shape[1:] == config.spec.level_shape(level)
            decoding = network.feedback.decode(feature, level)
            assert decoding.raw.shape == volumes.shape
            for below, made in decoding.features.items():
                assert made.shape == features[below].shape
    for level in config.spec.map_layers:
        fields = network.backbone.receptive_fields(level)
        assert (fields[..., 0] < fields[..., 1]).all()


def test_volumes_that_strides_divide_keep_the_layers_and_thin_ones_get_stride_1() -> None:
    assert unreduced(PRESETS["compact"], cube(32)) == PRESETS["compact"]
    assert unreduced(PRESETS["compact"], cube(28)) == PRESETS["compact"]
    thin = unreduced(PRESETS["compact"], InputSpec(1, (16, 20, 12), "intensity"))
    assert [(spec.kernel, spec.stride, spec.padding) for spec in thin[:3]] == [(6, 2, 2), (5, 1, 2), (4, 2, 1)]
    thinner = unreduced(PRESETS["compact"], InputSpec(1, (16, 20, 8), "intensity"))
    assert [spec.stride for spec in thinner if not spec.is_dense] == [2, 1, 1, 2, 2]
    thinnest = unreduced(PRESETS["compact"], InputSpec(1, (16, 20, 2), "intensity"))
    assert [spec.stride for spec in thinnest if not spec.is_dense] == [2, 1, 1, 1, 1]
    with pytest.raises(UsageError, match="too small"):
        unreduced(PRESETS["compact"][:5], InputSpec(1, (0, 4, 4), "intensity"))


def test_config_survives_json() -> None:
    assert NetworkConfig.from_json(SMOKE.to_json()) == SMOKE
    assert SMOKE.head_filters == 16
    older = {key: value for key, value in SMOKE.to_json().items() if key != "head_filters"}
    assert NetworkConfig.from_json(older) == replace(SMOKE, head_filters=0)
    with pytest.raises(UsageError, match="cannot have -1 hidden filters"):
        NetworkConfig.from_json(older | {"head_filters": -1})
    assert SMOKE.spec.layer_names == (*LAYERS, OUTPUT)
    assert [SMOKE.spec.index(layer) for layer in SMOKE.spec.layer_names] == list(range(8))
    assert SMOKE.layers_and_output[-1] == LayerSpec(OUTPUT, 3)
    for broken in ({}, SMOKE.to_json() | {"layers": [{"nome": "conv1"}]}, SMOKE.to_json() | {"resolution": "many"}):
        with pytest.raises((KeyError, TypeError, ValueError)):
            NetworkConfig.from_json(broken)


def test_layers_without_units_have_the_json_and_the_fingerprint_that_they_always_had() -> None:
    """The digest is of the version before there were units; ids of models and codebooks hang on it."""
    plain = NetworkConfig(OTHERS["valid_convolutions"][0], CLASSES, cube(16), 3)
    assert json.dumps(plain.to_json()["layers"][:1]) == (
        '[{"name": "a", "filters": 4, "kernel": 5, "stride": 2, "padding": 0}]'
    )
    classifier = FERCNN(plain)
    for number, parameter in enumerate(classifier.state_dict().values()):
        parameter.fill_(number)
    assert classifier.fingerprint == "889b5c59c19a8a7382f2f8cfb116865ad9462b88f31fada6628ccc39fdc335bc"
    for preset in ("paper", "compact", "smoke"):
        config = NetworkConfig.to_train(PRESETS[preset], CLASSES, cube(32))
        assert "units" not in json.dumps(config.to_json())


def test_units_survive_json_and_are_refused_where_none_can_be() -> None:
    config = NetworkConfig(OTHERS["units"][0], CLASSES, cube(12))
    said = config.to_json()
    assert [spec.get("units") for spec in said["layers"]] == [2, 1, None]
    assert NetworkConfig.from_json(json.loads(json.dumps(said))) == config
    for layer, units in ((0, -1), (0, 10**9), (2, 1)):
        broken = [dict(spec) for spec in said["layers"]]
        broken[layer]["units"] = units
        with pytest.raises(UsageError, match=f"{broken[layer]['name']} cannot have {units} residual units"):
            NetworkConfig.from_json(said | {"layers": broken})


def test_units_add_nothing_before_training_and_no_feedback_step() -> None:
    layers, side = OTHERS["units"]
    torch.manual_seed(0)
    config = NetworkConfig(layers, CLASSES, cube(side), 3)
    built = network(config)
    plain = NetworkConfig(tuple(replace(spec, units=0) for spec in layers), CLASSES, cube(side), 3)
    without = build(plain).eval()
    assert without.feedback.state_dict().keys() == built.feedback.state_dict().keys()
    assert set(without.state_dict()) < set(built.state_dict())
    assert {name.split(".")[3] for name in set(built.state_dict()) - set(without.state_dict())} == {"3", "4"}
    without.load_state_dict({name: built.state_dict()[name] for name in without.state_dict()})
    occupancy = grids(config)
    with torch.inference_mode():
        assert torch.equal(built.backbone(occupancy), without.backbone(occupancy))
        built.backbone.blocks["a"][3].addition[-1].weight.fill_(1.0)
        assert not torch.equal(built.backbone(occupancy), without.backbone(occupancy))


def test_unknown_layer_is_refused_with_those_there_are() -> None:
    with pytest.raises(UsageError, match=r"no layer 'conv9'; the layers are conv1, conv2, .*, fc7, output\."):
        SMOKE.spec.level_shape("conv9")


@torch.inference_mode()
def test_patching_a_layer_with_its_own_feature_changes_no_logit() -> None:
    built, occupancy = network(), grids()
    logits = built.backbone(occupancy)
    features = built.backbone.features(occupancy)
    for layer in SMOKE.spec.layer_names[:-1]:
        assert torch.equal(built.backbone.logits(occupancy, patch={layer: features[layer]}), logits)
    torch.testing.assert_close(features[OUTPUT][:, :, 0, 0, 0], logits.softmax(1))
    assert all((features[layer] >= 0).all() for layer in SMOKE.spec.layer_names)


def test_patched_logits_depend_on_the_patched_layer() -> None:
    built, occupancy = network(), grids()
    features = built.backbone.features(occupancy)
    for layer in SMOKE.spec.layer_names[:-1]:
        feature = features[layer].detach().requires_grad_()
        (gradient,) = torch.autograd.grad(
            built.backbone.logits(occupancy, patch={layer: feature}).square().sum(), feature
        )
        assert gradient.any(), layer


@torch.inference_mode()
def test_decoding_with_every_gate_shut_does_not_depend_on_the_input() -> None:
    built = network()
    one, two = (built.backbone.features(grids(seed=seed)) for seed in (1, 2))
    assert not torch.equal(one["conv1"], two["conv1"])
    code = one[OUTPUT]
    shut = built.decode(code, OUTPUT)
    zeros = {layer: torch.zeros_like(feature) for layer, feature in two.items()}
    for again in (built.decode(code, OUTPUT), built.decode(code, OUTPUT, skips=zeros)):
        assert torch.equal(again.raw, shut.raw)
        assert all(torch.equal(again.features[layer], shut.features[layer]) for layer in LAYERS)
    for layer in LAYERS:
        a, b = (built.decode(code, OUTPUT, skips={layer: features[layer]}) for features in (one, two))
        assert not torch.equal(a.raw, shut.raw)
        assert not torch.equal(a.raw, b.raw)
        above = [name for name in LAYERS if SMOKE.spec.index(name) >= SMOKE.spec.index(layer)]
        assert all(torch.equal(a.features[name], shut.features[name]) for name in above)


@torch.inference_mode()
def test_skips_at_or_above_the_entry_are_shut() -> None:
    built = network()
    features = built.backbone.features(grids())
    above = {layer: features[layer] for layer in ("conv3", "conv4", "fc7", OUTPUT)}
    code = features["conv3"]
    assert torch.equal(built.decode(code, "conv3", skips=above).raw, built.decode(code, "conv3").raw)


@torch.inference_mode()
def test_samples_are_decoded_apart() -> None:
    built = network()
    features = built.backbone.features(grids(count=3))
    together = built.decode(features["conv2"], "conv2").raw
    alone = torch.cat([built.decode(features["conv2"][i : i + 1], "conv2").raw for i in range(3)])
    torch.testing.assert_close(together, alone)


@torch.inference_mode()
def test_edit_sees_the_entry_and_each_level_below_it_once_in_order() -> None:
    built = network()
    features = built.backbone.features(grids())
    for entry in SMOKE.spec.layer_names:
        seen: list[tuple[str, Tensor]] = []

        def note(level: str, feature: Tensor, seen: list[tuple[str, Tensor]] = seen) -> Tensor:
            seen.append((level, feature))
            return feature

        decoding = built.decode(features[entry], entry, edit=note)
        below = [
            layer for layer in reversed(SMOKE.spec.layer_names) if SMOKE.spec.index(layer) <= SMOKE.spec.index(entry)
        ]
        assert [level for level, _ in seen] == below
        assert seen[0][1] is features[entry]
        assert all(feature is decoding.features[level] for level, feature in seen[1:])
        assert torch.equal(decoding.raw, built.decode(features[entry], entry).raw)


@torch.inference_mode()
def test_edited_feature_is_what_the_next_step_sees() -> None:
    built = network()
    features = built.backbone.features(grids())
    mine = torch.rand_like(features["conv2"])
    decoding = built.decode(
        features["fc6"],
        "fc6",
        skips={"conv2": features["conv2"]},
        edit=lambda level, feature: mine if level == "conv2" else feature,
    )
    assert decoding.features["conv2"] is mine  # before the skip is added
    assert torch.equal(decoding.raw, built.decode(mine + features["conv2"], "conv2").raw)


def test_a_new_networks_head_has_twice_the_filters_of_its_lowest_layer_up_to_32() -> None:
    found = {name: NetworkConfig.to_train(layers, CLASSES, cube(32)).head_filters for name, layers in PRESETS.items()}
    assert found == {"paper": 32, "compact": 32, "smoke": 16, "residual": 32}


@torch.inference_mode()
def test_hidden_filters_of_the_head_add_nothing_before_training_and_what_they_see_after() -> None:
    built, linear = network(), build(replace(SMOKE, head_filters=0)).eval()
    assert sorted(set(linear.state_dict()) - set(built.state_dict())) == [
        "feedback.steps.conv1.layer.bias",
        "feedback.steps.conv1.layer.weight",
    ]
    linear.load_state_dict(
        {name.replace("conv1.mirror", "conv1"): t for name, t in built.state_dict().items()}, strict=False
    )
    feature = built.backbone.features(grids())["conv1"]
    assert torch.equal(built.decode(feature, "conv1").raw, linear.decode(feature, "conv1").raw)
    addition = built.feedback.steps["conv1"].addition.layer
    addition.weight.normal_()
    hidden = built.feedback.steps["conv1"].hidden(feature)
    expected = linear.decode(feature, "conv1").raw + torch.nn.functional.conv_transpose3d(
        hidden, addition.weight, stride=2, padding=2
    )
    # Sums of some 200 products, in another order.
    torch.testing.assert_close(built.decode(feature, "conv1").raw, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("filters", [0, 3])
@pytest.mark.parametrize("name", OTHERS)
def test_network_is_built_from_any_list_of_layers(name: str, filters: int) -> None:
    layers, resolution = OTHERS[name]
    config = NetworkConfig(layers, CLASSES, cube(resolution), filters)
    built, occupancy = network(config), grids(config)
    features = built.backbone.features(occupancy)
    for entry in config.spec.layer_names:
        decoding = built.decode(features[entry], entry)
        assert decoding.raw.shape == occupancy.shape
        for layer, feature in decoding.features.items():
            assert feature.shape == features[layer].shape == (2, *config.spec.level_shape(layer))
    built.train()
    built.decode(built.backbone.features(occupancy)[OUTPUT], OUTPUT).raw.mean().backward()
    assert all(parameter.grad is not None for parameter in built.parameters())
    hidden = [name for name, _ in built.named_parameters() if "hidden" in name]
    assert bool(hidden) == (filters > 0 and not layers[0].is_dense)


def test_widths_are_the_only_difference_between_the_papers_presets() -> None:
    for preset in ("paper", "compact", "smoke"):
        layers = PRESETS[preset]
        assert [replace(spec, filters=1) for spec in layers] == [
            replace(spec, filters=1) for spec in fer_cnn_layers([1] * 7)
        ]
