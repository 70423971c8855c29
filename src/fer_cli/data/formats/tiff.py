"""TIFF of several pages (`.tif`, `.tiff`) → volume: x along a page's rows, y down its columns, z from page to page.

tifffile reads tags and pages. Several samples a pixel are channels: RGB in this order; so are the channels of ImageJ
and OME. The edges of voxels come from ImageJ's or OME's metadata; TIFF tells no place in a body. Other text of a file
is not read.

Not read: colour palettes, pages where 0 is white, packed bits, LZW and lossy compression (which need imagecodecs, in
C), time series, single pages, further files of an OME data set.
"""

import io
import math
import re
from typing import Any

import numpy as np

from fer_cli.data.formats.registry import checked_size
from fer_cli.data.formats.unpacking import inflate
from fer_cli.data.formats.volume import MOST_CHANNELS, Scan, native, package, reading
from fer_cli.errors import InputError

_MOST_PAGES = 1 << 16
_NONE, _PACKBITS = 1, 32773
_DEFLATE = (8, 32946)
_MOST_PACKED = {_NONE: 1, _PACKBITS: 64, **dict.fromkeys(_DEFLATE, 1032)}
"""Bytes that one byte of a page stands for at most, by its compression."""
_KNOWN_COMPRESSIONS = {5: "LZW", 7: "JPEG", 34712: "JPEG 2000", 50000: "Zstandard", 34925: "LZMA"}
_MIN_IS_BLACK, _RGB = 1, 2
_UNITS = {
    "nm": 1e-6, "nanometer": 1e-6, "um": 1e-3, "µm": 1e-3, "μm": 1e-3, "\\u00b5m": 1e-3, "micron": 1e-3,
    "microns": 1e-3, "micrometer": 1e-3, "mm": 1.0, "millimeter": 1.0, "cm": 10.0, "centimeter": 10.0, "m": 1000.0,
    "inch": 25.4, "in": 25.4,
}  # fmt: skip
"""Millimetres of what ImageJ and OME call their units."""
_OTHER_PROGRAMS = ("is_lsm", "is_scanimage", "is_ndpi", "is_stk", "is_vista", "is_philips", "is_indica")
_Steps = tuple[float, float, float]


def read_tiff(content: bytes, name: str) -> Scan:
    """The volume that the pages of a TIFF file make.

    Raises InputError for what is damaged, truncated or none; UsageError where tifffile is not installed.
    """
    tifffile = package("tifffile", "TIFF files")
    with reading(name, "TIFF", "tifffile"):
        # Own ways of some programs to store pages, which tifffile takes a file for by its text, are switched off.
        flags = dict.fromkeys(_OTHER_PROGRAMS, False)
        with tifffile.TiffFile(io.BytesIO(content), name="a.tif", _multifile=False, **flags) as file:
            first = file.pages[0]
            description = first.tags.valueof(270)
            text = description if isinstance(description, str) else ""
            pages = _pages(file, content, name)
            order, channels, steps = _told(text, first, len(pages))
            values = np.stack([_pixels(page, content, name) for page in pages])
    depth = len(pages) // channels
    samples = values.shape[3]
    if (channels > 1 and samples > 1) or max(channels, samples) > MOST_CHANNELS:
        raise InputError(f"{name}: {channels} channels with {samples} samples a pixel; expected grey pages.")
    if depth < 2:
        raise InputError(
            f"{name}: holds one page of each channel, expected a page for each z; join slices to one file."
        )
    # (page, y, x, sample) → (channel, z, y, x, sample) → (channel, x, y, z)
    sides = values.shape[1:]
    is_z_first = order == "ZC"
    values = values.reshape((channels, depth, *sides) if is_z_first else (depth, channels, *sides))
    values = (values if is_z_first else values.swapaxes(0, 1)).transpose(4, 0, 3, 2, 1)
    values = values.reshape(samples * channels, *values.shape[2:])
    matrix = np.diag([*(steps or (1.0, 1.0, 1.0)), 1.0])
    return Scan(native(values), matrix, False, steps is not None)


