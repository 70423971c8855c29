"""A SOURCE (folder, .zip read in place, or one file) → its shapes and volumes, with class and split.

They come from the folder names: `<class>/<train|val|test>/<file>`, 3DShapeNets' `<class>/30/<train|test>/<file>`, and
`<train|val|test>/<class>/<file>`, at any depth. The class is always the folder's name, since some files of ModelNet40
are named after another class. A shape that lies elsewhere is unlabelled, unless a test fraction is given: then
`<class>/<file>` is split by chance. Or they come from a table, see `tables`.
Members of archives are never unpacked to disk; what looks hostile is refused by name.
"""

import functools
import hashlib
import os
import re
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from fer_cli.data.formats.registry import SUFFIXES
from fer_cli.data.formats.scans import SCAN_SUFFIXES, file_suffix
from fer_cli.errors import InputError, UsageError

Split = Literal["train", "val", "test", "unlabelled"]
SPLITS: tuple[Split, ...] = ("train", "val", "test", "unlabelled")
SPLIT_WORDS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""What folders and tables call the splits, in small letters."""

MAX_FILE_BYTES = 1 << 30
# Text and voxels compress a few hundredfold at most, and only while they are small.
_BOMB_BYTES = 24 << 20
_BOMB_RATIO = 200

# Shapes that others store: skipped by name. Whatever else lies in a folder (licences, lists) is no loss.
_OTHER_SHAPES = re.compile(
    r"\.(gltf|3ds|3mf|dae|fbx|wrl|x3d|step|stp|iges|igs|pts|las|laz|vox|vtk|vtp|usdz?|nrrd|nhdr|mha|mhd|dcm|mgz|tiff?)"
)


@dataclass(frozen=True)
class Entry:
    """One shape of a source: unique `name`, `path` inside the source, class (None if unknown) and split.

    `group` is what it belongs to, such as its patient, empty if nothing; `columns` are further ones of a table.
    """

    name: str
    path: str
    class_name: str | None
    split: Split
    group: str = ""
    columns: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Skipped:
    """A shape that is left out, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Listing:
    """Shapes of a source in order of class, split (train first) and name; sorted classes; skipped files."""

    entries: tuple[Entry, ...]
    classes: tuple[str, ...]
    skipped: tuple[Skipped, ...]


def list_entries(
    source: Path, *, per_class: int | None = None, test_fraction: float | None = None, seed: int = 0
) -> Listing:
    """List the shapes of a folder, a .zip or a single file, without reading them.

    Shapes of one file name get names that tell them apart. With `test_fraction`, shapes that no folder `train` or
    `test` places take the folder they lie in as class, and that share of each class is for testing, though at least
    one shape, and one left for training; which ones depends on `seed` and on the names of the shapes and of their
    class alone. `per_class` keeps at most this number of shapes of each class and split, evenly spaced over the sorted
    names.

    Raises InputError if the source does not exist, cannot be read, is a broken archive, or holds no shape;
    UsageError if `per_class` is not positive, or `test_fraction` not between 0 and 1 or of no use for the source.
    """
    check_limits(per_class, test_fraction)
    try:
        size = source.stat().st_size
    except (OSError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError)
        reason = "does not exist" if missing else f"cannot be read: {getattr(error, 'strerror', None) or error}"
        raise InputError(f"{source} {reason}.") from error
    if not (source.is_dir() or source.is_file()):
        raise InputError(f"{source} is neither a folder nor a regular file.")
    if source.is_dir():
        paths, skipped = _folder_paths(source)
    elif _is_zip(source):
        paths, skipped = _zip_paths(source)
    elif file_suffix(source.name) in _READ:
        if size > MAX_FILE_BYTES:
            raise InputError(f"{source}: {size} bytes, more than {MAX_FILE_BYTES}.")
        single = [_placed(source.name, "")]
        return Listing(tuple(single if test_fraction is None else _split(single, test_fraction, seed, source)), (), ())
    else:
        raise InputError(f"{source} is not a shape that fer reads; known are {_KNOWN}.")
    if not paths:
        found = f" ({len(skipped)} skipped, the first: {skipped[0].path}: {skipped[0].reason})" if skipped else ""
        raise InputError(f"{source} holds no shape that fer reads{found}; known are {_KNOWN}.")
    root = source.resolve().name if source.is_dir() else source.stem
    placed = [_placed(path, root) for path in sorted(paths)]
    if test_fraction is not None:
        placed = _split(placed, test_fraction, seed, source)
    return listing_of(placed, skipped, per_class)


