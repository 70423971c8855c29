"""One SAMPLE that a user names, as an array, a file or a sample of the run → its volume."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float

from fer_cli.data.dataset import VoxelSet
from fer_cli.data.entries import Entry
from fer_cli.data.formats.registry import SUFFIXES, Grid, read_shape
from fer_cli.data.formats.scans import SCAN_SUFFIXES, file_suffix, read_scan, stem_of
from fer_cli.data.formats.volume import Scan
from fer_cli.data.occupancy import VoxelSettings, voxelize_shape
from fer_cli.data.preparation import PreparationSettings, prepare
from fer_cli.data.source import close_archives, list_entries, read_volume, series_entry
from fer_cli.data.turning import Axis
from fer_cli.data.volume_file import as_volume
from fer_cli.data.volumes import InputSpec
from fer_cli.errors import FerError, InputError, UsageError, one_line

NOT_PREPARED: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Sample:
    """One sample to be explained: its name, volume, class if known, and its index in the voxel set if it is there.

    `source` is the absolute path of the file it was read from, None where there is none. `own_label` is the class of
    the voxel set where a user named another one. `turned_from` is the axis of a shape's file that was taken to point
    up. `index_to_world` maps indices of voxels (their centres) to world coordinates, in the units of the sample's file.
    `is_placed` is true if a volume's file has an affine map: millimetres along right, anterior and superior.
    """

    name: str
    volume: Float[np.ndarray, "channel x y z"]
    label: int | None
    index: int | None = None
    index_to_world: Float[np.ndarray, "4 4"] = field(default_factory=lambda: np.eye(4))
    is_placed: bool = False
    source: Path | None = field(default=None, kw_only=True)
    own_label: int | None = field(default=None, kw_only=True)
    turned_from: Axis | None = field(default=None, kw_only=True)


def load_sample(
    sample: Any,
    *,
    voxelization: Mapping[str, Any],
    preparation: Mapping[str, Any] = NOT_PREPARED,
    input: InputSpec,
    classes: Sequence[str],
    voxels: Callable[[], VoxelSet],
    transform: Callable[[], Callable[[Path], Any]] | None = None,
    label: str | None = None,
    up: Axis | None = None,
) -> Sample:
    """The volume that a user's SAMPLE names: an array, a file if there is one, else a sample of the voxel set.

    An array, in memory or in a .npy file, must be a volume that `input` describes. A mesh, a point cloud or a grid is
    voxelized with the settings `voxelization`. If the run has a `preparation`, the volume of any file is prepared with
    these settings. `transform` gives a function that turns any other file into an array.
    `label` gives the class of an array or a file, or overrides that of a named sample. `up` is the axis of a shape's
    file that points up, by default as `voxelization` says. `voxels` is called only if `sample` is a name.

    Raises InputError for what does not exist or does not fit, UsageError for an unknown class, or for `up` of what is
    not voxelized.
    """
    given = None if label is None else class_index(label, classes)
    if not isinstance(sample, (str, Path)):
        _refuse_up(up, "an array is read as it is")
        return _of_array(sample, "array", input, "the array", given)
    path = Path(sample)
    suffix = file_suffix(path.name)
    series = series_entry(path)
    if path.is_file() or series is not None:
        name = stem_of(path.name) if series is None else series.name
        if transform is not None and suffix != ".npy":
            _refuse_up(up, f"{path.name} is read by the transform")
            made = _transformed(transform(), path)
            read = _of_array(made, name, input, f"what the transform made of {path.name}", given)
        elif preparation:
            _refuse_up(up, f"{path.name} is a volume; it is prepared as the run's volumes are")
            scan = _prepared(path, series, preparation)
            volume = _fitting(scan.values.astype(np.float32), input, path.name)
            read = Sample(name, volume, given, None, scan.index_to_world, scan.is_placed)
        elif suffix == ".npy" and (input.channels > 1 or input.kind != "occupancy" or not voxelization):
            _refuse_up(up, f"{path.name} is read as it is")
            read = _of_array(_read_array(path), path.stem, input, path.name, given)
        else:
            settings = {**voxelization, "up": up} if up and voxelization else voxelization
            grid = _read_grid(path, settings, input)
            read = Sample(name, grid.occupancy[None].astype(np.float32), given, None, grid.index_to_world)
            read = replace(read, turned_from=VoxelSettings.from_json(settings).up)
        return replace(read, source=path.absolute())
    if suffix in (*SUFFIXES, *SCAN_SUFFIXES) or len(path.parts) > 1:
        raise InputError(f"{sample} does not exist.")
    _refuse_up(up, f"{sample} is no file")
    return _named(str(sample), voxels(), given)


def _named(name: str, voxels: VoxelSet, given: int | None) -> Sample:
    """The sample of that name in the voxel set, of the class `given` if there is one."""
    index = voxels.index_of(name)
    known = int(voxels.labels[index])
    own = None if known < 0 else known
    return Sample(
        name,
        voxels.volumes([index])[0],
        own if given is None else given,
        index,
        voxels.index_to_world(index),
        voxels.is_placed(index),
        own_label=own if given not in (None, own) else None,
    )


def _refuse_up(up: Axis | None, why: str) -> None:
    if up is not None:
        raise UsageError(f"--up is for the file of a shape, but {why}.")


def _of_array(array: Any, name: str, input: InputSpec, what: str, label: int | None) -> Sample:
    """A sample of an array, which tells no place: its affine map holds the edges of voxels alone."""
    edges = np.diag([*(input.spacing or (1.0, 1.0, 1.0)), 1.0])
    return Sample(name, _fitting(as_volume(array), input, what), label, index_to_world=edges)


def _fitting(volume: Float[np.ndarray, "channel x y z"], input: InputSpec, what: str) -> np.ndarray:
    """The volume, if it is one that `input` describes. Raises InputError where it is not."""
    if volume.shape != input.volume:
        raise InputError(f"{what} has shape {volume.shape}, but the network reads {input.volume} (channel, x, y, z).")
    if input.kind == "occupancy" and not bool(((volume == 0) | (volume == 1)).all()):
        raise InputError(f"{what} holds other values than 0 and 1, but the network reads occupancy.")
    return volume


def _transformed(transform: Callable[[Path], Any], path: Path) -> Any:
    try:
        return transform(path)
    except FerError:
        raise
    except Exception as error:
        said = one_line(str(error))[:300]
        raise InputError(f"the transform failed on {path.name}: {type(error).__name__}: {said}") from error


def _read_array(path: Path) -> np.ndarray:
    try:
        array: np.ndarray = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            f"{path.name} is damaged, or no .npy array of numbers: {one_line(str(error))[:200]}"
        ) from error
    return array


def _prepared(path: Path, series: Entry | None, preparation: Mapping[str, Any]) -> Scan:
    """The volume of a file, of a DICOM series' folder or of a .zip with one sample, prepared as the run's were."""
    settings = PreparationSettings.from_json(dict(preparation))
    try:
        if series is not None:
            return prepare(read_volume(path, series), settings, path.name)
        if path.suffix.lower() != ".zip":
            return prepare(read_scan(path.read_bytes(), path.name), settings, path.name)
        entries = list_entries(path, layout="none").entries
        if len(entries) != 1:
            raise InputError(f"{path} holds {len(entries)} samples, expected one.")
        return prepare(read_volume(path, entries[0]), settings, path.name)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    finally:
        close_archives()


def _read_grid(path: Path, voxelization: Mapping[str, Any], read: InputSpec) -> Grid:
    if not voxelization:
        raise InputError(
            f"{path.name} cannot be turned into {read}, which the run holds as it is. Give a .npy array of shape "
            f"{read.volume}, or attach with --transform."
        )
    try:
        shape = read_shape(path.read_bytes(), path.name)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    settings = VoxelSettings.from_json(dict(voxelization))
    is_array = isinstance(shape, Grid) and path.suffix.lower() == ".npy"
    if isinstance(shape, Grid) and is_array and shape.occupancy.shape != read.shape:
        found = "×".join(map(str, shape.occupancy.shape))
        raise InputError(f"{path.name} is a grid of {found} voxels, but the network reads {read}.")
    if read.shape == (settings.resolution,) * 3:
        return voxelize_shape(shape, settings)
    if isinstance(shape, Grid) and is_array:
        return shape
    raise InputError(f"{path.name} cannot be voxelized into {read}; give a .npy array of that shape.")


def class_index(label: str, classes: Sequence[str]) -> int:
    """Index of the class of that name. Raises UsageError that names similar ones, or all."""
    if label not in classes:
        near = difflib.get_close_matches(label, classes, n=3, cutoff=0.3)
        raise UsageError(f"there is no class {label!r}; {'near' if near else 'known'}: {', '.join(near or classes)}.")
    return list(classes).index(label)
