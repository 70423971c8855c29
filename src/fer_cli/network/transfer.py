"""A classifier taken over from another model, for a feedback network of its own."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from fer_cli.errors import UsageError
from fer_cli.execution.progress import EpochRecord
from fer_cli.network.activations import FEEDFORWARD
from fer_cli.network.dataset import VoxelSet
from fer_cli.network.model import FERNet, NetworkConfig, load_network
from fer_cli.storage.artifact import Artifact, open_artifact
from fer_cli.storage.history import read_history
from fer_cli.storage.schema import MODEL


@dataclass(frozen=True)
class GivenEncoder:
    """The classifier of another model; if it was trained on the same voxels, its held-out samples and its history."""

    id: str
    preset: str
    network: FERNet
    validation: Int[np.ndarray, " validation"] | None
    history: list[EpochRecord]

    @classmethod
    def read(cls, path: Path, voxel_set: VoxelSet) -> "GivenEncoder":
        """The classifier of the model.h5 `path`. Raises UsageError unless it reads and tells what the voxels hold."""
        with open_artifact(path, MODEL) as artifact:
            network = load_network(artifact)
            _check_encoder(path, artifact, network.config, voxel_set)
            same = artifact.parents["voxels"] == voxel_set.id
            return cls(
                artifact.id,
                artifact.config["training"]["preset"],
                network,
                artifact.read("validation/index") if same else None,
                [record for record in read_history(artifact) if same and record.phase == FEEDFORWARD],
            )


def _check_encoder(path: Path, artifact: Artifact, config: NetworkConfig, voxel_set: VoxelSet) -> None:
    if config.classes != voxel_set.classes:
        raise UsageError(
            f"{path} tells {len(config.classes)} classes apart ({', '.join(config.classes[:3])}, …), but the voxels "
            f"have {len(voxel_set.classes)} ({', '.join(voxel_set.classes[:3])}, …). Give an encoder of these classes."
        )
    if config.resolution != voxel_set.resolution:
        raise UsageError(
            f"{path} reads {config.resolution}³ voxels, but these are {voxel_set.resolution}³. "
            f"Run 'fer voxelize --resolution {config.resolution}'."
        )
