"""Point clouds: PCD (text, binary and compressed) and XYZ text → points.

What a header promises is only ever compared with what is there, so that a false header costs no memory.

Not read: colours, normals and other fields; PCD's VIEWPOINT, since points are kept as they are stored.
"""

import re
from collections.abc import Callable
from typing import no_type_check

import numpy as np
from jaxtyping import Float64

from fer_cli.data.formats.compiling import compiled
from fer_cli.data.formats.content import plain_text, without_mark
from fer_cli.data.formats.decimals import excerpt, numbers_by_line
from fer_cli.errors import InputError

_HEADER_LIMIT = 1 << 16
_TYPES = {
    ("F", 4): "<f4", ("F", 8): "<f8", ("I", 1): "i1", ("I", 2): "<i2", ("I", 4): "<i4", ("I", 8): "<i8",
    ("U", 1): "u1", ("U", 2): "<u2", ("U", 4): "<u4", ("U", 8): "<u8",
}  # fmt: skip
# A back-reference of three bytes stands for 264 at most.
_LZF_RATIO = 88
_MOST_UNPACKED = 1 << 30
"""Bytes that compressed points may grow to."""

_COMMENT = re.compile(rb"#[^\r\n]*+")
_DECIMAL_COMMA = re.compile(rb"(?<![^\s;])[+-]?\d*+,\d++(?:[eE][+-]?\d++)?(?![^\s;])")
_BETWEEN = re.compile(rb";[ \t]*+[^\s;]")
"""A semicolon that parts numbers, and does not only end a line."""
_LEADING_ZERO = re.compile(rb",\s*+[+-]?0\d")

_Fields = list[tuple[str, str, int]]


def read_xyz(content: bytes, name: str) -> Float64[np.ndarray, "point 3"]:
    """The first three numbers of each line; a first line of one number may say how many lines follow.

    Numbers may be parted by commas or semicolons, and have decimal commas where it is clear that these are. Errors name
    `name`.

    Raises InputError if a line has fewer numbers, or something else.
    """
    text = _with_decimal_points(plain_text(content), name).replace(b";", b" ")
    numbers, starts = numbers_by_line(text, 0, name)
    if len(starts) > 2 and starts[1] == 1 and numbers[0] == len(starts) - 2:
        starts = starts[1:]
    if len(starts) < 2:
        raise InputError(f"{name}: holds no point.")
    widths = np.diff(starts)
    short = int(widths.argmin())
    if widths[short] < 3:
        raise InputError(f"{name}: point {short} has {widths[short]} numbers, expected at least 3.")
    return numbers[starts[:-1, None] + np.arange(3)]


def read_pcd(content: bytes, name: str) -> Float64[np.ndarray, "point 3"]:
    """Points with fields x, y and z, NaN where there is none. Errors name `name`.

    Raises InputError if the content is no PCD file, or is truncated or damaged.
    """
    content = without_mark(content)
    fields, n_points, encoding, start = _read_header(content, name)
    if encoding == "ascii":
        points = _read_text(content, start, fields, n_points, name)
    else:
        body = memoryview(content)[start:]
        if encoding == "binary_compressed":
            body, by_field = _decompressed(content, start, name).data, True
        else:
            by_field = False
        points = _read_binary(body, fields, n_points, by_field, name)
    return points


def _with_decimal_points(text: bytes, name: str) -> bytes:
    """The same text with points for decimal commas, and spaces for commas that part numbers."""
    bare = _COMMENT.sub(b"", text)
    commas = bare.count(b",")
    decimal = len(_DECIMAL_COMMA.findall(bare)) if commas else 0
    if commas and decimal == commas and b"." not in bare:
        return bare.replace(b",", b".")
    # No list of whole numbers writes one as 05, but decimals do behind their comma.
    is_both = commas and b";" in bare and any(b"," in line and _BETWEEN.search(line) for line in bare.splitlines())
    if decimal or is_both or (commas and b"." not in bare and _LEADING_ZERO.search(bare)):
        raise InputError(
            f"{name}: its commas may mark decimals or part numbers; write decimals with a point, or part numbers by "
            "semicolons."
        )
    return bare.replace(b",", b" ")


