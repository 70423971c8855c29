import numpy as np
import pytest

from fer_cli.calibration.p_value import FOLDS, PredictedClasses, empirical_p_value


def test_p_value_counts_the_reference_scores_at_least_as_high_and_the_sample_itself() -> None:
    reference = np.array([3.0, 1.0, 2.0, 2.0])
    assert empirical_p_value(np.array([2.0, 4.0, 0.0, 3.0]), reference) == pytest.approx([4 / 5, 1 / 5, 1, 2 / 5])
    assert empirical_p_value(np.array([7.0]), np.zeros(0)).tolist() == [1.0]


def test_p_value_of_an_exchangeable_sample_is_uniform() -> None:
    reference = np.arange(9.0)
    p = empirical_p_value(np.arange(10) - 0.5, reference)
    np.testing.assert_allclose(np.sort(p), np.arange(1, 11) / 10)


def test_reference_scores_count_by_their_weights() -> None:
    p = empirical_p_value(np.array([2.0]), np.array([3.0, 1.0]), weights=np.array([0.5, 2.0]), own=np.array([0.25]))
    assert p == pytest.approx([0.75 / 2.75])


def test_every_predicted_class_has_the_same_weight() -> None:
    known = PredictedClasses(np.array([0, 0, 0, 1]), 3)
    reference = np.array([1.0, 1.0, 1.0, 5.0])
    # Class 1 has one sample of weight 1, class 0 three of a third, class 2 none.
    found = known.p_values(np.array([3.0, 3.0, 3.0]), np.array([0, 1, 2]), reference)
    assert found == pytest.approx([(1 + 1 / 3) / (2 + 1 / 3), 2 / 3, 2 / 3])
    assert known.smallest() == pytest.approx((1 / 3) / (2 + 1 / 3))
    assert PredictedClasses(np.zeros(0, int), 3).smallest() == 1


def test_means_of_few_samples_are_drawn_to_that_of_all() -> None:
    figures = np.array([[0.0], [0.0], [6.0]])
    found = PredictedClasses(np.array([0, 0, 1]), 3).means(figures)
    assert found[:, 0] == pytest.approx([20 / 12, (6 + 20) / 11, 2])


def test_no_sample_is_in_the_fold_it_is_scored_by() -> None:
    for count in (2, 9, 10, 57):
        folds = PredictedClasses(np.zeros(count, int), 1).folds()
        assert len(folds) == min(FOLDS, count)
        assert sorted(np.concatenate([scored for _, scored in folds])) == list(range(count))
        for fitted, scored in folds:
            assert sorted([*fitted, *scored]) == list(range(count))
