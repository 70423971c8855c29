"""Confidence scores and errors of the validation samples, and how suspicious another sample looks beside them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Int

from fer_cli.calibration.p_value import PredictedClasses, load_predicted
from fer_cli.storage.artifact import Artifact

VIEWS, SOFTMAX = "views", "max_softmax"
FEWEST = 10
_DECIMALS = 6
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
    p-value compares with the correctly classified ones, and that without views the alarm is chosen by them.
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

    @property
    def alarm(self) -> str:
        """The score that suspicion goes by: `VIEWS`, the probability of the predicted class as a mean over views.

        Where the network's samples are not varied, it is the score that tells the validation samples' mistakes best,
        by AUROC; maximum softmax where there are fewer than `FEWEST` mistakes or correct samples.
        """
        if VIEWS in self.scores:
            return VIEWS
        if min(self.correct.sum(), (~self.correct).sum()) < FEWEST:
            return SOFTMAX
        from sklearn.metrics import roc_auc_score  # a second to import, and few runs need it

        return max(self.scores, key=lambda name: float(roc_auc_score(self.correct, self.scores[name])))

    def suspicion(self, scores: Mapping[str, Float[np.ndarray, " sample"]]) -> Float[np.ndarray, " sample"]:
        """How suspicious samples look, in [0, 1].

        It is one less the mean probability over views, or one less the rank of another alarm among the validation
        samples. Scores a rounding apart tie, so that a sample says the same read alone and in a batch.
        """
        name = self.alarm
        if name == VIEWS:
            return np.round(1 - scores[VIEWS], _DECIMALS)
        ordered = np.sort(self.scores[name])
        rounding = _ROUNDING * np.maximum(1, np.abs(scores[name]))
        below = np.searchsorted(ordered, scores[name] - rounding, side="left")
        not_above = np.searchsorted(ordered, scores[name] + rounding, side="right")
        return 1 - (below + not_above) / (2 * len(ordered))

    def p_value(
        self, suspicion: Float[np.ndarray, " sample"], predicted: Int[np.ndarray, " sample"]
    ) -> Float[np.ndarray, " sample"]:
        """Share of correctly classified samples that look at least as suspicious, the sample itself counted in.

        Suspicion is standardised by predicted class first.
        """
        correct = self.predicted.only(np.flatnonzero(self.correct))
        return correct.p_values(suspicion, predicted, self.suspicion(self.scores)[self.correct])


def load_calibration(calibration: Artifact) -> Calibration:
    """The calibration that an artifact holds."""
    scores, errors = (
        {name.rpartition("/")[2]: calibration.read(name) for name in calibration.names(f"calibration/{kind}/")}
        for kind in ("score", "error")
    )
    correct = calibration.read("calibration/label") == calibration.read("calibration/predicted")
    return Calibration(scores, correct, load_predicted(calibration), errors)
