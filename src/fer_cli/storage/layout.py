"""How the datasets of an artifact lie in its file: which there are, of what type and shape, stored how and where."""

import itertools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import h5py
import numpy as np

from fer_cli.errors import ArtifactError
from fer_cli.storage.declarations import DatasetSpec, Format

_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}
# Deflate makes 1032 bytes of one at most.
_MOST_INFLATION = 1032


def check_datasets(path: Path, form: Format, datasets: Mapping[str, h5py.Dataset]) -> None:
    """Raise ArtifactError unless the datasets are those that the format declares, stored as fer stores them."""
    for declared in form.datasets:
        if declared.required and not declared.is_family and declared.name not in datasets:
            raise ArtifactError(f"{path} lacks the dataset {declared.name!r}. Run '{form.command}' again.")
    lengths: dict[str, tuple[int, str]] = {}
    for name, dataset in datasets.items():
        if (spec := form.spec(name)) is None:
            raise ArtifactError(f"{path} holds a dataset {name!r} that {form.name} does not have.")
        dtype = dataset.dtype
        found = "text" if h5py.check_string_dtype(dtype) else dtype.name
        if found not in (spec.dtype, *spec.narrower):
            raise ArtifactError(f"{path}: dataset {name!r} is {found}, but {spec.dtype} is needed.")
        if reason := storage_objection(dataset, is_compressed=spec.compressed):
            raise ArtifactError(f"{path}: dataset {name!r} {reason}. Run '{form.command}' again.")
        if spec.axes is None:
            continue
        shape = dataset.shape
        if len(shape) != len(spec.axes):
            raise ArtifactError(f"{path}: dataset {name!r} has {len(shape)} axes, but {len(spec.axes)} are needed.")
        for axis, length in zip(_axis_names(spec, name), shape, strict=True):
            known, first = lengths.setdefault(axis, (length, name))
            if known != length:
                raise ArtifactError(f"{path}: axis {axis!r} has length {known} in {first!r}, but {length} in {name!r}.")
    for name, dataset in datasets.items():
        spec = form.spec(name)
        if spec is not None and (reason := _number_objection(dataset, spec)):
            raise ArtifactError(f"{path}: dataset {name!r} {reason}. Run '{form.command}' again.")


def storage_objection(dataset: h5py.Dataset, *, is_compressed: bool) -> str | None:
    """The reason why this storage layout is not supported, or None."""
    if dataset.shape is None:
        return "has no shape"
    plan = dataset.id.get_create_plist()
    if plan.get_layout() == h5py.h5d.VIRTUAL or plan.get_external_count():
        return "is stored in other files; artifacts of fer are one file"
    filters = {plan.get_filter(i)[0] for i in range(plan.get_nfilters())}
    if unknown := filters - _FILTERS:
        return f"needs the HDF5 filter {min(unknown)}, which fer does not use"
    growth = _MOST_INFLATION if is_compressed else 1
    stored = dataset.id.get_storage_size()
    if (promised := dataset.nbytes) > growth * stored:
        return f"promises {promised} bytes, but only {stored} are stored"
    return None


def _number_objection(dataset: h5py.Dataset, spec: DatasetSpec) -> str | None:
    """Why numbers could be read as others than were written without HDF5 noticing, or None."""
    if spec.dtype == "text":
        return None
    declared = dataset.dtype.name if spec.narrower else spec.dtype
    if not dataset.id.get_type().equal(h5py.h5t.py_create(np.dtype(declared))):
        return f"is not stored as {declared} is"
    if dataset.ndim and dataset.size and not dataset.fletcher32:
        return "is stored without checksums"
    return None


def chunk_objection(dataset: h5py.Dataset) -> str | None:
    """Why the chunks of a dataset are not those that fer has written, or None.

    The index of chunks has no checksum, and HDF5 reads as zeros what it does not find there.
    """
    if not dataset.chunks:
        return None
    starts = [range(0, length, step) for length, step in zip(dataset.shape, dataset.chunks, strict=True)]
    wanted = math.prod(map(len, starts))
    found: list[h5py.h5d.StoreInfo] = []
    dataset.id.chunk_iter(found.append)
    if len(found) != wanted or sum(chunk.size for chunk in found) > dataset.file.id.get_filesize():
        return "lacks some of its chunks"
    # The only call that looks a chunk up as reading does; it raises where there is none.
    if any(dataset.id.read_direct_chunk(place)[0] for place in itertools.product(*starts)):
        return "has chunks without their checksum"
    return None


def _axis_names(spec: DatasetSpec, name: str) -> list[str]:
    """Axis names with the family's placeholders filled in from the dataset's own name."""
    filled = dict(zip(spec.name.split("/"), name.split("/"), strict=True))
    axes = []
    for axis in spec.axes or ():
        for placeholder, value in filled.items():
            axis = axis.replace(placeholder, value) if "{" in placeholder else axis
        axes.append(axis)
    return axes


def datasets_of(file: h5py.File) -> Iterator[tuple[str, h5py.Dataset]]:
    """All datasets by name; refuses links that lead out of the tree, so that no file points elsewhere."""
    pending = [("", file)]
    while pending:
        prefix, group = pending.pop()
        links = group.id.links
        for key in group:
            name = f"{prefix}{key}"
            if links.get_info(key.encode()).type != h5py.h5l.TYPE_HARD or prefix.count("/") > 4:
                raise ArtifactError(f"{file.filename} holds a link at {name!r}; artifacts of fer have none.")
            child = group[key]
            if isinstance(child, h5py.Group):
                pending.append((f"{name}/", child))
            else:
                yield name, child
