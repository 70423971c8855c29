"""Writes HDF5 artifacts: whole or not at all, as the schema declares them, under an id of their content.

What a file carries is described in `artifact`, which reads it.
"""

import hashlib
import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from fer_cli import __version__
from fer_cli.execution.interrupts import Interrupts
from fer_cli.storage.artifact import DIGEST, NO_SEED, ROOT_ATTRIBUTES
from fer_cli.storage.declarations import DatasetSpec, Format
from fer_cli.storage.disk import writing
from fer_cli.storage.identity import artifact_id, canonical_json, content_bytes
from fer_cli.storage.lock import partial_name

_CHUNK_BYTES = 1 << 20


class ArtifactWriter:
    """Writes one artifact to a temporary file beside `path`, and renames it when the block succeeds.

    Used as a context manager; a block that raises leaves nothing behind and an older file untouched. A block may call
    `complete`, and then `rename`, itself, so that several artifacts get their names at one moment.
    """

    def __init__(
        self,
        path: Path,
        form: Format,
        *,
        config: Mapping[str, object],
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
        self._digests: dict[str, hashlib._Hash] = {}
        self._partial = partial_name(path)
        self._target: _Target | None = None
        self._file: Any = None
        self.id = ""

    def __enter__(self) -> "ArtifactWriter":
        with self._writing():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._target = _Target(self._partial)
            self._file = h5py.File(self._target, "w")
        return self

    def write(self, name: str, array: np.ndarray | list[str]) -> None:
        """Write a whole dataset; its type and number of axes must be the declared ones."""
        spec = self._spec(name)
        array = _as_declared(name, array, spec)
        self._create(name, spec, array.shape, array.dtype, extendable=False)
        self._store(name, spec, array, 0)

    def append(self, name: str, rows: np.ndarray | list[str]) -> str:
        """Append rows along the first axis of a dataset, which the first call creates; answers the type it now has.

        Of a dataset that may have narrower types, rows of a wider one widen what is there.
        """
        spec = self._spec(name)
        array = _as_declared(name, rows, spec)
        if name not in self._file:
            self._create(name, spec, (0, *array.shape[1:]), array.dtype, extendable=True)
        elif spec.narrower and (wide := common_type(array.dtype, self._file[name].dtype)) != array.dtype:
            array = array.astype(wide)
        if spec.narrower and array.dtype != self._file[name].dtype:
            self._widen(name, spec, array.dtype)
        start = self._file[name].shape[0]
        with self._writing():
            self._file[name].resize(start + array.shape[0], axis=0)
        self._store(name, spec, array, start)
        return str(self._file[name].dtype.name)

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

    def _widen(self, name: str, spec: DatasetSpec, dtype: np.dtype) -> None:
        """Store a dataset's rows anew in a wider type."""
        narrow = f"{name}.narrow"
        with self._writing():
            self._file.move(name, narrow)
        rows = self._file[narrow]
        self._create(name, spec, (0, *rows.shape[1:]), dtype, extendable=True)
        for start in range(0, len(rows), rows.chunks[0]):
            self.append(name, rows[start : start + rows.chunks[0]].astype(dtype))
        with self._writing():
            del self._file[narrow]

    def _create(
        self, name: str, spec: DatasetSpec, shape: tuple[int, ...], dtype: np.dtype, *, extendable: bool
    ) -> None:
        dtype = h5py.string_dtype("utf-8") if spec.dtype == "text" else dtype
        options: dict[str, object] = {}
        if extendable:
            options["maxshape"] = (None, *shape[1:])
        if extendable or (shape and 0 not in shape):
            options["chunks"] = _chunk_shape(shape, dtype.itemsize)
            options["fletcher32"] = spec.dtype != "text"  # HDF5 has no checksum for variable-length text
            if spec.compressed:
                options.update(compression="gzip", compression_opts=1, shuffle=dtype.itemsize > 1)
        with self._writing():
            self._file.create_dataset(name, shape=shape, dtype=dtype, track_times=False, **options)
        self._digests[name] = hashlib.sha256()

    def _store(self, name: str, spec: DatasetSpec, array: np.ndarray, start: int) -> None:
        if array.size:
            with self._writing():
                if array.ndim:
                    self._file[name][start : start + array.shape[0]] = array
                else:
                    self._file[name][()] = array
        if spec.identifying:
            self._digests[name].update(content_bytes(array, spec))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._discard()
            return
        try:
            if not self.id:
                self.complete()
            self.rename()
        except BaseException:
            self._discard()
            raise

    def complete(self) -> None:
        """Write the id and close the file, which keeps its temporary name."""
        missing = [s.name for s in self.form.datasets if s.required and not s.is_family and s.name not in self._file]
        if missing:
            raise ValueError(f"{self.form.name} lacks {missing}")
        digests = {name: digest.hexdigest() for name, digest in self._digests.items()}
        self.id = artifact_id(
            self.form.name,
            self.form.version,
            parents=self._parents,
            config=self._config,
            attributes=self._attributes,
            content={
                name: (self._file[name].shape, digest) for name, digest in digests.items() if self.form.identifies(name)
            },
        )
        root: dict[str, object] = {
            "format": self.form.name,
            "format_version": self.form.version,
            "id": self.id,
            "parents": canonical_json(self._parents),
            "config": canonical_json(self._config),
            "seed": NO_SEED if self._seed is None else self._seed,
            "created_by": f"fer {__version__}",
            **{key: canonical_json(value) for key, value in self._attributes.items()},
        }
        with self._writing():
            for name, digest in digests.items():
                self._file[name].attrs[DIGEST] = digest
            for key, value in root.items():
                self._file.attrs[key] = value
            self._file.close()
            assert self._target is not None
            self._target.finish()

    def rename(self) -> None:
        """Give the complete file its real name, unless it has it."""
        if self._target is not None:
            with self._writing():
                self._partial.replace(self.path)
                self._target = None

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Raise ResourceError where the block fails to write, and interrupt it only at its end."""
        try:
            with writing(self.path), Interrupts(patient=True):
                yield
                if self._target is not None:
                    self._target.check()
        except BaseException:
            self._discard()
            raise

    def _discard(self) -> None:
        with Interrupts(patient=True):
            if self._target is not None:
                self._target.give_up()
                if self._file is not None:
                    self._file.close()
                self._target.close()
                self._target = None
                self._partial.unlink(missing_ok=True)


class _Target(io.FileIO):
    """The file that HDF5 writes to; HDF5 is never told that a write failed, `check` is.

    A failed write leaves HDF5 with what it can neither write nor forget, and it crashes when that file, or another,
    is closed.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")
        self._failure: OSError | None = None
        self._given_up = False

    def write(self, content: Any) -> int:
        """Write all of it, unless a write has failed before."""
        left = memoryview(content).cast("B")
        count = len(left)
        try:
            while left and self._failure is None and not self._given_up:
                left = left[super().write(left) :]
        except OSError as error:
            self._failure = error
        return count

    def truncate(self, size: int | None = None) -> int:
        """Cut or extend the file, unless a write has failed before."""
        try:
            if self._failure is None and not self._given_up:
                return super().truncate(size)
        except OSError as error:
            self._failure = error
        return size or 0

    def give_up(self) -> None:
        """Write nothing more."""
        self._given_up = True

    def check(self) -> None:
        """Raise the OSError of the first write that failed."""
        if self._failure is not None:
            raise self._failure

    def finish(self) -> None:
        """Bring everything to the disk and close the file."""
        self.check()
        os.fsync(self.fileno())
        self.close()


def common_type(one: np.dtype, other: np.dtype) -> np.dtype:
    """The smallest type that holds every number of both, up to float32."""
    wide = np.promote_types(one, other)
    return wide if wide.itemsize <= 2 else np.dtype(np.float32)


def _as_declared(name: str, array: np.ndarray | list[str], spec: DatasetSpec) -> np.ndarray:
    if spec.dtype == "text":
        converted = np.empty(len(array), dtype=object)
        converted[:] = [str(text) for text in array]
    else:
        converted = np.asarray(array)
        if converted.dtype.name not in (spec.dtype, *spec.narrower):
            raise ValueError(f"dataset {name!r} is declared {spec.dtype}, got {converted.dtype}")
    if spec.axes is not None and converted.ndim != len(spec.axes):
        raise ValueError(f"dataset {name!r} is declared with axes {spec.axes}, got shape {converted.shape}")
    return converted


def _chunk_shape(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Chunks of whole rows, about a mebibyte each."""
    row = itemsize * int(np.prod([max(1, length) for length in shape[1:]]))
    rows = max(1, min(max(shape[0], 1) if shape[0] else 64, _CHUNK_BYTES // max(row, 1)))
    return (rows, *[max(1, length) for length in shape[1:]])
