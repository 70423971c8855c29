"""Volumes of a user's own dataset → voxels.h5: arrays, or a `torch.utils.data.Dataset` of (volume, label[, name]).

What is stored is what the model reads, after its preprocessing. Volumes of one channel that hold only 0 and 1 are
occupancy grids; others are intensities.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Shaped

from fer_cli.data.duplicates import DuplicateCounts, count_duplicates, find_duplicates
from fer_cli.data.entries import Skipped, described
from fer_cli.data.formats.volume import spacing_of
from fer_cli.data.places import Kind
from fer_cli.data.volumes import InputSpec
from fer_cli.errors import InputError, UsageError
from fer_cli.storage.artifact_writer import ArtifactWriter
from fer_cli.storage.outputs import check_output, claim_output
from fer_cli.storage.schema import VOXELS

_BLOCK = 64
_KEYS = (("image", "volume", "img", "input"), ("label", "target", "class"), ("name", "id"))
"""Keys of samples that are mappings, as MONAI's are: volume, label, name."""


@dataclass(frozen=True)
class _Item:
    volume: Float32[np.ndarray, "channel x y z"]
    label: Any
    name: str | None


def save_volumes(
    path: str | Path,
    train: Any,
    *,
    test: Any = None,
    val: Any = None,
    classes: Sequence[str] | None = None,
    kind: Kind | None = None,
    spacing: Sequence[float | int] | None = None,
    force: bool = False,
) -> InputSpec:
    """Write the volumes of a dataset and their labels to `path`; answers what every volume is.

    `train`, `test` and `val` are each a sequence of (volume, label) or (volume, label, name), such as a
    `torch.utils.data.Dataset`, of mappings with `image` and `label`, or a pair of arrays (volumes, labels). A volume
    has axes (channel, x, y, z), or (x, y, z) for one channel; all have one shape. Labels are indices into `classes`, or
    their names; without `classes`, classes are called 0, 1, … `kind` is found on the values of the first 64 volumes.
    `spacing` is the edges of a voxel in millimetres.

    Raises InputError for volumes that are not finite, differ in shape or are no numbers, for labels that are no class
    and for names that repeat; UsageError for a file that exists, unless `force`.
    """
    output = Path(path)
    check_output(output)
    parts = {name: given for name, given in (("train", train), ("val", val), ("test", test)) if given is not None}
    names_of_classes = _classes(parts, classes)
    steps = None if spacing is None else (float(spacing[0]), float(spacing[1]), float(spacing[2]))
    with claim_output(output, force=force):
        volumes = _volumes(parts, names_of_classes, np.diag([*(steps or (1.0, 1.0, 1.0)), 1.0]))
        return write_volumes(output, volumes, names_of_classes, kind=kind, spacing=steps).input


@dataclass(frozen=True)
class Volume:
    """A volume to be stored, and what is recorded of it; `label` is −1 where it has no class.

    `is_placed` and `is_measured` are as in `Scan`.
    """

    values: Shaped[np.ndarray, "channel x y z"]
    name: str
    label: int
    split: str
    index_to_world: Float64[np.ndarray, "4 4"]
    source: str
    group: str = ""
    columns: tuple[tuple[str, str], ...] = ()
    is_placed: bool = False
    is_measured: bool = False


@dataclass(frozen=True)
class WrittenVolumes:
    """What was written: what every volume is, the type it is stored in, and samples by class and split."""

    input: InputSpec
    stored: str
    counts: dict[str, dict[str, int]]
    duplicates: DuplicateCounts


