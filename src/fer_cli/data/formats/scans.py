"""File content → volume with its own values: NIfTI (`.nii`, `.nii.gz`), `.npy`, `.npz`; grids, as occupancy. And back.

What a header promises is compared with what is there before memory is taken. Text of a header, which may name a
patient, is not read.

Not read: NIfTI pairs (`.hdr` and `.img`), time series of several channels, colours, complex numbers.
"""

import gzip
import importlib
import io
import math
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
from jaxtyping import Float64, Shaped

from fer_cli.data.formats.registry import MAX_VOXELS, SUFFIXES, Grid, checked_size, read_array, read_shape
from fer_cli.errors import InputError, UsageError, one_line

_NIFTI = (".nii", ".nii.gz")
SCAN_SUFFIXES = (*_NIFTI, ".npz")
"""Suffixes that hold volumes with their own values and no shape."""
KNOWN = ", ".join((*SCAN_SUFFIXES, ".npy", ".binvox", ".mat"))
READ_SUFFIXES = frozenset((*SUFFIXES, *SCAN_SUFFIXES))
_HEADER_BYTES = 540
_MOST_CHANNELS = 4096
_MOST_WORLD = 1e9
"""Largest coordinate of an affine map, and one over the smallest edge of a voxel."""


@dataclass(frozen=True)
class Scan:
    """A volume: its values as the file holds them, and the affine map from indices (voxel centres) to the world.

    `is_placed` tells whether the file has an affine map to millimetres (right, anterior, superior), as NIfTI does.
    """

    values: Shaped[np.ndarray, "channel x y z"]
    index_to_world: Float64[np.ndarray, "4 4"]
    is_placed: bool = False


def file_suffix(path: str) -> str:
    """The suffix of a path, `.nii.gz` as one, in small letters."""
    lower = path.lower()
    return ".nii.gz" if lower.endswith(".nii.gz") else f".{lower.rpartition('.')[2]}" if "." in lower else ""


def stem_of(file: str) -> str:
    """A file's name without its suffix, `.nii.gz` as one."""
    suffix = file_suffix(file)
    return file[: -len(suffix)] if suffix in READ_SUFFIXES and len(suffix) < len(file) else PurePath(file).stem


def read_scan(content: bytes, name: str) -> Scan:
    """The volume that a file holds; the format is chosen by the suffix of `name`, which errors name.

    Raises InputError if the suffix is unknown, or the content is empty, truncated, damaged or no volume of finite real
    numbers; UsageError where a package is missing.
    """
    suffix = file_suffix(name)
    if not content:
        raise InputError(f"{name}: the file is empty.")
    readers: dict[str, Callable[[bytes, str], Scan]] = {
        **dict.fromkeys(_NIFTI, _read_nifti),
        ".npy": _read_npy,
        ".npz": _read_npz,
    }
    if suffix in readers:
        scan = readers[suffix](content, name)
        if scan.values.dtype.kind == "f" and not np.isfinite(scan.values).all():
            count = np.count_nonzero(~np.isfinite(scan.values))
            raise InputError(f"{name}: {count} of {scan.values.size} voxels are not finite; expected finite numbers.")
        return scan
    if suffix in SUFFIXES:
        shape = read_shape(content, name)
        if not isinstance(shape, Grid):
            raise InputError(f"{name}: a mesh or points, expected a volume.")
        return Scan(shape.occupancy[None], shape.index_to_world)
    raise InputError(f"{name}: not a volume that fer reads; known are {KNOWN}.")


def as_channels(values: np.ndarray, name: str) -> np.ndarray:
    """An array of (x, y, z) or (channel, x, y, z) with its axis of channels. Raises InputError for any other."""
    if values.dtype.kind not in "biuf":
        raise InputError(f"{name}: holds {values.dtype} values, expected real numbers.")
    if values.ndim not in (3, 4) or not values.size:
        sides = "×".join(map(str, values.shape))
        raise InputError(f"{name}: an array of {sides or 'no'} values, expected axes (x, y, z) or (channel, x, y, z).")
    return values if values.ndim == 4 else values[None]


def encode_nifti(
    values: Shaped[np.ndarray, "channel x y z"], index_to_world: Float64[np.ndarray, "4 4"], *, is_placed: bool
) -> bytes:
    """A `.nii.gz` of NIfTI-1 whose affine is `index_to_world`, in mm; several channels are its fourth axis.

    The affine is sform and qform; with shear, which a qform cannot hold, sform alone. Their code is 1 where the volume
    `is_placed`, 0 where nothing but edges is known of its voxels, else 2. The header holds no text.

    Raises UsageError where nibabel is not installed.
    """
    image = nibabel().Nifti1Image(values[0] if len(values) == 1 else np.moveaxis(values, 0, 3), index_to_world)
    edges_alone = np.allclose(index_to_world, np.diag([*spacing_of(index_to_world), 1]))
    code = 1 if is_placed else 0 if edges_alone else 2
    image.header.set_xyzt_units("mm")
    image.set_qform(index_to_world, code=code, strip_shears=True)
    if not np.allclose(image.get_qform(), index_to_world, rtol=0, atol=1e-4 * max(spacing_of(index_to_world))):
        image.header["qform_code"] = 0
    image.set_sform(index_to_world, code=code)
    return gzip.compress(image.to_bytes(), mtime=0)


