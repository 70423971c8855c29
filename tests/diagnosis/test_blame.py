import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer_cli.calibration.temperature import Temperatures
from fer_cli.codebooks.reading import Reading
from fer_cli.diagnosis.blame import find_blame, turning_point, unravel
from fer_cli.network.activations import FEEDFORWARD
from fer_cli.network.backbone import receptive_field
from fer_cli.network.fer_cnn import FERCNN
from networks import SMOKE

BACKBONE = FERCNN(SMOKE)
SPEC = BACKBONE.spec
BELOW = SPEC.layer_names[:-1]
WARM = {layer: float(2**index) for index, layer in enumerate(BELOW)}


def reading_of(differences: list[float]) -> tuple[Reading, Temperatures]:
    """Evidence of one sample that, calibrated, favours class 2 over class 0 by so much a layer."""
    evidence = {
        layer: np.array([[1, 99, 1 + difference * WARM.get(layer, 1)]], np.float32)
        for layer, difference in zip(SPEC.layer_names, [*differences, 0.0], strict=True)
    }
    return Reading({}, {}, {FEEDFORWARD: evidence}), Temperatures(1.0, {FEEDFORWARD: WARM})


@pytest.mark.parametrize(
    ("differences", "layer", "margin"),
    [
        ([1, 1, 1, 1, 1, 1, 1], "conv1", 1),
        ([-1, 1, 1, 1, 1, 1, 1], "conv2", 1),
        ([-1, -2, 1, 1, 1, 1, 1], "conv3", 1),
        ([-1, -1, 2, -1, 4, 1, 1], "conv3", 1),  # one layer against it does not outweigh the layer below that
        ([-1, -1, 2, -3, 4, 1, 1], "conv5", 1),
        ([0.25, -1, -1, 2, 3, 4, 1], "conv4", 1),  # a first layer that says little is not followed
        ([3, -1, -1, 2, 3, 4, 1], "conv1", 1),
        ([-1, -1, -1, -1, -1, -1, 2], "fc7", 1),
        ([-1, -1, -1, -1, -1, 2, -1], "fc6", 1),
        ([-1, -1, -1, -1, -1, 1, -2], "output", 1),
        ([-1, -1, -1, -1, -1, -1, -1], "output", 1),
        ([0, 0, 0, 0, 0, 0, 0], "conv1", 0),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_blame_falls_where_the_calibrated_evidence_turns(
    differences: list[float], layer: str, margin: float, seed: int
) -> None:
    reading, temperatures = reading_of(differences)
    generator = np.random.default_rng(seed)
    relevances = {name: generator.normal(-1, 1, int(np.prod(SPEC.level_shape(name)[1:]))) for name in BELOW}
    blame = find_blame(BACKBONE, reading, temperatures, relevances.__getitem__, predicted=2, label=0)
    assert (blame.layer, blame.margin) == (layer, margin)
    shape = SPEC.level_shape(layer)[1:]
    expected = [(0, 0, 0)]
    if shape != (1, 1, 1):
        ordered = [(float(value), -i) for i, value in enumerate(relevances[layer])]
        most = {"conv1": 16, "conv2": 16, "conv3": 8, "conv4": 1}[layer]
        best = sorted(ordered, reverse=True)[:most]
        expected = [unravel(-i, shape) for value, i in best if value > 0]
    assert list(blame.locations) == expected
    assert list(blame.boxes) == [receptive_field(BACKBONE, layer, at) for at in expected]
    assert len(blame.weights) == len(expected)
    if expected and shape != (1, 1, 1):
        of = [float(relevances[layer].reshape(shape)[at]) for at in expected]
        np.testing.assert_allclose(blame.weights, [value / sum(of) for value in of])
    elif expected:
        assert blame.weights == (1.0,)


@given(st.lists(st.floats(-9, 9, width=16), min_size=1, max_size=8))
def test_turning_point_is_the_most_likely_single_turn(differences: list[float]) -> None:
    """Among all splits of the depth: what is below speaks for the true class, what is above for the wrong one."""
    found, margin = turning_point(differences)
    agreement = [sum(differences[split:]) - sum(differences[:split]) for split in range(len(differences) + 1)]
    others = agreement[:found] + agreement[found + 1 :]
    assert agreement[found] >= max(others)
    assert margin == pytest.approx((agreement[found] - max(others)) / 2, abs=1e-9)
    if margin > 0:
        assert found == len(differences) or differences[found] > 0
        assert found == 0 or differences[found - 1] < 0


def test_locations_are_flattened_with_z_fastest() -> None:
    shape = (4, 3, 2)
    flat = np.arange(24).reshape(shape)
    assert all(flat[unravel(i, shape)] == i for i in range(24))
