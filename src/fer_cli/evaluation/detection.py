"""How well a score tells misclassified samples from correct ones, with bootstrap intervals.

A score is high where the prediction looks trustworthy. `errors` is true where it is wrong. Metrics are None
where they are not defined, that is if all samples are correct or all are wrong. Samples of equal score are accepted in
random order; metrics are the means over all such orders.

The bootstrap draws groups of samples: the same shape, seen by several networks, is drawn as one. Draws are not
stratified, so that intervals of metrics that hang on the accuracy hold its uncertainty too; draws without both kinds
are left out. A draw is a row of weights, how often each sample is in it, so that one sort of the scores serves all
draws.
"""

from collections.abc import Mapping
from typing import cast

import numpy as np
from jaxtyping import Bool, Float, Int

from fer_cli.evaluation.resampling import draw_weights, interval
from fer_cli.evaluation.results import Differences, Metrics

METRICS = ("auroc", "aurc", "augrc", "fpr95", "coverage_at_5")
"""What is measured; the first and the last are better when high, the others when low."""
FEWEST_OUTCOMES = 10
_TOLD_APART = 64
"""Draws that tell shapes apart by their weights."""
_RISK = 0.05
_AT_ONCE = 1 << 19
"""Numbers worked on at once; what fits a processor's cache goes several times as fast."""

Scores = Float[np.ndarray, " sample"]
Errors = Bool[np.ndarray, " sample"]
Weights = Int[np.ndarray, "draw sample"]


def detection_metrics(score: Scores, errors: Errors, weights: Weights | None = None) -> Metrics:
    """All metrics of one score, each `<metric>` with `<metric>_ci`, its 95 % percentile interval over the draws.

    Without `weights` the draws are those of `draw_weights` of samples that each stand alone. With fewer than
    `FEWEST_OUTCOMES` errors, or correct samples, there is no interval: draws of so few say more than they know.
    """
    if errors.all() or not errors.any():
        return cast(Metrics, {key: None for metric in METRICS for key in (metric, f"{metric}_ci")})
    if weights is None:
        weights = draw_weights(np.arange(len(score)))
    point = weighted_metrics(score, errors, np.ones((1, len(score)), np.int64))
    drawn = weighted_metrics(score, errors, weights) if _enough(errors, weights) else None
    figures = {
        key: value
        for metric in METRICS
        for key, value in (
            (metric, float(point[metric][0])),
            (f"{metric}_ci", None if drawn is None else interval(drawn[metric])),
        )
    }
    return cast(Metrics, figures)


def _enough(errors: Errors, weights: Weights) -> bool:
    """Whether errors and correct samples are of `FEWEST_OUTCOMES` shapes each.

    Samples of one shape, of several runs, have the same weight in every draw, and count once.
    """
    of_shapes = [np.unique(weights[:_TOLD_APART][:, chosen], axis=1).shape[1] for chosen in (errors, ~errors)]
    return min(of_shapes) >= FEWEST_OUTCOMES


