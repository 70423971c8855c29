"""NRRD in one file (`.nrrd`) → volume.

pynrrd reads the header; NumPy takes the voxels, raw, gzip or bzip2. The space of the file, such as
left-posterior-superior, becomes right-anterior-superior. Text of a header, which may name a patient, is not kept.

Not read: detached headers (`.nhdr`), text and hexadecimal encodings, colours and vectors beyond channels, time series.
Source: Teem, Definition of NRRD File Format.
"""

import io
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float64

from fer_cli.data.formats.content import without_mark
from fer_cli.data.formats.registry import checked_size
from fer_cli.data.formats.unpacking import gunzip, unpack_bzip2
from fer_cli.data.formats.volume import MOST_CHANNELS, Scan, native, package, require_extent, unreadable
from fer_cli.errors import InputError

_MOST_HEADER = 1 << 20
_TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(
        ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"), "i8"
    ),
    **dict.fromkeys(("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"), "u8"),
    "float": "f4",
    "double": "f8",
}
_SIDES = {"right": "R", "left": "L", "anterior": "A", "posterior": "P", "superior": "S", "inferior": "I"}
_TO_RAS = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
"""Axis and sign of a side in the world of fer."""
_MILLIMETRES = {"mm": 1.0, "cm": 10.0, "m": 1000.0, "um": 1e-3, "µm": 1e-3, "micron": 1e-3, "microns": 1e-3, "nm": 1e-6}


def read_nrrd(content: bytes, name: str) -> Scan:
    """The volume of an NRRD file with three axes of space, and at most one of channels.

    It is placed where the file names an anatomical space, and measured where it tells the edges of voxels alone.
    Raises InputError for what is damaged, truncated or none; UsageError where pynrrd is not installed.
    """
    header, body = _header(without_mark(content), name)
    try:
        shape = tuple(int(side) for side in header["sizes"])
        dtype = np.dtype((">" if header.get("endian") == "big" else "<") + _TYPES[header["type"]])
        if len(shape) != header["dimension"] or len(shape) not in (3, 4):
            raise ValueError(f"it has {len(shape)} sizes for {header['dimension']} axes, expected three or four")
        if dtype.itemsize > 1 and header.get("endian") not in ("little", "big"):
            raise ValueError("it tells no byte order")
        channels, steps = _axes(header, len(shape))
        matrix, is_placed, is_measured = _affine(header, steps)
    except InputError:
        raise
    except Exception as error:  # a field of another kind than the format's
        raise unreadable(name, "NRRD", error) from None
    count = checked_size(shape, name)
    if channels is not None and shape[channels] > MOST_CHANNELS:
        raise InputError(f"{name}: {shape[channels]} volumes in one file, expected channels.")
    require_extent(matrix, name)
    wanted = count * dtype.itemsize
    voxels = _unpacker(header, body, name)(wanted)
    if len(voxels) < wanted:
        raise InputError(f"{name}: holds {len(voxels)} bytes of voxels, expected {wanted}.")
    values = np.frombuffer(voxels, dtype, count).reshape(shape, order="F")
    values = values[None] if channels is None else np.moveaxis(values, channels, 0)
    return Scan(native(values), matrix, is_placed, is_measured)


def _header(content: bytes, name: str) -> tuple[Mapping[str, Any], bytes]:
    """The fields of the header, and what follows it."""
    nrrd = package("nrrd", "NRRD files")
    head = content[:_MOST_HEADER]
    ends = [place + len(mark) for mark in (b"\n\n", b"\r\n\r\n") if (place := head.find(mark)) >= 0]
    if not head.startswith(b"NRRD") or not ends:
        raise InputError(f"{name}: not a readable NRRD file: it has no header.")
    end = min(ends)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = nrrd.read_header(io.BytesIO(content[:end]))
    except Exception as error:  # pynrrd raises errors of many kinds for a damaged header
        raise unreadable(name, "NRRD", error) from None
    # Some fields have two names.
    header = {key.replace("datafile", "data file").replace("byteskip", "byte skip"): header[key] for key in header}
    if "data file" in header:
        raise InputError(f"{name}: its voxels are in another file; save it as one .nrrd file.")
    if any(header.get(key, 0) != 0 for key in ("line skip", "lineskip", "byte skip")):
        raise InputError(f"{name}: skips lines or bytes, which fer does not read; save it again.")
    return header, content[end:]


