"""A file of many volumes → its samples: `.npz` with arrays of volumes, their labels, and where given their splits.

Layouts: MedMNIST's (`train_images`, `train_labels`, `val_…`, `test_…`), `X_train` and `y_train`, and plain arrays:
`images` and `labels`, with `split`, `group` or `subject`, `names`, and `classes` for the names of the classes. Volumes
are read one after the other and never unpacked together.
"""

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fer_cli.data.entries import SPLIT_WORDS, Entry, Split
from fer_cli.data.formats.content import require_content
from fer_cli.data.formats.registry import MAX_VOXELS, read_array
from fer_cli.data.formats.volume import Scan, as_channels
from fer_cli.errors import InputError, one_line

_VOLUMES = ("images", "image", "volumes", "volume", "data", "x")
_LABELS = ("labels", "label", "targets", "target", "y")
_GROUPS = ("group", "groups", "subject", "subjects", "patient", "patients", "patient_id")
_NAMES = ("names", "name", "ids", "id")
_CLASSES = ("classes", "class_names")
_MOST_SAMPLES = 10_000_000
_BOMB_BYTES = 1 << 30
_BOMB_RATIO = 500
"""What a deflated array of more than `_BOMB_BYTES` may grow by; masks of 64³ voxels grow by 230."""


@dataclass(frozen=True)
class _Part:
    """One array of volumes: its member of the archive, shape and type, and what is known of its rows."""

    member: str
    shape: tuple[int, ...]
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Collection:
    """The samples of a file, in its order, and their classes in the order of their labels."""

    path: Path
    parts: tuple[_Part, ...]
    classes: tuple[str, ...]

    @property
    def entries(self) -> list[Entry]:
        """All samples."""
        return [entry for part in self.parts for entry in part.entries]

    def scans(self, wanted: Sequence[Entry]) -> Iterator[tuple[Entry, Scan]]:
        """The volumes of the wanted samples, in the order of the file. Raises InputError where it is damaged."""
        chosen = {entry.path: entry for entry in wanted}
        for part in self.parts:
            rows = _rows(self.path, part.member)
            for entry, row in zip(part.entries, rows, strict=False):
                if entry.path in chosen:
                    values = as_channels(row, entry.path)
                    if values.dtype.kind == "f" and not np.isfinite(values).all():
                        raise InputError(f"{entry.path}: holds values that are not finite.")
                    yield chosen[entry.path], Scan(values, np.eye(4))


def open_collection(path: Path, classes: Sequence[str] | None = None) -> Collection | None:
    """The collection that an `.npz` file is, None where it holds a single volume.

    `classes` names the classes of whole-number labels, in their order. Raises InputError for a file that is damaged,
    that is a zip bomb, or whose arrays do not fit together.
    """
    headers = _headers(path)
    by_name = {name.lower().removesuffix(".npy"): name for name in headers}
    found = _parts_of(by_name)
    if not found:
        volumes = [name for name, (shape, _) in headers.items() if len(shape) in (3, 4)]
        if len(headers) == 1 and volumes:
            return None
        listed = ", ".join(sorted(by_name)[:8])
        raise InputError(
            f"{path.name}: no volumes with labels are found in its arrays ({listed}); known are train_images and "
            "train_labels (val_…, test_…), X_train and y_train, and images and labels."
        )
    named = [str(name) for name in _array(path, by_name, _CLASSES, headers, None)] or list(classes or [])
    labelled: list[tuple[str, Split | None, np.ndarray]] = []
    for split, (volumes_name, labels_name) in found.items():
        shape, dtype = headers[volumes_name]
        if len(shape) not in (4, 5) or dtype.kind not in "biuf":
            sides = "×".join(map(str, shape))
            raise InputError(f"{path.name}: {volumes_name} holds {dtype} {sides}, expected (sample, x, y, z) numbers.")
        labels = _load(path, labels_name)
        if labels.size != shape[0] or shape[0] > _MOST_SAMPLES:
            raise InputError(
                f"{path.name}: {volumes_name} has {shape[0]} volumes, but {labels_name} {labels.size} labels; fer "
                "explains one label a sample."
            )
        labelled.append((volumes_name, split, _whole(labels.reshape(-1), path)))
    names = _class_names([labels for _, _, labels in labelled], named, path)
    alone = len(labelled) == 1 and labelled[0][1] is None
    count = len(labelled[0][2]) if alone else None
    splits, groups, titles = (
        [str(text) for text in _array(path, by_name, keys, headers, count)] if alone else []
        for keys in (("split", "splits"), _GROUPS, _NAMES)
    )
    parts = []
    for member, split, labels in labelled:
        entries = []
        for row, label in enumerate(labels.tolist()):
            word = splits[row].lower() if splits else ""
            if splits and word not in SPLIT_WORDS:
                raise InputError(
                    f"{path.name}: sample {row} has the split {splits[row]!r}; known are train, val, test."
                )
            of: Split = split or (SPLIT_WORDS[word] if splits else "unlabelled")
            title = titles[row] if titles else f"{of if split or splits else 'sample'}_{row:05}"
            name_of_class = names[label] if isinstance(label, int) else str(label)
            stem = member.removesuffix(".npy")
            entries.append(Entry(title, f"{stem}/{row}", name_of_class, of, groups[row] if groups else ""))
        parts.append(_Part(member, headers[member][0], tuple(entries)))
    return Collection(path, tuple(parts), tuple(names))