def weighted_metrics(score: Scores, errors: Errors, weights: Weights) -> dict[str, Float[np.ndarray, " draw"]]:
    """Every metric for each row of weights; NaN where a row holds no error or nothing else.

    `auroc`: the chance that a correct sample scores above a wrong one. `aurc`: mean over all coverages of the error
    rate among the accepted (Geifman and El-Yaniv, ICLR 2019). `augrc`: area, by trapezoids from coverage 0 on, under
    the share of all samples that are accepted and wrong (Traub et al., NeurIPS 2024, closed form); at a given accuracy
    it tells the same as the AUROC. `fpr95`: share of the wrong samples accepted at the highest threshold that accepts
    at least 95 % of the correct ones. `coverage_at_5`: largest share of samples accepted by a threshold with an error
    rate of at most 5 % among them.
    """
    order = np.argsort(-score, kind="stable")
    starts = _runs(score[order], errors[order])
    step = max(1, _AT_ONCE // len(score))
    wrong_only = np.where(errors, weights, 0)
    parts = [
        _metrics(
            np.add.reduceat(weights[start : start + step][:, order], starts, axis=1, dtype=np.int64),
            np.add.reduceat(wrong_only[start : start + step][:, order], starts, axis=1, dtype=np.int64),
        )
        for start in range(0, len(weights), step)
    ]
    return {metric: np.concatenate([part[metric] for part in parts]) for metric in METRICS}


def _runs(score: Scores, errors: Errors) -> Int[np.ndarray, " run"]:
    """Where runs start of samples in descending order that can be taken together.

    They are the samples of one score, and neighbouring scores without an error, between which no metric changes its
    course.
    """
    starts = np.flatnonzero(np.append(True, np.diff(score) != 0))
    clean = np.add.reduceat(errors, starts, dtype=np.int64) == 0
    return starts[np.append(True, ~(clean[1:] & clean[:-1]))]


def _metrics(
    here: Int[np.ndarray, "draw run"], here_wrong: Int[np.ndarray, "draw run"]
) -> dict[str, Float[np.ndarray, " draw"]]:
    """The metrics from how many samples, and how many wrong ones, there are in each run, the highest scores first."""
    accepted, failed = np.cumsum(here, axis=1), np.cumsum(here_wrong, axis=1)
    right = accepted - failed
    count, n_wrong, n_right = accepted[:, -1], failed[:, -1], right[:, -1]
    # Every wrong sample against the correct ones above it, and half of those beside it.
    pairs = (here_wrong * (right - (here - here_wrong) / 2)).sum(axis=1)
    # Within a run wrong samples come at an even rate, so that the sum of the risks is one of 1 / k: harmonic numbers.
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, int(count.max()) + 1))])
    before = accepted - here
    rate = here_wrong / np.maximum(here, 1)
    selective = rate * here + (failed - here_wrong - before * rate) * (harmonic[accepted] - harmonic[before])
    enough = (20 * right >= 19 * n_right[:, None]).argmax(axis=1)
    safe = np.where(failed <= _RISK * accepted, accepted, 0).max(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        metrics = {
            "auroc": pairs / (n_wrong * n_right),
            "aurc": selective.sum(axis=1) / count,
            "augrc": (n_wrong * n_right - pairs + n_wrong**2 / 2) / count**2,
            "fpr95": failed[np.arange(len(failed)), enough] / n_wrong,
            "coverage_at_5": safe / count,
        }
    defined = (n_wrong > 0) & (n_right > 0)
    return {metric: np.where(defined, values, np.nan) for metric, values in metrics.items()}


def compare(scores: Mapping[str, Scores], errors: Errors, weights: Weights, *, ours: str, theirs: str) -> Differences:
    """Paired differences of every metric, `ours` less `theirs`, each with the interval over common draws."""
    ones = np.ones((1, len(errors)), np.int64)
    point = [weighted_metrics(scores[name], errors, ones) for name in (ours, theirs)]
    drawn = [weighted_metrics(scores[name], errors, weights) for name in (ours, theirs)]
    differences = {
        metric: {
            "difference": float(point[0][metric][0] - point[1][metric][0]),
            "ci": interval(drawn[0][metric] - drawn[1][metric]) if _enough(errors, weights) else None,
        }
        for metric in METRICS
    }
    return cast(Differences, differences)


def roc(score: Scores, errors: Errors, points: int) -> dict[str, list[float]]:
    """ROC curve at `points` evenly spaced false positive rates (share of wrong samples accepted)."""
    accepted, failed = _thresholds(score, errors)
    rate = np.linspace(0, 1, points)
    found = np.interp(rate, failed / failed[-1], (accepted - failed) / (accepted - failed)[-1])
    return {"false_positive_rate": rate.tolist(), "true_positive_rate": found.tolist()}


def risk_coverage(score: Scores, errors: Errors, points: int) -> dict[str, list[float]]:
    """Risk and generalised risk at `points` evenly spaced coverages above 0."""
    accepted, failed = _thresholds(score, errors)
    coverage = np.arange(1, points + 1) / points
    errors_then = np.interp(coverage * len(score), accepted, failed)
    return {
        "coverage": coverage.tolist(),
        "risk": (errors_then / (coverage * len(score))).tolist(),
        "generalized_risk": (errors_then / len(score)).tolist(),
    }


def _thresholds(
    score: Scores, errors: Errors
) -> tuple[Float[np.ndarray, " threshold"], Float[np.ndarray, " threshold"]]:
    """Samples accepted at each threshold from the strictest on, none at first, and how many of them are wrong."""
    order = np.argsort(-score, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))
    accepted, failed = ends + 1.0, np.cumsum(errors[order])[ends].astype(np.float64)
    return np.append(0.0, accepted), np.append(0.0, failed)
