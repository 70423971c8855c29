"""A SOURCE (folder, .zip read in place, or one file) → its shapes and volumes, with class and split.

They come from the folder names: `<class>/<train|val|test>/<file>`, 3DShapeNets' `<class>/30/<train|test>/<file>`, and
`<train|val|test>/<class>/<file>`, at any depth. The class is always the folder's name, since some files of ModelNet40
are named after another class. A shape that lies elsewhere is unlabelled, unless a test fraction is given: then
`<class>/<file>` is split by chance. Or they come from a table, see `tables`.
Members of archives are never unpacked to disk; what looks hostile is refused by name.
"""

import functools
import hashlib
import json
import os
import re
import zipfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fer_cli import __version__
from fer_cli.data.entries import SPLIT_WORDS, Entry, Listing, Skipped, check_limits, draw_test, listing_of
from fer_cli.data.formats.registry import SUFFIXES
from fer_cli.data.formats.scans import READ_SUFFIXES, SCAN_SUFFIXES, file_suffix, stem_of
from fer_cli.errors import InputError, UsageError
from fer_cli.storage.schema import Json

MAX_FILE_BYTES = 1 << 30
# Text and voxels compress a few hundredfold at most, and only while they are small.
_BOMB_BYTES = 24 << 20
_BOMB_RATIO = 200

# Shapes that others store: skipped by name. Whatever else lies in a folder (licences, lists) is no loss.
_OTHER_SHAPES = re.compile(
    r"\.(gltf|3ds|3mf|dae|fbx|wrl|x3d|step|stp|iges|igs|pts|las|laz|vox|vtk|vtp|usdz?|nrrd|nhdr|mha|mhd|dcm|mgz|tiff?)"
)


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
    elif file_suffix(source.name) in READ_SUFFIXES:
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
        if path in found or file_suffix(path) not in READ_SUFFIXES
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


def close_archives() -> None:
    """Close the archive that `read_entry` keeps open in this process."""
    _open_zip.cache_clear()


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
            if file_suffix(name) in READ_SUFFIXES
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
            if file_suffix(member.filename.rstrip("/")) in READ_SUFFIXES:
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
    return suffix in READ_SUFFIXES


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


def _class_folder(path: str) -> str | None:
    """The folder that a shape lies in, inside the source, past 3DShapeNets' folders of a resolution."""
    readable = path.encode(errors="replace").decode()
    folders = [folder for folder in readable.replace("\\", "/").split("/")[:-1] if folder not in ("", ".")]
    while folders and folders[-1].isdecimal():
        folders.pop()
    return folders[-1] if folders else None


def run_key(source: Path, listing: Listing, settings: Json, *, batch: int) -> str:
    """A hash of whatever decides the content of a journal's records, of `batch` entries each.

    Equal keys mean that a journal can be gone on with. `source` is absolute.
    """

    def stamp(path: Path) -> list[int]:
        try:
            status = path.stat()
        except OSError:  # which reading it will say more of
            return []
        return [status.st_size, status.st_mtime_ns]

    in_folder = source.is_dir()
    facts = {
        "version": __version__,
        "batch": batch,
        "settings": settings,
        "source": [str(source.resolve()), [] if in_folder else stamp(source)],
        "entries": [
            [*vars(entry).values(), stamp(source / entry.path) if in_folder else []] for entry in listing.entries
        ],
    }
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
