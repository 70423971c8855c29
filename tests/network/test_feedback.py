import pytest
import torch
from torch import nn

from fer_cli.data.volumes import InputSpec
from fer_cli.network import feedback
from fer_cli.network.backbone import OUTPUT, Level, NetworkSpec
from fer_cli.network.feedback import FeedbackNetwork, steps_from_shapes
from networks import Residual, explained

BOX = InputSpec(2, (12, 8, 16), "intensity")
# Ratios of 2, of 1 and 2, of no whole number, and dense ones; names with dots, as PyTorch's modules have.
SPEC = NetworkSpec(
    (
        Level("stem.0", 4, (6, 4, 8), signed=True),
        Level("layer1.relu", 7, (6, 2, 4)),
        Level("layer2.relu", 8, (4, 2, 3)),
        Level("pool", 8, (1, 1, 1), field="whole"),
        Level("fc", 5, (1, 1, 1), field="whole", signed=True),
    ),
    BOX,
    ("p", "q", "r"),
)


def network(spec: NetworkSpec = SPEC) -> FeedbackNetwork:
    torch.manual_seed(0)
    return FeedbackNetwork(steps_from_shapes(spec)).eval()


def code(level: str, count: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, *SPEC.level_shape(level), generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def test_steps_made_from_shapes_give_every_level_its_shape() -> None:
    built = network()
    assert built.levels == ("output", "fc", "pool", "layer2.relu", "layer1.relu", "stem.0")
    for index, entry in enumerate(SPEC.layer_names):
        decoding = built.decode(code(entry), entry)
        assert decoding.raw.shape == (3, 2, 12, 8, 16)
        assert list(decoding.features) == list(SPEC.layer_names[:index][::-1])
        for level, feature in decoding.features.items():
            assert feature.shape == (3, *SPEC.level_shape(level))


@torch.inference_mode()
def test_only_signed_levels_get_negative_features() -> None:
    features = network().decode(code(OUTPUT), OUTPUT).features
    for level in SPEC.levels:
        assert bool((features[level.name] < 0).any()) == level.signed, level.name


@torch.inference_mode()
def test_samples_are_decoded_apart_in_training_too() -> None:
    built = network().train()  # normalisation is within a sample
    together = built.decode(code("layer2.relu"), "layer2.relu").raw
    alone = torch.cat([built.decode(code("layer2.relu")[i : i + 1], "layer2.relu").raw for i in range(3)])
    torch.testing.assert_close(together, alone)


@torch.inference_mode()
def test_each_of_several_levels_decodes_as_it_does_alone() -> None:
    built = network()
    codes = {level: code(level, count) for level, count in (("stem.0", 2), ("fc", 1), (OUTPUT, 3))}
    found = built.decode_each(codes)
    assert set(found) == set(codes)
    for level, feature in codes.items():
        torch.testing.assert_close(found[level], built.decode(feature, level).raw)
    assert built.decode_each({}) == {}


@torch.inference_mode()
@pytest.mark.parametrize("entry", [OUTPUT, "layer2.relu", "stem.0"])
def test_features_below_are_those_of_a_decode_without_the_reconstruction(entry: str) -> None:
    built, taken = network(), []
    decoding = built.decode(code(entry), entry)
    for level, step in built.steps.items():
        step.register_forward_hook(lambda *_, level=level: taken.append(level))
    found = built.features_below(code(entry), entry)
    assert list(found) == list(decoding.features)
    for level, feature in found.items():
        torch.testing.assert_close(feature, decoding.features[level], rtol=0, atol=0)
    assert len(taken) == len(found)


@torch.inference_mode()
def test_skips_and_edits_reach_the_next_step() -> None:
    built = network()
    skip, mine = code("layer1.relu", seed=1), code("layer2.relu", seed=2)
    decoding = built.decode(
        code("fc"), "fc", skips={"layer1.relu": skip}, edit=lambda level, f: mine if level == "layer2.relu" else f
    )
    assert decoding.features["layer2.relu"] is mine
    shown = built.step("layer2.relu", mine)
    torch.testing.assert_close(decoding.features["layer1.relu"], shown)
    torch.testing.assert_close(decoding.raw, built.decode(shown + skip, "layer1.relu").raw)


@pytest.mark.parametrize(
    ("most", "weights", "kinds"),
    [
        (1 << 24, 8 * 6 * 24, [nn.Flatten, nn.Linear, nn.Unflatten]),
        (8 * 24 * 2, 8 * 24 * 2, [nn.Flatten, nn.Linear, nn.Unflatten, nn.Conv3d]),  # fewer filters
        (8 * 23, 8 * 4 * 5, [nn.Flatten, nn.Linear, nn.Unflatten, nn.Upsample, nn.Conv3d]),  # a map of 2×1×2
        (1, 8, [nn.Flatten, nn.Linear, nn.Unflatten, nn.Upsample, nn.Conv3d]),  # one number a filter
    ],
)
def test_a_dense_step_keeps_to_its_most_weights(
    most: int, weights: int, kinds: list[type], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feedback, "_MOST_DENSE", most)
    step = feedback._dense(8, (6, 4, 2, 3))
    assert [type(module) for module in step] == kinds
    assert step[1].weight.numel() == weights
    assert step(torch.randn(5, 8, 1, 1, 1)).shape == (5, 6, 4, 2, 3)


@torch.inference_mode()
def test_modules_read_and_give_features_in_units_of_their_scales() -> None:
    plain = network()
    scaled = network()
    scaled.scales = {"fc": 8.0, "pool": 0.25, "stem.0": 1024.0}
    feature, below = code("fc"), code("stem.0")
    torch.testing.assert_close(scaled.step("fc", feature), plain.step("fc", feature / 8) / 4)
    torch.testing.assert_close(scaled.step("stem.0", below), plain.step("stem.0", below / 1024))


def test_scales_are_powers_of_two_near_the_root_mean_square() -> None:
    features = {"a": torch.tensor([3.0, -5.0]), "b": torch.full((4,), 1e-3), "dead": torch.zeros(3)}
    assert feedback.feature_scales(features) == {"a": 4.0, "b": 2.0**-10, "dead": 1.0}


def test_steps_of_any_growth_fit() -> None:
    for above, below in (((3, 2, 2, 2), (4, 32, 4, 2)), ((3, 9, 9, 9), (4, 5, 7, 9)), ((3, 2, 3, 4), (4, 4, 6, 16))):
        assert feedback._to_shape(above, below)(torch.randn(2, *above)).shape == (2, *below)


def test_any_name_is_a_key_of_its_own() -> None:
    names = ("layer1.0", "layer1", "keys", "training", "forward", "a b")
    keys = [feedback._key(name) for name in names]
    assert len(set(keys)) == len(names)
    nn.ModuleDict({key: nn.Identity() for key in keys})


def test_a_network_made_from_shapes_learns_to_give_grey_volumes_back() -> None:
    """From a frozen residual network's signed features: the error falls to a fraction of the volumes' variance."""
    torch.manual_seed(0)
    built = explained(Residual(BOX, ("p", "q")))
    places = torch.stack(torch.meshgrid(*(torch.linspace(-1, 1, side) for side in BOX.shape), indexing="ij"))
    middles = torch.rand(48, 2, 3, 1, 1, 1) * 1.2 - 0.6
    volumes = torch.exp(-4 * (places - middles).square().sum(dim=2))
    features = built.backbone.features(volumes)["stem.norm"].detach()
    optimizer = torch.optim.Adam(built.feedback.parameters(), lr=3e-3)
    weight = built.signal.level_weights(built.spec, float(volumes.mean()), float(volumes.std()))[:1].expand(48)
    for _ in range(120):
        loss = built.signal.loss(built.decode(features, "stem.norm").raw, volumes, weight, "mean")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.inference_mode():
        error = (built.reconstruct(features, "stem.norm") - volumes).square().mean()
    assert error < 0.1 * volumes.var()


def test_normalisation_keeps_what_a_single_location_says() -> None:
    for shape in ((8, 1, 1, 1), (16, 1, 1, 1), (8, 2, 1, 1), (1, 2, 2, 2), (1, 1, 1, 1)):
        feature = torch.randn(4, *shape, generator=torch.Generator().manual_seed(1))
        found = feedback._normalised(shape)(feature)
        assert len(torch.unique(found.flatten(1), dim=0)) == 4, shape
