"""MetaImage in one file (`.mha`) → volume.

fer has a reader of its own because the packages in use that read MetaImage bring ITK's C++ with them. Coordinates of
the file are LPS+, as in ITK; those of the volume are RAS+. Text of a header, which may name a patient, is not kept.

Refused: `.mhd` headers, whose voxels are in another file; voxels as text; time series; values to be rescaled.
Source: ITK, MetaIO documentation; itkMetaImageIO.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float64

from fer_cli.data.formats.content import without_mark
from fer_cli.data.formats.registry import checked_size
from fer_cli.data.formats.unpacking import inflate
from fer_cli.data.formats.volume import LPS_TO_RAS, MOST_CHANNELS, Scan, native, require_extent, unreadable
from fer_cli.errors import InputError

_MOST_HEADER = 1 << 16
_MARK = b"ElementDataFile"
_MOST = 1e15
_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}  # fmt: skip
_NO_RESCALING = {"Slope": "1", "Offset": "0"}
_FURTHER_NAMES = {
    "Offset": ("Position", "Origin"),
    "TransformMatrix": ("Orientation", "Rotation"),
    "BinaryDataByteOrderMSB": ("ElementByteOrderMSB",),
    "ElementSpacing": ("ElementSize",),
}


def read_mha(content: bytes, name: str) -> Scan:
    """The volume of a MetaImage file with three axes; several numbers a voxel are channels.

    It is placed where the file has a `TransformMatrix`, as ITK writes, and measured where it tells the edges of voxels
    alone. Raises InputError for what is damaged, truncated or none.
    """
    fields, body = _header(without_mark(content), name)
    try:
        shape = _numbers(fields, "DimSize")
        if shape is None or len(shape) != int(fields["NDims"]) or len(shape) < 3 or any(shape[3:] != 1):
            raise ValueError(f"DimSize is {fields.get('DimSize', '')[:60]!r}, expected three axes")
        if (shape != np.round(shape)).any():
            raise ValueError(f"DimSize is {fields['DimSize'][:60]!r}, expected whole numbers")
        order = ">" if _is_true(fields, "BinaryDataByteOrderMSB") else "<"
        dtype = np.dtype(order + _TYPES[fields["ElementType"].removesuffix("_ARRAY")])
        channels = int(fields.get("ElementNumberOfChannels", "1"))
        matrix, is_placed, is_measured = _affine(fields, len(shape))
    except KeyError as error:
        raise InputError(f"{name}: not a readable MetaImage file: no usable {str(error)[:60]}.") from None
    except (ValueError, OverflowError) as error:
        raise unreadable(name, "MetaImage", error) from None
    if not 0 < channels <= MOST_CHANNELS:
        raise InputError(f"{name}: {channels} channels, expected 1 to {MOST_CHANNELS}.")
    sides = (channels, *(int(side) for side in shape[:3]))
    wanted = checked_size(sides, name) * dtype.itemsize
    require_extent(matrix, name)
    is_packed = _is_true(fields, "CompressedData")
    voxels = inflate(body, wanted, name) if is_packed else body[:wanted]
    if len(voxels) < wanted:
        raise InputError(f"{name}: holds {len(voxels)} bytes of voxels, expected {wanted}.")
    values = np.frombuffer(voxels, dtype, wanted // dtype.itemsize).reshape(sides, order="F")
    return Scan(native(values), matrix, is_placed, is_measured)


def _header(content: bytes, name: str) -> tuple[Mapping[str, str], bytes]:
    """The fields of the header by name, and the bytes after the header."""
    head = content[:_MOST_HEADER]
    place = 0 if head.startswith(_MARK) else head.find(b"\n" + _MARK) + 1
    end = head.find(b"\n", place)
    if b"=" not in head[:200] or (not place and not head.startswith(_MARK)) or end < 0:
        raise InputError(f"{name}: not a readable MetaImage file: it has no line ElementDataFile.")
    lines = [line.decode("latin-1").partition("=") for line in head[:end].splitlines()]
    fields = {key.strip(): value.strip() for key, _, value in lines}
    if fields.get("ElementDataFile") != "LOCAL":
        raise InputError(f"{name}: its voxels are in another file; save it as one .mha file.")
    if fields.get("BinaryData", "True").lower() in ("false", "0"):
        raise InputError(f"{name}: its voxels are text; save it in binary.")
    rescaling = [fields.get(f"ElementToIntensityFunction{word}", usual) for word, usual in _NO_RESCALING.items()]
    if any(not _is_number(text, usual) for text, usual in zip(rescaling, _NO_RESCALING.values(), strict=True)):
        raise InputError(f"{name}: its values are to be rescaled; save it with the rescaled values.")
    for wanted, others in _FURTHER_NAMES.items():
        for other in others:
            if other in fields:
                fields.setdefault(wanted, fields[other])
    return fields, content[end + 1 :]


def _numbers(fields: Mapping[str, str], key: str) -> Float64[np.ndarray, " number"] | None:
    """The numbers of a field, None where there is none. Raises ValueError where it holds others."""
    if key not in fields:
        return None
    found = np.array([float(word) for word in fields[key].split()[:64]], np.float64)
    if not (np.abs(found) <= _MOST).all():
        raise ValueError(f"{key} is {fields[key][:60]!r}, expected numbers up to {_MOST:g}")
    return found


def _is_number(text: str, wanted: str) -> bool:
    try:
        return float(text) == float(wanted)
    except ValueError:
        return False


def _is_true(fields: Mapping[str, str], key: str) -> bool:
    return fields.get(key, "False").lower() in ("true", "1")


def _affine(fields: Mapping[str, str], axes: int) -> tuple[Float64[np.ndarray, "4 4"], bool, bool]:
    """The affine map to the world, and whether the volume is placed, and measured."""
    spacing, directions, offset = (_numbers(fields, key) for key in ("ElementSpacing", "TransformMatrix", "Offset"))
    for key, found, count in (
        ("ElementSpacing", spacing, axes), ("TransformMatrix", directions, axes**2), ("Offset", offset, axes)
    ):  # fmt: skip
        if found is not None and len(found) != count:
            raise ValueError(f"{key} has {len(found)} numbers, expected {count}")
    matrix = np.eye(4)
    if directions is not None:
        # A row holds the direction of an axis, which is a column of an affine map.
        matrix[:3, :3] = directions.reshape(axes, axes)[:3, :3].T
    if spacing is not None:
        matrix[:3, :3] *= spacing[:3]
    if offset is not None:
        matrix[:3, 3] = offset[:3]
    is_placed = directions is not None
    return LPS_TO_RAS @ matrix if is_placed else matrix, is_placed, spacing is not None
