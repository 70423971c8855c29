"""HDF5 artifacts: written whole or not at all, checked when read, linked by the ids of their parents.

Every file carries in its root attributes `format`, `format_version`, `id`, `parents` (JSON: role → id),
`config` (JSON), `seed`, `created_by`, and what its stage adds. The `id` is a hash over configuration,
parents and the content of every dataset, so the same content has the same id. Datasets are stored with
Fletcher-32 checksums: a flipped bit is an error when it is read. No pickles, no external or soft links.

This is the only module that imports h5py.
"""

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from fer_cli import __version__
from fer_cli.errors import ArtifactError, LineageError, ResourceError, UsageError
from fer_cli.schema import FORMATS, DatasetSpec, Format

Json = dict[str, Any]

_ROOT_ATTRIBUTES = ("format", "format_version", "id", "parents", "config", "seed", "created_by")
_NO_SEED = -1
_CHUNK_BYTES = 1 << 20
_ID_LENGTH = 32
# What h5py raises where the structure of a file is damaged depends on where the damage is.
_DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError)


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
        if name in _ROOT_ATTRIBUTES:
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
            "seed": _NO_SEED if self._seed is None else self._seed,
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


@dataclass
class Artifact:
    """A checked artifact, open for reading; datasets are read when asked for.

    Made by `open_artifact`; a context manager.
    """

    path: Path
    form: Format
    id: str
    parents: dict[str, str]
    config: Json
    seed: int | None
    created_by: str
    _file: h5py.File = field(repr=False)

    def __enter__(self) -> "Artifact":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; datasets already read stay valid."""
        self._file.close()

    def names(self, prefix: str = "") -> list[str]:
        """Names of all datasets that start with `prefix`, sorted."""
        return [name for name in sorted(_dataset_names(self._file)) if name.startswith(prefix)]

    def __contains__(self, name: str) -> bool:
        return name in self._file

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a dataset, without reading it."""
        return tuple(self._dataset(name).shape)

    def read(self, name: str, selection: Any = ()) -> np.ndarray:
        """Content of a dataset, or of a NumPy selection of it.

        Raises ArtifactError if the dataset is missing or fails its checksum.
        """
        try:
            return np.asarray(self._dataset(name)[selection])
        except (OSError, RuntimeError) as error:
            raise ArtifactError(
                f"{self.path} is damaged: dataset {name!r} cannot be read. Run '{self.form.command}' again."
            ) from error

    def read_text(self, name: str) -> list[str]:
        """Content of a one-axis text dataset."""
        try:
            return [str(text) for text in self._dataset(name).asstr()[...]]
        except (OSError, RuntimeError, UnicodeDecodeError) as error:
            raise ArtifactError(
                f"{self.path} is damaged: dataset {name!r} cannot be read. Run '{self.form.command}' again."
            ) from error

    def attribute(self, name: str) -> Any:
        """A root attribute that the stage added, decoded from JSON. Raises ArtifactError if it is not there."""
        try:
            return json.loads(self._file.attrs[name])
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"{self.path} has no usable attribute {name!r}.") from error

    def require_parent(self, role: str, parent: "Artifact") -> None:
        """Raise LineageError unless this artifact was made from `parent`."""
        made_from = self.parents.get(role, "nothing")
        if made_from != parent.id:
            raise LineageError(
                f"{self.path} was made from {role} {made_from[:12]}, but {parent.path} is {parent.id[:12]}. "
                f"Run '{self.form.command}' again, or name the file it was made from."
            )

    def _dataset(self, name: str) -> Any:
        try:
            return self._file[name]
        except KeyError:
            raise ArtifactError(f"{self.path} holds no dataset {name!r}.") from None


def open_artifact(path: Path, form: Format | None = None) -> Artifact:
    """Open an artifact of the given format (any known one if None) and check all that can be checked cheaply.

    Checked: HDF5 structure, format and version, root attributes, that every dataset is declared, of
    the declared type and number of axes, and that axes of one name agree in length.

    Raises ArtifactError with what was found instead and which command makes the file.
    """
    remedy = f" Run '{form.command}' to make it." if form else ""
    if not path.is_file():
        raise ArtifactError(f"{path} does not exist.{remedy}")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        if isinstance(error, PermissionError) or not os.access(path, os.R_OK):
            raise ArtifactError(f"{path} cannot be read: permission denied.") from error
        raise ArtifactError(f"{path} is not a readable HDF5 file (damaged or truncated).{remedy}") from error
    try:
        return _checked(path, file, form)
    except _DAMAGE as error:
        file.close()
        raise ArtifactError(f"{path} is damaged: {str(error).splitlines()[0]}.{remedy}") from error
    except BaseException:
        file.close()
        raise


