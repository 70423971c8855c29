"""HDF5 artifacts: checked when read, linked by the ids of their parents. `artifact_writer` writes them.

Every file carries in its root attributes `format`, `format_version`, `id`, `parents` (JSON: role → id),
`config` (JSON), `seed`, `created_by`, and what its stage adds. The `id` is a hash over configuration,
parents and the content of every dataset, so the same content has the same id. A flipped bit is an error, when the file
is opened or what it changes is read: every dataset carries the digest that went into the id, numbers are stored with
Fletcher-32 checksums, and chunks have to be where they belong. No pickles, no external or soft links.
A file that would keep libhdf5 busy for ever, or crash it, is found out in a process apart (`vetting`).

This, `layout` and `artifact_writer` are the only modules that import h5py.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from fer_cli.errors import ArtifactError, FerError, LineageError, first_line
from fer_cli.storage.declarations import DatasetSpec, Format, Json
from fer_cli.storage.identity import artifact_id, content_bytes
from fer_cli.storage.layout import check_datasets, chunk_objection, datasets_of
from fer_cli.storage.lock import is_open_elsewhere
from fer_cli.storage.schema import FORMATS
from fer_cli.storage.vetting import vet, vet_ahead

ROOT_ATTRIBUTES = ("format", "format_version", "id", "parents", "config", "seed", "created_by")
DIGEST = "sha256"
"""Attribute of a dataset: the SHA-256 of its content, of which the `id` is made. Older artifacts have none."""
NO_SEED = -1
# What h5py raises where the structure of a file is damaged depends on where the damage is.
DAMAGE = (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError)
_EXAMINER = f"{__name__}:examine"
_MOST_INFLATED = 1 << 29
"""Bytes that compressed content may grow to where it is read whole."""


@dataclass
class Artifact:
    """A checked artifact, open for reading; datasets are read when asked for.

    Made by `open_artifact`; a context manager.
    """

    path: Path
    form: Format
    version: int
    id: str
    parents: dict[str, str]
    config: Json
    seed: int | None
    created_by: str
    _file: h5py.File = field(repr=False)
    _datasets: Mapping[str, h5py.Dataset] = field(repr=False)
    _digests: Mapping[str, str] = field(repr=False)
    _in_place: set[str] = field(default_factory=set, repr=False)

    def __enter__(self) -> "Artifact":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; datasets already read stay valid."""
        self._file.close()

    def names(self, prefix: str = "") -> list[str]:
        """Names of all datasets that start with `prefix`, sorted."""
        return [name for name in self._datasets if name.startswith(prefix)]

    def __contains__(self, name: str) -> bool:
        return name in self._datasets

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a dataset, without reading it."""
        return tuple(self._dataset(name).shape)

    def size(self, name: str) -> int:
        """Bytes of a dataset's content, without reading it."""
        return int(self._dataset(name).nbytes)

    def read(self, name: str, selection: Any = ()) -> np.ndarray:
        """Content of a dataset, or of a NumPy selection of it; an array selects rows, in ascending order.

        Raises ArtifactError if the dataset is missing or fails its checksum.
        """
        dataset = self._in_whole(name)
        is_whole = isinstance(selection, tuple) and not selection
        try:
            if is_whole and dataset.nbytes > max(_MOST_INFLATED, 2 * dataset.id.get_storage_size()):
                raise ArtifactError(
                    f"{self.path}: dataset {name!r} grows from {dataset.id.get_storage_size()} bytes to "
                    f"{dataset.nbytes}; refused. Run '{self.form.command}' again."
                )
            content = _rows(dataset, selection) if isinstance(selection, np.ndarray) else np.asarray(dataset[selection])
        except DAMAGE as error:
            raise self._damaged(f"dataset {name!r} cannot be read") from error
        if is_whole and not h5py.check_string_dtype(dataset.dtype):
            self._require_digest(name, self._digest(name, content))
        return content

    def blocks(self, name: str, rows: int) -> Iterator[np.ndarray]:
        """Content of a dataset, `rows` at a time. After the last block, verify the dataset's SHA-256.

        Raises ArtifactError as `read` does.
        """
        digest = hashlib.sha256()
        for start in range(0, self.shape(name)[0], rows):
            block = self.read(name, slice(start, start + rows))
            digest.update(content_bytes(block, self._spec(name)))
            yield block
        self._require_digest(name, digest.hexdigest())

    def read_text(self, name: str) -> list[str]:
        """Content of a one-axis text dataset."""
        try:
            texts = [str(text) for text in self._in_whole(name).asstr()[...]]
        except DAMAGE as error:
            raise self._damaged(f"dataset {name!r} cannot be read") from error
        self._require_digest(name, self._digest(name, texts))
        return texts

    def attribute(self, name: str) -> Any:
        """A root attribute that the stage added, decoded from JSON. Raises ArtifactError if it is not there."""
        try:
            return json.loads(self._file.attrs[name])
        except DAMAGE as error:
            raise ArtifactError(f"{self.path} has no usable attribute {name!r}.") from error

    @contextmanager
    def interpreted(self) -> Iterator[None]:
        """Turn whatever the block stumbles over in the content or the configuration into an ArtifactError."""
        try:
            yield
        except FerError as error:
            if isinstance(error, ArtifactError):
                raise
            raise self._damaged(str(error).rstrip(".")) from error
        except DAMAGE as error:
            raise self._damaged(f"{type(error).__name__}: {str(error)[:200]}") from error

    def _damaged(self, reason: str) -> ArtifactError:
        if is_open_elsewhere(self.path):
            return ArtifactError(_open_elsewhere(self.path))
        return ArtifactError(f"{self.path} is damaged: {reason}. Run '{self.form.command}' again.")

    def require_parent(self, role: str, parent: "Artifact") -> None:
        """Raise LineageError unless this artifact was made from `parent`."""
        made_from = self.parents.get(role, "nothing")
        if made_from != parent.id:
            raise LineageError(
                f"{self.path} was made from {role} {made_from[:12]}, but {parent.path} is {parent.id[:12]}. "
                f"Run '{self.form.command} --force' to make it again, or name the file it was made from."
            )

    def _dataset(self, name: str) -> h5py.Dataset:
        try:
            return self._datasets[name]
        except KeyError:
            raise ArtifactError(f"{self.path} holds no dataset {name!r}.") from None

    def _in_whole(self, name: str) -> h5py.Dataset:
        """A dataset all of whose chunks are where they belong, which is looked up once."""
        dataset = self._dataset(name)
        if name not in self._in_place:
            try:
                objection = chunk_objection(dataset)
            except DAMAGE as error:
                raise self._damaged(f"dataset {name!r} cannot be read") from error
            if objection:
                raise self._damaged(f"dataset {name!r} {objection}")
            self._in_place.add(name)
        return dataset

    def _spec(self, name: str) -> DatasetSpec:
        spec = self.form.spec(name)
        assert spec is not None
        return spec

    def _digest(self, name: str, content: np.ndarray | list[str]) -> str:
        return hashlib.sha256(content_bytes(content, self._spec(name))).hexdigest()

    def _require_digest(self, name: str, found: str) -> None:
        """Raise ArtifactError where the whole content is not what was written."""
        if self._spec(name).identifying and self._digests.get(name, found) != found:
            raise self._damaged(f"dataset {name!r} is not what was written")


