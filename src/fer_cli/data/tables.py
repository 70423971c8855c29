"""A table of samples → its files, with class, split, group and whatever else it says of them.

CSV with a heading, separated by commas, semicolons or tabs. Columns `path` and `class`, and where there are any `split`
and `group`, in any order; every other column is kept as text.
"""

import csv
import io
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path, PurePosixPath

from fer_cli.data.containers import objections, slices_in
from fer_cli.data.entries import SPLIT_WORDS, Entry, Listing, Skipped, Split, check_limits, draw_test, listing_of
from fer_cli.data.formats.content import plain_text, require_content
from fer_cli.data.formats.scans import READ_SUFFIXES, file_suffix, stem_of
from fer_cli.errors import InputError, UsageError

_MOST_BYTES = 1 << 26
_KNOWN = ("path", "class", "split", "group")
_LISTED = 6


def read_table(table: Path) -> list[Entry]:
    """The samples of a table, in its order, named by the stems of their files.

    A sample without a class or a split is unlabelled. Raises InputError if the table cannot be read, has no column
    `path` or `class`, or holds a split of another name.
    """
    try:
        if table.stat().st_size > _MOST_BYTES:
            raise InputError(f"{table}: more than {_MOST_BYTES} bytes, too many for a table of samples.")
        content = table.read_bytes()
        require_content(content, str(table))
        text = plain_text(content).decode()
    except OSError as error:
        raise InputError(f"{table} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{table} is not a table in UTF-8: {error.reason}.") from error
    heading = text.partition("\n")[0]
    separator = max(",;\t", key=heading.count)
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True))
    except csv.Error as error:
        raise InputError(f"{table} is not a table: {error}.") from error
    rows = [row for row in rows if any(cell.strip() for cell in row)]
    if len(rows) < 2:
        raise InputError(f"{table} holds no sample; it needs a heading and a line for each sample.")
    names = [name.strip() for name in rows[0]]
    place = {name.lower(): column for column, name in reversed(list(enumerate(names)))}
    if missing := [name for name in ("path", "class") if name not in place]:
        found = ", ".join(names[:_LISTED])
        raise InputError(f"{table} has no column {missing[0]!r}; its columns are {found}.")
    further = _further(names)
    entries = []
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(names):
            raise InputError(f"{table}: row {number} has {len(row)} cells, but the heading {len(names)}.")
        cells = {name: row[place[name]].strip() if name in place else "" for name in _KNOWN}
        if not cells["path"]:
            raise InputError(f"{table}: row {number} names no file.")
        split: Split = "unlabelled"
        if cells["split"]:
            if cells["split"].lower() not in SPLIT_WORDS:
                raise InputError(f"{table}: row {number} has the split {cells['split']!r}; give train, val or test.")
            split = SPLIT_WORDS[cells["split"].lower()]
        columns = tuple((name, row[column].strip()) for name, column in further)
        entries.append(Entry("", cells["path"], cells["class"] or None, split, cells["group"], columns))
    return entries


def _name_of(path: str, *, is_folder: bool) -> str:
    name = PurePosixPath(path).name
    return name if is_folder else stem_of(name)


def _further(names: list[str]) -> list[tuple[str, int]]:
    """Columns that the artifact keeps: a name that an HDF5 dataset may have, and the position in a row."""
    further: dict[str, int] = {}
    for column, name in enumerate(names):
        plain = re.sub(r"[^\w .-]", "_", name).strip(" .")
        if plain and name.lower() not in _KNOWN and plain not in further:
            further[plain] = column
    return list(further.items())


def list_table(
    source: Path,
    table: Path,
    *,
    per_class: int | None = None,
    test_fraction: float | None = None,
    seed: int = 0,
) -> Listing:
    """The samples that a table names of a folder or .zip, whose paths are relative to it.

    A path may be that of a folder with the slices of a DICOM series.

    A file that is not there, or of a format that fer does not read, is skipped. Raises InputError as `read_table` and
    `list_entries` do; UsageError where there is no split and no `test_fraction` to draw one by.
    """
    check_limits(per_class, test_fraction)
    entries = read_table(table)
    repeated = Counter(entry.path for entry in entries)
    if twice := next((path for path, count in repeated.items() if count > 1), None):
        raise InputError(f"{table} names {twice} {repeated[twice]} times.")
    if all(entry.split == "unlabelled" for entry in entries) and test_fraction is None:
        raise UsageError(f"{table} has no column 'split'; give --test-fraction 0.2 to draw a test split.")
    objection = objections(source, [entry.path for entry in entries])
    skipped = [Skipped(path, reason) for path, reason in objection.items()]
    series = slices_in(source, [entry.path for entry in entries if file_suffix(entry.path) not in READ_SUFFIXES])
    found = [
        replace(entry, name=_name_of(entry.path, is_folder=entry.path in series), files=series.get(entry.path, ()))
        for entry in entries
        if entry.path not in objection
    ]
    if not found:
        raise InputError(
            f"{table}: none of its {len(skipped)} files can be used; {skipped[0].path}: {skipped[0].reason}."
        )
    if test_fraction is not None:
        found = draw_test(found, test_fraction, seed)
    return listing_of(found, skipped, per_class)