def listing_of(placed: Sequence[Entry], skipped: Sequence[Skipped], per_class: int | None) -> Listing:
    """Entries under unique names and in order, at most `per_class` of each class and split."""
    entries = sorted(_named(placed), key=_order)
    if per_class is not None:
        entries = list(evenly(entries, per_class))
    classes = sorted({entry.class_name for entry in entries if entry.class_name is not None})
    return Listing(tuple(entries), tuple(classes), tuple(sorted(skipped, key=lambda item: item.path)))


def check_limits(per_class: int | None, test_fraction: float | None) -> None:
    """Raise UsageError for a number of shapes, or a test fraction, that leaves nothing."""
    if test_fraction is not None and not 0 < test_fraction < 1:
        raise UsageError(f"a test fraction of {test_fraction:g} leaves nothing to train or test; give 0.2, say.")
    if per_class is not None and per_class < 1:
        raise UsageError(f"{per_class} shapes per class leave none; give at least 1.")


def objections(source: Path, paths: Sequence[str]) -> dict[str, str]:
    """Why files of a folder or .zip cannot be read, for each of these paths that cannot.

    Raises InputError where the source is neither.
    """
    found: dict[str, str] = {}
    if _is_zip(source):
        members, skipped = _zip_paths(source)
        known, reasons = set(members), {item.path: item.reason for item in skipped}
        found = {path: reasons.get(path, "is not in the archive") for path in paths if path not in known}
    elif source.is_dir():
        for path in paths:
            file = source / path
            try:
                size = file.stat().st_size if file.is_file() else None
            except (OSError, ValueError):
                size = None
            if size is None:
                found[path] = "does not exist, or is not a regular file"
            elif size > MAX_FILE_BYTES:
                found[path] = f"{size} bytes, more than {MAX_FILE_BYTES}"
    else:
        raise InputError(f"{source} is neither a folder nor a .zip; a table names files of one.")
    return {
        path: found.get(path, f"fer does not read it; known are {_KNOWN}")
        for path in paths
        if path in found or file_suffix(path) not in _READ
    }


def read_entry(source: Path, entry: Entry) -> bytes:
    """Content of a shape; an archive stays open within a process until `close_archives`.

    Raises InputError if it cannot be read.
    """
    try:
        if source.is_dir():
            return (source / entry.path).read_bytes()
        if _is_zip(source):
            return _open_zip(source).read(entry.path)
        return source.read_bytes()
    except OSError as error:
        raise InputError(f"{entry.path}: cannot be read: {error.strerror or error}.") from error
    except InputError:
        raise
    except Exception as error:  # zipfile lets zlib.error, EOFError, KeyError and NotImplementedError through
        raise InputError(f"{entry.path}: cannot be unpacked from {source.name}: {str(error)[:200]}.") from error


def described(samples: Sequence[tuple[str, Sequence[tuple[str, str]]]]) -> dict[str, Sequence[str]]:
    """The datasets of what a table says of samples, given the group and the further columns of each; of both if any."""
    groups, columns = [group for group, _ in samples], [dict(columns) for _, columns in samples]
    texts: dict[str, Sequence[str]] = {"group": groups} if any(groups) else {}
    for column in dict.fromkeys(name for of_sample in columns for name in of_sample):
        texts[f"column/{column}"] = [of_sample.get(column, "") for of_sample in columns]
    return texts


def close_archives() -> None:
    """Close the archive that `read_entry` keeps open in this process."""
    _open_zip.cache_clear()


_READ = frozenset((*SUFFIXES, *SCAN_SUFFIXES))
_KNOWN = ", ".join((*SUFFIXES, *SCAN_SUFFIXES))


def _is_zip(source: Path) -> bool:
    return source.suffix.lower() == ".zip"


