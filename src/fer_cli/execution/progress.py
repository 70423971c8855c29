"""What the long stages tell while they run; plain data, so that showing it needs no stage."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class EpochRecord:
    """One line of a training history; see `docs/schema.md` for units. None if a phase has no such value."""

    phase: str
    epoch: int
    training_loss: float
    class_loss: float | None
    voxel_loss: float | None
    feature_loss: float | None
    validation_loss: float
    validation_score: float
    seconds: float


@dataclass(frozen=True)
class TrainingProgress:
    """Where a run is: within an epoch (`record` is None) or at the end of one.

    `terms` add up to the loss; `score_name` says what the validation score is.
    """

    phase: str
    epoch: int
    epochs: int
    batch: int
    batches: int
    shapes_per_second: float
    terms: Mapping[str, float]
    score_name: str
    record: EpochRecord | None = None

    @property
    def loss(self) -> float:
        """Mean loss of the last batch."""
        return sum(self.terms.values())


@dataclass(frozen=True)
class ClusteringProgress:
    """Where `fer cluster` is: `done` of `total` samples read by the network, or locations of the layer clustered."""

    doing: str
    done: int
    total: int
    path: str = ""
    layer: str = ""


EXTRACTING, FITTING, COUNTING, CHOOSING = "extracting", "fitting", "counting", "choosing k"
