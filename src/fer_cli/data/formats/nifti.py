"""NIfTI (`.nii`, `.nii.gz`) → volume, and back.

nibabel reads the header; NumPy takes the voxels. Text of a header, which may name a patient, is not read.

Not read: pairs (`.hdr` and `.img`), time series of several channels, colours, complex numbers.
"""

import gzip
from typing import Any

import numpy as np
from jaxtyping import Float64, Shaped

from fer_cli.data.formats.registry import checked_size
from fer_cli.data.formats.unpacking import gunzip
from fer_cli.data.formats.volume import MOST_CHANNELS, Scan, native, package, require_extent, spacing_of
from fer_cli.errors import InputError, one_line

_HEADER_BYTES = 540


def read_nifti(content: bytes, name: str) -> Scan:
    """NIfTI-1 or -2 in one file; a fourth axis holds channels. The affine is the sform, else the qform."""
    headers = nibabel()
    inflate = gunzip(content, name) if content[:2] == b"\x1f\x8b" else lambda count: content[:count]
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
    if len(shape) == 4 and shape[3] > MOST_CHANNELS:
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
    require_extent(matrix, name)
    return Scan(native(values[None] if values.ndim == 3 else np.moveaxis(values, 3, 0)), matrix, is_placed)


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


def nibabel() -> Any:
    """The package that reads NIfTI headers and turns axes. Raises UsageError where it is not installed."""
    return package("nibabel", "NIfTI and orientations")
