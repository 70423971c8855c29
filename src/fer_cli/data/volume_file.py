"""Volumes of a user's own dataset → voxels.h5: arrays, or a `torch.utils.data.Dataset` of (volume, label[, name]).

What is stored is what the model reads, after its preprocessing. Volumes of one channel that hold only 0 and 1 are
occupancy grids; others are intensities.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from fer_cli.data.duplicates import find_duplicates
from fer_cli.data.volumes import InputSpec, Kind
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
    with claim_output(output, force=force):
        return _write(output, parts, names_of_classes, kind, spacing)


def _write(
    output: Path,
    parts: Mapping[str, Any],
    classes: tuple[str, ...],
    kind: Kind | None,
    spacing: Sequence[float | int] | None,
) -> InputSpec:
    read: InputSpec | None = None
    names: dict[str, None] = {}
    labels: list[int] = []
    splits: list[str] = []
    digests: list[bytes] = []
    occupied: list[int] = []
    steps = None if spacing is None else (float(spacing[0]), float(spacing[1]), float(spacing[2]))
    config: dict[str, object] = {}
    writer = ArtifactWriter(output, VOXELS, config=config, parents={}, attributes={"classes": list(classes)})
    with writer:
        for split, given in parts.items():
            items, first = _items(given), len(splits)
            while block := list(islice(items, _BLOCK)):
                if read is None:
                    channels, x, y, z = block[0].volume.shape
                    found: Kind = kind or ("occupancy" if channels == 1 and _are_binary(block) else "intensity")
                    read = InputSpec(channels, (x, y, z), found, steps)
                    config["volumes"] = read.to_json()
                for item in block:
                    name = item.name or f"{split}_{len(splits) - first:05}"
                    _check(item, name, read, names)
                    names[name] = None
                    labels.append(_label(item.label, classes, name))
                    splits.append(split)
                    digests.append(hashlib.sha256(item.volume.tobytes()).digest())
                    occupied.append(int(np.count_nonzero(item.volume)))
                if read.kind == "occupancy":
                    writer.append("occupancy", np.stack([item.volume[0] for item in block]).astype(np.uint8))
                else:
                    writer.append("intensity", np.stack([item.volume for item in block]))
        if read is None:
            raise InputError("the dataset is empty.")
        count = len(labels)
        affine = np.diag([*(steps or (1.0, 1.0, 1.0)), 1.0])
        writer.write("name", list(names))
        writer.write("label", np.array(labels, np.int64))
        writer.write("split", splits)
        writer.write("index_to_world", np.broadcast_to(affine, (count, 4, 4)).copy())
        writer.write("source", list(names))
        writer.write("record/n_faces", np.full(count, -1, np.int64))
        writer.write("record/n_open_edges", np.full(count, -1, np.int64))
        writer.write("record/n_occupied", np.array(occupied, np.int64))
        writer.write("record/enclosed", np.full(count, -1, np.int8))
        writer.write("record/warnings", [""] * count)
        writer.write("record/duplicate_of", find_duplicates(digests, lambda sample: digests[sample]))
        writer.write("dropped/source", [])
        writer.write("dropped/duplicate_of", np.empty(0, np.int64))
        writer.write("skipped/source", [])
        writer.write("skipped/reason", [])
    return read


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


def _check(item: _Item, name: str, read: InputSpec, names: Mapping[str, None]) -> None:
    if item.volume.shape != read.volume:
        raise InputError(f"{name} has shape {item.volume.shape}, but the first volume {read.volume}.")
    if read.kind == "occupancy" and not _are_binary([item]):
        raise InputError(f"{name} holds other values than 0 and 1; give kind='intensity'.")
    if name in names:
        raise InputError(f"two samples are called {name!r}.")


def _are_binary(block: Sequence[_Item]) -> bool:
    return all(bool(((item.volume == 0) | (item.volume == 1)).all()) for item in block)
