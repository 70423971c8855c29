"""voxels.h5 → splits and batches.

Grids are kept packed, one bit a voxel, 4 KiB a sample at 32³: up to 64 MiB in memory, more in a temporary file.
"""

import difflib
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped, UInt8

from fer_cli.data.entries import whole_groups
from fer_cli.data.occupancy import VoxelSettings
from fer_cli.data.volumes import InputSpec, Volumes
from fer_cli.errors import ArtifactError, InputError, UsageError
from fer_cli.storage.artifact import Artifact, open_artifact
from fer_cli.storage.declarations import Json
from fer_cli.storage.schema import VOXELS
from fer_cli.storage.spooled import SpooledRows

_BLOCK = 256
_MOST_PACKED = 1 << 26
"""Bytes of packed grids that are held in memory; more are in a temporary file."""
_MOST_IN_MEMORY = 2 << 30
"""Bytes of intensities that are held in memory where a stage reads them again and again."""
VALIDATION_FRACTION = 0.1

Indices = Sequence[int] | Int[np.ndarray, " chosen"]


@dataclass(frozen=True)
class VolumeSet(ABC):
    """Named volumes with classes and splits, read a few at a time.

    `labels` are indices into `classes`, −1 where unknown; `splits` are `train`, `val`, `test` or `unlabelled`. `input`
    says what every volume is. `groups` are what samples belong to, empty where nothing; None if there are none.
    """

    names: list[str]
    labels: Int[np.ndarray, " sample"]
    splits: list[str]
    classes: tuple[str, ...]
    input: InputSpec
    groups: list[str] | None = field(default=None, kw_only=True)

    def __len__(self) -> int:
        return len(self.names)

    @property
    @abstractmethod
    def id(self) -> str:
        """Equal for equal content."""

    @property
    @abstractmethod
    def source(self) -> Path:
        """Where the volumes come from, as messages name it."""

    @abstractmethod
    def volumes(self, indices: Indices) -> Float[np.ndarray, "chosen channel x y z"]:
        """Voxel values of the given samples, in their order, float32."""

    def first_like(self, volume: Float[np.ndarray, "channel x y z"], among: Int[np.ndarray, " chosen"]) -> int | None:
        """Index of the first sample `among` these of the same volume, voxel for voxel; None if there is none."""
        candidates: list[int] = among.tolist()
        return next((index for index in candidates if np.array_equal(self.volumes([index])[0], volume)), None)

    @abstractmethod
    def repeats_training(self, indices: Int[np.ndarray, " chosen"]) -> Bool[np.ndarray, " chosen"]:
        """Whether the volume of each given sample is, voxel for voxel, that of some training sample."""

    def tensor(self, indices: Indices) -> Volumes:
        """The same as a network input."""
        return torch.from_numpy(self.volumes(indices))

    def indices(self, split: str) -> Int[np.ndarray, " chosen"]:
        """Indices of the samples of a split that have a class, ascending. Raises UsageError if there is none."""
        chosen = np.array([i for i, s in enumerate(self.splits) if s == split and self.labels[i] >= 0], dtype=np.int64)
        if not chosen.size:
            found = ", ".join(sorted(set(self.splits))) or "none"
            raise UsageError(f"{self.source} has no labelled sample in the split {split!r} (splits: {found}).")
        return chosen

    def index_of(self, name: str) -> int:
        """Index of the sample called `name`. Raises InputError that names similar samples."""
        try:
            return self.names.index(name)
        except ValueError:
            near = difflib.get_close_matches(name, self.names, n=3, cutoff=0.5)
            hint = f" Near: {', '.join(near)}." if near else ""
            raise InputError(f"there is no file and no sample called {name!r}.{hint}") from None


