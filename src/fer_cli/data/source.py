"""A SOURCE (folder, .zip read in place, or one file) → its shapes and volumes, with class and split.

Class and split come from the names of folders (`layouts`) or from a table (`tables`). A file's own name never decides
its class: some files of ModelNet40 are named after another class. Where folders tell no split, a test fraction draws it
at random.

Slices of one volume make one sample (`series`). A file with a table of point clouds makes many (`point_sets`).
`containers` reads folders, and archives in them or alone.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from fer_cli import __version__
from fer_cli.data import archives
from fer_cli.data.archives import is_other_archive, is_zip
from fer_cli.data.containers import (
    KNOWN,
    NOT_ZIP,
    POINT_SETS,
    POINTS_TEXT,
    file_on_disk,
    files_of,
    is_dicom_path,
    read_file,
    read_head,
    slices_in,
)
from fer_cli.data.entries import Entry, Listing, Skipped, check_limits, draw_test, listing_of
from fer_cli.data.formats.content import looks_like_points
from fer_cli.data.formats.dicom import is_dicom, read_dicom
from fer_cli.data.formats.registry import SUFFIXES, Grid, Mesh, PointCloud, cloud_of, read_shape
from fer_cli.data.formats.scans import READ_SUFFIXES, file_suffix, read_scan, require_finite
from fer_cli.data.formats.volume import Scan
from fer_cli.data.layouts import Layout, formats_of_one_shape, parse_layout, place
from fer_cli.data.point_sets import close_point_sets, point_entries, point_set_row, read_points
from fer_cli.data.series import file_entry, folder_entry, series_entries
from fer_cli.errors import InputError, UsageError
from fer_cli.storage.declarations import Json

_LISTED = 4
_HEAD = 1 << 12


def list_entries(
    source: Path,
    *,
    layout: str | None = None,
    per_class: int | None = None,
    test_fraction: float | None = None,
    seed: int = 0,
) -> Listing:
    """List the shapes of a folder, a .zip or a single file, without reading them.

    Shapes of one file name get names that tell them apart. `layout` says which folders name the class and the split
    where the listing does not tell. With `test_fraction`, that share of each class, of shapes that no folder `train` or
    `test` places, is for testing, though at least one shape, and one left for training; which ones depends on `seed`
    and on the names of the shapes and of their class alone. `per_class` keeps at most this number of shapes of each
    class and split, evenly spaced over the sorted names.

    Raises InputError if the source does not exist, cannot be read, is a broken archive, holds no shape, or has folders
    of several meanings; UsageError if `per_class` is not positive, `test_fraction` not between 0 and 1 or of no use for
    the source, or missing where folders tell classes and no split.
    """
    given = None if layout is None else parse_layout(layout)
    check_limits(per_class, test_fraction)
    try:
        size = source.stat().st_size
    except (OSError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError)
        reason = "does not exist" if missing else f"cannot be read: {getattr(error, 'strerror', None) or error}"
        raise InputError(f"{source} {reason}.") from error
    if not (source.is_dir() or source.is_file()):
        raise InputError(f"{source} is neither a folder nor a regular file.")
    if source.is_dir() or is_zip(source):
        paths, skipped = files_of(source)
        root = source.resolve().name if source.is_dir() else source.stem
        found = _entries(source, paths, root, skipped)
    else:
        root, found, skipped = "", _of_file(source, size), []
    if not found:
        first = f" ({len(skipped)} skipped, the first: {skipped[0].path}: {skipped[0].reason})" if skipped else ""
        raise InputError(f"{source} holds no shape that fer reads{first}; known are {KNOWN}.")
    entries, decided = _placed(found, root, given, skipped)
    entries = _with_splits(entries, decided, test_fraction, seed, source)
    return replace(listing_of(entries, skipped, per_class), layout=str(decided))


def _placed(
    entries: Sequence[Entry], root: str, given: Layout | None, skipped: list[Skipped]
) -> tuple[list[Entry], Layout]:
    """The entries with class and split; of a shape that is there in several formats, the first that `SUFFIXES` has."""
    in_folders = [entry for entry in entries if point_set_row(entry.path) is None]  # tables of points name their own
    placed, layout = place(in_folders, root, given)
    rank = {suffix: number for number, suffix in enumerate(SUFFIXES)}
    repeated: set[str] = set()
    for shape in formats_of_one_shape(placed, layout):
        first, *others = sorted(shape, key=lambda entry: (rank.get(file_suffix(entry.path), len(rank)), entry.path))
        skipped += [Skipped(other.path, f"is the shape of {first.path} in another format") for other in others]
        repeated.update(other.path for other in others)
    kept = [entry for entry in placed if entry.path not in repeated]
    return kept + [entry for entry in entries if point_set_row(entry.path) is not None], layout


def _with_splits(
    entries: list[Entry], layout: Layout, test_fraction: float | None, seed: int, source: Path
) -> list[Entry]:
    """The same entries, split by chance where their folders tell a class and no split; without a fraction, unlabelled.

    Raises UsageError where that would leave no class.
    """
    unsplit = [entry for entry in entries if entry.split == "unlabelled" and entry.class_name is not None]
    if test_fraction is not None:
        if not unsplit:
            raise UsageError(
                f"{source}: a test fraction is for <class>/<file>, but no shape lies so, {entries[0].path!r} for one; "
                "leave it out, or say with --layout class which folder is the class."
            )
        return draw_test(entries, test_fraction, seed)
    if unsplit and all(entry.split == "unlabelled" for entry in entries):
        names = sorted({str(entry.class_name) for entry in unsplit})
        listed = ", ".join(names[:_LISTED]) + (" …" if len(names) > _LISTED else "")
        raise UsageError(
            f"the folders of {source} name {len(names)} classes ({listed}) and no split; give --test-fraction 0.2 to "
            f"draw a test split, or --layout none for shapes without a class. Folders were read as {layout}."
        )
    return [replace(entry, class_name=None) if entry.split == "unlabelled" else entry for entry in entries]


def _entries(source: Path, paths: Sequence[str], root: str, skipped: list[Skipped]) -> list[Entry]:
    """The samples of the files of a folder or .zip."""
    slices = [path for path in paths if is_dicom_path(path)]
    entries = series_entries(source, slices, root)
    for path in sorted(set(paths) - set(slices)):
        if file_suffix(path) != POINT_SETS:
            entries.append(file_entry(path))
            continue
        try:
            entries += point_entries(source, path)
        except InputError as error:
            skipped.append(Skipped(path, str(error).removeprefix(f"{path}: ")))
    return entries


def _of_file(source: Path, size: int) -> list[Entry]:
    """The one sample of a file, or its many."""
    suffix = file_suffix(source.name)
    if suffix not in READ_SUFFIXES and is_other_archive(suffix):
        raise InputError(f"{source} {NOT_ZIP}.")
    head = (
        b""
        if suffix in (*READ_SUFFIXES, POINT_SETS) and suffix != POINTS_TEXT
        else read_head(source, source.name, _HEAD)
    )
    if head and not (looks_like_points(head) if suffix == POINTS_TEXT else is_dicom(head)):
        raise InputError(f"{source} is not a shape that fer reads; known are {KNOWN}.")
    if size > archives.MAX_FILE_BYTES:
        raise InputError(f"{source}: {size} bytes, more than {archives.MAX_FILE_BYTES}.")
    return point_entries(source, source.name) if suffix == POINT_SETS else [file_entry(source.name)]


def series_entry(path: Path) -> Entry | None:
    """The sample of a folder with slices of DICOM in it; None for any other path."""
    if not path.is_dir():
        return None
    members = slices_in(path.parent, [path.name]).get(path.name, ()) if path.name else ()
    return folder_entry("", [member.rpartition("/")[2] for member in members], path.name) if members else None


def read_shape_of(source: Path, entry: Entry) -> Mesh | PointCloud | Grid:
    """The shape of an entry. Raises InputError if it cannot be read."""
    if (row := point_set_row(entry.path)) is not None:
        return cloud_of(read_points(source, *row), entry.path)
    return read_shape(read_file(source, entry.path), entry.path)


def read_volume(source: Path, entry: Entry) -> Scan:
    """The volume of an entry, of its one file or of its slices. Raises InputError if it cannot be read."""
    if not entry.files:
        return read_scan(read_file(source, entry.path), entry.path)
    return require_finite(read_dicom(_slices(source, entry), entry.path), entry.path)


def _slices(source: Path, entry: Entry) -> Iterator[tuple[str, bytes]]:
    """The files of a series one after the other, named as their folder holds them."""
    size = 0
    for file in entry.files:
        content = read_file(source, file)
        size += len(content)
        if size > archives.MAX_FILE_BYTES:
            raise InputError(f"{entry.path}: its files take more than {archives.MAX_FILE_BYTES} bytes.")
        yield file.rpartition("/")[2], content


def close_archives() -> None:
    """Close the archive, and forget the point clouds, that are kept open in this process."""
    archives.close_archives()
    close_point_sets()


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

    def stamps(entry: Entry) -> list[list[int]]:
        row = point_set_row(entry.path)
        files = entry.files or (entry.path if row is None else row[0],)
        return [stamp(file_on_disk(source, file)) for file in files]

    in_folder = source.is_dir()
    facts = {
        "version": __version__,
        "batch": batch,
        "settings": settings,
        "source": [str(source.resolve()), [] if in_folder else stamp(source)],
        "entries": [[*vars(entry).values(), stamps(entry) if in_folder else []] for entry in listing.entries],
    }
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
