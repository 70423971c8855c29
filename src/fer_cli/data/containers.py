"""A folder or a .zip, read in place: the files that fer reads, what is skipped and why, and their content.

A .zip within a folder or another .zip is read as if it were a folder (see `archives`). Other archives are named.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from fer_cli.data import archives
from fer_cli.data.archives import (
    ZIP,
    close_archives,
    is_file,
    is_hidden,
    is_other_archive,
    is_zip,
    member_of,
    members_of,
    outer_of,
    read_member,
)
from fer_cli.data.entries import Skipped
from fer_cli.data.formats.content import looks_like_points
from fer_cli.data.formats.dicom import is_dicom
from fer_cli.data.formats.registry import SUFFIXES
from fer_cli.data.formats.scans import DICOM_SUFFIXES, READ_SUFFIXES, SCAN_SUFFIXES, file_suffix
from fer_cli.errors import InputError

POINTS_TEXT = ".txt"
"""The suffix of texts that hold points, if they begin with some."""
NOT_ZIP = "is an archive or compressed file that fer does not read in place; unpack it, or pack its files as .zip"
POINT_SETS = ".h5"
"""The suffix of HDF5 files of many point clouds."""
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
    if not (is_zip(source) or source.is_dir()):
        raise InputError(f"{source} is neither a folder nor a .zip; a table names files of one.")
    packed = {path: archive for path in paths if (archive := _archive_of(source, path)) is not None}
    known, reasons = set[str](), dict[str, str]()
    for archive in set(packed.values()):
        members, skipped = _members(source, archive)
        known.update(members)
        reasons |= {item.path: item.reason for item in skipped}
    found = {path: reasons.get(path, "is not in the archive") for path in packed if path not in known}
    for path in paths:
        if path not in packed and (reason := _not_a_file(source / path)) is not None:
            found[path] = reason
    for path in paths:
        if path not in found and path not in series and not _is_sample(source, path):
            many = file_suffix(path) == POINT_SETS
            found[path] = "holds many samples, expected one" if many else f"fer does not read it; known are {KNOWN}"
    return {path: reason for path, reason in found.items() if path not in series}


def _not_a_file(file: Path) -> str | None:
    """Why a file of a folder cannot be read, or None."""
    try:
        size = file.stat().st_size if file.is_file() else None
    except (OSError, ValueError):
        size = None
    if size is None:
        return "does not exist, or is not a regular file"
    return f"{size} bytes, more than {archives.MAX_FILE_BYTES}" if size > archives.MAX_FILE_BYTES else None


def _is_sample(source: Path, path: str) -> bool:
    """Whether a file holds one sample that fer reads."""
    if file_suffix(path) in READ_SUFFIXES:
        return True
    return file_suffix(path) != POINT_SETS and is_dicom(read_head(source, path, 132))


def read_file(source: Path, path: str) -> bytes:
    """Content of a file of the source, which may be that file itself. Raises InputError if it cannot be read."""
    return _read(source, path, -1)


def read_head(source: Path, path: str, count: int) -> bytes:
    """The first bytes of a file of the source. Raises InputError if it cannot be read."""
    return _read(source, path, count)


def _read(source: Path, path: str, count: int) -> bytes:
    packed = None
    try:
        packed = member_of(source, path)
        if packed is not None:
            return read_member(*packed, count)
        with (source / path if source.is_dir() else source).open("rb") as stream:
            return stream.read(count)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}.") from error
    except InputError:
        raise
    except Exception as error:  # zipfile lets zlib.error, EOFError, KeyError and NotImplementedError through
        archive = source if packed is None else packed[0]
        raise InputError(f"{path}: cannot be unpacked from {archive.name}: {str(error)[:200]}.") from error


def file_on_disk(source: Path, path: str) -> Path:
    """The file that holds the content of a path of a folder: itself, or the archive that it is a member of."""
    packed = member_of(source, path)
    return source / path if packed is None else outer_of(packed[0]) or packed[0]


def files_of(source: Path) -> tuple[list[str], list[Skipped]]:
    """The files of a folder or .zip that fer reads, and what is skipped."""
    # Never a handle from earlier: an archive may have been replaced since.
    close_archives()
    return _members(source, "") if is_zip(source) else _folder_paths(source)


def is_dicom_path(path: str) -> bool:
    """Whether a file that `files_of` gives is one of DICOM, which need have no suffix."""
    suffix = file_suffix(path)
    return suffix in DICOM_SUFFIXES or suffix not in (*READ_SUFFIXES, POINT_SETS)


def slices_in(source: Path, folders: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The DICOM files that lie in each of these folders of a folder or .zip, for those that hold any."""
    wanted = {folder.strip("/"): folder for folder in folders}
    packed = {folder: archive for folder in folders if (archive := _archive_of(source, folder)) is not None}
    paths = [path for archive in sorted(set(packed.values())) for path in _members(source, archive)[0]]
    for folder in folders:
        if folder not in packed:
            paths += [f"{folder.strip('/')}/{path}" for path in _files_in(source / folder)]
    found: dict[str, list[str]] = {}
    for path in sorted(path for path in paths if is_dicom_path(path)):
        folder = path.rpartition("/")[0]
        if folder in wanted:
            found.setdefault(wanted[folder], []).append(path)
    return {folder: tuple(members) for folder, members in found.items()}


