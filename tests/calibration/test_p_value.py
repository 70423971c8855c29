import numpy as np
import pytest

from fer_cli.calibration.p_value import empirical_p_value


def test_p_value_counts_the_reference_scores_at_least_as_high_and_the_sample_itself() -> None:
    reference = np.array([3.0, 1.0, 2.0, 2.0])
    assert empirical_p_value(np.array([2.0, 4.0, 0.0, 3.0]), reference) == pytest.approx([4 / 5, 1 / 5, 1, 2 / 5])
    assert empirical_p_value(np.array([7.0]), np.zeros(0)).tolist() == [1.0]


def test_p_value_of_an_exchangeable_sample_is_uniform() -> None:
    reference = np.arange(9.0)
    p = empirical_p_value(np.arange(10) - 0.5, reference)
    np.testing.assert_allclose(np.sort(p), np.arange(1, 11) / 10)
