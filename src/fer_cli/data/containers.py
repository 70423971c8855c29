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
from fer_cli.data.formats.content import looks_like_points, require_content
from fer_cli.data.formats.dicom import is_dicom
from fer_cli.data.formats.registry import SUFFIXES
from fer_cli.data.formats.scans import DICOM_SUFFIXES, READ_SUFFIXES, SCAN_SUFFIXES, file_suffix
from fer_cli.errors import InputError

MAX_FILE_BYTES = 1 << 30
POINTS_TEXT = ".txt"
"""The suffix of texts that hold points, if they begin with some."""
POINT_SETS = ".h5"
"""The suffix of HDF5 files of many point clouds."""
# Text and voxels compress a few hundredfold at most, and only while they are small.
_BOMB_BYTES = 24 << 20
_BOMB_RATIO = 200

# Documents, pictures, lists and programs, which are no loss; whatever else is not read is named.
_NO_DATA = re.compile(
    r"\.(md|rst|pdf|docx?|odt|rtf|tex|bib|html?|css|xml|json|jsonl|ya?ml|toml|ini|cfg|conf|log|csv|tsv|lst|xlsx?|pptx?"
    r"|png|jpe?g|gif|bmp|svg|webp|ico|tga|dds|psd|exr|ktx2?|mtl|mp4|avi|py|pyc|ipynb|sh|bat|ps1|c|cc|cpp|h|hpp|cu|m|r|js|ts"
    r"|lua|java|url|lnk|db|lock|bak|sha1|sha256|sha512|md5|sig|license|txt)"
)
_DOCUMENT = re.compile(
    r"(read.?me|licen[cs]e|copying|copyright|notices?|change(s|log)|authors|citation|cite|terms|about|notes?|info|index"
    r"|todo|version|requirements|.*(names?|list|files|ids|classes|labels|categories|synsets?|taxonomy|splits?|train(ing)?"
    r"|val(id(ation)?)?|test(ing)?|sums?|log))[\d_.-]*",
    re.IGNORECASE,
)
_ARCHIVE = re.compile(r"\.(zip|tar|tgz|gz|bz2|xz|zst|7z|rar)")
_ARTIFACT = re.compile(rb"fer-(voxels|model|codebook|calibration|checkpoint)")
_TEXTS = (POINTS_TEXT, ".csv", ".tsv")
"""Texts that may hold points, of which fer reads the first."""
_HEAD = 1 << 12
_ARTIFACT_HEAD = 1 << 16


_SPLIT_NAME = re.compile(r"(?:^|[^a-z])(train|training|val|valid|validation|test|testing)(?:[^a-z]|$)", re.IGNORECASE)
KNOWN = ", ".join(dict.fromkeys((*SUFFIXES, *SCAN_SUFFIXES, POINT_SETS)))


def split_of_name(name: str) -> str | None:
    """The word in a file's name that names its split, such as in ply_data_train0.h5; None if there is none."""
    found = _SPLIT_NAME.search(name)
    return None if found is None else found[1].lower()


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
        require_content(source.read_bytes()[:_HEAD], source.name)
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
    """Whether fer reads a file, by its suffix or by its beginning; another file of data is noted as skipped.

    A file is looked into only if it `is_sound`.
    """
    suffix, name = file_suffix(path), PurePosixPath(path).name
    if suffix in READ_SUFFIXES and suffix != POINTS_TEXT:
        return True
    if name == "DICOMDIR" or (_NO_DATA.fullmatch(suffix) and suffix not in _TEXTS):
        return False
    try:
        # Names of DICOM often are numbers, with dots or without; DICOMDIR is a table of contents.
        is_open = is_sound and (suffix in ("", POINT_SETS, *_TEXTS) or suffix[1:].isdigit())
        head = read_head(source, path, _ARTIFACT_HEAD if suffix == POINT_SETS else _HEAD) if is_open else b""
    except InputError:
        return suffix == POINTS_TEXT
    if suffix in _TEXTS:
        are_points = looks_like_points(head)
        is_data = (
            are_points if suffix != POINTS_TEXT else not (are_points or _DOCUMENT.fullmatch(PurePosixPath(name).stem))
        )
        if is_data:
            skipped.append(Skipped(path, _why_not(suffix)))
        return are_points and suffix == POINTS_TEXT
    if suffix == POINT_SETS and (split_of_name(name) or _ARTIFACT.search(head)):
        return split_of_name(name) is not None
    if is_open and is_dicom(head):
        return True
    if suffix or b"\0" in head:
        skipped.append(Skipped(path, _why_not(suffix)))
    return False


def _why_not(suffix: str) -> str:
    """Why a file that looks like data is not read."""
    if suffix == POINTS_TEXT:
        return "is no text of points: its first line does not begin with three numbers"
    if suffix == POINT_SETS:
        return "tells no split: train, val or test in the names of .h5 files do"
    if _ARCHIVE.fullmatch(suffix):
        return "is an archive within the source; unpack it, or give it as SOURCE"
    return f"fer does not read {suffix or 'such'} files; known are {KNOWN}"


def _relative(path: str | Path, source: Path) -> str:
    return Path(path).relative_to(source).as_posix()
