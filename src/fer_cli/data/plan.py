"""What `fer voxelize` is given → the samples to read, and whether they become shapes' grids or are volumes already."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fer_cli.data.collections import Collection, open_collection
from fer_cli.data.entries import Listing, check_limits, draw_test, evenly
from fer_cli.data.formats.scans import SCAN_SUFFIXES, file_suffix
from fer_cli.data.source import list_entries
from fer_cli.data.tables import list_table
from fer_cli.errors import UsageError


@dataclass(frozen=True)
class Plan:
    """The samples of `source`, the collection where it is a file of many, and whether they are stored as volumes."""

    source: Path
    listing: Listing
    collection: Collection | None
    are_volumes: bool


def plan(
    source: Path,
    *,
    table: Path | None = None,
    classes: Sequence[str] | None = None,
    as_volumes: bool = False,
    per_class: int | None = None,
    test_fraction: float | None = None,
    seed: int = 0,
) -> Plan:
    """List the samples of a folder, a .zip, a file of one or of many, or a table (`.csv`), without reading volumes.

    `as_volumes` says that grids are to be stored as they are; scans and collections always are. `classes` are names for
    the labels of a collection, in their order.

    Raises InputError and UsageError as `list_entries`, `list_table` and `open_collection` do.
    """
    if table is None and source.suffix.lower() == ".csv":
        source, table = source.parent, source
    if table is not None:
        listing = list_table(source, table, per_class=per_class, test_fraction=test_fraction, seed=seed)
        return Plan(source, listing, None, as_volumes or _holds_scans(listing))
    collection = open_collection(source, classes) if source.suffix.lower() == ".npz" and source.is_file() else None
    if collection is None:
        if classes is not None:
            raise UsageError("--classes names the labels of a file of many volumes; folders and tables name their own.")
        listing = list_entries(source, per_class=per_class, test_fraction=test_fraction, seed=seed)
        return Plan(source, listing, None, as_volumes or _holds_scans(listing))
    check_limits(per_class, test_fraction)
    entries = collection.entries
    if test_fraction is not None:
        entries = draw_test(entries, test_fraction, seed)
    elif all(entry.split == "unlabelled" for entry in entries):
        raise UsageError(f"{source} tells no split; give --test-fraction 0.2 to draw a test split.")
    if per_class is not None:
        entries = list(evenly(entries, per_class))
    return Plan(source, Listing(tuple(entries), collection.classes, ()), collection, are_volumes=True)


def _holds_scans(listing: Listing) -> bool:
    return any(entry.files or file_suffix(entry.path) in SCAN_SUFFIXES for entry in listing.entries)
