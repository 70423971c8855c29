"""A whole split read through the clusters: what the layers speak for, and the samples that stand for the rest.

What the paper shows on chosen samples is counted here over all of them; samples to show are picked by a written rule.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from fer_cli.artifacts import RunArtifacts
from fer_cli.codebooks.reconstruction import mean_errors
from fer_cli.evaluation.results import Errors, Shares
from fer_cli.evaluation.shares import Measured
from fer_cli.evaluation.split_reading import read_split

RULE = (
    "Of each class, in alphabetical order, the sample in the middle when its correctly classified samples (Figs 4, 5) "
    "or its misclassified ones (Figs 6, 7) are ordered by suspicion, the lower one of two in the middle, by name where "
    "suspicion is equal. Figs 4 and 6 show the first three, Figs 5 and 7 the first seven. Figs 2 and 3 show the sample "
    "in the middle of all correctly classified ones; Fig. 2 at each layer the location whose receptive field holds the "
    "most occupied voxels, the first of equals."
)


@dataclass(frozen=True)
class Survey:
    """Labelled samples of a split with labels, predictions and the classes that their codes speak for.

    `speaks_for[path][layer]` is the class with the most evidence; `nearest` the nearest training sample's class.
    """

    names: list[str]
    labels: Int[np.ndarray, " sample"]
    predicted: Int[np.ndarray, " sample"]
    suspicion: Float[np.ndarray, " sample"]
    errors: dict[str, Float[np.ndarray, " sample"]]
    nearest: Int[np.ndarray, " sample"]
    speaks_for: dict[str, dict[str, Int[np.ndarray, " sample"]]]

    @property
    def correct(self) -> Bool[np.ndarray, " sample"]:
        """Whether each sample is classified correctly."""
        return self.labels == self.predicted

    def typical(self, *, correct: bool) -> list[str]:
        """The sample of each class that `RULE` picks, in label order; classes without such a sample are left out."""
        picked = (self._middle((self.correct == correct) & (self.labels == label)) for label in np.unique(self.labels))
        return [name for name in picked if name is not None]

    def most_typical(self) -> str | None:
        """The sample in the middle of all correctly classified ones; None if there is none."""
        return self._middle(self.correct)

    def shares(self) -> dict[str, Shares]:
        """What the figures are to show, counted over the split; see the keys of `fer figures --json`."""
        return Measured(self.labels, self.predicted, self.nearest, self.errors, self.speaks_for).shares()

    def table1(self) -> dict[str, Errors | None]:
        """Table I's errors, means over all, correct and misclassified samples, as `fer evaluate` has them."""
        groups = {"all": np.ones_like(self.correct), "correct": self.correct, "misclassified": ~self.correct}
        return {name: mean_errors(self.errors, chosen) for name, chosen in groups.items()}

    def _middle(self, among: Bool[np.ndarray, " sample"]) -> str | None:
        ordered = sorted(np.flatnonzero(among), key=lambda i: (self.suspicion[i], self.names[i]))
        return self.names[ordered[(len(ordered) - 1) // 2]] if ordered else None


def survey(
    run: RunArtifacts, *, split: str = "test", report: Callable[[int, int], None] = lambda done, total: None
) -> Survey:
    """Read every labelled sample of a split. Raises UsageError if there is none, and what opening the run raises."""
    found = read_split(run, split, report=report)
    return Survey(
        names=found.names,
        labels=found.labels,
        predicted=found.predicted,
        suspicion=run.calibration.suspicion(found.confidence),
        errors=found.errors,
        nearest=found.nearest,
        speaks_for=found.speaks_for,
    )
