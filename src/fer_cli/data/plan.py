"""What `fer voxelize` is given → the samples to read, and whether they become shapes' grids or are volumes already."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fer_cli.data.collections import Collection, open_collection
from fer_cli.data.entries import Entry, Listing, Skipped, check_limits, draw_test, evenly
from fer_cli.data.formats.registry import GRID_SUFFIXES, SUFFIXES
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

    def to_json(self) -> dict[str, object]:
        """What would be read: classes and splits with the number of samples and the first of each, what is skipped."""
        counts: dict[str, dict[str, int]] = {}
        examples: dict[str, dict[str, str]] = {}
        for entry in self.listing.entries:
            name = entry.class_name or "unlabelled"
            of_split = counts.setdefault(name, {})
            of_split[entry.split] = of_split.get(entry.split, 0) + 1
            examples.setdefault(name, {}).setdefault(entry.split, entry.path)
        return {
            "source": str(self.source),
            "volumes": self.are_volumes,
            "layout": self.listing.layout or None,
            "samples": len(self.listing.entries),
            "classes": counts,
            "examples": examples,
            "skipped": [{"source": skip.path, "reason": skip.reason} for skip in self.listing.skipped],
        }


def plan(
    source: Path,
    *,
    layout: str | None = None,
    table: Path | None = None,
    classes: Sequence[str] | None = None,
    as_volumes: bool = False,
    per_class: int | None = None,
    test_fraction: float | None = None,
    seed: int = 0,
) -> Plan:
    """List the samples of a folder, a .zip, a file of one or of many, or a table (`.csv`), without reading volumes.

    `as_volumes` says that grids are to be stored as they are; scans and collections always are, but scans among meshes
    or point clouds are skipped. `classes` are names for the labels of a collection, in their order, and `layout` says
    which folders name classes and splits.

    Raises InputError and UsageError as `list_entries`, `list_table` and `open_collection` do.
    """
    if table is None and source.suffix.lower() == ".csv":
        source, table = source.parent, source
    if layout is not None and (table is not None or _may_be_collection(source)):
        raise UsageError(
            "--layout is for folders and archives; a table and a file of many volumes tell classes themselves."
        )
    if table is not None:
        listing = list_table(source, table, per_class=per_class, test_fraction=test_fraction, seed=seed)
        return _of_listing(source, listing, as_volumes=as_volumes)
    collection = open_collection(source, classes) if _may_be_collection(source) else None
    if collection is None:
        if classes is not None:
            raise UsageError("--classes names the labels of a file of many volumes; folders and tables name their own.")
        listing = list_entries(source, layout=layout, per_class=per_class, test_fraction=test_fraction, seed=seed)
        return _of_listing(source, listing, as_volumes=as_volumes)
    check_limits(per_class, test_fraction)
    entries = collection.entries
    if test_fraction is not None:
        entries = draw_test(entries, test_fraction, seed)
    elif all(entry.split == "unlabelled" for entry in entries):
        raise UsageError(f"{source} tells no split; give --test-fraction 0.2 to draw a test split.")
    if per_class is not None:
        entries = list(evenly(entries, per_class))
    return Plan(source, Listing(tuple(entries), collection.classes, ()), collection, are_volumes=True)


def _may_be_collection(source: Path) -> bool:
    return source.suffix.lower() == ".npz" and source.is_file()


def _of_listing(source: Path, listing: Listing, *, as_volumes: bool) -> Plan:
    """The plan for files: volumes if they are to be, or if there are scans and neither meshes nor point clouds."""
    if as_volumes or all(_holds_grid(entry) for entry in listing.entries):
        are_scans = any(entry.files or file_suffix(entry.path) in SCAN_SUFFIXES for entry in listing.entries)
        return Plan(source, listing, None, as_volumes or are_scans)
    reason = "is a volume among shapes; give --kind to store volumes, or list the files of one sort with --table"
    scans = [Skipped(entry.path, reason) for entry in listing.entries if _holds_scan(entry)]
    kept = tuple(entry for entry in listing.entries if not _holds_scan(entry))
    skipped = sorted([*listing.skipped, *scans], key=lambda item: item.path)
    classes = tuple(sorted({entry.class_name for entry in kept if entry.class_name is not None}))
    return Plan(
        source, replace(listing, entries=kept, classes=classes, skipped=tuple(skipped)), None, are_volumes=False
    )


def _holds_scan(entry: Entry) -> bool:
    """Whether a file holds a volume that is stored as it is, and cannot be read as a shape."""
    return bool(entry.files) or (file_suffix(entry.path) in SCAN_SUFFIXES and file_suffix(entry.path) not in SUFFIXES)


def _holds_grid(entry: Entry) -> bool:
    """Whether a file can hold a volume."""
    return bool(entry.files) or file_suffix(entry.path) in (*SCAN_SUFFIXES, *GRID_SUFFIXES)