@dataclass(frozen=True)
class VoxelSet(VolumeSet):
    """The samples of a voxels.h5.

    `packed` holds all grids, one bit for each voxel, in memory or in a temporary file, or all intensities; where it is
    None, volumes are read from the artifact.
    """

    artifact: Artifact
    packed: UInt8[np.ndarray, "sample byte"] | Shaped[np.ndarray, "sample channel x y z"] | SpooledRows | None

    @property
    def id(self) -> str:
        """Id of the artifact."""
        return self.artifact.id

    @property
    def source(self) -> Path:
        """Path of the artifact."""
        return self.artifact.path

    @property
    def voxelization(self) -> Json:
        """How shapes were voxelized; empty for volumes."""
        settings: Json = self.artifact.config.get("voxelization", {})
        return settings

    @property
    def preparation(self) -> Json:
        """What was done to the volumes of files; empty for shapes, and for volumes that were stored as they are."""
        settings: Json = self.artifact.config.get("preparation", {})
        return settings

    @property
    def made_by(self) -> dict[str, object]:
        """Keys of a model's configuration: how its samples were made, so that a new file is treated alike."""
        prepared = {"preparation": self.preparation} if self.preparation else {}
        return {"voxelization": self.voxelization, **prepared}

    def volumes(self, indices: Indices) -> Float[np.ndarray, "chosen channel x y z"]:
        """See `VolumeSet.volumes`; of grids one channel, 1 where a voxel is occupied and 0 elsewhere."""
        if self.input.kind == "occupancy":
            return self.grids(indices)[:, None].astype(np.float32)
        chosen = np.asarray(indices, dtype=np.int64)
        if self.packed is not None:
            return self.packed[chosen].astype(np.float32)
        distinct, back = np.unique(chosen, return_inverse=True)
        return self.artifact.read("intensity", distinct)[back].astype(np.float32)

    def repeats_training(self, indices: Int[np.ndarray, " chosen"]) -> Bool[np.ndarray, " chosen"]:
        """Whether the grid of each given sample is, voxel for voxel, that of some training sample."""
        first = self.artifact.read("record/duplicate_of")
        first = np.where(first < 0, np.arange(len(first)), first)
        in_training = np.array(self.splits) == "train"
        return np.isin(first[indices], first[in_training])

    def grids(self, indices: Indices) -> UInt8[np.ndarray, "chosen x y z"]:
        """Occupancy of the given samples, in their order. Raises InputError where the file holds intensities."""
        if self.input.kind != "occupancy":
            raise InputError(f"{self.source} holds intensities, not occupancy grids.")
        chosen = np.asarray(indices, dtype=np.int64)
        if self.packed is not None:
            bits = np.unpackbits(self.packed[chosen], axis=1, count=math.prod(self.input.shape))
            return bits.reshape(len(chosen), *self.input.shape)
        distinct, back = np.unique(chosen, return_inverse=True)  # HDF5 reads ascending indices only
        return self.artifact.read("occupancy", distinct)[back]

    def as_attached(self, fitted_on: str, validation: Int[np.ndarray, " validation"]) -> "VoxelSet":
        """The same set with the split `fitted_on` as `train`, and of it the `validation` samples as `val`.

        A split `train` that is not it becomes `unlabelled`.
        """
        splits = [
            "train" if split == fitted_on else "unlabelled" if split == "train" else split for split in self.splits
        ]
        for index in validation:
            splits[index] = "val"
        return replace(self, splits=splits)

    def index_to_world(self, index: int) -> Float[np.ndarray, "4 4"]:
        """Affine map from voxel centres of a sample to the units of its source."""
        return self.artifact.read("index_to_world", index)

    def training_sizes(self, label: int) -> Float[np.ndarray, " chosen"]:
        """Longest sides of the training shapes of a class, in the units of their source; none in older files."""
        if "record/extent" not in self.artifact:
            return np.zeros(0)
        chosen = np.array([split == "train" for split in self.splits]) & (self.labels == label)
        edges = np.linalg.norm(self.artifact.read("index_to_world")[chosen, :3, 0], axis=1)
        sizes: np.ndarray = edges * self.artifact.read("record/extent")[chosen].max(axis=1, initial=0)
        return sizes

    def first_like(self, volume: Float[np.ndarray, "channel x y z"], among: Int[np.ndarray, " chosen"]) -> int | None:
        """See `VolumeSet.first_like`; only samples with as many occupied voxels, or values other than 0, are read."""
        return super().first_like(
            volume, among[self.artifact.read("record/n_occupied")[among] == np.count_nonzero(volume)]
        )

    def is_placed(self, index: int) -> bool:
        """Whether the file of a volume told where it lies in the world."""
        return "placed" in self.artifact and bool(self.artifact.read("placed", index))