def _rows(dataset: h5py.Dataset, indices: np.ndarray) -> np.ndarray:
    """The same as `dataset[...][indices]` would give: rows in the order of the indices, negative ones from the end.

    Each run of consecutive rows is one read, which is four times as fast as to select all rows at once. Raises
    IndexError for an index outside the dataset, where h5py's `read_direct` would return other rows.
    """
    indices = np.arange(len(dataset))[indices]
    first = np.flatnonzero(np.diff(indices, prepend=-2) != 1)
    content = np.empty((len(indices), *dataset.shape[1:]), dataset.dtype)
    for start, end in pairwise([*first.tolist(), len(indices)]):
        dataset.read_direct(content, np.s_[indices[start] : indices[end - 1] + 1], np.s_[start:end])
    return content


def expect(paths: Iterable[Path]) -> None:
    """Say that artifacts will be opened: they are vetted beside whatever comes before that."""
    vet_ahead(paths, _EXAMINER)


def open_artifact(path: Path, form: Format | None = None) -> Artifact:
    """Open an artifact of the given format (any known one if None) and check all that can be checked cheaply.

    Checked: HDF5 structure, format and version, root attributes, that every dataset is declared, of
    the declared type and number of axes, and that axes of one name agree in length.

    Raises ArtifactError with what was found instead and which command makes the file.
    """
    remedy = f" Run '{form.command}' to make it." if form else ""
    again = f" Run '{form.command} --force' to make it again." if form else ""
    if path.is_dir():
        raise ArtifactError(f"{path} is a folder, not an artifact; name a file.")
    if not path.is_file():
        folder = "" if path.parent.is_dir() else f", nor does the folder {path.parent}"
        raise ArtifactError(f"{path} does not exist{folder}.{remedy}")
    try:
        vet(path, _EXAMINER)
        file = open_hdf5(path)
    except OSError as error:
        if is_open_elsewhere(path):
            raise ArtifactError(_open_elsewhere(path)) from error
        if isinstance(error, PermissionError) or not os.access(path, os.R_OK):
            raise ArtifactError(f"{path} cannot be read: permission denied.") from error
        raise ArtifactError(f"{path} is not a readable HDF5 file (damaged or truncated).{again}") from error
    try:
        return _checked(path, file, form)
    except (*DAMAGE, ArtifactError) as error:
        file.close()
        if is_open_elsewhere(path):
            raise ArtifactError(_open_elsewhere(path)) from error
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(f"{path} is damaged: {first_line(error)}.{again}") from error
    except BaseException:
        file.close()
        raise


