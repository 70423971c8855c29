"""Writes HDF5 artifacts: whole or not at all, as the schema declares them, under an id of their content.

What a file carries is described in `artifact`, which reads it.
"""

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from fer_cli import __version__
from fer_cli.artifact import NO_SEED, ROOT_ATTRIBUTES
from fer_cli.errors import ResourceError, UsageError
from fer_cli.schema import DatasetSpec, Format

Json = dict[str, Any]

_CHUNK_BYTES = 1 << 20
_ID_LENGTH = 32


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn what the operating system says about `path` into a `ResourceError`."""
    try:
        yield
    except OSError as error:
        # HDF5 reports a full disk as a bare OSError whose text holds the errno.
        full = error.errno == errno.ENOSPC or f"errno = {errno.ENOSPC}" in str(error)
        reason = "the disk is full" if full else error.strerror or str(error).splitlines()[0]
        raise ResourceError(f"cannot write {path}: {reason}.") from error


def claim_output(path: Path, *, force: bool) -> None:
    """Make sure that an artifact can be written to `path`, before any work is done for it.

    Creates the folder. Raises UsageError if the file exists and `force` is off, ResourceError if the
    folder cannot be written to.
    """
    with _writing(path):
        if path.exists() and not force:
            raise UsageError(f"{path} exists already. Name another output, or give --force to replace it.")
        path.parent.mkdir(parents=True, exist_ok=True)
        probe = path.with_name(f".{path.name}.{os.getpid()}.probe")
        probe.touch()
        probe.unlink()
        if path.is_dir():
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))


class ArtifactWriter:
    """Writes one artifact to a temporary sibling, and gives it its real name when the block ends well.

    Used as a context manager; a block that raises leaves nothing behind and an older file untouched.
    """

    def __init__(
        self,
        path: Path,
        form: Format,
        *,
        config: Json,
        parents: Mapping[str, str],
        seed: int | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        if not form.takes_parents(parents):
            raise ValueError(f"{form.name} needs parents {form.parents}, got {tuple(parents)}")
        self.path = path
        self.form = form
        self._config = config
        self._parents = dict(parents)
        self._seed = seed
        self._attributes = dict(attributes or {})
        self._digests: dict[str, Any] = {}
        self._partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        self.id = ""

    def __enter__(self) -> "ArtifactWriter":
        try:
            with _writing(self.path):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = h5py.File(self._partial, "w")
        except BaseException:  # Ctrl-C among them; `__exit__` is not called for what is raised here
            with suppress(OSError):  # where the folder is none, there is no file to remove either
                self._partial.unlink()
            raise
        return self

    def write(self, name: str, array: np.ndarray | list[str]) -> None:
        """Write a whole dataset; its type and number of axes must be the declared ones."""
        spec = self._spec(name)
        array = _as_declared(name, array, spec)
        self._create(name, spec, array.shape, extendable=False)
        self._store(name, spec, array, 0)

    def append(self, name: str, rows: np.ndarray | list[str]) -> None:
        """Append rows along the first axis of a dataset, which the first call creates."""
        spec = self._spec(name)
        array = _as_declared(name, rows, spec)
        if name not in self._file:
            self._create(name, spec, (0, *array.shape[1:]), extendable=True)
        dataset = self._file[name]
        start = dataset.shape[0]
        with _writing(self.path):
            dataset.resize(start + array.shape[0], axis=0)
        self._store(name, spec, array, start)

    def set_attribute(self, name: str, value: Any) -> None:
        """Set a root attribute of the stage to anything JSON holds; recorded when the block ends."""
        if name in ROOT_ATTRIBUTES:
            raise ValueError(f"{name!r} is an attribute that every artifact has; the writer sets it")
        self._attributes[name] = value

    def _spec(self, name: str) -> DatasetSpec:
        spec = self.form.spec(name)
        if spec is None:
            raise ValueError(f"{self.form.name} declares no dataset {name!r}")
        return spec

    def _create(self, name: str, spec: DatasetSpec, shape: tuple[int, ...], *, extendable: bool) -> None:
        dtype = h5py.string_dtype("utf-8") if spec.dtype == "text" else np.dtype(spec.dtype)
        options: Json = {}
        if extendable:
            options["maxshape"] = (None, *shape[1:])
        if extendable or (shape and 0 not in shape):
            options["chunks"] = _chunk_shape(shape, dtype.itemsize)
            options["fletcher32"] = spec.dtype != "text"  # HDF5 has no checksum for variable-length text
            if spec.compressed:
                options.update(compression="gzip", compression_opts=1, shuffle=dtype.itemsize > 1)
        with _writing(self.path):
            self._file.create_dataset(name, shape=shape, dtype=dtype, track_times=False, **options)
        self._digests[name] = hashlib.sha256()

    def _store(self, name: str, spec: DatasetSpec, array: np.ndarray, start: int) -> None:
        if array.size:
            with _writing(self.path):
                if array.ndim:
                    self._file[name][start : start + array.shape[0]] = array
                else:
                    self._file[name][()] = array
        if spec.identifying:
            self._digests[name].update(_content_bytes(array, spec))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._discard()
            return
        try:
            self._finish()
        except BaseException:
            self._discard()
            raise

    def _finish(self) -> None:
        missing = [s.name for s in self.form.datasets if s.required and not s.is_family and s.name not in self._file]
        if missing:
            raise ValueError(f"{self.form.name} lacks {missing}")
        content = {
            name: [list(self._file[name].shape), digest.hexdigest()] for name, digest in sorted(self._digests.items())
        }
        identity = {
            "format": self.form.name,
            "format_version": self.form.version,
            "parents": self._parents,
            "config": self._config,
            "attributes": self._attributes,
            "content": content,
        }
        self.id = hashlib.sha256(_json(identity).encode()).hexdigest()[:_ID_LENGTH]
        root: Json = {
            "format": self.form.name,
            "format_version": self.form.version,
            "id": self.id,
            "parents": _json(self._parents),
            "config": _json(self._config),
            "seed": NO_SEED if self._seed is None else self._seed,
            "created_by": f"fer {__version__}",
            **{key: _json(value) for key, value in self._attributes.items()},
        }
        with _writing(self.path):
            for key, value in root.items():
                self._file.attrs[key] = value
            self._file.close()
            with self._partial.open("rb+") as handle:
                os.fsync(handle.fileno())
            self._partial.replace(self.path)

    def _discard(self) -> None:
        try:
            self._file.close()
        except (OSError, RuntimeError):  # a full disk can make even closing fail; the file goes anyway
            pass
        finally:
            self._partial.unlink(missing_ok=True)


def _as_declared(name: str, array: np.ndarray | list[str], spec: DatasetSpec) -> np.ndarray:
    if spec.dtype == "text":
        converted = np.empty(len(array), dtype=object)
        converted[:] = [str(text) for text in array]
    else:
        converted = np.asarray(array)
        if converted.dtype != np.dtype(spec.dtype):
            raise ValueError(f"dataset {name!r} is declared {spec.dtype}, got {converted.dtype}")
    if spec.axes is not None and converted.ndim != len(spec.axes):
        raise ValueError(f"dataset {name!r} is declared with axes {spec.axes}, got shape {converted.shape}")
    return converted


def _content_bytes(array: np.ndarray, spec: DatasetSpec) -> bytes | np.ndarray:
    """What an array adds to its dataset's digest, the same however the rows are cut into calls."""
    if spec.dtype == "text":
        return "".join(f"{_json(text)}\n" for text in array).encode()
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8) if array.size else b""


def _chunk_shape(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Chunks of whole rows, about a mebibyte each."""
    row = itemsize * int(np.prod([max(1, length) for length in shape[1:]]))
    rows = max(1, min(max(shape[0], 1) if shape[0] else 64, _CHUNK_BYTES // max(row, 1)))
    return (rows, *[max(1, length) for length in shape[1:]])


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, allow_nan=False)