def _parts_of(by_name: Mapping[str, str]) -> dict[Split | None, tuple[str, str]]:
    """The arrays of volumes with those of their labels, by split; by None where the arrays tell none."""
    found: dict[Split | None, tuple[str, str]] = {}
    for word, split in SPLIT_WORDS.items():
        for volumes in _VOLUMES:
            for labels in _LABELS:
                for pattern in ("{split}_{key}", "{key}_{split}"):
                    pair = [pattern.format(split=word, key=key) for key in (volumes, labels)]
                    if all(name in by_name for name in pair):
                        found.setdefault(split, (by_name[pair[0]], by_name[pair[1]]))
    if not found:
        volumes_name = next((by_name[name] for name in _VOLUMES if name in by_name), None)
        labels_name = next((by_name[name] for name in _LABELS if name in by_name), None)
        if volumes_name and labels_name:
            found[None] = (volumes_name, labels_name)
    return found


def _whole(labels: np.ndarray, path: Path) -> np.ndarray:
    """Labels as names or as whole numbers."""
    if labels.dtype.kind in "US":
        return labels.astype(str)
    if labels.dtype.kind not in "biuf" or not np.equal(labels, np.round(labels)).all():
        raise InputError(f"{path.name}: its labels are neither whole numbers nor names.")
    return labels.astype(np.int64)


def _class_names(labels: Sequence[np.ndarray], given: Sequence[str], path: Path) -> list[str]:
    """Names of the classes: those given, else the labels themselves where they are text, else 0, 1, …"""
    if any(each.dtype.kind == "U" for each in labels):
        return sorted({str(label) for each in labels for label in each.tolist()})
    low, high = min(int(each.min()) for each in labels), max(int(each.max()) for each in labels)
    if low < 0 or high > 1_000_000:
        raise InputError(f"{path.name}: its labels run from {low} to {high}; they count from 0.")
    if given and high >= len(given):
        raise InputError(f"{path.name}: its labels run to {high}, but there are {len(given)} classes, counted from 0.")
    return list(given) or [str(number) for number in range(max(2, high + 1))]


def _headers(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and type of every array of the archive."""
    headers = {}
    with _opened(path) as archive:
        for member in archive.infolist():
            if not member.filename.endswith(".npy"):
                continue
            if member.file_size > max(_BOMB_BYTES, _BOMB_RATIO * member.compress_size):
                raise InputError(
                    f"{path.name}: {member.compress_size} bytes that grow to {member.file_size}, refused as a zip bomb."
                )
            with archive.open(member) as stream:
                shape, is_fortran, dtype = _read_header(stream, f"{path.name}/{member.filename}")
                size = int(np.prod([dtype.itemsize, *shape], dtype=object))
                if dtype.hasobject or size + stream.tell() != member.file_size:
                    raise InputError(
                        f"{path.name}: {member.filename} declares {dtype} {'×'.join(map(str, shape))}, but holds "
                        f"{member.file_size} bytes."
                    )
                if is_fortran and len(shape) > 1:
                    raise InputError(f"{path.name}: {member.filename} is in Fortran order; save it in C order.")
            headers[member.filename] = (shape, dtype)
    return headers


def _read_header(stream: Any, name: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        return read(stream)
    except Exception as error:  # NumPy parses the header as Python
        raise InputError(f"{name}: not a readable array: {one_line(str(error))[:200].rstrip('.')}.") from None


def _rows(path: Path, member: str) -> Iterator[np.ndarray]:
    """The volumes of an array, one after the other."""
    with _opened(path) as archive, archive.open(member) as stream:
        shape, _, dtype = _read_header(stream, f"{path.name}/{member}")
        if np.prod(shape[1:], dtype=object) > MAX_VOXELS:
            raise InputError(f"{path.name}: volumes of {'×'.join(map(str, shape[1:]))} voxels, at most {MAX_VOXELS}.")
        size = int(np.prod(shape[1:])) * dtype.itemsize
        for row in range(shape[0]):
            content = stream.read(size)
            if len(content) != size:
                raise InputError(f"{path.name}: {member} ends within volume {row} of {shape[0]}.")
            yield np.frombuffer(content, dtype).reshape(shape[1:])


def _array(
    path: Path,
    by_name: Mapping[str, str],
    keys: Sequence[str],
    headers: Mapping[str, tuple[tuple[int, ...], np.dtype]],
    count: int | None,
) -> np.ndarray | list[str]:
    """The first one-axis array of those names, of length `count` if that is given; an empty list if there is none."""
    for key in keys:
        if key in by_name:
            shape, _ = headers[by_name[key]]
            if len(shape) == 1 and (count is None or shape[0] == count):
                return _load(path, by_name[key])
    return []


def _load(path: Path, member: str) -> np.ndarray:
    with _opened(path) as archive:
        return read_array(archive.read(member), f"{path.name}/{member}", None)


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """The archive; whatever its damage makes zipfile raise, KeyError and zlib.error among it, is an InputError."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    except Exception as error:
        with path.open("rb") as stream:
            require_content(stream.read(64), path.name)
        said = one_line(str(error))[:200].rstrip(".")
        raise InputError(f"{path} is not a usable .npz: {said}.") from error
