from itertools import permutations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from fer_cli.evaluation.detection import METRICS, compare, detection_metrics, risk_coverage, roc, weighted_metrics
from fer_cli.evaluation.resampling import draw_weights


def metric(name: str, score: np.ndarray, errors: np.ndarray) -> float:
    return float(weighted_metrics(score, errors, np.ones((1, len(score)), np.int64))[name][0])


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
    assert detection_metrics(score, errors)["auroc"] == pytest.approx(roc_auc_score(~errors, score), abs=1e-12)


@pytest.mark.parametrize("distinct", [3, 10**6])
def test_metrics_of_weights_are_those_of_the_samples_repeated(distinct: int) -> None:
    score, errors = some(30, 2, distinct)
    generator = np.random.default_rng(0)
    draws = generator.integers(0, 30, (50, 30))
    weights = np.array([np.bincount(draw, minlength=30) for draw in draws])
    found = weighted_metrics(score, errors, weights)
    for name in METRICS:
        expected = [metric(name, score[draw], errors[draw]) for draw in draws]
        np.testing.assert_allclose(found[name], expected, atol=1e-12)


def test_draws_of_one_kind_are_left_out() -> None:
    score, errors = np.array([0.1, 0.7, 0.4]), np.array([True, False, False])
    assert np.isnan(weighted_metrics(score, errors, np.array([[3, 0, 0], [0, 2, 1]]))["auroc"]).all()
    score, errors = np.repeat(score, 12), np.repeat(errors, 12)
    assert detection_metrics(score, errors)["auroc_ci"] == [1, 1]
    assert detection_metrics(score[3:], errors[3:])["auroc_ci"] is None  # of nine errors


def test_interval_is_that_of_the_slow_bootstrap() -> None:
    score, errors = some(80, 3, 10**6)
    generator = np.random.default_rng(9)
    draws = (generator.integers(0, 80, 80) for _ in range(2000))
    values = [(score[d][~errors[d], None] > score[d][errors[d]]).mean() for d in draws]  # no two scores are equal
    weights = draw_weights(np.arange(80), seed=1)
    low, high = detection_metrics(score, errors, weights)["auroc_ci"]
    # Of 2000 draws each end has a standard error of about 0.004 here.
    assert (low, high) == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])), abs=0.02)
    assert np.array_equal(weights, draw_weights(np.arange(80), seed=1))
    assert low < roc_auc_score(~errors, score) < high


def test_samples_of_a_group_are_drawn_together() -> None:
    groups = np.array([4, 9, 4, 7, 9])
    weights = draw_weights(groups, draws=200)
    assert np.array_equal(weights[:, 0], weights[:, 2])
    assert np.array_equal(weights[:, 1], weights[:, 4])
    assert (weights[:, [0, 1, 3]].sum(axis=1) == 3).all()
    assert len(np.unique(weights, axis=0)) > 5


def test_differences_are_paired() -> None:
    score, errors = some(90, 11, 10**6)
    scores = {"a": score, "b": score + 1e-9, "c": np.random.default_rng(0).random(90)}
    weights = draw_weights(np.arange(90))
    same = compare(scores, errors, weights, ours="a", theirs="b")
    assert same["auroc"] == {"difference": pytest.approx(0, abs=1e-12), "ci": pytest.approx([0, 0], abs=1e-12)}
    better = compare(scores, errors, weights, ours="a", theirs="c")["auroc"]
    aurocs = [weighted_metrics(scores[name], errors, weights)["auroc"] for name in "ac"]
    assert better["ci"] == pytest.approx(np.nanpercentile(aurocs[0] - aurocs[1], [2.5, 97.5]))
    assert better["ci"][0] < better["difference"] < better["ci"][1]


@pytest.mark.parametrize("distinct", [4, 10**6])
def test_coverage_at_5_is_the_largest_that_a_threshold_gives(distinct: int) -> None:
    generator = np.random.default_rng(distinct)
    score = generator.integers(0, distinct, 300) / distinct
    errors = generator.random(300) < 0.15 * (1 - score)
    coverages = [0.0]
    for threshold in np.unique(score):
        accepted = score >= threshold
        if errors[accepted].mean() <= 0.05:
            coverages.append(accepted.mean())
    assert metric("coverage_at_5", score, errors) == pytest.approx(max(coverages))


