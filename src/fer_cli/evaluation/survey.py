"""The samples of a split that the paper's figures show: picked by a written rule, not by hand."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from fer_cli.artifacts import RunArtifacts
from fer_cli.evaluation.outcomes import Outcomes
from fer_cli.evaluation.split_reading import read_split

RULE = (
    "Of each class, in alphabetical order, the sample in the middle when its correctly classified samples (Figs 4, 5) "
    "or its misclassified ones (Figs 6, 7) are ordered by suspicion, the lower one of two in the middle, by name where "
    "suspicion is equal. Figs 4 and 6 show the first three, Figs 5 and 7 the first seven. Figs 2 and 3 show the sample "
    "in the middle of all correctly classified ones; Fig. 2 at each layer the location whose receptive field holds the "
    "largest sum of voxel values (of occupancy: the most occupied voxels), the first of equals."
)


@dataclass(frozen=True)
class Survey:
    """The labelled samples of a split, with names and suspicion, to pick samples from."""

    names: list[str]
    outcomes: Outcomes
    suspicion: Float[np.ndarray, " sample"]

    def typical(self, *, correct: bool) -> list[str]:
        """The sample of each class that `RULE` picks, in label order; classes without such a sample are left out."""
        labels, wrong = self.outcomes.labels, self.outcomes.wrong
        picked = (self._middle((wrong != correct) & (labels == label)) for label in np.unique(labels))
        return [name for name in picked if name is not None]

    def most_typical(self) -> str | None:
        """The sample in the middle of all correctly classified ones; None if there is none."""
        return self._middle(~self.outcomes.wrong)

    def _middle(self, among: Bool[np.ndarray, " sample"]) -> str | None:
        ordered = sorted(np.flatnonzero(among), key=lambda i: (self.suspicion[i], self.names[i]))
        return self.names[ordered[(len(ordered) - 1) // 2]] if ordered else None


def survey(
    run: RunArtifacts, *, split: str = "test", report: Callable[[int, int], None] = lambda done, total: None
) -> Survey:
    """Read every labelled sample of a split. Raises UsageError if there is none, and what opening the run raises."""
    found = read_split(run, split, report=report)
    return Survey(found.names, found.outcomes, run.calibration.suspicion(found.confidence))