def write_volumes(
    output: Path,
    volumes: Iterator[Volume],
    classes: tuple[str, ...],
    *,
    kind: Kind | None,
    spacing: tuple[float, float, float] | None = None,
    recorded: Mapping[str, object] | None = None,
    seed: int | None = None,
    skipped: Sequence[Skipped] = (),
) -> WrittenVolumes:
    """Write a voxels.h5 of volumes as they come, without holding more than a few.

    Without `spacing`, that of the volumes is recorded where all know theirs and have the same. `kind` is found on
    the values of the first block if None; `recorded` is added to the configuration; `skipped` is looked at when all
    volumes have come. Raises InputError for volumes that differ in shape, or if there are none.
    """
    read: InputSpec | None = None
    records: list[Volume] = []
    names: set[str] = set()
    digests: list[bytes] = []
    occupied: list[int] = []
    stored = "uint8"
    config: dict[str, object] = {**(recorded or {})}
    with ArtifactWriter(
        output, VOXELS, config=config, parents={}, attributes={"classes": list(classes)}, seed=seed
    ) as writer:
        while block := list(islice(volumes, _BLOCK)):
            if read is None:
                channels, x, y, z = block[0].values.shape
                found: Kind = kind or ("occupancy" if channels == 1 and _are_binary(block) else "intensity")
                read = InputSpec(channels, (x, y, z), found, spacing)
                config["volumes"] = read.to_json()
            for item in block:
                _check(item, read, names)
                names.add(item.name)
                records.append(replace(item, values=_NOTHING))
                digests.append(hashlib.sha256(np.ascontiguousarray(item.values, np.float32).tobytes()).digest())
                occupied.append(int(np.count_nonzero(item.values)))
            values = np.stack([item.values for item in block])
            if read.kind == "occupancy":
                writer.append("occupancy", values[:, 0].astype(np.uint8))
            else:
                stored = writer.append("intensity", narrowest(values))
        if read is None:
            first = f"; {skipped[0].path}: {skipped[0].reason}" if skipped else ""
            raise InputError(f"there is no volume to store{first}" if first else "the dataset is empty.")
        spacings = {rounded_spacing(item.index_to_world) for item in records}
        if spacing is None and len(spacings) == 1 and all(item.is_placed or item.is_measured for item in records):
            read = replace(read, spacing=spacing_of(records[0].index_to_world))
            config["volumes"] = read.to_json()
        duplicate_of = find_duplicates(digests, lambda sample: digests[sample])
        _write_records(writer, records, occupied, duplicate_of, sorted(skipped, key=lambda item: item.path))
    counts: dict[str, dict[str, int]] = {}
    for item in records:
        of_split = counts.setdefault(classes[item.label] if item.label >= 0 else "unlabelled", {})
        of_split[item.split] = of_split.get(item.split, 0) + 1
    labels = [item.label for item in records]
    return WrittenVolumes(read, stored, counts, count_duplicates(duplicate_of, [i.split for i in records], labels))


def rounded_spacing(matrix: Float64[np.ndarray, "4 4"]) -> tuple[float, ...]:
    """Edges of a voxel to compare with others: to four digits, for they may be micrometres."""
    return tuple(float(f"{step:.4g}") for step in spacing_of(matrix))


_NOTHING = np.empty((1, 0, 0, 0), np.uint8)


def _write_records(
    writer: ArtifactWriter,
    records: Sequence[Volume],
    occupied: Sequence[int],
    duplicate_of: np.ndarray,
    skipped: Sequence[Skipped],
) -> None:
    count = len(records)
    writer.write("label", np.array([item.label for item in records], np.int64))
    texts: dict[str, Sequence[str]] = {
        "name": [item.name for item in records],
        "split": [item.split for item in records],
        "source": [item.source for item in records],
        "record/warnings": [""] * count,
        "dropped/source": [],
        "skipped/source": [item.path for item in skipped],
        "skipped/reason": [item.reason for item in skipped],
    }
    texts |= described([(item.group, item.columns) for item in records])
    for name, words in texts.items():
        # File names need not be UTF-8, but what HDF5 holds is.
        writer.write(name, [text.encode(errors="replace").decode() for text in words])
    writer.write("index_to_world", np.stack([item.index_to_world for item in records]))
    if any(item.is_placed for item in records):
        writer.write("placed", np.array([item.is_placed for item in records], np.int8))
    writer.write("record/n_faces", np.full(count, -1, np.int64))
    writer.write("record/n_open_edges", np.full(count, -1, np.int64))
    writer.write("record/n_occupied", np.array(occupied, np.int64))
    writer.write("record/enclosed", np.full(count, -1, np.int8))
    writer.write("record/duplicate_of", duplicate_of)
    writer.write("dropped/duplicate_of", np.empty(0, np.int64))


def narrowest(values: np.ndarray) -> np.ndarray:
    """The same numbers in the smallest of the types that intensities are stored in, at most in single precision."""
    for dtype in (np.uint8, np.int16, np.uint16, np.float16):
        if np.can_cast(values.dtype, dtype):
            return values.astype(dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            cast = values.astype(dtype)
        if (cast == values).all():
            return cast
    return values.astype(np.float32)


def _volumes(parts: Mapping[str, Any], classes: tuple[str, ...], matrix: np.ndarray) -> Iterator[Volume]:
    """The volumes of a user's datasets."""
    for split, given in parts.items():
        for number, item in enumerate(_items(given)):
            name = item.name or f"{split}_{number:05}"
            yield Volume(item.volume, name, _label(item.label, classes, name), split, matrix, name)


def as_volume(value: Any) -> Float32[np.ndarray, "channel x y z"]:
    """An array or tensor as one volume, with an axis for its one channel where it has none.

    Raises InputError unless it is an array of 3 or 4 axes with finite values.
    """
    if hasattr(value, "detach"):
        value = value.detach().cpu().float().numpy()
    try:
        volume = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"a {type(value).__name__} is no volume of numbers: {error}.") from error
    if volume.ndim == 3:
        volume = volume[None]
    if volume.ndim != 4 or not volume.size:
        raise InputError(f"a volume has axes (channel, x, y, z) or (x, y, z); got an array of shape {volume.shape}.")
    if not np.isfinite(volume).all():
        raise InputError(f"the volume holds {np.count_nonzero(~np.isfinite(volume))} values that are not finite.")
    return np.ascontiguousarray(volume)


