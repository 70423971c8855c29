"""Intervals of figures over several runs: the bootstrap draws shapes, and every run's result for a shape comes along.

Seeds of one data set see the same test shapes, so that their results are not independent; shapes are.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from jaxtyping import Float

DRAWS = 2000
Interval = list[float | None]


def shape_weights(names: Sequence[str], *, draws: int = DRAWS, seed: int = 0) -> Float[np.ndarray, "draw row"]:
    """How often each row comes in each draw, all rows of a shape as often as the shape; the first draw is the data."""
    shapes, row = np.unique(np.asarray(names), return_inverse=True)
    generator = np.random.default_rng(seed)
    counts = generator.multinomial(len(shapes), np.full(len(shapes), 1 / len(shapes)), size=draws)
    return np.concatenate([np.ones((1, len(shapes))), counts])[:, row].astype(np.float64)


def with_interval(
    statistic: Callable[[Float[np.ndarray, "draw row"]], Float[np.ndarray, " draw"]],
    weights: Float[np.ndarray, "draw row"],
) -> tuple[float | None, Interval]:
    """A statistic of weighted rows, and its 95 % percentile interval; None where it has no value."""
    with np.errstate(invalid="ignore", divide="ignore"):
        values = statistic(weights)
    drawn = values[1:][np.isfinite(values[1:])]
    if not np.isfinite(values[0]) or not len(drawn):
        return None, [None, None]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(values[0]), [float(low), float(high)]


def mean_with_interval(
    values: Float[np.ndarray, " row"], weights: Float[np.ndarray, "draw row"]
) -> tuple[float | None, Interval]:
    """The mean of the rows, and its interval."""
    return with_interval(partial(weighted_mean, values), weights)


def weighted_mean(
    values: Float[np.ndarray, " row"], weights: Float[np.ndarray, "draw row"]
) -> Float[np.ndarray, " draw"]:
    """Mean of the values in each draw; rows that are not a number are left out."""
    known = np.isfinite(values)
    return weights[:, known] @ values[known] / weights[:, known].sum(axis=1)
