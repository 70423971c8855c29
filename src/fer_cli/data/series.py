"""Files of DICOM → the series that they are slices of, each one sample.

A folder of slices is one sample, called as the folder, and holds one series; the layout places it as it places a file:
`<class>/<train|test>/<case>/` and `<train|test>/<class>/<case>/`. No folder `train` or `test` is a case: each series
that lies in it is a sample, called as its first file. A file of several frames is a sample by itself.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from fer_cli.data.containers import read_file, read_head
from fer_cli.data.entries import SPLIT_WORDS, Entry
from fer_cli.data.formats.dicom import series_of
from fer_cli.data.formats.scans import stem_of

_HEAD = 1 << 18
"""Bytes of a file that tell its series, unless private elements come before."""


def series_entries(source: Path, paths: Sequence[str], root: str) -> list[Entry]:
    """The samples that the DICOM files of a folder or .zip make; `root` stands above their paths."""
    by_folder: dict[str, list[str]] = {}
    for path in sorted(paths):
        by_folder.setdefault(path.rpartition("/")[0], []).append(path)
    entries = []
    for folder, members in by_folder.items():
        if (PurePosixPath(folder).name or root).lower() in SPLIT_WORDS:
            by_series: dict[str, list[str]] = {}
            for path in members:
                series, frames = _series(source, path)
                by_series.setdefault(series if series and frames == 1 else path, []).append(path)
            entries += [replace(file_entry(each[0]), files=tuple(each)) for each in by_series.values()]
        elif _series(source, members[0])[1] > 1:
            entries += [replace(file_entry(path), files=(path,)) for path in members]
        else:
            entries.append(folder_entry(folder, members, root))
    return entries


def file_entry(path: str) -> Entry:
    """The sample of a file, named by its stem; the layout places it."""
    # A file name need not be UTF-8, but a sample's name is.
    readable = path.encode(errors="replace").decode()
    return Entry(stem_of(readable.replace("\\", "/").rpartition("/")[2]), path, None, "unlabelled")


def folder_entry(folder: str, members: Sequence[str], root: str) -> Entry:
    """The sample of a folder with the slices of a series."""
    name = (PurePosixPath(folder).name or root).encode(errors="replace").decode()
    return Entry(name, folder or ".", None, "unlabelled", files=tuple(members))


def _series(source: Path, path: str) -> tuple[str, int]:
    head = read_head(source, path, _HEAD)
    series, frames = series_of(head)
    return (series, frames) if (series and frames) or len(head) < _HEAD else series_of(read_file(source, path))
