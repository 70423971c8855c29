import numpy as np
import pytest

from fer_cli.evaluation.cluster_scores import code_margin


def test_the_margin_is_to_the_nearest_other_class_and_high_where_the_own_code_is_nearest() -> None:
    errors = np.array([[1.0, 5.0, 3.0], [4.0, 2.0, 1.5], [7.0, 7.0, 9.0]])
    kept = errors.copy()
    assert code_margin(errors, np.array([0, 1, 1])) == pytest.approx([2.0, -0.5, 0.0])
    np.testing.assert_array_equal(errors, kept)
