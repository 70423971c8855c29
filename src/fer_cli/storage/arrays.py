"""Plain numeric arrays of HDF5 files that others wrote, such as PointNet's ModelNet40.

Such a file is read in the separate process first (`vetting`). It is held to hard links, one file, deflate, and no more
than is stored, as artifacts are.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from fer_cli.errors import ArtifactError, InputError, first_line
from fer_cli.storage.artifact import DAMAGE, open_hdf5
from fer_cli.storage.layout import storage_objection
from fer_cli.storage.lock import is_open_elsewhere
from fer_cli.storage.vetting import vet

MOST_BYTES = 1 << 30
"""Bytes that one array may grow to."""
_MOST_CHUNK = 1 << 28
_MOST_NAMES = 64
_EXAMINER = f"{__name__}:examine"


def array_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the numeric arrays at the root of a file. Raises InputError for what is no HDF5 file."""
    with _opened(path) as file:
        return {name: tuple(dataset.shape) for name, dataset in _arrays(file, path).items()}


def read_numbers(path: Path, name: str) -> np.ndarray:
    """One of these arrays. Raises InputError if it is not there, is damaged, or promises more than it holds."""
    with _opened(path) as file:
        arrays = _arrays(file, path)
        if name not in arrays:
            raise InputError(f"{path.name} holds no array {name!r}.")
        return np.asarray(arrays[name][()])


def is_artifact(path: Path) -> bool:
    """Whether a file is one that fer wrote itself."""
    with _opened(path) as file:
        return str(file.attrs.get("format", "")).startswith("fer-")


def examine(path: Path) -> None:
    """Read every array, in the separate process."""
    with open_hdf5(path) as file:
        for dataset in _arrays(file, path).values():
            step = max(1, _MOST_CHUNK // max(1, dataset.nbytes // max(1, len(dataset)))) if dataset.ndim else 1
            for start in range(0, len(dataset) if dataset.ndim else 0, step):
                dataset[start : start + step]


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    try:
        vet(path, _EXAMINER)
        with open_hdf5(path) as file:
            yield file
    except InputError:
        raise
    except ArtifactError as error:
        raise InputError(str(error)) from error
    except DAMAGE as error:
        if is_open_elsewhere(path):
            raise InputError(f"{path.name} is open in another program, which may be writing it.") from None
        raise InputError(f"{path.name}: not a readable HDF5 file: {first_line(error)}.") from None


def _arrays(file: h5py.File, path: Path) -> dict[str, h5py.Dataset]:
    """The numeric arrays at the root, all of which can be read."""
    arrays: dict[str, h5py.Dataset] = {}
    for name in file:
        if file.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
            raise InputError(f"{path.name} holds a link at {name[:60]!r}, which fer does not follow.")
        dataset = file[name]
        if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in "biuf":
            continue
        if reason := storage_objection(dataset, is_compressed=True):
            raise InputError(f"{path.name}: the array {name[:60]!r} {reason}.")
        chunk = int(np.prod(dataset.chunks, dtype=object)) * dataset.dtype.itemsize if dataset.chunks else 0
        if dataset.nbytes > MOST_BYTES or chunk > _MOST_CHUNK:
            raise InputError(f"{path.name}: the array {name[:60]!r} takes {dataset.nbytes} bytes, refused.")
        arrays[name] = dataset
        if len(arrays) > _MOST_NAMES:
            raise InputError(f"{path.name} holds more than {_MOST_NAMES} arrays.")
    return arrays