def open_voxels(path: Path, *, in_memory: bool = False) -> VoxelSet:
    """The voxel set of a voxels.h5; `in_memory` packs all grids for repeated passes, many into a temporary file.

    Raises ArtifactError where the content is not as the schema has it.
    """
    artifact = open_artifact(path, VOXELS)
    with artifact.interpreted():
        if "volumes" not in artifact.config:
            VoxelSettings.from_json(artifact.config["voxelization"])
        classes = artifact.attribute("classes")
        if not (isinstance(classes, list) and all(isinstance(name, str) for name in classes)):
            raise TypeError(f"classes are {repr(classes)[:80]}")
    labels = artifact.read("label")
    if "intensity" in artifact:
        with artifact.interpreted():
            read = InputSpec.from_json(artifact.config["volumes"])
        count, *volume = artifact.shape("intensity")
        if tuple(volume) != read.volume:
            raise ArtifactError(f"{path}: intensities of shape {tuple(volume)} are not the volumes of {read} it names.")
    elif "occupancy" in artifact:
        count, *sides = artifact.shape("occupancy")
        read = InputSpec(1, (sides[0], sides[1], sides[2]))
    else:
        raise ArtifactError(f"{path} holds neither occupancy nor intensity.")
    if not count or not all(read.volume):
        what = "grids" if read.kind == "occupancy" else "volumes"
        shape = (count, *(read.shape if read.kind == "occupancy" else read.volume))
        name = "occupancy" if read.kind == "occupancy" else "intensity"
        raise ArtifactError(f"{path}: {name} has shape {shape}; {what} of some samples are needed.")
    if labels.min() < -1 or labels.max() >= len(classes):
        raise ArtifactError(
            f"{path}: labels run from {labels.min()} to {labels.max()}, but classes are {repr(classes)[:200]}."
        )
    packed: np.ndarray | SpooledRows | None = None
    if in_memory and read.kind == "occupancy":
        rows = SpooledRows(-(-math.prod(read.shape) // 8), np.uint8)
        for block in artifact.blocks("occupancy", _BLOCK):
            rows.append(np.packbits(block.reshape(len(block), -1), axis=1))
        packed = rows[:] if rows.nbytes <= _MOST_PACKED else rows
    elif in_memory and artifact.size("intensity") <= _MOST_IN_MEMORY:
        for number, block in enumerate(artifact.blocks("intensity", _BLOCK)):
            packed = np.empty((count, *block.shape[1:]), block.dtype) if packed is None else packed
            packed[number * _BLOCK :][: len(block)] = block
    return VoxelSet(
        names=artifact.read_text("name"),
        labels=labels,
        splits=artifact.read_text("split"),
        groups=artifact.read_text("group") if "group" in artifact else None,
        classes=tuple(classes),
        input=read,
        artifact=artifact,
        packed=packed,
    )


def hold_out(
    labels: Int[np.ndarray, " sample"], fraction: float, seed: int, groups: Sequence[str] | None = None
) -> tuple[Int[np.ndarray, " kept"], Int[np.ndarray, " held"]]:
    """Positions of a stratified random share of the samples and of the rest: (kept, held out), ascending.

    Each class with two samples or more gives at least one and keeps at least one. Samples of one group, other than the
    empty one, go together; then the share is as near as whole groups come to it.
    """
    generator = np.random.default_rng(seed)
    mask = np.zeros(len(labels), dtype=bool)
    wanted: dict[int, int] = {}
    for label in np.unique(labels).tolist():
        members = generator.permutation(np.flatnonzero(labels == label))
        wanted[label] = min(max(1, round(len(members) * fraction)), len(members) - 1)
        if groups is None:
            mask[members[: wanted[label]]] = True
    if groups is not None:
        by_group: dict[str, list[int]] = {}
        for sample, group in enumerate(groups):
            by_group.setdefault(group or f"\0{sample}", []).append(sample)
        drawn = [by_group[group] for group in generator.permutation(sorted(by_group)).tolist()]
        for number in whole_groups([Counter(labels[members].tolist()) for members in drawn], wanted):
            mask[drawn[number]] = True
    return np.flatnonzero(~mask), np.flatnonzero(mask)


def validation_split(voxels: VolumeSet, split: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Samples to train on, of `split`, and to validate on: those of the split `val`, else a tenth of `split` held out.

    Indices, ascending. A group is on one side.
    """
    fitted = voxels.indices(split)
    if split != "val" and any(
        of == "val" and label >= 0 for of, label in zip(voxels.splits, voxels.labels, strict=True)
    ):
        return fitted, voxels.indices("val")
    groups = None if voxels.groups is None else [voxels.groups[index] for index in fitted]
    kept, held = hold_out(voxels.labels[fitted], VALIDATION_FRACTION, seed, groups)
    return fitted[kept], fitted[held]