def _files_in(folder: Path) -> list[str]:
    """The files that fer reads right in a folder; none of what is no folder, or cannot be opened."""
    try:
        names = [path.name for path in folder.iterdir() if path.is_file() and not is_hidden(path.name)]
    except (OSError, ValueError):
        return []
    return [name for name in names if _is_read(folder, name, [])]


def _folder_paths(source: Path) -> tuple[list[str], list[Skipped]]:
    paths: list[str] = []
    skipped: list[Skipped] = []

    def refuse(error: OSError) -> None:
        skipped.append(Skipped(_relative(error.filename, source), f"cannot be read: {error.strerror}"))

    for folder, subfolders, files in os.walk(source, onerror=refuse):
        subfolders[:] = sorted(name for name in subfolders if not is_hidden(name))
        for name in files:
            path = Path(folder, name)
            relative = _relative(path, source)
            if is_hidden(name):
                continue
            if is_zip(path) and is_file(path):
                _add_archive(source, relative, paths, skipped)
            elif not is_zip(path) and not _is_read(source, relative, skipped):
                continue
            elif not path.is_file():
                skipped.append(Skipped(relative, "is not a regular file"))
            elif (size := path.stat().st_size) > archives.MAX_FILE_BYTES:
                skipped.append(Skipped(relative, f"{size} bytes, more than {archives.MAX_FILE_BYTES}"))
            else:
                paths.append(relative)
        skipped += [
            Skipped(_relative(Path(folder, name), source), "is a folder")
            for name in subfolders
            if file_suffix(name) in READ_SUFFIXES
        ]
    return paths, skipped


def _archive_of(source: Path, path: str) -> str | None:
    """The archive that a path of the source lies in, itself as a path of the source: empty for the source."""
    packed = member_of(source, f"{path.strip('/')}/")
    return None if packed is None else "" if packed[0] == source else _relative(packed[0], source)


def _add_archive(source: Path, archive: str, paths: list[str], skipped: list[Skipped]) -> None:
    """Add the members that fer reads of an archive within a folder, and what is skipped."""
    try:
        found, objected = _members(source, archive)
    except InputError as error:
        said = str(error).removeprefix(str(source / archive)).removeprefix(PurePosixPath(archive).name)
        found, objected = [], [Skipped(archive, said.lstrip(": ").rstrip("."))]
    paths += found
    skipped += objected


def _members(source: Path, archive: str) -> tuple[list[str], list[Skipped]]:
    """The members that fer reads, and what is skipped, of an archive within a folder, or of the source itself.

    An archive that is unpacked beside itself, if only in part, is not read: its shapes would be there twice.
    """
    file = source / archive if archive else source
    prefix = f"{archive}/" if archive else ""
    paths: list[str] = []
    skipped: list[Skipped] = []
    n_unpacked = 0
    for member, is_folder, reason in members_of(file):
        path = prefix + member
        if is_folder:
            if file_suffix(path.rstrip("/")) in READ_SUFFIXES:
                skipped.append(Skipped(path.rstrip("/"), "is a folder"))
        elif _is_archive_within(file, member, reason):
            _add_archive(source, path, paths, skipped)
        elif _is_read(source, path, skipped, is_sound=reason is None, in_archive=True):
            if reason:
                skipped.append(Skipped(path, reason))
            else:
                paths.append(path)
                n_unpacked += bool(prefix) and _is_unpacked(file, member)
    if n_unpacked:
        reason = f"{n_unpacked} of its {len(paths)} files lie unpacked beside it and are read there; the archive is not"
        return [], [Skipped(archive, reason)]
    if prefix and not (paths or skipped):
        skipped.append(Skipped(archive, "is an archive that holds no shape"))
    return paths, skipped


def _is_archive_within(archive: Path, member: str, reason: str | None) -> bool:
    """Whether a member is an archive that can be read in place: one level deep, and of a name that no path changes."""
    if reason is not None or PurePosixPath(member).suffix.lower() != ZIP or PurePosixPath(member).as_posix() != member:
        return False
    return outer_of(archive) is None


def _is_unpacked(archive: Path, member: str) -> bool:
    """Whether a file of the member's path lies beside its archive, or in a folder of the archive's name."""
    return any(is_file(folder / member) for folder in (archive.parent, archive.with_suffix("")))


def _is_read(
    source: Path, path: str, skipped: list[Skipped], *, is_sound: bool = True, in_archive: bool = False
) -> bool:
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
            skipped.append(Skipped(path, _why_not(suffix, in_archive=in_archive)))
        return are_points and suffix == POINTS_TEXT
    if suffix == POINT_SETS and (split_of_name(name) or _ARTIFACT.search(head)):
        return split_of_name(name) is not None
    if is_open and is_dicom(head):
        return True
    if suffix or b"\0" in head:
        skipped.append(Skipped(path, _why_not(suffix, in_archive=in_archive)))
    return False


def _why_not(suffix: str, *, in_archive: bool) -> str:
    """Why a file that looks like data is not read."""
    if suffix == POINTS_TEXT:
        return "is no text of points: its first line does not begin with three numbers"
    if suffix == POINT_SETS:
        return "tells no split: train, val or test in the names of .h5 files do"
    if is_other_archive(suffix):
        return "is an archive or compressed file within an archive; unpack it" if in_archive else NOT_ZIP
    return f"fer does not read {suffix or 'such'} files; known are {KNOWN}"


def _relative(path: str | Path, source: Path) -> str:
    return Path(path).relative_to(source).as_posix()