def _checked(path: Path, file: h5py.File, expected: Format | None) -> Artifact:
    attributes = {key: file.attrs[key] for key in _ROOT_ATTRIBUTES if key in file.attrs}
    if missing := [key for key in _ROOT_ATTRIBUTES if key not in attributes]:
        raise ArtifactError(f"{path} is not an artifact of fer: it has no attribute {missing[0]!r}.")
    form = FORMATS.get(str(attributes["format"]))
    if form is None or (expected is not None and form is not expected):
        wanted = expected.name if expected else " or ".join(FORMATS)
        raise ArtifactError(f"{path} is a {attributes['format']} file, but a {wanted} file is needed.")
    if attributes["format_version"] != form.version:
        raise ArtifactError(
            f"{path} has version {attributes['format_version']} of {form.name}, but this fer reads version "
            f"{form.version}. Run '{form.command}' again."
        )
    try:
        parents, config = json.loads(attributes["parents"]), json.loads(attributes["config"])
        seed = int(attributes["seed"])
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"{path} is damaged: an attribute does not parse. Run '{form.command}' again.") from error
    if not (isinstance(parents, dict) and form.takes_parents(parents) and isinstance(config, dict)):
        raise ArtifactError(f"{path} is damaged: parents or config are not as {form.name} has them.")
    _check_datasets(path, file, form)
    return Artifact(
        path=path,
        form=form,
        id=str(attributes["id"]),
        parents=parents,
        config=config,
        seed=None if seed == _NO_SEED else seed,
        created_by=str(attributes["created_by"]),
        _file=file,
    )


def _check_datasets(path: Path, file: h5py.File, form: Format) -> None:
    names = list(_dataset_names(file))
    for declared in form.datasets:
        if declared.required and not declared.is_family and not any(declared.pattern.fullmatch(name) for name in names):
            raise ArtifactError(f"{path} lacks the dataset {declared.name!r}. Run '{form.command}' again.")
    lengths: dict[str, tuple[int, str]] = {}
    for name in names:
        dataset = file[name]
        if (spec := form.spec(name)) is None:
            raise ArtifactError(f"{path} holds a dataset {name!r} that {form.name} does not have.")
        found = "text" if h5py.check_string_dtype(dataset.dtype) else dataset.dtype.name
        if found != spec.dtype:
            raise ArtifactError(f"{path}: dataset {name!r} is {found}, but {spec.dtype} is needed.")
        if spec.axes is None:
            continue
        if dataset.ndim != len(spec.axes):
            raise ArtifactError(f"{path}: dataset {name!r} has {dataset.ndim} axes, but {len(spec.axes)} are needed.")
        for axis, length in zip(_axis_names(spec, name), dataset.shape, strict=True):
            known, first = lengths.setdefault(axis, (length, name))
            if known != length:
                raise ArtifactError(f"{path}: axis {axis!r} has length {known} in {first!r}, but {length} in {name!r}.")


def _axis_names(spec: DatasetSpec, name: str) -> list[str]:
    """Axis names with the family's placeholders filled in from the dataset's own name."""
    filled = dict(zip(spec.name.split("/"), name.split("/"), strict=True))
    axes = []
    for axis in spec.axes or ():
        for placeholder, value in filled.items():
            axis = axis.replace(placeholder, value) if "{" in placeholder else axis
        axes.append(axis)
    return axes


def _dataset_names(file: h5py.File) -> Iterator[str]:
    """Names of all datasets; refuses links that lead out of the tree, so that no file points elsewhere."""
    pending = [("", file)]
    while pending:
        prefix, group = pending.pop()
        for key in group:
            name = f"{prefix}{key}"
            if not isinstance(group.get(key, getlink=True), h5py.HardLink) or prefix.count("/") > 4:
                raise ArtifactError(f"{file.filename} holds a link at {name!r}; artifacts of fer have none.")
            child = group[key]
            if isinstance(child, h5py.Group):
                pending.append((f"{name}/", child))
            else:
                yield name


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
