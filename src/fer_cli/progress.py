"""What the long stages tell while they run; plain data, so that showing it needs no stage."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EpochRecord:
    """One line of a training history; see `docs/schema.md` for units."""

    phase: str
    epoch: int
    training_loss: float
    validation_loss: float
    validation_score: float
    seconds: float


@dataclass(frozen=True)
class TrainingProgress:
    """Where a run is: within an epoch (`record` is None) or at the end of one."""

    phase: str
    epoch: int
    epochs: int
    batch: int
    batches: int
    loss: float
    record: EpochRecord | None = None


@dataclass(frozen=True)
class ClusteringProgress:
    """Locations done of a layer in a path."""

    path: str
    layer: str
    done: int
    locations: int
