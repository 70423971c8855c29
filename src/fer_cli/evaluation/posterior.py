"""One class posterior from several experts: class probabilities, and the class evidence of layers.

Each expert gives the log probability of every class. The posterior is their product, each to the power of a weight
that is at least zero, brought to a sum of one. The weights are fitted by cross-entropy over all classes on validation
samples, so that every one of these has a say and not only the few that are misclassified, and are drawn towards given
weights. How strongly is chosen by cross-validation among the same samples: as strongly as costs at most one standard
error more than the best.

Source: Genest and Zidek, "Combining Probability Distributions", Statistical Science 1986, the logarithmic pool;
Hastie, Tibshirani and Friedman, section 7.10, for the one standard error.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import minimize
from scipy.special import log_softmax, logsumexp

RIDGES = (1e-2, 1e-1, 1.0, 10.0)
"""Strengths that are tried, for a loss that is a mean over samples."""
FOLDS = 10

Experts = Mapping[str, Float[np.ndarray, "sample klass"]]


@dataclass(frozen=True)
class Posterior:
    """The weight of each expert, and how strongly the weights were drawn to where they were to be."""

    weights: dict[str, float]
    ridge: float

    def logarithms(self, experts: Experts) -> Float[np.ndarray, "sample klass"]:
        """Log posterior of every class."""
        total = sum(weight * experts[name].astype(np.float64) for name, weight in self.weights.items())
        return log_softmax(total, axis=1)

    def log_odds(self, experts: Experts, chosen: Int[np.ndarray, " sample"]) -> Float[np.ndarray, " sample"]:
        """Log odds of a class of each sample against all others together."""
        return class_log_odds(self.logarithms(experts), chosen)


def class_log_odds(
    logarithms: Float[np.ndarray, "sample klass"], chosen: Int[np.ndarray, " sample"]
) -> Float[np.ndarray, " sample"]:
    """Log odds of a class of each sample against all others together, from log probabilities."""
    rows = np.arange(len(chosen))
    others = logarithms.astype(np.float64)
    others[rows, chosen] = -np.inf
    return logarithms[rows, chosen] - logsumexp(others, axis=1)


def fit_posterior(
    experts: Experts,
    labels: Int[np.ndarray, " sample"],
    towards: Mapping[str, float],
    *,
    seed: int = 0,
) -> Posterior:
    """The posterior that tells the labels best, its weights drawn `towards` some; the same for the same seed.

    The seed draws the folds. With fewer than two samples a fold the weights are drawn as strongly as can be.
    """
    names = list(experts)
    votes = np.stack([experts[name] for name in names]).astype(np.float64)
    goal = np.array([towards[name] for name in names])
    ridge = RIDGES[-1]
    if len(labels) >= 2 * FOLDS:
        fold = np.random.default_rng(seed).permutation(len(labels)) % FOLDS
        losses = {ridge: _held_out_losses(votes, labels, goal, ridge, fold) for ridge in RIDGES}
        best = min(losses.values(), key=lambda values: float(values.mean()))
        enough = best.mean() + best.std(ddof=1) / np.sqrt(len(best))
        ridge = max(ridge for ridge, values in losses.items() if values.mean() <= enough)
    weights = _fit(votes, labels, goal, ridge)
    return Posterior(dict(zip(names, map(float, weights), strict=True)), ridge)


def _held_out_losses(
    votes: Float[np.ndarray, "expert sample klass"],
    labels: Int[np.ndarray, " sample"],
    goal: Float[np.ndarray, " expert"],
    ridge: float,
    fold: Int[np.ndarray, " sample"],
) -> Float[np.ndarray, " fold"]:
    losses = []
    for number in range(FOLDS):
        kept = fold != number
        weights = _fit(votes[:, kept], labels[kept], goal, ridge)
        losses.append(_loss(weights, votes[:, ~kept], labels[~kept])[0])
    return np.array(losses)


def _fit(
    votes: Float[np.ndarray, "expert sample klass"],
    labels: Int[np.ndarray, " sample"],
    goal: Float[np.ndarray, " expert"],
    ridge: float,
) -> Float[np.ndarray, " expert"]:
    def objective(weights: Float[np.ndarray, " expert"]) -> tuple[float, Float[np.ndarray, " expert"]]:
        loss, slope = _loss(weights, votes, labels)
        away = weights - goal
        return loss + ridge * float(away @ away) / 2, slope + ridge * away

    return minimize(objective, goal, jac=True, method="L-BFGS-B", bounds=[(0, None)] * len(votes)).x


def _loss(
    weights: Float[np.ndarray, " expert"],
    votes: Float[np.ndarray, "expert sample klass"],
    labels: Int[np.ndarray, " sample"],
) -> tuple[float, Float[np.ndarray, " expert"]]:
    """Mean cross-entropy and its slope."""
    logarithms = log_softmax(np.tensordot(weights, votes, axes=1), axis=1)
    rows = np.arange(len(labels))
    excess = np.exp(logarithms)
    excess[rows, labels] -= 1
    return float(-logarithms[rows, labels].mean()), np.tensordot(votes, excess, axes=2) / len(labels)
