"""A classifier taken over from another model: to be kept, or to start from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int

from fer_cli.data.dataset import VoxelSet
from fer_cli.errors import ArtifactError, UsageError
from fer_cli.execution.progress import EpochRecord
from fer_cli.network.activations import FEEDFORWARD
from fer_cli.network.attached.model_file import is_attached
from fer_cli.network.backbone import OUTPUT
from fer_cli.network.fer_cnn import FERCNN, PRESETS, NetworkConfig, unreduced
from fer_cli.network.weights import load_classifier
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
    classifier: FERCNN
    validation: Int[np.ndarray, " validation"] | None
    history: list[EpochRecord]

    @classmethod
    def to_keep(cls, path: Path, voxel_set: VoxelSet) -> "GivenEncoder":
        """The classifier of the model.h5 `path`, to be kept. Raises UsageError unless it tells what the voxels hold."""
        given = cls._read(path, voxel_set, "encoder")
        _check_classes(path, given.classifier.config, voxel_set)
        _check_resolution(path, given.classifier.config, voxel_set)
        return given

    @classmethod
    def to_start_from(cls, path: Path, voxel_set: VoxelSet, preset: str) -> "GivenEncoder":
        """The same to start from, whatever its classes. Raises UsageError unless it has the layers of `preset`."""
        given = cls._read(path, voxel_set, "pretrained")
        if given.preset != preset:
            raise UsageError(f"{path} is of preset {given.preset}, not {preset}. Give --preset {given.preset}.")
        _check_resolution(path, given.classifier.config, voxel_set)
        if given.classifier.config.layers != unreduced(PRESETS[preset], voxel_set.input):
            raise UsageError(f"{path} has other layers than preset {preset} has in this fer. Give another model.")
        return given

    @classmethod
    def _read(cls, path: Path, voxel_set: VoxelSet, role: Role) -> "GivenEncoder":
        with open_artifact(path, MODEL) as artifact:
            same = artifact.parents["voxels"] == voxel_set.id
            return cls(
                role,
                artifact.id,
                artifact.config["training"]["preset"],
                load_classifier(artifact)[0],
                artifact.read("validation/index") if same else None,
                [record for record in read_history(artifact) if same and record.phase == FEEDFORWARD],
            )

    @property
    def is_kept(self) -> bool:
        """Whether the classifier is not trained further."""
        return self.role == "encoder"

    def copy_to(self, encoder: FERCNN) -> None:
        """Put the weights into a classifier of the same layers; into the output only where the classes are the same."""
        state = self.classifier.state_dict()
        if self.classifier.config.classes != encoder.config.classes:
            state = {name: tensor for name, tensor in state.items() if not name.startswith(f"blocks.{OUTPUT}.")}
        encoder.load_state_dict(state, strict=False)


def preset_of(path: Path) -> str:
    """The preset that the model.h5 `path` was trained by.

    Raises ArtifactError where it is no model.h5, UsageError where its classifier is an attached one.
    """
    if path.suffix.lower() in (".pt", ".pth", ".ckpt", ".safetensors", ".onnx", ".pt2"):
        raise ArtifactError(f"{path} is no model.h5. Run 'fer attach' to explain a network of your own.")
    with open_artifact(path, MODEL) as artifact:
        if is_attached(artifact.config):
            raise UsageError(f"{path} is of an attached network, which fer does not train. Run 'fer attach' again.")
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
    if config.input != voxel_set.input:
        remedy = f" Run 'fer voxelize --resolution {config.input.shape[0]}'." if config.input.is_cube else ""
        raise UsageError(f"{path} reads {config.input} voxels, but these are {voxel_set.input}.{remedy}")