def open_hdf5(path: Path) -> h5py.File:
    """A file opened for reading, without a lock where none can be had.

    Some file systems have none, and a program that writes keeps others out. fer never changes a file that has its name:
    whatever another program does to it meanwhile, digests and checksums tell. With a lock where there can be one, the
    same process can open the file again with h5py's own settings.
    """
    try:
        return h5py.File(path, "r")
    except OSError:
        return h5py.File(path, "r", locking=False)


def _open_elsewhere(path: Path) -> str:
    return f"{path} is open in another program, which may be writing it. Close it there."


def examine(path: Path) -> None:
    """Make the libhdf5 calls that reading makes, on every part of the file.

    That is: all checks, the index of every dataset's chunks, every root attribute and every text.
    """
    with open_hdf5(path) as file:
        for key in file.attrs:
            file.attrs[key]
        for dataset in _checked(path, file, None)._datasets.values():
            if dataset.chunks:
                dataset.id.get_num_chunks()
            if h5py.check_string_dtype(dataset.dtype):
                dataset[...]


def _checked(path: Path, file: h5py.File, expected: Format | None) -> Artifact:
    attributes = {key: file.attrs[key] for key in ROOT_ATTRIBUTES if key in file.attrs}
    if missing := [key for key in ROOT_ATTRIBUTES if key not in attributes]:
        raise ArtifactError(f"{path} is not an artifact of fer: it has no attribute {missing[0]!r}.")
    named = str(attributes["format"])[:80]
    form = FORMATS.get(named)
    if form is None or (expected is not None and form is not expected):
        wanted = expected.name if expected else " or ".join(FORMATS)
        raise ArtifactError(f"{path} is a {named} file, but a {wanted} file is needed.")
    version = attributes["format_version"]
    if version not in (form.version, *form.older):
        remedy = "Upgrade fer, or run" if version > form.version else "Run"
        raise ArtifactError(
            f"{path} has version {version} of {form.name}, but this fer reads version {form.version}. "
            f"{remedy} '{form.command}' again."
        )
    try:
        parents, config = json.loads(attributes["parents"]), json.loads(attributes["config"])
        seed = int(attributes["seed"])
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ArtifactError(f"{path} is damaged: an attribute does not parse. Run '{form.command}' again.") from error
    if not (
        isinstance(parents, dict)
        and form.takes_parents(parents)
        and all(isinstance(parent, str) for parent in parents.values())
        and isinstance(config, dict)
    ):
        raise ArtifactError(f"{path} is damaged: parents or config are not as {form.name} has them.")
    datasets = dict(sorted(datasets_of(file)))
    check_datasets(path, form, datasets)
    digests = _digests(
        path, form, int(version), file, datasets, parents=parents, config=config, recorded=str(attributes["id"])
    )
    return Artifact(
        path=path,
        form=form,
        version=int(version),
        id=str(attributes["id"]),
        parents=parents,
        config=config,
        seed=None if seed == NO_SEED else seed,
        created_by=str(attributes["created_by"]),
        _file=file,
        _datasets=datasets,
        _digests=digests,
    )


def _digests(
    path: Path,
    form: Format,
    version: int,
    file: h5py.File,
    datasets: Mapping[str, h5py.Dataset],
    *,
    parents: Mapping[str, str],
    config: Mapping[str, object],
    recorded: str,
) -> dict[str, str]:
    """The digest of every dataset, of which the recorded id has to be made; none in an older artifact."""
    digests = {name: str(dataset.attrs[DIGEST]) for name, dataset in datasets.items() if DIGEST in dataset.attrs}
    if not digests:
        return {}
    own = {key: json.loads(file.attrs[key]) for key in file.attrs if key not in ROOT_ATTRIBUTES}
    every = {name: (dataset.shape, digests.get(name, "")) for name, dataset in datasets.items()}
    usual = {name: content for name, content in every.items() if form.identifies(name)}
    ids = (  # of what is derived the id was made too, for a time
        artifact_id(form.name, version, parents=parents, config=config, attributes=own, content=content)
        for content in (usual, every)
    )
    if recorded not in ids:
        raise ArtifactError(
            f"{path} is damaged: configuration, attributes or datasets are not those of its id. "
            f"Run '{form.command}' again."
        )
    return digests