@functools.lru_cache(maxsize=1)
def _open_zip(source: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(source)
    except OSError as error:
        raise InputError(f"{source} cannot be read: {error.strerror or error}.") from error
    except Exception as error:  # BadZipFile, struct.error, NotImplementedError, UnicodeDecodeError
        raise InputError(f"{source} is not a usable .zip: {error}.") from error


def _folder_paths(source: Path) -> tuple[list[str], list[Skipped]]:
    paths: list[str] = []
    skipped: list[Skipped] = []

    def refuse(error: OSError) -> None:
        skipped.append(Skipped(_relative(error.filename, source), f"cannot be read: {error.strerror}"))

    for folder, subfolders, files in os.walk(source, onerror=refuse):
        subfolders[:] = sorted(name for name in subfolders if not _is_hidden(name))
        for name in files:
            path = Path(folder, name)
            relative = _relative(path, source)
            if _is_hidden(name) or not _is_shape(relative, skipped):
                continue
            if not path.is_file():
                skipped.append(Skipped(relative, "is not a regular file"))
            elif (size := path.stat().st_size) > MAX_FILE_BYTES:
                skipped.append(Skipped(relative, f"{size} bytes, more than {MAX_FILE_BYTES}"))
            else:
                paths.append(relative)
        skipped += [
            Skipped(_relative(Path(folder, name), source), "is a folder")
            for name in subfolders
            if file_suffix(name) in _READ
        ]
    return paths, skipped


def _zip_paths(source: Path) -> tuple[list[str], list[Skipped]]:
    # Never a handle from earlier: the file may have been replaced since.
    close_archives()
    paths: list[str] = []
    skipped: list[Skipped] = []
    members = _open_zip(source).infolist()
    # Reading by name gives the last member of that name, so it is the last that has to be beyond suspicion.
    last = {member.filename: member for member in members}
    for member in members:
        parts = [part for part in member.filename.replace("\\", "/").split("/") if part != "."]
        if any(_is_hidden(part) for part in parts if part not in ("", "..")):
            continue
        if not member.filename:
            continue
        if member.is_dir():
            if file_suffix(member.filename.rstrip("/")) in _READ:
                skipped.append(Skipped(member.filename.rstrip("/"), "is a folder"))
            continue
        if not _is_shape(member.filename, skipped):
            continue
        replaced = member is not last[member.filename]
        reason = "is replaced by a later member of the same name" if replaced else _objection(member, parts)
        if reason:
            skipped.append(Skipped(member.filename, reason))
        else:
            paths.append(member.filename)
    return paths, skipped


def _objection(member: zipfile.ZipInfo, parts: Sequence[str]) -> str | None:
    """Why a member of an archive is not read, or None."""
    if parts[0] == "" or parts[0].endswith(":") or ".." in parts:
        return "its path leads out of the archive"
    if member.flag_bits & 0x1:
        return "is encrypted"
    if member.file_size > MAX_FILE_BYTES:
        return f"{member.file_size} bytes, more than {MAX_FILE_BYTES}"
    if member.file_size > max(_BOMB_BYTES, _BOMB_RATIO * member.compress_size):
        return f"{member.compress_size} bytes that grow to {member.file_size}, refused as a zip bomb"
    return None


def _is_hidden(part: str) -> bool:
    return part.startswith(".") or part == "__MACOSX"


def _is_shape(path: str, skipped: list[Skipped]) -> bool:
    """Whether the suffix is one that fer reads; a shape of another format is noted as skipped."""
    suffix = file_suffix(path)
    if _OTHER_SHAPES.fullmatch(suffix):
        skipped.append(Skipped(path, f"fer does not read {suffix} files; known are {_KNOWN}"))
    return suffix in _READ


def _relative(path: str | Path, source: Path) -> str:
    return Path(path).relative_to(source).as_posix()


def _placed(path: str, root: str) -> Entry:
    """The entry at a path, named by its stem; `root` stands above, so that a class folder can itself be the source."""
    # A file name need not be UTF-8, but a sample's name is.
    readable = path.encode(errors="replace").decode()
    *folders, file = [root, *readable.replace("\\", "/").split("/")]
    stem = stem_of(file)
    if split := SPLIT_WORDS.get(folders[-1].lower()):
        above = [folder for folder in folders[:-1][-2:] if not folder.isdecimal()]
        if above:
            return Entry(stem, path, above[-1], split)
    elif len(folders) > 1 and (split := SPLIT_WORDS.get(folders[-2].lower())):
        return Entry(stem, path, folders[-1], split)
    return Entry(stem, path, None, "unlabelled")


def stem_of(file: str) -> str:
    """A file's name without its suffix, `.nii.gz` as one."""
    suffix = file_suffix(file)
    return file[: -len(suffix)] if suffix in _READ and len(suffix) < len(file) else PurePosixPath(file).stem


def _split(entries: Sequence[Entry], test_fraction: float, seed: int, source: Path) -> list[Entry]:
    """The same entries, those without a split having their folder as class and a split by chance."""
    groups: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.split == "unlabelled" and (class_name := _class_folder(entry.path)) is not None:
            groups[class_name].append(entry)
    if not groups:
        example = entries[0].path
        raise UsageError(
            f"{source}: a test fraction is for <class>/<file>, but no shape lies so, {example!r} for one; leave it out."
        )
    classed = {entry.path: replace(entry, class_name=name) for name, members in groups.items() for entry in members}
    return draw_test([classed.get(entry.path, entry) for entry in entries], test_fraction, seed)


def draw_test(entries: Sequence[Entry], fraction: float, seed: int) -> list[Entry]:
    """The same entries, those with a class and no split having one by chance; no split divides a group.

    Of each class that share is for testing, though at least one shape, and one left for training. With groups the
    share is as near as whole groups come to it.
    """
    units: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    by_class: Counter[str] = Counter()
    for entry in entries:
        if entry.split == "unlabelled" and entry.class_name is not None:
            units[("group", entry.group) if entry.group else (entry.class_name, entry.path)].append(entry)
            by_class[entry.class_name] += 1
    wanted = {name: min(max(1, round(fraction * count)), count - 1) for name, count in by_class.items()}
    lots = {
        unit: _lot(seed, "group", unit[1]) if unit[0] == "group" else _lot(seed, unit[0], members[0].name)
        for unit, members in units.items()
    }
    testing: set[str] = set()
    for unit in sorted(units, key=lambda unit: (lots[unit], unit[1])):
        counts = Counter(str(entry.class_name) for entry in units[unit])
        # A group goes where it brings the classes nearer to their shares.
        if sum(min(count, wanted[name]) - max(0, count - wanted[name]) for name, count in counts.items()) > 0:
            wanted = {name: left - counts[name] for name, left in wanted.items()}
            testing |= {entry.path for entry in units[unit]}
    placed = {entry.path for members in units.values() for entry in members}
    return [
        replace(entry, split="test" if entry.path in testing else "train") if entry.path in placed else entry
        for entry in entries
    ]


def _class_folder(path: str) -> str | None:
    """The folder that a shape lies in, inside the source, past 3DShapeNets' folders of a resolution."""
    readable = path.encode(errors="replace").decode()
    folders = [folder for folder in readable.replace("\\", "/").split("/")[:-1] if folder not in ("", ".")]
    while folders and folders[-1].isdecimal():
        folders.pop()
    return folders[-1] if folders else None


def _lot(seed: int, class_name: str, name: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{class_name}\0{name}".encode()).digest()


def _named(entries: Sequence[Entry]) -> Iterator[Entry]:
    """The same entries, with longer names wherever two share one."""
    level = [0] * len(entries)
    while True:
        names = [_name(entry, level[i], i) for i, entry in enumerate(entries)]
        counts = Counter(names)
        if len(counts) == len(names):
            return (replace(entry, name=name) for entry, name in zip(entries, names, strict=True))
        level = [level[i] + (counts[name] > 1) for i, name in enumerate(names)]


def _name(entry: Entry, level: int, position: int) -> str:
    """Stem; with its class or folder; with its split too; the whole path; the path and a number."""
    *folders, file = entry.path.replace("\\", "/").split("/")
    folder = entry.class_name or (folders[-1] if folders else "")
    prefixes: tuple[list[str], ...] = ([], [folder], [folder, entry.split])
    if level < len(prefixes):
        return "_".join([*filter(None, prefixes[level]), entry.name])
    return "_".join([*folders, file]) + f"~{position}" * (level - len(prefixes))


def _order(entry: Entry) -> tuple[str, int, str]:
    return entry.class_name or "", SPLITS.index(entry.split), entry.name


def evenly(entries: Sequence[Entry], count: int) -> Iterator[Entry]:
    """At most `count` entries of each class and split, evenly spaced."""
    groups: dict[tuple[str | None, str], list[Entry]] = defaultdict(list)
    for entry in entries:
        groups[entry.class_name, entry.split].append(entry)
    for group in groups.values():
        chosen = min(count, len(group))
        yield from (group[i * len(group) // chosen] for i in range(chosen))
