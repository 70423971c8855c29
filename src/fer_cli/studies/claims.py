"""The paper's claims, counted over a split and judged by bootstrap intervals.

A claim is borne out where the whole 95 % interval lies within its bounds, not borne out where it lies wholly outside,
and undecided otherwise. Errors are Euclidean norms, the unit of the paper's Table I. Where two things are compared
sample by sample, a tie speaks for neither. What follows from the predicted probabilities alone is marked as true or
false by construction: it tests nothing. What is claimed is in section 4.1 and Table I; the bounds are ours.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Int

from fer_cli.codebooks.reconstruction import error_norms
from fer_cli.evaluation.outcomes import Outcomes
from fer_cli.evaluation.resampling import interval
from fer_cli.evaluation.results import Claim
from fer_cli.network.activations import FEEDBACK, FEEDFORWARD
from fer_cli.network.backbone import OUTPUT

BORNE_OUT, NOT_BORNE_OUT, UNDECIDED = "borne out", "not borne out", "undecided"
PAPER_RATIO = 1.87
LITTLE = 0.25
"""A change of an error by less than this share is taken for none, and twice the error but for this share for double."""
_FIGURES = slice(2, 7)
"""Layers 3 to 7, which Figs 4 and 6 show."""
_SAME = 1e-4
"""Errors that differ by less than this share are equal but for rounding."""

Draws = Float[np.ndarray, " draw"]


def judge_claims(outcomes: Outcomes, weights: Int[np.ndarray, "draw sample"]) -> list[Claim]:
    """All claims; the draws of the bootstrap are `weights`."""
    mean = _Means(weights)
    return [*_reconstruction_claims(outcomes, mean), *_cluster_claims(outcomes, mean)]


def _reconstruction_claims(outcomes: Outcomes, mean: "_Means") -> Iterator[Claim]:
    wrong, errors = outcomes.wrong, error_norms(outcomes.errors)
    local, code = errors["input_vs_local"], errors["input_vs_code"]
    if outcomes.other_local is not None:
        yield _judged(
            "Local reconstructions of misclassified samples resemble the input",
            "share of them whose input is nearer to its own local reconstruction than to that of any other sample, "
            "less the share with a nearer one",
            mean.of(_nearer(outcomes.errors["input_vs_local"], outcomes.other_local), wrong),
            above=0.0,
        )
    yield _judged(
        "Local reconstructions resemble the input regardless of the classification",
        "input_vs_local of misclassified samples over that of correct ones",
        mean.of(local, wrong) / mean.of(local, ~wrong),
        above=1 / (1 + LITTLE),
        below=1 + LITTLE,
    )
    if outcomes.code_errors is not None:
        rows = np.arange(len(wrong))
        true, predicted = (outcomes.code_errors[rows, labels] for labels in (outcomes.labels, outcomes.predicted))
        yield _judged(
            "Class-code reconstructions of misclassified samples do not resemble the input",
            "share of them whose input is nearer to the reconstruction from the true class's code than to that from "
            "the predicted class's, less the share where it is the other way round",
            mean.of(_nearer(true, predicted), wrong),
            above=0.0,
        )
    ratios = [mean.of(code, among) / mean.of(local, among) for among in (wrong, ~wrong)]
    yield _judged(
        "The class code loses almost twice as much as the local features on misclassified samples",
        f"input_vs_code over input_vs_local of misclassified samples; the paper has {PAPER_RATIO}",
        ratios[0],
        above=2 * (1 - LITTLE),
        below=2 * (1 + LITTLE),
    )
    yield _judged(
        "That ratio tells misclassified samples from correct ones",
        "the ratio of misclassified samples over that of correct ones",
        ratios[0] / ratios[1],
        above=1.0,
    )


def _cluster_claims(outcomes: Outcomes, mean: "_Means") -> Iterator[Claim]:
    wrong = outcomes.wrong
    for path, spoken, other, said in (
        (FEEDFORWARD, outcomes.labels, outcomes.predicted, ("true", "predicted")),
        (FEEDBACK, outcomes.predicted, outcomes.labels, ("predicted", "true")),
    ):
        shown = [layer for layer in list(outcomes.speaks_for[path])[_FIGURES] if layer != OUTPUT]
        for layer, found in outcomes.speaks_for[path].items():
            yield _judged(
                f"{path.capitalize()} clusters of misclassified samples show the {said[0]} class",
                f"share of them whose layer speaks for the {said[0]} class, less that for the {said[1]} one",
                mean.of((found == spoken).astype(float), wrong) - mean.of((found == other).astype(float), wrong),
                above=0.0,
                layer=layer,
                by_construction=path == FEEDBACK or layer == OUTPUT,
                in_figures=layer in shown,
            )


def _nearer(ours: Float[np.ndarray, " sample"], theirs: Float[np.ndarray, " sample"]) -> Float[np.ndarray, " sample"]:
    """1 where our error is the smaller one, −1 where theirs is, 0 for a tie, or where there is nothing to compare."""
    close = np.abs(ours - theirs) <= _SAME * np.maximum(ours, theirs)
    return np.where(close | np.isnan(theirs), 0.0, np.sign(theirs - ours))


class _Means:
    """Means over some of the samples: the first value is that of the samples themselves, the others of the draws."""

    def __init__(self, weights: Int[np.ndarray, "draw sample"]) -> None:
        self._weights = np.concatenate([np.ones((1, weights.shape[1])), weights])

    def of(
        self, values: Float[np.ndarray, " sample"], among: Bool[np.ndarray, " sample"]
    ) -> Float[np.ndarray, " draw"]:
        """NaN where a draw holds none of them."""
        weights = self._weights[:, among]
        with np.errstate(invalid="ignore", divide="ignore"):
            return weights @ values[among] / weights.sum(axis=1)


def _judged(
    claim: str,
    measure: str,
    values: Draws,
    *,
    above: float | None = None,
    below: float | None = None,
    layer: str | None = None,
    by_construction: bool = False,
    in_figures: bool | None = None,
) -> Claim:
    """The first value is the measured one."""
    ends = interval(values[1:])
    known = not np.isnan(values[0]) and ends is not None
    return Claim(
        claim=claim,
        measure=measure,
        layer=layer,
        value=float(values[0]) if known else None,
        ci=ends if known else None,
        bound=_bound(above, below),
        verdict=verdict(ends, above=above, below=below) if known and ends is not None else None,
        by_construction=by_construction,
        in_figures=in_figures,
    )


def _bound(above: float | None, below: float | None) -> str:
    if above is not None and below is not None:
        return f"between {above:g} and {below:g}"
    return f"above {above:g}" if above is not None else f"below {below:g}"


def verdict(ci: list[float], *, above: float | None = None, below: float | None = None) -> str:
    """What an interval says of a claim that a value is above a bound, below one, or between two."""
    low, high = ci
    least, most = -np.inf if above is None else above, np.inf if below is None else below
    if least < low and high < most:
        return BORNE_OUT
    return NOT_BORNE_OUT if high < least or low > most else UNDECIDED
