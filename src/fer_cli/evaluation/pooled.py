"""Several runs on one data set, their samples put together.

A shape that several networks read is several samples, which the bootstrap draws together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from fer_cli.artifacts import RunArtifacts
from fer_cli.errors import UsageError
from fer_cli.evaluation.baselines import best_on_validation
from fer_cli.evaluation.outcomes import Outcomes
from fer_cli.evaluation.scored import OURS, Scored

_NAMED = 3
"""Classes that an error names, of those that differ."""


def require_same_data(runs: Sequence[RunArtifacts], split: str) -> None:
    """Raise UsageError unless all runs are of the same shapes, in voxels, classes and split."""
    first = runs[0]
    for run in runs[1:]:
        one, other = first.voxels, run.voxels
        if one.id == other.id:
            continue
        if one.classes != other.classes:
            raise UsageError(
                f"runs of different data sets cannot be pooled: {first.paths.voxels} and {run.paths.voxels} differ in "
                f"their classes; {_apart(one.classes, other.classes)}."
            )
        for what, values in (
            ("input", (one.input, other.input)),
            (f"number of samples in the split {split!r}", tuple(len(v.indices(split)) for v in (one, other))),
        ):
            if values[0] != values[1]:
                raise UsageError(
                    f"runs of different data sets cannot be pooled: the {what} of {first.paths.voxels} is {values[0]}, "
                    f"but that of {run.paths.voxels} is {values[1]}."
                )
        raise UsageError(
            f"runs of different data sets cannot be pooled: {first.paths.voxels} has the content {one.id[:8]}, but "
            f"{run.paths.voxels} has {other.id[:8]}. Voxelize once, and train every run on the same voxels.h5."
        )


def _apart(one: Sequence[str], other: Sequence[str]) -> str:
    """Which classes only one of the two has, the first few by name; that their order differs if none."""
    lone = []
    for which, has, lacks in (("first", one, other), ("second", other, one)):
        if alone := [name for name in has if name not in lacks]:
            more = f" and {len(alone) - _NAMED} more" if len(alone) > _NAMED else ""
            lone.append(f"only the {which} has {', '.join(alone[:_NAMED])}{more}")
    return ", ".join(lone) or "they are the same in another order"


@dataclass(frozen=True)
class Pool:
    """The samples of all runs one after the other; those of a run are in the order of the voxel set."""

    parts: tuple[Scored, ...]

    def _joined(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate(list(arrays))

    @cached_property
    def outcomes(self) -> Outcomes:
        """What the networks and their codes make of the samples."""
        return Outcomes.joined([part.reading.outcomes for part in self.parts])

    @cached_property
    def run(self) -> Int[np.ndarray, " sample"]:
        """Which run each sample is of."""
        return np.repeat(np.arange(len(self.parts)), [len(part.reading.names) for part in self.parts])

    @cached_property
    def scores(self) -> dict[str, Float[np.ndarray, " sample"]]:
        """The scores that all runs have."""
        return {
            name: self._joined([part.scores[name] for part in self.parts])
            for name in self.parts[0].scores
            if all(name in part.scores for part in self.parts)
        }

    @property
    def kinds(self) -> dict[str, str]:
        """Whether a score is ours, a baseline or trivial."""
        return {name: self.parts[0].kinds[name] for name in self.scores}

    def best_baseline_on_validation(self) -> str:
        """The baseline that detects best on the validation samples of all runs together."""
        names = [name for name, kind in self.kinds.items() if kind != OURS]
        wrong = self._joined([part.validation_wrong for part in self.parts])
        scores = {name: self._joined([part.validation_scores[name] for part in self.parts]) for name in names}
        return best_on_validation(scores, wrong)