@pytest.mark.parametrize("distinct", [5, 10**6])
def test_curves_go_through_every_threshold(distinct: int) -> None:
    score, errors = some(40, 3, distinct)
    drawn = risk_coverage(score, errors, 40)
    for threshold in np.unique(score):
        accepted = score >= threshold
        place = accepted.sum() - 1
        assert drawn["coverage"][place] == pytest.approx(accepted.mean())
        assert drawn["risk"][place] == pytest.approx(errors[accepted].mean())
        assert drawn["generalized_risk"][place] == pytest.approx((errors & accepted).mean())
    curve = roc(score, errors, 2001)
    area = np.trapezoid(curve["true_positive_rate"], curve["false_positive_rate"])
    assert area == pytest.approx(roc_auc_score(~errors, score), abs=0.01)  # the curve has steps between its points


def risks(score: np.ndarray, errors: np.ndarray) -> tuple[float, float]:
    """AURC and AUGRC over every order of the samples in which no higher score comes after a lower one."""
    selective, generalized = [], []
    for order in permutations(range(len(score))):
        if (np.diff(score[list(order)]) > 0).any():
            continue
        wrong = np.cumsum(errors[list(order)])
        selective.append(np.mean(wrong / np.arange(1, len(score) + 1)))
        generalized.append(np.trapezoid(np.append(0, wrong) / len(score), dx=1 / len(score)))
    return float(np.mean(selective)), float(np.mean(generalized))


@pytest.mark.parametrize("seed", range(6))
def test_risk_coverage_areas_are_means_over_every_order_of_ties(seed: int) -> None:
    score, errors = some(7, seed, 1 + seed)
    aurc, augrc = risks(score, errors)
    assert metric("aurc", score, errors) == pytest.approx(aurc, abs=1e-12)
    assert metric("augrc", score, errors) == pytest.approx(augrc, abs=1e-12)


def test_augrc_follows_from_auroc_and_accuracy() -> None:
    """Traub et al.: (1 − AUROC)·acc·(1 − acc) + (1 − acc)²/2, with ties and without."""
    for distinct in (3, 10**6):
        score, errors = some(200, 4, distinct)
        wrong = errors.mean()
        closed = (1 - roc_auc_score(~errors, score)) * wrong * (1 - wrong) + wrong**2 / 2
        assert metric("augrc", score, errors) == pytest.approx(closed, abs=1e-12)


def test_risk_areas_by_hand() -> None:
    score, errors = np.array([0.9, 0.8, 0.7, 0.1]), np.array([False, True, False, True])
    assert metric("aurc", score, errors) == pytest.approx((0 + 1 / 2 + 1 / 3 + 2 / 4) / 4)
    # By trapezoids over the coverages 0, 1/4, 1/2, 3/4, 1, at which 0, 0, 1, 1, 2 of four are accepted and wrong.
    assert metric("augrc", score, errors) == pytest.approx((0 + 1 / 2 + 1 + 3 / 2) / 16)


def test_false_positive_rate_at_95_by_hand() -> None:
    right = np.arange(1, 21) / 20  # 0.05 … 1; nineteen of twenty are accepted from 0.1 on
    wrong = np.array([0.0, 0.05, 0.1, 0.5])
    score = np.concatenate([wrong, right])
    errors = np.arange(24) < 4
    assert metric("fpr95", score, errors) == 0.5
    assert metric("fpr95", score[[0, 1, 2, 3, 20]], errors[[0, 1, 2, 3, 20]]) == 0
    assert metric("fpr95", np.zeros(24), errors) == 1


@pytest.mark.parametrize("count", [1, 19, 20, 21, 40, 60, 99, 100, 837])
def test_no_lower_threshold_is_needed_for_95_per_cent(count: int) -> None:
    generator = np.random.default_rng(count)
    score, errors = generator.random(count + 30), np.arange(count + 30) < 30
    right = score[~errors]
    thresholds = sorted(right, reverse=True)
    highest = next(t for t in thresholds if 20 * (right >= t).sum() >= 19 * count)  # in integers
    assert metric("fpr95", score, errors) == (score[errors] >= highest).mean()


@pytest.mark.parametrize("errors", [np.zeros(4, bool), np.ones(4, bool)])
def test_metrics_that_are_not_defined_are_none(errors: np.ndarray) -> None:
    metrics = detection_metrics(np.arange(4.0), errors)
    assert metrics == dict.fromkeys([key for name in METRICS for key in (name, f"{name}_ci")])


def test_metrics_do_not_change_with_a_monotone_map_of_the_score() -> None:
    score, errors = some(50, 7, 9)
    assert detection_metrics(score, errors) == detection_metrics(np.exp(3 * score) - 8, errors)
