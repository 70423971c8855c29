"""Confidence scores and errors of the validation samples, and how suspicious another sample looks beside them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Int

from fer_cli.calibration.p_value import PredictedClasses, load_predicted
from fer_cli.network.activations import PATHS
from fer_cli.storage.artifact import Artifact

_ROUNDING = 1e-5
"""What batches of other sizes change in a score at most, in float32, as a share of it."""


@dataclass(frozen=True)
class ReferenceErrors:
    """Table I's errors of validation samples by name, of those classified correctly and of the others; may be empty."""

    correct: dict[str, Float[np.ndarray, " correct"]]
    misclassified: dict[str, Float[np.ndarray, " misclassified"]]


@dataclass(frozen=True)
class Calibration:
    """Confidence scores and Table I's errors of the validation samples, against which a new sample's are held.

    Validation samples took no part in training or clustering. Nothing here is fitted to labels, except that the
    p-value compares with the correctly classified ones.
    """

    scores: dict[str, Float[np.ndarray, " validation"]]
    correct: Bool[np.ndarray, " validation"]
    predicted: PredictedClasses
    errors: dict[str, Float[np.ndarray, " validation"]] = field(default_factory=dict)

    @property
    def reference_errors(self) -> ReferenceErrors:
        """The errors by outcome."""
        return ReferenceErrors(
            {name: values[self.correct] for name, values in self.errors.items()},
            {name: values[~self.correct] for name, values in self.errors.items()},
        )

    def suspicion(self, scores: Mapping[str, Float[np.ndarray, " sample"]]) -> Float[np.ndarray, " sample"]:
        """How suspicious samples look, in [0, 1]: one less the mean rank of their scores among validation samples.

        The mean is taken within each family of scores (softmax, feedforward evidence, feedback evidence) and then
        over families, so that many layers do not outvote one softmax. Scores a rounding apart tie, so that a sample
        says the same read alone and in a batch.
        """
        families: dict[str, list[np.ndarray]] = {}
        for name, reference in self.scores.items():
            ordered = np.sort(reference)
            rounding = _ROUNDING * np.maximum(1, np.abs(scores[name]))
            below = np.searchsorted(ordered, scores[name] - rounding, side="left")
            not_above = np.searchsorted(ordered, scores[name] + rounding, side="right")
            families.setdefault(_family(name), []).append((below + not_above) / (2 * len(ordered)))
        return 1 - np.mean([np.mean(ranks, axis=0) for ranks in families.values()], axis=0)

    def p_value(
        self, suspicion: Float[np.ndarray, " sample"], predicted: Int[np.ndarray, " sample"]
    ) -> Float[np.ndarray, " sample"]:
        """Share of correctly classified samples that look at least as suspicious, the sample itself counted in.

        Suspicion is standardised by predicted class first.
        """
        correct = self.predicted.only(np.flatnonzero(self.correct))
        return correct.p_values(suspicion, predicted, self.suspicion(self.scores)[self.correct])


def _family(score: str) -> str:
    """`softmax`, or the path of an evidence score, whatever the name of its layer."""
    return next((path for path in PATHS if score.startswith(f"evidence_{path}_")), "softmax")


def load_calibration(calibration: Artifact) -> Calibration:
    """The calibration that an artifact holds."""
    scores, errors = (
        {name.rpartition("/")[2]: calibration.read(name) for name in calibration.names(f"calibration/{kind}/")}
        for kind in ("score", "error")
    )
    correct = calibration.read("calibration/label") == calibration.read("calibration/predicted")
    return Calibration(scores, correct, load_predicted(calibration), errors)
