"""How well a score tells misclassified samples from correct ones: AUROC, AURC, AUGRC, FPR at 95 % TPR.

A score is high where the prediction looks trustworthy. `errors` is true where it is wrong. Metrics are None
where they are not defined, that is if all samples are correct or all are wrong.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn.metrics import roc_auc_score

RESAMPLES = 2000


def detection_metrics(
    score: Float[np.ndarray, " sample"], errors: Bool[np.ndarray, " sample"], *, seed: int = 0
) -> dict[str, Any]:
    """All metrics of one score, with a bootstrap 95 % interval of the AUROC over samples."""
    if errors.all() or not errors.any():
        return {"auroc": None, "auroc_ci": None, "aurc": None, "augrc": None, "fpr95": None}
    low, high = bootstrap_auroc(score, errors, seed=seed)
    return {
        "auroc": float(roc_auc_score(~errors, score)),
        "auroc_ci": [low, high],
        "aurc": area_under_risk_coverage(score, errors),
        "augrc": area_under_generalized_risk_coverage(score, errors),
        "fpr95": false_positive_rate_at_95(score, errors),
    }


def bootstrap_auroc(
    score: Float[np.ndarray, " sample"], errors: Bool[np.ndarray, " sample"], *, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of the AUROC, samples drawn with replacement; draws without both kinds are left out."""
    generator = np.random.default_rng(seed)
    count = len(score)
    # Each draw is a vector of how often each sample is in it, so that one sort serves all draws.
    weights = generator.multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    values = weighted_auroc(score, errors, weights)
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


def weighted_auroc(
    score: Float[np.ndarray, " sample"], errors: Bool[np.ndarray, " sample"], weights: Int[np.ndarray, "draw sample"]
) -> Float[np.ndarray, " draw"]:
    """AUROC of each row of sample weights; NaN where a row holds no error or nothing else. Ties count a half."""
    _, rank = np.unique(score, return_inverse=True)
    groups = np.zeros((rank.max() + 1, len(score)))
    groups[rank, np.arange(len(score))] = 1
    wrong = (weights * errors) @ groups.T
    right = (weights * ~errors) @ groups.T
    pairs = (right * (np.cumsum(wrong, axis=1) - wrong / 2)).sum(axis=1)
    with np.errstate(invalid="ignore"):
        return pairs / (wrong.sum(axis=1) * right.sum(axis=1))


def area_under_risk_coverage(score: Float[np.ndarray, " sample"], errors: Bool[np.ndarray, " sample"]) -> float:
    """Mean over all coverages of the error rate among the accepted. Source: Geifman and El-Yaniv, ICLR 2019."""
    accepted = np.arange(1, len(score) + 1)
    return float((_accepted_errors(score, errors) / accepted).mean())


def area_under_generalized_risk_coverage(
    score: Float[np.ndarray, " sample"], errors: Bool[np.ndarray, " sample"]
) -> float:
    """Mean over all coverages of the share of all samples that are accepted and wrong. Source: Traub et al., 2024."""
    return float((_accepted_errors(score, errors) / len(score)).mean())


def false_positive_rate_at_95(score: Float[np.ndarray, " sample"], errors: Bool[np.ndarray, " sample"]) -> float:
    """Share of the wrong samples still accepted at the threshold that accepts at least 95 % of the correct ones."""
    right = np.sort(score[~errors])[::-1]
    threshold = right[int(np.ceil(0.95 * len(right))) - 1]
    return float((score[errors] >= threshold).mean())


def _accepted_errors(
    score: Float[np.ndarray, " sample"], errors: Bool[np.ndarray, " sample"]
) -> Float[np.ndarray, " sample"]:
    """Expected number of errors among the 1, 2, … highest scores; equal scores are accepted in random order."""
    _, rank, counts = np.unique(-score, return_inverse=True, return_counts=True)
    rate = np.bincount(rank, weights=errors) / counts
    return np.cumsum(np.repeat(rate, counts))
