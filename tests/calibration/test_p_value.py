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


def test_order_within_one_class_is_that_of_the_scores() -> None:
    known = PredictedClasses(np.zeros(4, int), 1)
    scores, reference = np.array([2.0, 4.0, 0.0, 3.0]), np.array([3.0, 1.0, 2.0, 2.0])
    found = known.p_values(scores, np.zeros(4, int), reference)
    assert found == pytest.approx(empirical_p_value(scores, reference))
    assert PredictedClasses(np.zeros(0, int), 3).p_values(scores, np.arange(4) % 3, np.zeros(0)).tolist() == [1] * 4
    assert known.p_values(np.zeros(1), np.zeros(1, int), np.zeros(4)).tolist() == [1]


def test_predicted_classes_weigh_alike_but_for_those_of_few_samples() -> None:
    """Ninety references of class 0, forty of class 1 and one of class 2."""
    known = PredictedClasses(np.repeat([0, 1, 2], [90, 40, 1]), 4)
    weights = known._weights()
    sums = [weights[known.predicted == of].sum() for of in range(3)]
    assert sum(sums) == pytest.approx(131)
    assert np.array(sums) / sums[0] == pytest.approx([1, 40 / 50 / 0.9, 1 / 11 / 0.9])
    reference = np.repeat([1.0, 9.0, 5.0], [90, 40, 1])
    found = empirical_p_value(np.array([9.0, 2.0, 1.0, 10.0]), reference, weights)
    assert found == pytest.approx([(sums[1] + 1) / 132, (sums[1] + sums[2] + 1) / 132, 1, 1 / 132])


def test_p_values_hold_for_every_predicted_class_whatever_its_share_and_scale() -> None:
    """Of validation samples one in ten is of the class with the large scores; of later samples one in two."""
    flagged, plain = [], []
    for seed in range(60):
        generator = np.random.default_rng(seed)
        known, new = (np.arange(200) % 10 == 0).astype(int), np.arange(40) % 2
        reference, scores = (3 * of + (1 + of) * generator.gumbel(size=len(of)) for of in (known, new))
        flagged.append(PredictedClasses(known, 2).p_values(scores, new, reference) <= 0.05)
        plain.append(empirical_p_value(scores, reference) <= 0.05)
    by_class = np.mean(flagged, axis=0).reshape(-1, 2).mean(axis=0)
    assert by_class.mean() == pytest.approx(0.05, abs=0.03)
    assert by_class.max() < 0.12  # twenty samples of a class are drawn to those of all
    assert np.mean(plain) > 0.15


def test_samples_dealt_at_random_to_validation_and_test_are_flagged_at_the_nominal_rate() -> None:
    """The resplit control: classes of unequal shares and scales, one dealing of all samples after the other."""
    generator = np.random.default_rng(0)
    predicted = np.repeat([0, 1, 2, 3], [240, 160, 60, 20])
    scores = (1 + predicted) * generator.gumbel(size=len(predicted)) - predicted
    flagged = []
    for _ in range(40):
        dealt = generator.permutation(len(scores))
        known, new = dealt[:400], dealt[400:]
        flagged.append(
            PredictedClasses(predicted[known], 4).p_values(scores[new], predicted[new], scores[known]) <= 0.05
        )
    assert np.mean(flagged) == pytest.approx(0.05, abs=0.015)  # 40 dealings of 80: a standard error below 0.005


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
