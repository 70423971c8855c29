"""The empirical p-value: how rare a score is among reference samples, within its predicted class."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from fer_cli.storage.artifact import Artifact

SHRINKAGE = 10
"""So many samples like those of all classes are added to each class when its mean and deviation are taken."""
FOLDS = 10


def empirical_p_value(
    scores: Float[np.ndarray, " sample"], reference: Float[np.ndarray, " reference"]
) -> Float[np.ndarray, " sample"]:
    """Share of reference scores that are at least as high as each score, the sample itself counted in.

    Never zero: with n reference scores at least 1 / (n + 1).

    Source: the conformal p-value of Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World".
    """
    ordered = np.sort(reference)
    at_least = len(ordered) - np.searchsorted(ordered, scores, side="left")
    return (at_least + 1) / (len(ordered) + 1)


@dataclass(frozen=True)
class PredictedClasses:
    """Predicted classes of reference samples, by which later samples are compared with them.

    Figures and scores differ by class, and validation samples have other shares of the classes than later samples may
    have. Therefore they are standardised by predicted class: by mean and deviation, shrunk towards those of all
    samples. See `docs/adr/0028`.
    """

    predicted: Int[np.ndarray, " reference"]
    classes: int

    def p_values(
        self,
        scores: Float[np.ndarray, " sample"],
        predicted: Int[np.ndarray, " sample"],
        reference: Float[np.ndarray, " reference"],
    ) -> Float[np.ndarray, " sample"]:
        """Empirical p-values of samples, given their predicted classes and the reference samples' scores.

        Each sample is standardised among the reference samples, as one of them (full conformal prediction), so that
        the p-value holds for samples like them, however few there are.
        """
        p_values = np.empty(len(scores))
        for number, (score, of) in enumerate(zip(scores, predicted, strict=True)):
            together = PredictedClasses(np.append(self.predicted, of), self.classes)
            standard = together._standardised(np.append(reference, score))
            p_values[number] = empirical_p_value(standard[-1:], standard[:-1])[0]
        return p_values

    def means(self, figures: Float[np.ndarray, "reference figure"]) -> Float[np.ndarray, "classes figure"]:
        """Mean of each figure by predicted class, shrunk towards that of all reference samples."""
        sums = np.zeros((self.classes, figures.shape[1]))
        np.add.at(sums, self.predicted, figures)
        counts = np.bincount(self.predicted, minlength=self.classes)[:, None]
        means: Float[np.ndarray, "classes figure"] = (sums + SHRINKAGE * figures.mean(axis=0)) / (counts + SHRINKAGE)
        return means

    def _standardised(self, scores: Float[np.ndarray, " reference"]) -> Float[np.ndarray, " reference"]:
        """Scores less their mean, in standard deviations, both by predicted class."""
        centred = scores - self.means(scores[:, None])[self.predicted, 0]
        variance = self.means(centred[:, None] ** 2)[self.predicted, 0]
        return centred / np.sqrt(np.where(variance > 0, variance, 1.0))

    def only(self, chosen: Int[np.ndarray, " some"]) -> "PredictedClasses":
        """Some of the reference samples."""
        return PredictedClasses(self.predicted[chosen], self.classes)

    def folds(self) -> list[tuple[Int[np.ndarray, " fitted"], Int[np.ndarray, " scored"]]]:
        """Parts of the reference samples, each behind all others; a single sample behind itself."""
        count = len(self.predicted)
        if count < 2:
            return [(np.arange(count), np.arange(count))]
        parts = np.array_split(np.random.default_rng(0).permutation(count), min(FOLDS, count))
        return [(np.setdiff1d(np.arange(count), part), part) for part in parts]


def load_predicted(calibration: Artifact) -> PredictedClasses:
    """Predicted classes of the validation samples of a calibration."""
    _, classes = calibration.shape("calibration/probability")
    return PredictedClasses(calibration.read("calibration/predicted"), classes)
