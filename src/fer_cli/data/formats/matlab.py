"""MATLAB files, of version 5, or 7.3 (which is HDF5) → one numeric array.

Read here rather than by SciPy, whose parser takes damaged files at their word and can crash the process. What a header
promises is only ever compared with what is there, so that a false header costs no memory.

Not read: MATLAB 4; cells, structures, text, sparse and complex arrays. Source: MathWorks, MAT-File Format.
"""

import math
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NoReturn

import numpy as np

from fer_cli.errors import InputError, one_line
from fer_cli.storage.arrays import array_shapes, read_numbers

MAX_INFLATED = 1 << 28
"""Bytes that a compressed array may grow to; reading it takes a few times as much memory."""

_MATRIX, _COMPRESSED = 14, 15
_CLASSES = (
    "unknown", "cell", "struct", "object", "char", "sparse", "double", "single", "int8", "uint8", "int16", "uint16",
    "int32", "uint32", "int64", "uint64",
)  # fmt: skip
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}

_HDF5 = b"\x89HDF\r\n\x1a\n"

_Order = Literal["little", "big"]


def read_mat(content: bytes, wanted: str, most: int, name: str) -> np.ndarray:
    """The variable `wanted`, a real array with three axes; refuse more than `most` numbers. Errors name `name`.

    Raises InputError if there is no such variable, or the content is no MATLAB file, truncated or damaged.
    """
    if content.startswith(_HDF5, 512) or content.startswith(_HDF5):
        return _of_hdf5(content, wanted, most, name)
    order: _Order = "big" if content[126:128] == b"MI" else "little"
    if len(content) < 128 or content[126:128] not in (b"IM", b"MI"):
        _refuse(name, "it has no header")
    found = []
    for kind, body in _elements(content, 128, order, name):
        if kind == _COMPRESSED:
            ((kind, body),) = [*_elements(_inflated(body, len(content), name), 0, order, name)][:1] or [(0, b"")]
        if kind != _MATRIX:
            _refuse(name, f"an element of type {kind} is no variable")
        parts = _elements(body, 0, order, name)
        flags, shape, title = (next(parts, (0, b""))[1] for _ in range(3))
        variable = title.decode("latin-1")
        if variable == wanted:
            stored = next(parts, (0, b""))
            return _array(
                flags, np.frombuffer(shape[: len(shape) // 4 * 4], f"{_sign(order)}i4"), *stored, order, most, name
            )
        found.append(repr(variable))
    raise InputError(f"{name}: holds {', '.join(found)[:80] or 'no variable'}, expected {wanted!r}.")


def _of_hdf5(content: bytes, wanted: str, most: int, name: str) -> np.ndarray:
    """The variable of a file of MATLAB 7.3, which libhdf5 reads from a temporary file."""
    with tempfile.TemporaryDirectory(prefix="fer-") as folder:
        file = Path(folder) / "a.h5"
        file.write_bytes(content)
        try:
            shapes = array_shapes(file)
            sizes = shapes.get(wanted, ())
            values = read_numbers(file, wanted) if len(sizes) == 3 and 0 < math.prod(sizes) <= most else None
        except InputError as error:
            raise InputError(f"{name}: a file of MATLAB 7.3 (HDF5) that cannot be used: {error}") from None
    if values is None:
        found = ", ".join(f"{key!r} {'×'.join(map(str, shape))}" for key, shape in sorted(shapes.items()))
        raise InputError(
            f"{name}: a file of MATLAB 7.3 (HDF5) with {one_line(found)[:80] or 'no array'}, expected {wanted!r} on "
            f"three axes, of at most {most} numbers."
        )
    return values.transpose(2, 1, 0)  # MATLAB's first index varies fastest, HDF5's last


def _array(flags: bytes, shape: np.ndarray, kind: int, body: bytes, order: _Order, most: int, name: str) -> np.ndarray:
    word = int.from_bytes(flags[:4], order)
    of_class = _CLASSES[word & 0xFF] if word & 0xFF < len(_CLASSES) else "unknown"
    sizes = shape.tolist()
    if of_class in _CLASSES[:6] or len(sizes) != 3:
        described = f"{of_class} {'×'.join(map(str, sizes[:9]))}"
        raise InputError(f"{name}: 'instance' is {described}, expected numbers on three axes.")
    if word & 0x800:
        raise InputError(f"{name}: holds complex values, expected real numbers.")
    n_numbers = math.prod(sizes)
    if min(sizes) < 1 or n_numbers > most:
        raise InputError(f"{name}: a grid of {'×'.join(map(str, sizes))} voxels, expected 1 to {most} in all.")
    if kind not in _STORED:
        _refuse(name, f"numbers are stored as type {kind}")
    dtype = np.dtype(f"{_sign(order)}{_STORED[kind]}")
    if len(body) != n_numbers * dtype.itemsize:
        _refuse(name, f"{len(body)} bytes of numbers are there, {n_numbers * dtype.itemsize} are promised")
    return np.frombuffer(body, dtype).reshape(sizes, order="F")


def _elements(content: bytes, offset: int, order: _Order, name: str) -> Iterator[tuple[int, bytes]]:
    """Type and content of one element after another."""
    first = offset
    while offset + 8 <= len(content):
        kind, length = (int.from_bytes(content[at : at + 4], order) for at in (offset, offset + 4))
        start = offset + 8
        if kind >> 16:  # a small element: both numbers in the first four bytes, the content in the next
            kind, length, start = kind & 0xFFFF, kind >> 16, offset + 4
            if length > 4:
                _refuse(name, f"a small element has {length} bytes")
        if start + length > len(content):
            _refuse(name, f"{length} bytes are promised, {len(content) - start} follow")
        yield kind, content[start : start + length]
        offset = start + length
        if kind != _COMPRESSED:  # all others are padded to eight bytes
            offset += -(offset - first) % 8


def _inflated(packed: bytes, n_bytes: int, name: str) -> bytes:
    inflater = zlib.decompressobj()
    try:
        unpacked = inflater.decompress(packed, MAX_INFLATED)
    except zlib.error as error:
        _refuse(name, str(error))
    if inflater.unconsumed_tail:
        raise InputError(f"{name}: {n_bytes} bytes grow to more than {MAX_INFLATED}; refused.")
    return unpacked


def _sign(order: _Order) -> str:
    return "<" if order == "little" else ">"


def _refuse(name: str, reason: str) -> NoReturn:
    raise InputError(f"{name}: not a readable MATLAB 5 file: {reason}.")
