"""The empirical p-value: how rare a score is among reference samples, within its predicted class."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from fer_cli.storage.artifact import Artifact

SHRINKAGE = 10
"""So many samples like those of all classes are added to each class when its mean and deviation are taken."""
FOLDS = 10


def empirical_p_value(
    scores: Float[np.ndarray, " sample"],
    reference: Float[np.ndarray, " reference"],
    weights: Float[np.ndarray, " reference"] | None = None,
) -> Float[np.ndarray, " sample"]:
    """Share of reference scores that are at least as high as each score, the sample itself counted in.

    Never zero: with n reference scores at least 1 / (n + 1). `weights` of the reference scores have a mean of 1; the
    sample counts as one.

    Source: the conformal p-value of Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World"; with weights,
    Tibshirani, Barber, Candès and Ramdas, "Conformal Prediction Under Covariate Shift", NeurIPS 2019.
    """
    order = np.argsort(reference)
    weights = np.ones(len(reference)) if weights is None else weights
    above = np.append(np.cumsum(weights[order][::-1])[::-1], 0.0)
    at_least = above[np.searchsorted(reference[order], scores, side="left")]
    p_values: Float[np.ndarray, " sample"] = np.minimum((at_least + 1) / (len(reference) + 1), 1.0)  # of rounded sums
    return p_values


@dataclass(frozen=True)
class PredictedClasses:
    """Predicted classes of reference samples, by which later samples are compared with them.

    Figures and scores differ by class, and validation samples have other shares of the classes than later samples may
    have. Therefore they are standardised by predicted class, by mean and deviation, shrunk towards those of all
    samples; and predicted classes count alike, but for those of few samples. See `docs/adr/0028`.
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

        Each sample is standardised among the reference samples, as one of them (full conformal prediction).
        """
        weights = self._weights()
        p_values = np.empty(len(scores))
        for number, (score, of) in enumerate(zip(scores, predicted, strict=True)):
            together = PredictedClasses(np.append(self.predicted, of), self.classes)
            standard = together._standardised(np.append(reference, score))
            p_values[number] = empirical_p_value(standard[-1:], standard[:-1], weights)[0]
        return p_values

    def means(self, figures: Float[np.ndarray, "reference figure"]) -> Float[np.ndarray, "classes figure"]:
        """Mean of each figure by predicted class, shrunk towards that of all reference samples."""
        sums = np.zeros((self.classes, figures.shape[1]))
        np.add.at(sums, self.predicted, figures)
        counts = np.bincount(self.predicted, minlength=self.classes)[:, None]
        means: Float[np.ndarray, "classes figure"] = (sums + SHRINKAGE * figures.mean(axis=0)) / (counts + SHRINKAGE)
        return means

    def _weights(self) -> Float[np.ndarray, " reference"]:
        """Weight of each reference sample, 1 on average: predicted classes have like sums, but those of few samples.

        A class of n samples has n / (n + `SHRINKAGE`) of the sum that a large one has, so that no few samples decide.
        """
        if not len(self.predicted):
            return np.zeros(0)
        weights = 1 / (np.bincount(self.predicted, minlength=self.classes)[self.predicted] + SHRINKAGE)
        return weights / weights.mean()

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
