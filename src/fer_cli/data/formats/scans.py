"""File content → volume with its own values: NIfTI, NRRD, MetaImage, TIFF, DICOM, `.npy`, `.npz`; grids, as occupancy.

What a header promises is compared with what is there before memory is taken. Text of a header, which may name a
patient, is not kept.

Not read: what `nifti`, `nrrd`, `metaimage`, `tiff` and `dicom` leave out.
"""

from collections.abc import Callable
from pathlib import PurePath

import numpy as np

from fer_cli.data.formats.content import require_content
from fer_cli.data.formats.dicom import is_dicom, read_dicom
from fer_cli.data.formats.metaimage import read_mha
from fer_cli.data.formats.nifti import read_nifti
from fer_cli.data.formats.nrrd import read_nrrd
from fer_cli.data.formats.registry import SUFFIXES, Grid, read_array, read_arrays, read_shape, shape_suffix
from fer_cli.data.formats.tiff import read_tiff
from fer_cli.data.formats.volume import Scan, as_channels
from fer_cli.errors import InputError

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
"""Suffixes of files of DICOM, which may as well have none."""
SCAN_SUFFIXES = (".nii", ".nii.gz", ".npz", ".nrrd", ".mha", ".tif", ".tiff", *DICOM_SUFFIXES)
"""Suffixes that hold volumes with their own values and no shape."""
KNOWN = ", ".join((*SCAN_SUFFIXES, ".npy", ".binvox", ".mat"))
READ_SUFFIXES = frozenset((*SUFFIXES, *SCAN_SUFFIXES))


def file_suffix(path: str) -> str:
    """The suffix of a path, `.nii.gz` and `.off.gz` as one, in small letters."""
    lower = path.lower().rpartition("/")[2]
    if lower.endswith(".gz"):
        return ".nii.gz" if lower.endswith(".nii.gz") else shape_suffix(lower)
    return f".{lower.rpartition('.')[2]}" if "." in lower else ""


def stem_of(file: str) -> str:
    """A file's name without its suffix, `.nii.gz` and `.off.gz` as one."""
    suffix = file_suffix(file)
    return file[: -len(suffix)] if suffix in READ_SUFFIXES and len(suffix) < len(file) else PurePath(file).stem


def read_scan(content: bytes, name: str) -> Scan:
    """The volume that a file holds; the format is chosen by the suffix of `name`, which errors name.

    A file of DICOM is known by its content where it has no suffix. Raises InputError if the suffix is unknown, or the
    content is empty, truncated, damaged or no volume of finite real numbers; UsageError where a package is missing.
    """
    suffix = file_suffix(name)
    require_content(content, name)
    if suffix in _READERS:
        return require_finite(_READERS[suffix](content, name), name)
    if suffix in SUFFIXES:
        shape = read_shape(content, name)
        if not isinstance(shape, Grid):
            raise InputError(f"{name}: a mesh or points, expected a volume.")
        return Scan(shape.occupancy[None], shape.index_to_world)
    if is_dicom(content[:132]):
        return require_finite(_read_dicom(content, name), name)
    raise InputError(f"{name}: not a volume that fer reads; known are {KNOWN}.")


def require_finite(scan: Scan, name: str) -> Scan:
    """The same volume. Raises InputError where values are not finite."""
    if scan.values.dtype.kind == "f" and not np.isfinite(scan.values).all():
        count = np.count_nonzero(~np.isfinite(scan.values))
        raise InputError(f"{name}: {count} of {scan.values.size} voxels are not finite; expected finite numbers.")
    return scan


def _read_dicom(content: bytes, name: str) -> Scan:
    return read_dicom([(name, content)], name)


def _read_npy(content: bytes, name: str) -> Scan:
    return Scan(as_channels(read_array(content, name, (3, 4)), name), np.eye(4))


def _read_npz(content: bytes, name: str) -> Scan:
    """The only array of an archive that has three or four axes."""
    arrays = read_arrays(content, name)
    volumes = [array for array in arrays.values() if array.ndim in (3, 4)]
    if len(volumes) != 1:
        raise InputError(f"{name}: holds {len(volumes)} arrays of three or four axes, expected one volume.")
    return Scan(as_channels(volumes[0], name), np.eye(4))


_READERS: dict[str, Callable[[bytes, str], Scan]] = {
    ".nii": read_nifti,
    ".nii.gz": read_nifti,
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".nrrd": read_nrrd,
    ".mha": read_mha,
    ".tif": read_tiff,
    ".tiff": read_tiff,
    **dict.fromkeys(DICOM_SUFFIXES, _read_dicom),
}
