"""A SOURCE (folder, .zip read in place, or one file) → its shapes and volumes, with class and split.

They come from the folder names: `<class>/<train|val|test>/<file>`, 3DShapeNets' `<class>/30/<train|test>/<file>`, and
`<train|val|test>/<class>/<file>`, at any depth. The class is always the folder's name, since some files of ModelNet40
are named after another class. A shape that lies elsewhere is unlabelled, unless a test fraction is given: then
`<class>/<file>` is split by chance. Or they come from a table, see `tables`.
Several files make one sample where they are slices (`series`), and one file makes many where it holds a table of point
clouds (`point_sets`). `containers` reads folders and archives.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from fer_cli import __version__
from fer_cli.data import containers
from fer_cli.data.containers import (
    KNOWN,
    POINT_SETS,
    files_of,
    is_dicom_path,
    is_zip,
    read_file,
    read_head,
    slices_in,
)
from fer_cli.data.entries import Entry, Listing, Skipped, check_limits, draw_test, listing_of
from fer_cli.data.formats.dicom import is_dicom, read_dicom
from fer_cli.data.formats.registry import Grid, Mesh, PointCloud, read_shape
from fer_cli.data.formats.scans import READ_SUFFIXES, file_suffix, read_scan, require_finite
from fer_cli.data.formats.volume import Scan
from fer_cli.data.layouts import class_folder, placed
from fer_cli.data.point_sets import close_point_sets, point_entries, point_set_row, read_points
from fer_cli.data.series import folder_entry, series_entries
from fer_cli.errors import InputError, UsageError
from fer_cli.storage.schema import Json


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
    if source.is_dir() or is_zip(source):
        paths, skipped = files_of(source)
        root = source.resolve().name if source.is_dir() else source.stem
        entries = _entries(source, paths, root, skipped)
    else:
        entries, skipped = _of_file(source, size), []
    if not entries:
        found = f" ({len(skipped)} skipped, the first: {skipped[0].path}: {skipped[0].reason})" if skipped else ""
        raise InputError(f"{source} holds no shape that fer reads{found}; known are {KNOWN}.")
    if test_fraction is not None:
        entries = _split(entries, test_fraction, seed, source)
    return listing_of(entries, skipped, per_class)


def _entries(source: Path, paths: Sequence[str], root: str, skipped: list[Skipped]) -> list[Entry]:
    """The samples of the files of a folder or .zip."""
    slices = [path for path in paths if is_dicom_path(path)]
    entries = series_entries(source, slices, root)
    for path in sorted(set(paths) - set(slices)):
        if file_suffix(path) != POINT_SETS:
            entries.append(placed(path, root))
            continue
        try:
            entries += point_entries(source, path)
        except InputError as error:
            skipped.append(Skipped(path, str(error).removeprefix(f"{path}: ")))
    return entries


def _of_file(source: Path, size: int) -> list[Entry]:
    """The one sample of a file, or its many."""
    suffix = file_suffix(source.name)
    if suffix not in (*READ_SUFFIXES, POINT_SETS) and not is_dicom(read_head(source, source.name, 132)):
        raise InputError(f"{source} is not a shape that fer reads; known are {KNOWN}.")
    if size > containers.MAX_FILE_BYTES:
        raise InputError(f"{source}: {size} bytes, more than {containers.MAX_FILE_BYTES}.")
    return point_entries(source, source.name) if suffix == POINT_SETS else [placed(source.name, "")]


def series_entry(path: Path) -> Entry | None:
    """The sample of a folder with slices of DICOM in it; None for any other path."""
    if not path.is_dir():
        return None
    members = slices_in(path.parent, [path.name]).get(path.name, ()) if path.name else ()
    return folder_entry("", [member.rpartition("/")[2] for member in members], path.name) if members else None


def read_shape_of(source: Path, entry: Entry) -> Mesh | PointCloud | Grid:
    """The shape of an entry. Raises InputError if it cannot be read."""
    if (row := point_set_row(entry.path)) is not None:
        return PointCloud(read_points(source, *row))
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
        if size > containers.MAX_FILE_BYTES:
            raise InputError(f"{entry.path}: its files take more than {containers.MAX_FILE_BYTES} bytes.")
        yield file.rpartition("/")[2], content


def close_archives() -> None:
    """Close the archive, and forget the point clouds, that are kept open in this process."""
    containers.close_archives()
    close_point_sets()


def _split(entries: Sequence[Entry], test_fraction: float, seed: int, source: Path) -> list[Entry]:
    """The same entries, those without a split having their folder as class and a split by chance."""
    groups: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.split == "unlabelled" and (class_name := class_folder(entry.path)) is not None:
            groups[class_name].append(entry)
    if not groups:
        example = entries[0].path
        raise UsageError(
            f"{source}: a test fraction is for <class>/<file>, but no shape lies so, {example!r} for one; leave it out."
        )
    classed = {entry.path: replace(entry, class_name=name) for name, members in groups.items() for entry in members}
    return draw_test([classed.get(entry.path, entry) for entry in entries], test_fraction, seed)


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
        return [stamp(source / file) for file in files]

    in_folder = source.is_dir()
    facts = {
        "version": __version__,
        "batch": batch,
        "settings": settings,
        "source": [str(source.resolve()), [] if in_folder else stamp(source)],
        "entries": [[*vars(entry).values(), stamps(entry) if in_folder else []] for entry in listing.entries],
    }
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