def _items(given: Any) -> Iterator[_Item]:
    """The samples of one split, one after the other."""
    for sample in _samples(given):
        if isinstance(sample, Mapping):
            volume, label, name = (next((sample[key] for key in keys if key in sample), None) for keys in _KEYS)
        else:
            volume, label, name = (*sample, None)[:3]
        yield _Item(as_volume(volume), label, None if name is None else str(name))


def _samples(given: Any) -> Iterable[Any]:
    if isinstance(given, tuple) and len(given) == 2 and all(hasattr(part, "shape") for part in given):
        volumes, labels = given
        if len(volumes) != len(labels):
            raise InputError(f"there are {len(volumes)} volumes, but {len(labels)} labels.")
        return zip(volumes, np.asarray(labels).reshape(-1), strict=True)
    if hasattr(given, "__getitem__") and hasattr(given, "__len__"):
        return (given[index] for index in range(len(given)))
    if isinstance(given, Iterable):
        return given
    raise UsageError(f"a {type(given).__name__} is no dataset; give a sequence of (volume, label) or two arrays.")


def _classes(parts: Mapping[str, Any], classes: Sequence[str] | None) -> tuple[str, ...]:
    """The classes by name; where none are given, as many as the largest label of arrays, or of a pass over labels."""
    if classes is not None:
        names = tuple(str(name) for name in classes)
        if len(set(names)) != len(names) or len(names) < 2:
            raise UsageError(f"at least two classes of different names are needed; got {', '.join(names) or 'none'}.")
        return names
    found: set[int] = set()
    for given in parts.values():
        if isinstance(given, Iterator):
            raise UsageError("give classes=[…]: an iterator can be read only once.")
        arrays = isinstance(given, tuple) and len(given) == 2 and hasattr(given[1], "shape")
        labels = np.asarray(given[1]).reshape(-1).tolist() if arrays else [item.label for item in _items(given)]
        for label in labels:
            try:
                found.add(int(label))
            except (TypeError, ValueError):
                raise UsageError(f"the label {label!r} is no index; give classes=[…].") from None
    if min(found, default=0) < 0:
        raise InputError(f"the label {min(found)} is no class; labels count from 0.")
    return tuple(str(number) for number in range(max(2, max(found, default=0) + 1)))


def _label(label: Any, classes: Sequence[str], name: str) -> int:
    if label is None:
        return -1
    if isinstance(label, str):
        if label not in classes:
            raise InputError(f"{name} has the label {label!r}, which is none of the classes {', '.join(classes[:6])}.")
        return list(classes).index(label)
    try:
        index = int(np.asarray(label).reshape(-1)[0]) if np.asarray(label).size == 1 else int(label)
    except (TypeError, ValueError):
        raise InputError(
            f"{name} has a label of {np.asarray(label).size} values; fer explains one label a sample."
        ) from None
    if not 0 <= index < len(classes):
        raise InputError(f"{name} has the label {index}, but there are {len(classes)} classes, counted from 0.")
    return index


def _check(item: Volume, read: InputSpec, names: Collection[str]) -> None:
    if item.values.shape != read.volume:
        found, first = ("×".join(map(str, shape)) for shape in (item.values.shape[1:], read.shape))
        if len(item.values) != read.channels:
            raise InputError(
                f"{item.name} has {len(item.values)} channels, but the first volume {read.channels}. The frames of a "
                "NIfTI file are read as channels: keep one frame of each file, or the same number of all."
            )
        raise InputError(f"{item.name} has {found} voxels, but the first volume {first}. Give --shape X,Y,Z.")
    if read.kind == "occupancy" and not _are_binary([item]):
        raise InputError(f"{item.name} holds other values than 0 and 1; give kind='intensity'.")
    if item.name in names:
        raise InputError(f"two samples are called {item.name!r}.")


def _are_binary(block: Sequence[Volume]) -> bool:
    return all(bool(((item.values == 0) | (item.values == 1)).all()) for item in block)
