"""The samples in a folder that a user names as SAMPLE: each file that holds one, under a name of its own."""

import os
from collections.abc import Iterator
from pathlib import Path

from fer_cli.data.entries import Listing, listing_of
from fer_cli.data.point_sets import point_set_row
from fer_cli.data.series import file_entry
from fer_cli.data.source import list_entries, series_entry
from fer_cli.errors import InputError


def is_sample_folder(path: Path) -> bool:
    """Whether a path is a folder of samples, and no sample itself as a folder with slices of DICOM is."""
    return path.is_dir() and series_entry(path) is None


def sample_files(folder: Path, *, of_any_format: bool = False) -> dict[str, str]:
    """Paths of the samples in a folder and the folders in it, each with a name that no other has, by name.

    They are the files that `fer voxelize` reads, and folders of DICOM; with `of_any_format`, all files that are not
    hidden. Of a shape in several formats it is one. Tables of many point clouds are left out: no path names one cloud.

    Raises InputError if there is none.
    """
    listing = _listing(folder) if of_any_format else list_entries(folder, layout="none")
    found = {
        str(folder / entry.path): entry.name
        for entry in sorted(listing.entries, key=lambda entry: entry.name)
        if point_set_row(entry.path) is None
    }
    if not found:
        raise InputError(f"{folder} holds no file of one sample.")
    return found


def _listing(folder: Path) -> Listing:
    return listing_of([file_entry(path) for path in _visible(folder)], (), None)


def _visible(folder: Path) -> Iterator[str]:
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inside = Path(place).relative_to(folder)
        yield from (str(inside / name) for name in sorted(files) if not name.startswith("."))