def _pages(file: Any, content: bytes, name: str) -> list[Any]:
    """The pages of a file, which are alike and can be read."""
    pages: list[Any] = []
    for page in file.pages:
        if not pages:
            _require_readable(page, name)
            size = checked_size(page.shape, name) * page.dtype.itemsize
            most = min(_MOST_PAGES, len(content) * _MOST_PACKED[int(page.compression)] // size)
        elif _form(page) != _form(pages[0]):
            raise InputError(
                f"{name}: page {len(pages)} holds {_sides(page)}, but the first {_sides(pages[0])}; pages are slices "
                "of one volume. Leave thumbnails and other pictures out."
            )
        pages.append(page)
        if len(pages) > most:
            raise InputError(f"{name}: promises more pages of {size} bytes than fit into its {len(content)} bytes.")
    end, width = file.pages.next_page_offset, file.tiff.offsetsize
    if content[end : end + width] != bytes(width):  # tifffile takes the pages before it for all
        raise InputError(f"{name}: truncated or damaged: no page follows page {len(pages) - 1}, but it says where.")
    checked_size((len(pages), *pages[0].shape), name)
    return pages


def _form(page: Any) -> tuple[object, ...]:
    return (page.shape, page.dtype, page.photometric, int(page.compression), page.planarconfig, page.samplesperpixel)


def _sides(page: Any) -> str:
    return f"{page.dtype} {'×'.join(map(str, page.shape))}"


def _require_readable(page: Any, name: str) -> None:
    """Raise InputError for pages that are no slices of numbers, or need another library."""
    if int(page.compression) not in _MOST_PACKED:
        kind = _KNOWN_COMPRESSIONS.get(int(page.compression), f"method {int(page.compression)}")
        raise InputError(f"{name}: is compressed by {kind}; save it uncompressed or with Deflate (zlib).")
    if page.dtype is None or page.dtype.kind not in "iuf" or page.bitspersample not in (8, 16, 32, 64):
        bits = str(page.bitspersample)[:20]
        raise InputError(f"{name}: {bits} bits a sample; expected 8, 16, 32 or 64 of whole or floating numbers.")
    if int(page.photometric) not in (_MIN_IS_BLACK, _RGB):
        kind = str(getattr(page.photometric, "name", page.photometric))[:40]
        raise InputError(f"{name}: its pixels are {kind}; expected grey values where 0 is black, or RGB.")
    if int(page.predictor) not in (1, 2):
        raise InputError(f"{name}: predicts pixels by method {int(page.predictor)}; save it without a predictor.")
    if page.imagedepth != 1 or len(page.shape) not in (2, 3):
        raise InputError(f"{name}: a page holds {_sides(page)}, expected a slice.")


def _pixels(page: Any, content: bytes, name: str) -> np.ndarray:
    """One page as (y, x, sample), once its parts are known to be there and to hold what they promise."""
    offsets, counts, size = page.dataoffsets, page.databytecounts, page.dtype.itemsize
    across, down = (page.tilewidth, page.tilelength) if page.is_tiled else (page.imagewidth, page.rowsperstrip)
    if min(across, down, page.samplesperpixel) < 1:
        raise ValueError(f"parts of {across}×{down} pixels")
    planes = page.samplesperpixel if page.planarconfig == 2 else 1
    rows = math.ceil(page.imagelength / down)
    expected = planes * rows * math.ceil(page.imagewidth / across)
    if not len(offsets) == len(counts) == expected:
        raise InputError(f"{name}: a page is cut into {len(offsets)} parts, expected {expected}.")
    for number, (offset, count) in enumerate(zip(offsets, counts, strict=True)):
        left = page.imagelength - down * (number % rows) if not page.is_tiled else down
        wanted = min(down, left) * across * (page.samplesperpixel // planes) * size
        part = content[offset : offset + count] if offset >= 0 and count >= 0 else b""
        if len(part) != count or not count or (page.compression == _NONE and count < wanted):
            raise InputError(f"{name}: truncated: {len(part)} bytes of a page's part are there, expected {wanted}.")
        if int(page.compression) in _DEFLATE and len(inflate(part, wanted + 1, name)) != wanted:
            # Strips may be padded to their full height, tiles always are.
            full = down * across * (page.samplesperpixel // planes) * size
            if len(inflate(part, full + 1, name)) != full:
                raise InputError(f"{name}: a page's part does not unpack to {wanted} bytes.")
        if page.compression == _PACKBITS and count > 2 * wanted + 1024:
            raise InputError(f"{name}: {count} packed bytes for {wanted} bytes of pixels.")
    pixels: np.ndarray = page.asarray(maxworkers=1)
    if pixels.shape != page.shape or pixels.dtype.newbyteorder("=") != page.dtype.newbyteorder("="):
        raise ValueError(f"{pixels.dtype} {pixels.shape} in place of {_sides(page)}")
    if pixels.ndim == 2:
        return pixels[:, :, None]
    return np.moveaxis(pixels, 0, 2) if page.planarconfig == 2 else pixels


def _told(text: str, page: Any, n_pages: int) -> tuple[str, int, _Steps | None]:
    """Order of the axes of pages (the first varies fastest), number of channels, and edges of a voxel in millimetres.

    Told by the description of ImageJ or OME; without one, every page is a slice and nothing is known of edges.
    """
    if text.startswith("ImageJ="):
        fields = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        channels, slices, frames = (_whole(fields.get(key, "1")) for key in ("channels", "slices", "frames"))
        if not {"channels", "slices", "frames"} & fields.keys():  # of older versions
            slices = n_pages
        steps = _imagej_steps(fields, page)
        order = "CZ"
    elif "<OME" in text[:4096] and (pixels := re.findall(r"<(?:\w+:)?Pixels\s([^<>]*)>", text)):
        if len(pixels) > 1:
            raise ValueError("it holds several OME images, expected one")
        fields = dict(re.findall(r"(\w+)\s*=\s*[\"']([^\"']*)[\"']", pixels[0]))
        samples = int(page.samplesperpixel)
        channels, slices, frames = (_whole(fields.get(f"Size{axis}", "1")) for axis in "CZT")
        channels = max(1, channels // samples)
        steps = _ome_steps(fields)
        order = "ZC" if fields.get("DimensionOrder", "XYZCT").index("Z") == 2 or channels == 1 else "CZ"
        if channels > 1 and slices > 1 and fields["DimensionOrder"][:4] not in ("XYZC", "XYCZ"):
            raise ValueError(f"its OME pages are in the order {fields['DimensionOrder'][:8]}, expected XYZCT or XYCZT")
    else:
        return "ZC", 1, None
    if frames > 1:
        raise ValueError(f"it holds {frames} points in time, expected one volume")
    if channels * slices != n_pages:
        raise ValueError(f"it has {n_pages} pages for {channels} channels of {slices} slices")
    return order, channels, steps


def _whole(text: str) -> int:
    number = int(text[:20])
    if not 0 < number <= _MOST_PAGES:
        raise ValueError(f"{number} channels, slices or points in time")
    return number


def _imagej_steps(fields: dict[str, str], page: Any) -> _Steps | None:
    unit = _UNITS.get(fields.get("unit", "").strip().lower())
    per_unit = [page.tags.valueof(code) for code in (282, 283)]
    if unit is None or "spacing" not in fields or any(not isinstance(each, tuple) for each in per_unit):
        return None
    return _usable([*(unit * below / above for above, below in per_unit), unit * float(fields["spacing"])])


def _ome_steps(fields: dict[str, str]) -> _Steps | None:
    names = [f"PhysicalSize{axis}" for axis in "XYZ"]
    units = [_UNITS.get(fields.get(f"{name}Unit", "µm").strip().lower()) for name in names]
    if None in units or any(name not in fields for name in names):
        return None
    return _usable([float(fields[name]) * (unit or 0) for name, unit in zip(names, units, strict=True)])


def _usable(steps: list[float]) -> _Steps | None:
    """Edges of a voxel, None where they are none: many programs write 0, or no number."""
    x, y, z = (abs(step) for step in steps)
    return (x, y, z) if all(1e-9 < step < 1e9 for step in (x, y, z)) else None
