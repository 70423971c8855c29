import numpy as np
import pytest
from scipy.stats import betabinom

from fer_cli.calibration.departure import SIGNIFICANT
from fer_cli.evaluation.false_alarms import _expected, false_alarms
from fer_cli.evaluation.split_reading import read_split
from fer_cli.run import Run


def test_shares_are_those_of_the_p_values_of_correct_samples(run: Run) -> None:
    reading = read_split(run, "test")
    predicted, right = reading.outcomes.predicted, ~reading.outcomes.wrong
    p_values = run.calibration.p_value(run.calibration.suspicion(reading.confidence), predicted)
    found = false_alarms([run], [reading])
    assert set(found) == {"departure", "suspicion", "atypicality"}
    of_suspicion = found["suspicion"]
    assert of_suspicion["n"] == right.sum()
    assert of_suspicion["rate"] == pytest.approx(np.mean(p_values[right] <= SIGNIFICANT))
    for label, name in enumerate(run.voxels.classes):
        assert of_suspicion["by_class"][name][1] == (right & (reading.outcomes.labels == label)).sum()
    twice = false_alarms([run, run], [reading, reading])["suspicion"]
    assert of_suspicion["expected"] == _expected(int(right.sum()), int(run.calibration.correct.sum()))
    assert twice["expected"] is None  # the samples are the same
    assert (twice["rate"], twice["n"]) == (of_suspicion["rate"], 2 * of_suspicion["n"])


def test_the_expected_range_holds_the_share_that_exchangeable_samples_have() -> None:
    """Shares of 300 samples above all but one in twenty of 99 references, drawn 400 times."""
    generator = np.random.default_rng(0)
    low, high = _expected(300, 99) or (1.0, 0.0)
    inside = 0
    for _ in range(400):
        reference, samples = generator.random(99), generator.random(300)
        p_values = (1 + (reference[None] >= samples[:, None]).sum(axis=1)) / 100
        inside += low <= np.mean(p_values <= SIGNIFICANT) <= high
    assert inside / 400 == pytest.approx(0.95, abs=0.03)
    assert betabinom(300, 5, 95).mean() / 300 == pytest.approx(0.05)
    assert _expected(300, 8) == [0, 0]  # no p-value of eight references is 0.05
    assert _expected(0, 99) is None
