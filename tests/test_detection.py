from itertools import permutations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from fer_cli.detection import (
    area_under_generalized_risk_coverage,
    area_under_risk_coverage,
    bootstrap_auroc,
    detection_metrics,
    false_positive_rate_at_95,
    weighted_auroc,
)


def some(count: int, seed: int, distinct: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores with many ties, and errors that are likelier where the score is low."""
    generator = np.random.default_rng(seed)
    score = generator.integers(0, distinct, count) / distinct
    errors = generator.random(count) > 0.4 + 0.5 * score
    errors[:2] = [True, False]
    return score, errors


@pytest.mark.parametrize("distinct", [1, 2, 5, 10**6])
def test_auroc_is_sklearns_ties_included(distinct: int) -> None:
    score, errors = some(60, 1, distinct)
    metrics = detection_metrics(score, errors)
    assert metrics["auroc"] == roc_auc_score(~errors, score)
    mine = weighted_auroc(score, errors, np.ones((1, 60), np.int64))[0]
    assert mine == pytest.approx(metrics["auroc"], abs=1e-12)


@pytest.mark.parametrize("distinct", [3, 10**6])
def test_weighted_auroc_is_that_of_the_samples_repeated(distinct: int) -> None:
    score, errors = some(30, 2, distinct)
    generator = np.random.default_rng(0)
    draws = generator.integers(0, 30, (50, 30))
    weights = np.array([np.bincount(draw, minlength=30) for draw in draws])
    expected = [roc_auc_score(~errors[draw], score[draw]) for draw in draws]
    np.testing.assert_allclose(weighted_auroc(score, errors, weights), expected, atol=1e-12)


def test_draws_of_one_kind_are_left_out() -> None:
    score, errors = np.array([0.1, 0.7, 0.4]), np.array([True, False, False])
    assert np.isnan(weighted_auroc(score, errors, np.array([[3, 0, 0], [0, 2, 1]]))).all()
    low, high = bootstrap_auroc(score, errors)
    assert (low, high) == (1, 1)


def test_interval_is_that_of_the_slow_bootstrap() -> None:
    score, errors = some(80, 3, 10**6)
    generator = np.random.default_rng(9)
    draws = (generator.integers(0, 80, 80) for _ in range(2000))
    values = [(score[d][~errors[d], None] > score[d][errors[d]]).mean() for d in draws]  # no two scores are equal
    low, high = bootstrap_auroc(score, errors, seed=1)
    # Of 2000 draws each end has a standard error of about 0.004 here.
    assert (low, high) == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])), abs=0.02)
    assert bootstrap_auroc(score, errors, seed=1) == (low, high)
    assert low < roc_auc_score(~errors, score) < high


def risks(score: np.ndarray, errors: np.ndarray) -> tuple[float, float]:
    """AURC and AUGRC over every order of the samples in which no higher score comes after a lower one."""
    selective, generalized = [], []
    for order in permutations(range(len(score))):
        if (np.diff(score[list(order)]) > 0).any():
            continue
        wrong = np.cumsum(errors[list(order)])
        selective.append(np.mean(wrong / np.arange(1, len(score) + 1)))
        generalized.append(np.mean(wrong / len(score)))
    return float(np.mean(selective)), float(np.mean(generalized))


@pytest.mark.parametrize("seed", range(6))
def test_risk_coverage_areas_are_means_over_every_order_of_ties(seed: int) -> None:
    score, errors = some(7, seed, 1 + seed)
    aurc, augrc = risks(score, errors)
    assert area_under_risk_coverage(score, errors) == pytest.approx(aurc, abs=1e-12)
    assert area_under_generalized_risk_coverage(score, errors) == pytest.approx(augrc, abs=1e-12)


def test_augrc_follows_from_auroc_and_accuracy() -> None:
    """Traub et al.: (1 − AUROC)·acc·(1 − acc) + (1 − acc)²/2 for infinitely many samples; half a step more for n."""
    score, errors = some(200, 4, 10**6)
    wrong = errors.mean()
    limit = (1 - roc_auc_score(~errors, score)) * wrong * (1 - wrong) + wrong**2 / 2
    value = area_under_generalized_risk_coverage(score, errors)
    assert value == pytest.approx(limit + wrong / (2 * 200), abs=1e-12)


def test_risk_areas_by_hand() -> None:
    score, errors = np.array([0.9, 0.8, 0.7, 0.1]), np.array([False, True, False, True])
    assert area_under_risk_coverage(score, errors) == pytest.approx((0 + 1 / 2 + 1 / 3 + 2 / 4) / 4)
    assert area_under_generalized_risk_coverage(score, errors) == pytest.approx((0 + 1 + 1 + 2) / 16)


def test_false_positive_rate_at_95_by_hand() -> None:
    right = np.arange(1, 21) / 20  # 0.05 … 1; nineteen of twenty are accepted from 0.1 on
    wrong = np.array([0.0, 0.05, 0.1, 0.5])
    score = np.concatenate([wrong, right])
    errors = np.arange(24) < 4
    assert false_positive_rate_at_95(score, errors) == 0.5
    assert false_positive_rate_at_95(score[[0, 1, 2, 3, 20]], errors[[0, 1, 2, 3, 20]]) == 0
    assert false_positive_rate_at_95(np.zeros(24), errors) == 1


@pytest.mark.parametrize("count", [1, 19, 20, 21, 40, 60, 99, 100, 837])
def test_no_lower_threshold_is_needed_for_95_per_cent(count: int) -> None:
    generator = np.random.default_rng(count)
    score, errors = generator.random(count + 30), np.arange(count + 30) < 30
    right = score[~errors]
    thresholds = sorted(right, reverse=True)
    highest = next(t for t in thresholds if 20 * (right >= t).sum() >= 19 * count)  # in integers
    assert false_positive_rate_at_95(score, errors) == (score[errors] >= highest).mean()


@pytest.mark.parametrize("errors", [np.zeros(4, bool), np.ones(4, bool)])
def test_metrics_that_are_not_defined_are_none(errors: np.ndarray) -> None:
    metrics = detection_metrics(np.arange(4.0), errors)
    assert metrics == dict.fromkeys(["auroc", "auroc_ci", "aurc", "augrc", "fpr95"])


def test_metrics_do_not_change_with_a_monotone_map_of_the_score() -> None:
    score, errors = some(50, 7, 9)
    assert detection_metrics(score, errors) == detection_metrics(np.exp(3 * score) - 8, errors)
