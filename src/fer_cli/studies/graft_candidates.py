"""Grafts to try on a run's samples: parts of its training shapes on receivers, chairs' backs on synthetic tables."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
from jaxtyping import Int

from fer_cli.artifacts import RunArtifacts
from fer_cli.data.occupancy import VoxelSettings
from fer_cli.data.volumes import InputSpec
from fer_cli.studies.findings import GRAFT, SYNTHETIC
from fer_cli.studies.grafts import Graft, graft_back, graft_part

GRAFTS = (
    ("table", "chair"), ("table", "sofa"), ("bed", "chair"), ("bed", "sofa"),
    ("night_stand", "chair"), ("dresser", "chair"), ("sofa", "chair"),
)  # fmt: skip
"""Classes of receiver and giver; chosen on validation shapes as those that often turn, `docs/adr/0018`."""
GIVERS = 3
"""Most givers to try on a receiver; the first that changes the prediction is kept."""
_MOST_SYNTHETIC = 100


@dataclass(frozen=True)
class Candidate:
    """A graft to try; after the first of a `receiver` that turns the prediction its others are left out."""

    kind: str
    receiver: str
    pair: tuple[str, str]
    graft: Graft


def part_grafts(
    run: RunArtifacts, right: Int[np.ndarray, " sample"], generator: np.random.Generator
) -> Iterator[Candidate]:
    """Parts of training shapes on receivers, of every pair of classes in turn; none where volumes are no shapes."""
    voxels = run.voxels
    if not _reads_shapes(run):
        return
    training = np.setdiff1d(voxels.indices("train"), run.model.read("validation/index"))
    padding = VoxelSettings.from_json(run.model.config["voxelization"]).padding

    def of_pair(receiver: str, giver: str) -> Iterator[list[Candidate]]:
        classes = voxels.classes
        givers = training[voxels.labels[training] == classes.index(giver)]
        for index in generator.permutation(right[voxels.labels[right] == classes.index(receiver)]).tolist():
            found = []
            for other in generator.permutation(givers)[:GIVERS].tolist():
                grafted = graft_part(*voxels.grids([index, other]), padding=padding)
                if grafted is not None:
                    found.append(Candidate(GRAFT, voxels.names[index], (receiver, giver), grafted))
            yield found

    pairs = [of_pair(*pair) for pair in GRAFTS if set(pair) <= set(voxels.classes)]
    for row in zip_longest(*pairs, fillvalue=()):
        for candidates in row:
            yield from candidates


def back_grafts(run: RunArtifacts, generator: np.random.Generator) -> Iterator[Candidate]:
    """Chairs' backs on synthetic tables; none where the network knows neither class."""
    pair = ("table", "chair")
    if set(pair) <= set(run.voxels.classes) and _reads_shapes(run):
        settings = VoxelSettings.from_json(run.model.config["voxelization"])
        for number in range(_MOST_SYNTHETIC):
            yield Candidate(SYNTHETIC, f"synthetic_{number:03}", pair, graft_back(generator, settings))


def _reads_shapes(run: RunArtifacts) -> bool:
    """Whether the network reads occupancy as `fer voxelize` makes it."""
    if not run.model.config["voxelization"]:  # volumes that were stored as they are
        return False
    side = VoxelSettings.from_json(run.model.config["voxelization"]).resolution
    return run.network.spec.input == InputSpec(1, (side, side, side))
