"""The paper's claims, counted over a split and judged by bootstrap intervals.

A claim is borne out where the whole 95 % interval is on its side of the bound, not borne out where it is wholly on the
other, and undecided where it holds the bound. What is claimed is in sections 4.1 to 4.3 and Table I; the bounds are
ours.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

from fer_cli.evaluation.outcomes import Outcomes
from fer_cli.evaluation.resampling import interval
from fer_cli.evaluation.results import Claim
from fer_cli.network.activations import FEEDBACK, FEEDFORWARD

BORNE_OUT, NOT_BORNE_OUT, UNDECIDED = "borne out", "not borne out", "undecided"
PAPER_RATIO = 1.87
LITTLE = 0.25
"""A change of an error by less than this share is taken for none."""


def judge_claims(outcomes: Outcomes, weights: Int[np.ndarray, "draw sample"]) -> list[Claim]:
    """All claims; the draws of the bootstrap are `weights`."""
    wrong, errors = outcomes.wrong, outcomes.errors
    mean = _Means(weights)
    local, code = errors["input_vs_local"], errors["input_vs_code"]
    local_change = mean.of(local, wrong) / mean.of(local, ~wrong)
    code_change = mean.of(code, wrong) / mean.of(code, ~wrong)
    ratios = [mean.of(code, among) / mean.of(local, among) for among in (wrong, ~wrong)]
    claims = [
        _judged(
            "Local reconstructions resemble the input, whatever the class",
            "input_vs_local of misclassified samples over that of correct ones",
            local_change,
            below=1 + LITTLE,
        ),
        _judged(
            "Class-code reconstructions of misclassified samples do not resemble the input",
            "input_vs_code of misclassified samples over that of correct ones",
            code_change,
            above=1 + LITTLE,
        ),
        _judged(
            "The class code loses almost twice as much as the local features on misclassified samples",
            f"input_vs_code over input_vs_local of misclassified samples; the paper has {PAPER_RATIO}",
            ratios[0],
            above=1.5,
        ),
        _judged(
            "That ratio tells misclassified samples from correct ones",
            "the ratio of misclassified samples over that of correct ones",
            ratios[0] / ratios[1],
            above=1.0,
        ),
    ]
    for path, spoken, other, said in (
        (FEEDFORWARD, outcomes.labels, outcomes.predicted, ("true", "predicted")),
        (FEEDBACK, outcomes.predicted, outcomes.labels, ("predicted", "true")),
    ):
        for layer, found in outcomes.speaks_for[path].items():
            share = mean.of((found == spoken).astype(float), wrong) - mean.of((found == other).astype(float), wrong)
            claims.append(
                _judged(
                    f"{path.capitalize()} clusters of misclassified samples show the {said[0]} class",
                    f"share of them whose layer speaks for the {said[0]} class, less that for the {said[1]} one",
                    share,
                    above=0.0,
                    layer=layer,
                )
            )
    return claims


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
    values: Float[np.ndarray, " draw"],
    *,
    above: float | None = None,
    below: float | None = None,
    layer: str | None = None,
) -> Claim:
    """The first value is the measured one."""
    bound = f"above {above:g}" if above is not None else f"below {below:g}"
    ci = interval(values[1:])
    if np.isnan(values[0]) or ci is None:
        return Claim(claim=claim, measure=measure, layer=layer, value=None, ci=None, bound=bound, verdict=None)
    judged = verdict(ci, above=above, below=below)
    return Claim(claim=claim, measure=measure, layer=layer, value=float(values[0]), ci=ci, bound=bound, verdict=judged)


def verdict(ci: list[float], *, above: float | None = None, below: float | None = None) -> str:
    """What an interval says of a claim that a value is above, or below, a bound."""
    low, high = ci if above is not None else [-ci[1], -ci[0]]
    bound = above if above is not None else -(below or 0.0)
    if low > bound:
        return BORNE_OUT
    return NOT_BORNE_OUT if high < bound else UNDECIDED
