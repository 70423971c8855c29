"""HDF5 files of many point clouds, as PointNet's ModelNet40 has them → their samples, and the points of each.

Such a file holds `data` (sample, point, 3) and `label` (sample) or (sample, 1). Its name tells the split
(`ply_data_train0.h5`); `shape_names.txt` beside it names the classes, which are called by their numbers without it.
A member of an archive is copied to a temporary file, which libhdf5 reads.
"""

import functools
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64

from fer_cli.data.archives import is_zip, member_of
from fer_cli.data.containers import POINT_SETS, read_file, read_head, split_of_name
from fer_cli.data.entries import SPLIT_WORDS, Entry
from fer_cli.data.formats.content import plain_text, require_content
from fer_cli.errors import InputError, one_line
from fer_cli.storage.arrays import array_shapes, is_artifact, read_numbers

_MOST_SAMPLES = 10_000_000
_MOST_POINTS = 1 << 24
_ROW = re.compile(rf"(?P<file>.+{re.escape(POINT_SETS)})/(?P<row>\d{{1,8}})", re.IGNORECASE | re.DOTALL)
_MOST_NAMES_BYTES = 1 << 20


def point_set_row(path: str) -> tuple[str, int] | None:
    """The file and the row that an entry's path names, None where it names a file of one sample."""
    found = _ROW.fullmatch(path)
    return None if found is None else (found["file"], int(found["row"]))


def point_entries(source: Path, path: str) -> list[Entry]:
    """The samples of a file, none where fer wrote it itself.

    Raises InputError if it is damaged, or holds no point clouds with labels.
    """
    with _as_file(source, path) as file:
        if is_artifact(file):
            return []
        shapes = array_shapes(file)
        points, labels = shapes.get("data", ()), shapes.get("label", ())
        if len(points) != 3 or points[2] != 3 or not 0 < points[1] <= _MOST_POINTS or labels[:1] != points[:1]:
            found = ", ".join(f"{name} {'×'.join(map(str, shape))}" for name, shape in sorted(shapes.items())[:6])
            raise InputError(
                f"{path}: holds {one_line(found)[:300] or 'no arrays'}; expected data (sample, point, 3) and label "
                "(sample), as PointNet's ModelNet40 has."
            )
        numbers = _labels(read_numbers(file, "label"), points[0], path)
    names = _class_names(source, path)
    if names and int(numbers.max()) >= len(names):
        raise InputError(f"{path}: its labels run to {numbers.max()}, but shape_names.txt has {len(names)} names.")
    word = split_of_name(Path(path).name)
    split = "unlabelled" if word is None else SPLIT_WORDS[word]
    stem = Path(path).name[: -len(POINT_SETS)].encode(errors="replace").decode()
    return [
        Entry(f"{stem}_{row:05}", f"{path}/{row}", names[label] if names else str(label), split)
        for row, label in enumerate(numbers.tolist())
    ]


def read_points(source: Path, path: str, row: int) -> Float64[np.ndarray, "point 3"]:
    """The points of a sample, as they are stored; the file's stay in memory until another's are read.

    Raises InputError for no such row.
    """
    points = _all_points(source, path)
    if points.ndim != 3 or points.shape[2] != 3 or not row < len(points):
        raise InputError(f"{path}/{row}: there is no such point cloud.")
    found: np.ndarray = points[row].astype(np.float64)
    return found


def close_point_sets() -> None:
    """Forget the file that `read_points` keeps in memory."""
    _all_points.cache_clear()


@functools.lru_cache(maxsize=1)
def _all_points(source: Path, path: str) -> np.ndarray:
    with _as_file(source, path) as file:
        return read_numbers(file, "data")


@contextmanager
def _as_file(source: Path, path: str) -> Iterator[Path]:
    """A file that libhdf5 can open."""
    require_content(read_head(source, path, 64), path)
    if member_of(source, path) is None:
        yield source / path if source.is_dir() else source
        return
    with tempfile.TemporaryDirectory(prefix="fer-") as folder:
        file = Path(folder) / f"points{POINT_SETS}"
        file.write_bytes(read_file(source, path))
        yield file


def _labels(stored: np.ndarray, count: int, path: str) -> Int64[np.ndarray, " sample"]:
    if stored.dtype.kind not in "iu" or stored.size != count or not 0 < count <= _MOST_SAMPLES:
        raise InputError(f"{path}: has {stored.size} labels of {stored.dtype} for {count} samples.")
    labels = stored.reshape(-1).astype(np.int64)
    if labels.min() < 0 or labels.max() > 1_000_000:
        raise InputError(f"{path}: its labels run from {labels.min()} to {labels.max()}; they count from 0.")
    return labels


def _class_names(source: Path, path: str) -> list[str]:
    """The lines of `shape_names.txt` beside the file; none where there is no such file."""
    beside = f"{path.rpartition('/')[0]}/shape_names.txt".removeprefix("/")
    try:
        if source.is_file() and not is_zip(source):
            text = (source.parent / "shape_names.txt").read_bytes()
        else:
            text = read_file(source, beside)
    except (InputError, OSError):
        return []
    if len(text) > _MOST_NAMES_BYTES:
        raise InputError(f"{beside}: {len(text)} bytes, too many for names of classes.")
    names = [line.strip() for line in plain_text(text).decode(errors="replace").splitlines() if line.strip()]
    if len(set(names)) != len(names):
        raise InputError(f"{beside}: names a class twice.")
    return names
