"""A .zip, read in place: as SOURCE, or within a folder that is SOURCE; its members and their content.

A path within a folder names a member as if the archive were a folder: `train.zip/chair/a.off`; one of an archive within
an archive likewise, for one such level. Members are not unpacked to disk; what looks hostile is refused by name.
"""

import functools
import io
import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from fer_cli.data.formats.content import require_content
from fer_cli.errors import InputError

MAX_FILE_BYTES = 1 << 30
# Text and voxels compress a few hundredfold at most, and only while they are small.
_BOMB_BYTES = 24 << 20
_BOMB_RATIO = 200
ZIP = ".zip"
_INTO_ZIP = re.compile(r"\.zip/", re.IGNORECASE)
_ARCHIVE = re.compile(r"\.(zip|tar|tgz|tbz2?|txz|gz|bz2|xz|zst|7z|rar)")
_HEAD = 1 << 12
_MOST_OPEN = 8
MOST_WITHIN = 256 << 20
"""Bytes of an archive within an archive, which is held in memory while it is read."""


def is_zip(source: Path) -> bool:
    """Whether a source is an archive that fer reads."""
    return source.suffix.lower() == ZIP and not source.is_dir()


def is_other_archive(suffix: str) -> bool:
    """Whether files of a suffix are archives, or compressed, in a way that fer does not read in place."""
    return bool(_ARCHIVE.fullmatch(suffix))


def member_of(source: Path, path: str) -> tuple[Path, str] | None:
    """The archive and its member that a path of the source names; None for a file of a folder, or the source itself.

    An archive within an archive has the path of the outer one with its own added. Raises InputError if the outer one
    cannot be read.
    """
    if is_zip(source):
        return _within(source, path)
    for found in _INTO_ZIP.finditer(path):
        archive = source / path[: found.end() - 1]
        if is_file(archive):
            return _within(archive, path[found.end() :])
    return None


def _within(archive: Path, path: str) -> tuple[Path, str]:
    """The same for a path of an archive: that archive, or the one within it that the path leads into."""
    for found in _INTO_ZIP.finditer(path):
        if path[: found.end() - 1] in _open_zip(archive).NameToInfo:
            return archive / path[: found.end() - 1], path[found.end() :]
    return archive, path


def outer_of(archive: Path) -> Path | None:
    """The archive on disk that an archive lies within; None if it is on disk itself."""
    return next((outer for outer in archive.parents if is_zip(outer) and is_file(outer)), None)


def is_file(path: Path) -> bool:
    """Whether there is a regular file, also for names that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def read_member(archive: Path, member: str, count: int) -> bytes:
    """The first bytes of a member, all for −1. The archive stays open within a process until `close_archives`."""
    with _open_zip(archive).open(member) as stream:
        return stream.read(count)


def close_archives() -> None:
    """Close the archives that are kept open in this process."""
    _open_on_disk.cache_clear()
    _open_within.cache_clear()


def _open_zip(archive: Path) -> zipfile.ZipFile:
    outer = outer_of(archive)
    return _open_on_disk(archive) if outer is None else _open_within(outer, archive.relative_to(outer).as_posix())


@functools.lru_cache(maxsize=2)
def _open_within(outer: Path, member: str) -> zipfile.ZipFile:
    opened = _open_on_disk(outer)
    try:
        with opened.open(member) as stream:
            content = stream.read(MOST_WITHIN + 1)
        if len(content) <= MOST_WITHIN:
            return zipfile.ZipFile(io.BytesIO(content))
    except Exception as error:  # zlib.error, EOFError, KeyError, and as of an archive on disk
        raise InputError(f"{outer / member} is not a usable .zip: {error}.") from error
    raise InputError(f"{outer / member} takes more than {MOST_WITHIN >> 20} MiB within {outer.name}; unpack it.")


@functools.lru_cache(maxsize=_MOST_OPEN)
def _open_on_disk(archive: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(archive)
    except OSError as error:
        raise InputError(f"{archive} cannot be read: {error.strerror or error}.") from error
    except Exception as error:  # BadZipFile, struct.error, NotImplementedError, UnicodeDecodeError
        with archive.open("rb") as stream:
            require_content(stream.read(_HEAD), archive.name)
        raise InputError(f"{archive} is not a usable .zip: {error}.") from error


def members_of(archive: Path) -> Iterator[tuple[str, bool, str | None]]:
    """Every member's name, whether it is a folder, and the reason not to read it if there is one.

    Hidden members are left out. Raises InputError if the archive cannot be read.
    """
    members = _open_zip(archive).infolist()
    # Reading by name gives the last member of that name, so it is the last that has to be beyond suspicion.
    last = {member.filename: member for member in members}
    for member in members:
        parts = [part for part in member.filename.replace("\\", "/").split("/") if part != "."]
        if not member.filename or any(is_hidden(part) for part in parts if part not in ("", "..")):
            continue
        replaced = member is not last[member.filename]
        reason = "is replaced by a later member of the same name" if replaced else _objection(member, parts)
        yield member.filename, member.is_dir(), reason


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


def is_hidden(part: str) -> bool:
    """Whether a file or folder of this name is ignored: its name begins with a dot, or macOS made it."""
    return part.startswith(".") or part == "__MACOSX"
