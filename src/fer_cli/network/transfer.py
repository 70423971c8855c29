"""A classifier taken over from another model: to be kept, or to start from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int

from fer_cli.errors import UsageError
from fer_cli.execution.progress import EpochRecord
from fer_cli.network.activations import FEEDFORWARD
from fer_cli.network.dataset import VoxelSet
from fer_cli.network.model import OUTPUT, PRESETS, Encoder, FERNet, NetworkConfig
from fer_cli.network.weights import load_network
from fer_cli.storage.artifact import open_artifact
from fer_cli.storage.history import read_history
from fer_cli.storage.schema import MODEL

Role = Literal["encoder", "pretrained"]
"""Whether the classifier is kept bit for bit, or its layers are what training starts from; the parent's name too."""


@dataclass(frozen=True)
class GivenEncoder:
    """The classifier of another model; if it was trained on the same voxels, its held-out samples and its history."""

    role: Role
    id: str
    preset: str
    network: FERNet
    validation: Int[np.ndarray, " validation"] | None
    history: list[EpochRecord]

    @classmethod
    def to_keep(cls, path: Path, voxel_set: VoxelSet) -> "GivenEncoder":
        """The classifier of the model.h5 `path`, to be kept. Raises UsageError unless it tells what the voxels hold."""
        given = cls._read(path, voxel_set, "encoder")
        _check_classes(path, given.network.config, voxel_set)
        _check_resolution(path, given.network.config, voxel_set)
        return given

    @classmethod
    def to_start_from(cls, path: Path, voxel_set: VoxelSet, preset: str) -> "GivenEncoder":
        """The same to start from, whatever its classes. Raises UsageError unless it has the layers of `preset`."""
        given = cls._read(path, voxel_set, "pretrained")
        if given.network.config.layers != PRESETS[preset]:
            raise UsageError(f"{path} is of preset {given.preset}, not {preset}. Give --preset {given.preset}.")
        _check_resolution(path, given.network.config, voxel_set)
        return given

    @classmethod
    def _read(cls, path: Path, voxel_set: VoxelSet, role: Role) -> "GivenEncoder":
        with open_artifact(path, MODEL) as artifact:
            same = artifact.parents["voxels"] == voxel_set.id
            return cls(
                role,
                artifact.id,
                artifact.config["training"]["preset"],
                load_network(artifact),
                artifact.read("validation/index") if same else None,
                [record for record in read_history(artifact) if same and record.phase == FEEDFORWARD],
            )

    @property
    def is_kept(self) -> bool:
        """Whether the classifier is not trained further."""
        return self.role == "encoder"

    def copy_to(self, encoder: Encoder) -> None:
        """Put the weights into a classifier of the same layers; into the output only where the classes are the same."""
        state = self.network.encoder.state_dict()
        if self.network.config.classes != encoder.config.classes:
            state = {name: tensor for name, tensor in state.items() if not name.startswith(f"blocks.{OUTPUT}.")}
        encoder.load_state_dict(state, strict=False)


def preset_of(path: Path) -> str:
    """The preset that the model.h5 `path` was trained by. Raises ArtifactError where it is none."""
    with open_artifact(path, MODEL) as artifact, artifact.interpreted():
        return str(artifact.config["training"]["preset"])


def _check_classes(path: Path, config: NetworkConfig, voxel_set: VoxelSet) -> None:
    if config.classes != voxel_set.classes:
        raise UsageError(
            f"{path} tells {len(config.classes)} classes apart ({', '.join(config.classes[:3])}, …), but the voxels "
            f"have {len(voxel_set.classes)} ({', '.join(voxel_set.classes[:3])}, …). Give an encoder of these classes, "
            "or start from its layers by --pretrained."
        )


def _check_resolution(path: Path, config: NetworkConfig, voxel_set: VoxelSet) -> None:
    if config.resolution != voxel_set.resolution:
        raise UsageError(
            f"{path} reads {config.resolution}³ voxels, but these are {voxel_set.resolution}³. "
            f"Run 'fer voxelize --resolution {config.resolution}'."
        )
