"""What kind of case a sample is, by written rules that are tried in order; `docs/method.md` lists them.

A rule's thresholds come from validation samples alone. The first two rules and the last need no label.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from fer_cli.calibration.typicality import Atypicality
from fer_cli.diagnosis.blame import Blame
from fer_cli.network.backbone import OUTPUT

LEVEL = 0.05
"""What share of ordinary samples a rule may call atypical, or suspicious."""
CLOSE_ODDS = 9.0
"""Calibrated odds of the two most probable classes below which a sample is ambiguous: one chance in ten."""

ATYPICAL, AMBIGUOUS, SUSPICIOUS_CORRECT, CORRECT = "atypical", "ambiguous", "correct_but_suspicious", "correct"
HEAD, REPRESENTATION, SUSPICIOUS, CONSISTENT = "head", "representation", "suspicious", "consistent"
CATEGORIES = {
    ATYPICAL: "atypical input",
    AMBIGUOUS: "ambiguous between two classes",
    SUSPICIOUS_CORRECT: "correct but suspicious",
    CORRECT: "consistent and correct",
    HEAD: "features right, final layer wrong",
    REPRESENTATION: "features look like another class",
    SUSPICIOUS: "suspicious",
    CONSISTENT: "consistent",
}
"""What each is called, in the order in which the rules are tried; the last two are for samples of unknown class."""


@dataclass(frozen=True)
class Category:
    """One of `CATEGORIES`, and the rule that put the sample there with the numbers that met it."""

    id: str
    criterion: str

    @property
    def name(self) -> str:
        """What it is called."""
        return CATEGORIES[self.id]


def categorise(
    probabilities: Mapping[str, float],
    label: str | None,
    *,
    atypicality: Atypicality,
    suspicion: float,
    blame: Blame,
) -> Category:
    """The category of a sample.

    `probabilities` are calibrated (`Temperatures.calibrated`), `suspicion` is the p-value of that name, `blame` counts
    for misclassified samples only.
    """
    predicted, second = sorted(probabilities, key=lambda name: -probabilities[name])[:2]
    odds = probabilities[predicted] / max(probabilities[second], 1e-12)
    if atypicality.p_value <= LEVEL:
        return Category(
            ATYPICAL,
            f"it lies {atypicality.score:.1f} standard deviations farther from its codes than "
            f"validation samples of the predicted class do on average; p = {atypicality.p_value:.3f} ≤ {LEVEL}",
        )
    if odds < CLOSE_ODDS and label in (None, predicted, second):
        return Category(
            AMBIGUOUS,
            f"the calibrated odds of {predicted} to {second} are {odds:.1f} : 1, below {CLOSE_ODDS:.0f} : 1",
        )
    unusual = f"suspicion has p = {suspicion:.3f} {'≤' if suspicion <= LEVEL else '>'} {LEVEL}"
    if label is None:
        return Category(SUSPICIOUS if suspicion <= LEVEL else CONSISTENT, unusual)
    if label == predicted:
        return Category(SUSPICIOUS_CORRECT if suspicion <= LEVEL else CORRECT, f"{predicted} is right, and {unusual}")
    ahead = blame.margin or 0.0
    margin = (
        f"{ahead:.1f} nats ahead of the next best layer" if ahead >= 0.05 else "hardly ahead of the next best layer"
    )
    if blame.layer == OUTPUT:
        return Category(HEAD, f"at no layer does calibrated evidence turn from {label} to {predicted}, {margin}")
    return Category(
        REPRESENTATION, f"calibrated evidence is for {predicted} rather than {label} from {blame.layer} on, {margin}"
    )
