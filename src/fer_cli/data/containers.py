"""A folder or a .zip, read in place: the files that fer reads, what is skipped and why, and their content.

Members of archives are not unpacked to disk; what looks hostile is refused by name.
"""

import functools
import os
import re
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from fer_cli.data.entries import Skipped
from fer_cli.data.formats.dicom import is_dicom
from fer_cli.data.formats.registry import SUFFIXES
from fer_cli.data.formats.scans import DICOM_SUFFIXES, READ_SUFFIXES, SCAN_SUFFIXES, file_suffix
from fer_cli.errors import InputError

MAX_FILE_BYTES = 1 << 30
# Text and voxels compress a few hundredfold at most, and only while they are small.
_BOMB_BYTES = 24 << 20
_BOMB_RATIO = 200

# Shapes and volumes that others store: skipped by name. Whatever else lies in a folder (licences, lists) is no loss.
_OTHER_SHAPES = re.compile(
    r"\.(gltf|3ds|3mf|dae|fbx|wrl|x3d|step|stp|iges|igs|pts|las|laz|vox|vtk|vtp|usdz?|nhdr|mhd|mgz|lsm|czi|nd2)"
)


POINT_SETS = ".h5"
"""The suffix of HDF5 files of many point clouds."""
_SPLIT_NAME = re.compile(r"(?:^|[^a-z])(train|training|val|valid|validation|test|testing)(?:[^a-z]|$)", re.IGNORECASE)
KNOWN = ", ".join((*SUFFIXES, *SCAN_SUFFIXES, POINT_SETS))


def split_of_name(name: str) -> str | None:
    """The word in a file's name that names its split, such as in ply_data_train0.h5; None if there is none."""
    found = _SPLIT_NAME.search(name)
    return None if found is None else found[1].lower()


def is_point_set_name(name: str) -> bool:
    """Whether an .h5 file of a folder may hold point clouds; others are artifacts of fer, or something else."""
    return split_of_name(name) is not None


def objections(source: Path, paths: Sequence[str]) -> dict[str, str]:
    """Why files of a folder or .zip cannot be read, for each of these paths that cannot.

    Raises InputError where the source is neither.
    """
    series = slices_in(source, [path for path in paths if file_suffix(path) not in READ_SUFFIXES])
    found: dict[str, str] = {}
    if is_zip(source):
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
    for path in paths:
        if path not in found and path not in series and not _is_sample(source, path):
            many = file_suffix(path) == POINT_SETS
            found[path] = "holds many samples, expected one" if many else f"fer does not read it; known are {KNOWN}"
    return {path: reason for path, reason in found.items() if path not in series}


def _is_sample(source: Path, path: str) -> bool:
    """Whether a file holds one sample that fer reads."""
    if file_suffix(path) in READ_SUFFIXES:
        return True
    return file_suffix(path) != POINT_SETS and is_dicom(read_head(source, path, 132))


def read_file(source: Path, path: str) -> bytes:
    """Content of a file of the source, which may be that file itself.

    An archive stays open within a process until `close_archives`. Raises InputError if it cannot be read.
    """
    with _readable(source, path):
        if source.is_dir():
            return (source / path).read_bytes()
        return _open_zip(source).read(path) if is_zip(source) else source.read_bytes()


def read_head(source: Path, path: str, count: int) -> bytes:
    """The first bytes of a file of the source. Raises InputError if it cannot be read."""
    with _readable(source, path):
        if is_zip(source):
            with _open_zip(source).open(path) as stream:
                return stream.read(count)
        with (source / path if source.is_dir() else source).open("rb") as stream:
            return stream.read(count)


@contextmanager
def _readable(source: Path, path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}.") from error
    except InputError:
        raise
    except Exception as error:  # zipfile lets zlib.error, EOFError, KeyError and NotImplementedError through
        raise InputError(f"{path}: cannot be unpacked from {source.name}: {str(error)[:200]}.") from error


def close_archives() -> None:
    """Close the archive that `read_file` keeps open in this process."""
    _open_zip.cache_clear()


def is_zip(source: Path) -> bool:
    """Whether a source is an archive."""
    return source.suffix.lower() == ".zip"


@functools.lru_cache(maxsize=1)
def _open_zip(source: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(source)
    except OSError as error:
        raise InputError(f"{source} cannot be read: {error.strerror or error}.") from error
    except Exception as error:  # BadZipFile, struct.error, NotImplementedError, UnicodeDecodeError
        raise InputError(f"{source} is not a usable .zip: {error}.") from error


def files_of(source: Path) -> tuple[list[str], list[Skipped]]:
    """The files of a folder or .zip that fer reads, and what is skipped."""
    return _zip_paths(source) if is_zip(source) else _folder_paths(source)


def is_dicom_path(path: str) -> bool:
    """Whether a file that `files_of` gives is one of DICOM, which need have no suffix."""
    suffix = file_suffix(path)
    return suffix in DICOM_SUFFIXES or suffix not in (*READ_SUFFIXES, POINT_SETS)


def slices_in(source: Path, folders: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The DICOM files that lie in each of these folders of a folder or .zip, for those that hold any."""
    wanted = {folder.strip("/"): folder for folder in folders}
    if is_zip(source):
        paths = files_of(source)[0]
    else:
        paths = [f"{folder.strip('/')}/{path}" for folder in folders for path in _files_in(source / folder)]
    found: dict[str, list[str]] = {}
    for path in sorted(path for path in paths if is_dicom_path(path)):
        folder = path.rpartition("/")[0]
        if folder in wanted:
            found.setdefault(wanted[folder], []).append(path)
    return {folder: tuple(members) for folder, members in found.items()}


def _files_in(folder: Path) -> list[str]:
    """The files that fer reads right in a folder; none of what is no folder, or cannot be opened."""
    try:
        names = [path.name for path in folder.iterdir() if path.is_file() and not _is_hidden(path.name)]
    except (OSError, ValueError):
        return []
    return [name for name in names if _is_read(folder, name, [])]


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
            if _is_hidden(name) or not _is_read(source, relative, skipped):
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
        replaced = member is not last[member.filename]
        reason = "is replaced by a later member of the same name" if replaced else _objection(member, parts)
        if not _is_read(source, member.filename, skipped, is_sound=reason is None):
            continue
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


def _is_read(source: Path, path: str, skipped: list[Skipped], *, is_sound: bool = True) -> bool:
    """Whether fer reads a file, by its suffix or as DICOM; a shape of another format is noted as skipped.

    A file is looked into only if it `is_sound`.
    """
    suffix, name = file_suffix(path), PurePosixPath(path).name
    if _OTHER_SHAPES.fullmatch(suffix):
        skipped.append(Skipped(path, f"fer does not read {suffix} files; known are {KNOWN}"))
    if suffix == POINT_SETS:
        return is_point_set_name(name)
    if suffix in READ_SUFFIXES:
        return True
    # Names of DICOM often are numbers, with dots or without; DICOMDIR is a table of contents.
    if not is_sound or not (suffix == "" or suffix[1:].isdigit()) or name == "DICOMDIR":
        return False
    try:
        return is_dicom(read_head(source, path, 132))
    except InputError:
        return False


def _relative(path: str | Path, source: Path) -> str:
    return Path(path).relative_to(source).as_posix()