def _axes(header: Mapping[str, Any], count: int) -> tuple[int | None, Float64[np.ndarray, "3 side"] | None]:
    """Which axis holds channels, and the step in the world along each of the other three, where that is told."""
    directions = header.get("space directions")
    kinds = [str(kind).lower() for kind in header.get("kinds", [])]
    if directions is not None:
        rows = [np.asarray([np.nan] if row is None else row, np.float64) for row in directions]
        spatial = [axis for axis, row in enumerate(rows) if not np.isnan(row).any()]
    elif count == 3:
        rows, spatial = [], [0, 1, 2]
    else:
        rows, spatial = [], [axis for axis, kind in enumerate(kinds) if kind in ("space", "domain")]
    if len(spatial) != 3 or (directions is not None and len(rows) != count):
        raise ValueError("it does not tell which three axes are of space; give 'kinds' or 'space directions'")
    others = [axis for axis in range(count) if axis not in spatial]
    if any(axis < len(kinds) and kinds[axis] == "time" for axis in others):
        raise ValueError("its fourth axis is time, expected channels")
    if rows:
        return (others[0] if others else None), np.stack([rows[axis] for axis in spatial])
    spacings = np.asarray(header["spacings"], np.float64) if "spacings" in header else None
    if spacings is not None and len(spacings) != count:
        raise ValueError(f"it has {len(spacings)} spacings for {count} axes")
    steps = None if spacings is None or np.isnan(spacings[spatial]).any() else np.diag(np.abs(spacings[spatial]))
    return (others[0] if others else None), steps


def _affine(
    header: Mapping[str, Any], steps: Float64[np.ndarray, "3 side"] | None
) -> tuple[Float64[np.ndarray, "4 4"], bool, bool]:
    """The affine map to the world, and whether the volume is placed, and measured."""
    matrix = np.eye(4)
    if steps is None:
        return matrix, False, False
    if steps.shape != (3, 3):
        raise ValueError(f"its steps have {steps.shape[1]} sides, expected three")
    units = [str(unit).strip().lower() for unit in header.get("space units", header.get("units", [])) or []]
    known = [_MILLIMETRES.get(unit) for unit in units if unit not in ("", "none")]
    matrix[:3, :3] = steps.T
    if None in known or len(set(known)) > 1:  # edges in seconds, or pixels
        return matrix, False, False
    scale = known[0] or 1.0 if known else 1.0
    origin = np.asarray(header.get("space origin", np.zeros(3)), np.float64)
    if origin.shape != (3,):
        raise ValueError(f"its origin has {origin.size} coordinates, expected three")
    matrix[:3, 3] = np.where(np.isnan(origin), 0, origin)
    matrix[:3] *= scale
    sides = _sides(str(header.get("space", "")))
    if sides is None or np.isnan(origin).any():
        return matrix, False, True
    to_ras = np.zeros((4, 4))
    to_ras[3, 3] = 1
    for side, (axis, sign) in enumerate(_TO_RAS[letter] for letter in sides):
        to_ras[axis, side] = sign
    return to_ras @ matrix, True, True


def _sides(space: str) -> str | None:
    """The three sides that a space is named after, such as LPS; None where it is not that of a body."""
    words = space.lower().replace("-", " ").split()
    letters = "".join(_SIDES.get(word, "?") for word in words) if len(words) > 1 else space.upper()
    is_body = sorted(letters.translate(str.maketrans("LPI", "RAS"))) == sorted("RAS")
    return letters if is_body else None


def _unpacker(header: Mapping[str, Any], body: bytes, name: str) -> Callable[[int], bytes]:
    """A function that gives the first so many bytes of the voxels."""
    encoding = str(header.get("encoding", "")).lower()
    if encoding == "raw":
        return lambda count: body[:count]
    if encoding in ("gzip", "gz"):
        return gunzip(body, name)
    if encoding in ("bzip2", "bz2"):
        return lambda count: unpack_bzip2(body, count, name)
    raise InputError(f"{name}: its voxels are encoded as {encoding[:40]!r}; save it as raw, gzip or bzip2.")
