"""Intervals of figures over several runs: the bootstrap draws shapes, and every run's result for a shape comes along.

Seeds of one data set see the same test shapes, so that their results are not independent; shapes are.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from jaxtyping import Float, Int, Int16

DRAWS = 2000
Interval = list[float | None]


def draw_weights(
    groups: Int[np.ndarray, " row"], *, draws: int = DRAWS, seed: int = 0
) -> Int16[np.ndarray, "draw row"]:
    """Draws with replacement of as many groups as there are, as how often each row comes in each draw."""
    distinct, group = np.unique(groups, return_inverse=True)
    count = len(distinct)
    generator = np.random.default_rng(seed)
    return generator.multinomial(count, np.full(count, 1 / count), size=draws).astype(np.int16)[:, group]


def shape_weights(names: Sequence[str], *, draws: int = DRAWS, seed: int = 0) -> Float[np.ndarray, "draw row"]:
    """The same for rows of named shapes, all rows of a shape as often as the shape; the first draw is the data."""
    row = np.unique(np.asarray(names), return_inverse=True)[1]
    drawn = draw_weights(row, draws=draws, seed=seed)
    return np.concatenate([np.ones((1, len(row))), drawn]).astype(np.float64)


def interval(values: Float[np.ndarray, " draw"]) -> list[float] | None:
    """95 % percentile interval of the draws in which a value is finite; None if there is none."""
    known = values[np.isfinite(values)]
    return [float(end) for end in np.percentile(known, [2.5, 97.5])] if len(known) else None


def with_interval(
    statistic: Callable[[Float[np.ndarray, "draw row"]], Float[np.ndarray, " draw"]],
    weights: Float[np.ndarray, "draw row"],
) -> tuple[float | None, Interval]:
    """A statistic of weighted rows, and its 95 % percentile interval; None where it has no value."""
    with np.errstate(invalid="ignore", divide="ignore"):
        values = statistic(weights)
    ends = interval(values[1:])
    if not np.isfinite(values[0]) or ends is None:
        return None, [None, None]
    return float(values[0]), [*ends]


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


def interval_of_mean(values: Sequence[float]) -> list[float] | None:
    """95 % interval of the mean of independent values; None of fewer than two."""
    if len(values) < 2:
        return None
    return interval(draw_weights(np.arange(len(values))) @ np.asarray(values) / len(values))
