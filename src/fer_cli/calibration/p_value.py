"""The empirical p-value: how rare a score is among reference samples, every predicted class alike."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

SHRINKAGE = 10
"""So many samples with the mean of all classes are added to those of each class when its mean is taken."""
FOLDS = 10


def empirical_p_value(
    scores: Float[np.ndarray, " sample"],
    reference: Float[np.ndarray, " reference"],
    *,
    weights: Float[np.ndarray, " reference"] | None = None,
    own: Float[np.ndarray, " sample"] | None = None,
) -> Float[np.ndarray, " sample"]:
    """Share of reference scores that are at least as high as each score, the sample itself counted in.

    Reference scores count by their `weights` and each sample by its `own` weight; all by 1 without. Never zero: with n
    reference scores of weight 1 at least 1 / (n + 1).

    Source: the conformal p-value of Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World"; its weights
    those of Tibshirani, Barber, Candès and Ramdas, "Conformal Prediction Under Covariate Shift", NeurIPS 2019.
    """
    weights = np.ones(len(reference)) if weights is None else weights
    own = np.ones(len(scores)) if own is None else own
    order = np.argsort(reference)
    below = np.concatenate([[0.0], weights[order].cumsum()])
    at_least = below[-1] - below[np.searchsorted(reference[order], scores, side="left")]
    p_values: Float[np.ndarray, " sample"] = (np.maximum(at_least, 0) + own) / (below[-1] + own)
    return p_values


@dataclass(frozen=True)
class PredictedClasses:
    """Predicted classes of reference samples, by which later samples are compared with them.

    Validation samples have the classes' shares of the training split, later samples may have others. Therefore each
    predicted class has the same weight among the reference samples. The scale of a figure differs by class too, so that
    its mean is taken by class.
    """

    predicted: Int[np.ndarray, " reference"]
    classes: int

    def p_values(
        self,
        scores: Float[np.ndarray, " sample"],
        predicted: Int[np.ndarray, " sample"],
        reference: Float[np.ndarray, " reference"],
    ) -> Float[np.ndarray, " sample"]:
        """Empirical p-values of samples, given their predicted classes and the reference samples' scores."""
        share = 1 / np.maximum(1, np.bincount(self.predicted, minlength=self.classes))
        return empirical_p_value(scores, reference, weights=share[self.predicted], own=share[predicted])

    def smallest(self) -> float:
        """The smallest p-value that a sample of the most frequent predicted class can have; 1 without references."""
        counts = np.bincount(self.predicted, minlength=self.classes)
        if not counts.sum():
            return 1.0
        own = 1 / counts.max()
        return float(own / ((counts > 0).sum() + own))

    def means(self, figures: Float[np.ndarray, "reference figure"]) -> Float[np.ndarray, "classes figure"]:
        """Mean of each figure by predicted class, shrunk towards that of all reference samples."""
        sums = np.zeros((self.classes, figures.shape[1]))
        np.add.at(sums, self.predicted, figures)
        counts = np.bincount(self.predicted, minlength=self.classes)[:, None]
        means: Float[np.ndarray, "classes figure"] = (sums + SHRINKAGE * figures.mean(axis=0)) / (counts + SHRINKAGE)
        return means

    def only(self, chosen: Int[np.ndarray, " some"]) -> "PredictedClasses":
        """Some of the reference samples."""
        return PredictedClasses(self.predicted[chosen], self.classes)

    def folds(self) -> list[tuple[Int[np.ndarray, " fitted"], Int[np.ndarray, " scored"]]]:
        """Parts of the reference samples, each behind all others: no sample is scored by statistics that it is in.

        A single reference sample has no others; it is scored by its own.
        """
        count = len(self.predicted)
        if count < 2:
            return [(np.arange(count), np.arange(count))]
        parts = np.array_split(np.random.default_rng(0).permutation(count), min(FOLDS, count))
        return [(np.setdiff1d(np.arange(count), part), part) for part in parts]