def _read_header(content: bytes, name: str) -> tuple[_Fields, int, str, int]:
    """Fields as (name, NumPy's type, count), number of points, encoding, and where the body begins."""
    header: dict[str, list[str]] = {}
    start = 0
    while "DATA" not in header:
        end = content.find(b"\n", start, _HEADER_LIMIT)
        words = content[start:end].decode("latin-1").split() if end >= 0 else []
        known = words and (words[0].startswith("#") or words[0] in _KEYS)
        if end < 0 or (words and not known):
            if header:
                raise InputError(f"{name}: the PCD header has no line 'DATA' after {', '.join(header)}.")
            raise InputError(f"{name}: not a PCD file; it begins with {excerpt(content)}.")
        if words and words[0] in _KEYS:
            header[words[0]] = words[1:]
        start = end + 1
    names = header.get("FIELDS") or header.get("COLUMNS") or []
    try:
        counts = [int(word) for word in header.get("COUNT", ["1"] * len(names))]
        sizes = [int(word) for word in header["SIZE"]]
        types = [_TYPES[key] for key in zip(header["TYPE"], sizes, strict=True)]
        n_points = (
            int(header["POINTS"][0]) if "POINTS" in header else int(header["WIDTH"][0]) * int(header["HEIGHT"][0])
        )
        fields = list(zip(names, types, counts, strict=True))
        (encoding,) = header["DATA"]
    except (KeyError, ValueError, IndexError):
        found = " ".join(f"{key} {' '.join(words)};" for key, words in header.items() if key != "VERSION")
        raise InputError(f"{name}: the PCD header does not parse: {found[:200]}") from None
    if encoding not in ("ascii", "binary", "binary_compressed") or n_points < 1 or min(counts, default=0) < 1:
        raise InputError(f"{name}: {n_points} points of {len(names)} fields in {encoding} data make no shape.")
    if missing := [
        axis for axis in "xyz" if (names.count(axis), dict(zip(names, counts, strict=True)).get(axis)) != (1, 1)
    ]:
        raise InputError(f"{name}: points have {', '.join(names)[:80]}, expected one {missing[0]} among them.")
    return fields, n_points, encoding, start


_KEYS = {"VERSION", "FIELDS", "COLUMNS", "SIZE", "TYPE", "COUNT", "WIDTH", "HEIGHT", "VIEWPOINT", "POINTS", "DATA"}


def _read_text(content: bytes, start: int, fields: _Fields, n_points: int, name: str) -> np.ndarray:
    numbers, starts = numbers_by_line(content, start, name)
    if n_points > len(starts) - 1:
        raise InputError(f"{name}: truncated: {n_points} points are promised, {len(starts) - 1} lines follow.")
    starts = starts[: n_points + 1]
    width = sum(count for _, _, count in fields)
    widths = np.diff(starts)
    short = int(widths.argmin())
    if widths[short] < width:
        raise InputError(f"{name}: point {short} has {widths[short]} numbers, expected {width}.")
    before = np.cumsum([0, *(count for _, _, count in fields)])
    columns = [before[[field for field, _, _ in fields].index(axis)] for axis in "xyz"]
    return numbers[starts[:-1, None] + np.array(columns)]


def _read_binary(body: memoryview, fields: _Fields, n_points: int, by_field: bool, name: str) -> np.ndarray:
    sizes = [np.dtype(kind).itemsize * count for _, kind, count in fields]
    if n_points * sum(sizes) > len(body):
        raise InputError(
            f"{name}: truncated: {n_points} points of {sum(sizes)} bytes are promised, {len(body)} bytes follow."
        )
    before = np.cumsum([0, *sizes])
    points = np.empty((n_points, 3))
    for axis, wanted in enumerate("xyz"):
        field = [item for item, _, _ in fields].index(wanted)
        kind = np.dtype(fields[field][1])
        start, stride = (before[field] * n_points, kind.itemsize) if by_field else (before[field], sum(sizes))
        points[:, axis] = np.ndarray(n_points, kind, body, int(start), int(stride))
    return points


def _decompressed(content: bytes, start: int, name: str) -> np.ndarray:
    """LZF: two sizes, then runs of literal bytes and back-references."""
    packed, size = np.frombuffer(content[start : start + 8].ljust(8, b"\0"), "<u4").tolist()
    left = len(content) - start - 8
    if not 0 < packed <= left or size > _LZF_RATIO * packed:
        raise InputError(
            f"{name}: truncated: {packed} bytes that grow to {size} are promised, {max(left, 0)} bytes follow."
        )
    if size > _MOST_UNPACKED:
        raise InputError(f"{name}: {packed} bytes grow to {size}, more than {_MOST_UNPACKED}; refused.")
    unpacked = np.empty(size, np.uint8)
    if _unpack(np.frombuffer(content, np.uint8, packed, start + 8), unpacked) != size:
        raise InputError(f"{name}: the compressed points are damaged.")
    return unpacked


@no_type_check
def _unpack_lzf(packed, unpacked):
    """Number of bytes unpacked, or −1 where the content is damaged."""
    i = o = 0
    while i < len(packed):
        control = np.int64(packed[i])
        i += 1
        if control < 32:
            length = control + 1
            if i + length > len(packed) or o + length > len(unpacked):
                return -1
            for _ in range(length):
                unpacked[o] = packed[i]
                i += 1
                o += 1
            continue
        length = (control >> 5) + 2
        if length == 9:
            if i >= len(packed):
                return -1
            length += np.int64(packed[i])
            i += 1
        if i >= len(packed):
            return -1
        source = o - ((control & 31) << 8) - np.int64(packed[i]) - 1
        i += 1
        if source < 0 or o + length > len(unpacked):
            return -1
        for _ in range(length):  # one by one, since a run may repeat what it has just written
            unpacked[o] = unpacked[source]
            source += 1
            o += 1
    return o


_unpack: Callable[..., int] = compiled(_unpack_lzf)