def _read_npy(content: bytes, name: str) -> Scan:
    return Scan(as_channels(read_array(content, name, (3, 4)), name), np.eye(4))


def _read_npz(content: bytes, name: str) -> Scan:
    """The only array of an archive that has three or four axes."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > 8 * MAX_VOXELS:
                raise InputError(f"{name}: its arrays would grow to more than {8 * MAX_VOXELS} bytes.")
            arrays = {
                member.filename: read_array(archive.read(member), f"{name}/{member.filename}", None)
                for member in members
                if member.filename.endswith(".npy")
            }
    except InputError:
        raise
    except Exception as error:  # zipfile lets zlib.error, struct.error, EOFError and NotImplementedError through
        raise InputError(f"{name}: not a readable .npz file: {one_line(str(error))[:200].rstrip('.')}.") from None
    volumes = [array for array in arrays.values() if array.ndim in (3, 4)]
    if len(volumes) != 1:
        raise InputError(f"{name}: holds {len(volumes)} arrays of three or four axes, expected one volume.")
    return Scan(as_channels(volumes[0], name), np.eye(4))


def _read_nifti(content: bytes, name: str) -> Scan:
    """NIfTI-1 or -2 in one file; a fourth axis holds channels. The affine is the sform, else the qform."""
    headers = nibabel()
    inflate = _gunzip(content, name) if content[:2] == b"\x1f\x8b" else lambda count: content[:count]
    head = inflate(_HEADER_BYTES)
    sizes = {int.from_bytes(head[:4], order) for order in ("little", "big")} if len(head) >= 348 else set()
    header_class = headers.Nifti2Header if 540 in sizes else headers.Nifti1Header
    try:
        if not sizes & {348, 540}:
            raise ValueError("it has no header")
        header = header_class(head[: header_class.template_dtype.itemsize], check=False)
        if bytes(header["magic"])[:3] not in (b"n+1", b"n+2"):
            raise ValueError(f"its magic is {bytes(header['magic'])[:4]!r}")
        shape, dtype = tuple(int(side) for side in header.get_data_shape()), header.get_data_dtype()
        start = int(header.get_data_offset())
        slope, intercept = header.get_slope_inter()
        matrix = np.array(header.get_best_affine(), np.float64)
        is_placed = bool(header["sform_code"] > 0 or header["qform_code"] > 0)
    except Exception as error:  # nibabel raises errors of many kinds for a damaged header
        raise InputError(f"{name}: not a readable NIfTI file: {one_line(str(error))[:200].rstrip('.')}.") from None
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if dtype.kind not in "iuf" or len(shape) not in (3, 4):
        raise InputError(f"{name}: holds {dtype} {'×'.join(map(str, shape))}, expected numbers on three axes.")
    count = checked_size(shape, name)
    if len(shape) == 4 and shape[3] > _MOST_CHANNELS:
        raise InputError(f"{name}: {shape[3]} volumes in one file, expected channels.")
    if not _HEADER_BYTES - 192 <= start <= 1 << 24 or not np.isfinite(matrix).all():
        raise InputError(f"{name}: not a readable NIfTI file: its data begin at {start}, its affine is {matrix[:3]}.")
    end = start + count * dtype.itemsize
    body = inflate(end)
    if len(body) < end:
        raise InputError(f"{name}: holds {max(0, len(body) - start)} bytes of voxels, expected {end - start}.")
    values = np.frombuffer(body, dtype, count, start).reshape(shape, order="F")
    if slope is not None and (slope, intercept) != (1.0, 0.0):
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused
            values = values * np.float64(slope) + np.float64(intercept)
    # In the machine's own byte order, and channels first.
    values = np.ascontiguousarray(values[None] if values.ndim == 3 else np.moveaxis(values, 3, 0))
    edges = spacing_of(matrix) if np.abs(matrix).max() < _MOST_WORLD else (0.0,)
    with np.errstate(all="ignore"):
        volume = abs(np.linalg.det(matrix[:3, :3] / np.maximum(edges, 1e-300)))
    if min(edges) * _MOST_WORLD < 1 or not volume > 1e-6:
        raise InputError(f"{name}: its affine maps the volume to a plane or a point, or out of this world.")
    return Scan(values.astype(values.dtype.newbyteorder("="), copy=False), matrix, is_placed)


def nibabel() -> Any:
    """The package that reads NIfTI headers and turns axes. Raises UsageError where it is not installed."""
    try:
        return importlib.import_module("nibabel")
    except ImportError as error:
        raise UsageError("NIfTI and orientations need nibabel; run: pip install 'fer-cli[volumes]'") from error


def _gunzip(content: bytes, name: str) -> Callable[[int], bytes]:
    """The first so many bytes of a gzip stream, and no more, so that memory is that of what is asked for."""

    def inflate(count: int) -> bytes:
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
                return stream.read(count)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{name}: cannot be unpacked: {one_line(str(error))[:200].rstrip('.')}.") from None

    return inflate


def spacing_of(matrix: Float64[np.ndarray, "4 4"]) -> tuple[float, float, float]:
    """Edges of a voxel along its three axes, in the units of the world."""
    x, y, z = (math.sqrt(float((matrix[:3, axis] ** 2).sum())) for axis in range(3))
    return x, y, z
