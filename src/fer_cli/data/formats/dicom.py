"""DICOM → volume: a series of files with one slice each, or one enhanced file of several frames.

pydicom is asked for the elements that are named here and for no others: no name, number or date of a patient and no
private element is kept, let alone written. Slices are sorted along their normal, and refused where they are no
volume: uneven gaps, missing slices, several series. Coordinates become right, anterior and superior. Values are those
of the rescale slope and intercept; MONOCHROME1, where low values are white, is inverted before.

Read without plug-ins of pydicom: uncompressed and deflated files, RLE. Not read: JPEG and its kin, colours, bits packed
into bytes, look-up tables, several frames without a place for each (ultrasound, angiography).
Source: DICOM PS3.3, C.7.6.2 (image plane), C.7.6.16 (functional groups); PS3.5, annex A (transfer syntaxes).
"""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Shaped

from fer_cli.data.formats.registry import checked_size
from fer_cli.data.formats.unpacking import inflate
from fer_cli.data.formats.volume import LPS_TO_RAS, Scan, package, reading, require_extent
from fer_cli.errors import InputError

_ELEMENTS = (
    "SeriesInstanceUID", "SeriesNumber", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel",
    "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelData",
    "FloatPixelData", "DoubleFloatPixelData", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
    "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)  # fmt: skip
"""All that is read of a file."""
_IMPLICIT, _BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
_DEFLATED, _RLE = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.5"
_SYNTAXES = (_IMPLICIT, "1.2.840.10008.1.2.1", _BIG_ENDIAN, _DEFLATED, _RLE)
_MOST_DEFLATED = 64
"""How far a deflated file may grow; noise of a scanner grows by four."""
_MOST_BYTES = 1 << 30
_EVEN = 0.01
"""Share of the distance between slices, and millimetres, that slices may lie off."""
_MOST_FRAMES = 1 << 14


@dataclass(frozen=True)
class _Slice:
    """A slice in the patient: stored pixels as (y, x), and what makes values and a place of them."""

    file: str
    pixels: Shaped[np.ndarray, "y x"]
    slope: float
    intercept: float
    position: Float64[np.ndarray, " 3"]
    directions: Float64[np.ndarray, "2 3"]
    edges: tuple[float, float]
    """Millimetres along x and y."""


def is_dicom(head: bytes) -> bool:
    """Whether a file that begins so is one of DICOM."""
    return head[128:132] == b"DICM"


def series_of(content: bytes) -> tuple[str, int]:
    """What tells the series of a file from others, empty where nothing does, and its number of frames, 0 if unknown."""
    try:
        with reading("", "DICOM", "pydicom"):
            elements = _read(content, "", ("SeriesInstanceUID", "NumberOfFrames"))
            return str(elements.get("SeriesInstanceUID", "")), int(elements.get("NumberOfFrames") or 1)
    except InputError:
        return "", 0


def read_dicom(files: Iterable[tuple[str, bytes]], name: str) -> Scan:
    """The volume of the files of a series, each given by its name and content; errors name `name`.

    Files without an image, such as reports, are left out. Raises InputError for what is damaged or no volume, which
    says what to do; UsageError where pydicom is not installed.
    """
    slices: list[_Slice] = []
    series: dict[str, tuple[str, str, int]] = {}
    for file, content in files:
        where = f"{name}: {file}" if file != name else name
        with reading(where, "DICOM", "pydicom"):
            elements = _read(content, where, _ELEMENTS)
            if "Rows" not in elements:
                continue
            key = str(elements.get("SeriesInstanceUID", ""))
            number, first, count = series.get(key, (str(elements.get("SeriesNumber", "?"))[:20], file, 0))
            series[key] = (number, first, count + 1)
            slices += _slices(elements, file, where)
    if len(series) > 1:
        listed = ", ".join(
            f"number {number} ({count} files, {first} for one)" for number, first, count in series.values()
        )
        raise InputError(f"{name}: holds {len(series)} series: {listed[:600]}; put each into a folder of its own.")
    if len(slices) < 2:
        raise InputError(
            f"{name}: holds {len(slices)} slices, expected a volume: name the folder of all slices of a series."
        )
    return _volume(slices, name)


def _read(content: bytes, name: str, wanted: Sequence[str]) -> Any:
    """The wanted elements of a file, and its header as `file_meta`."""
    pydicom = package("pydicom", "DICOM files")
    if not is_dicom(content[:132]):
        raise InputError(f"{name}: not a readable DICOM file: it has no header.")
    with reading(name, "DICOM", "pydicom"):
        read, stream = package("pydicom.filereader", "DICOM files").read_dataset, io.BytesIO(content)
        stream.seek(132)
        header = read(stream, False, True, stop_when=lambda tag, *_: tag.group != 2)
        syntax = str(header.get("TransferSyntaxUID", ""))
        if "PixelData" in wanted and syntax not in _SYNTAXES:
            kind = pydicom.uid.UID(syntax).name[:60] if syntax else "a way that it does not tell"
            raise InputError(
                f"{name}: its pixels are stored by {kind}; convert it to an uncompressed file, such as by "
                "'gdcmconv --raw' or dcmdjpeg."
            )
        if syntax == _DEFLATED:  # pydicom would unpack it whole
            packed, most = content[stream.tell() :], min(_MOST_DEFLATED * len(content), _MOST_BYTES)
            body = inflate(packed, most + 1, name, is_bare=True)
            if len(body) > most:
                raise InputError(f"{name}: {len(packed)} bytes that grow to more than {most}, refused as a bomb.")
            stream = io.BytesIO(body)
        tags = [pydicom.tag.Tag(pydicom.datadict.tag_for_keyword(keyword)) for keyword in wanted]
        last = max(tags)
        elements = read(
            stream, syntax == _IMPLICIT, syntax != _BIG_ENDIAN, specific_tags=tags, stop_when=lambda tag, *_: tag > last
        )
        elements.file_meta = header
        return elements


def _slices(elements: Any, file: str, name: str) -> list[_Slice]:
    """The slices of one file, which has a place for each."""
    frames = int(elements.get("NumberOfFrames") or 1)
    groups = _groups(elements, frames, name)
    pixels = _pixels(elements, frames, name)
    slices = []
    for stored, of_frame in zip(pixels, groups, strict=True):
        place, plane, measures, rescale = of_frame
        try:
            position = np.array([float(number) for number in place["ImagePositionPatient"].value])
            directions = np.array([float(number) for number in plane["ImageOrientationPatient"].value]).reshape(2, 3)
            down, across = (float(step) for step in measures["PixelSpacing"].value)
        except KeyError as error:
            raise InputError(f"{name}: does not tell where its slices lie ({str(error)[:60]}).") from None
        slope, intercept = (
            float(default if (value := rescale.get(key)) is None else value)
            for key, default in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0))
        )
        lengths = np.linalg.norm(directions, axis=1)
        if position.shape != (3,) or not np.isfinite([*position, slope, intercept, down, across]).all():
            raise InputError(f"{name}: its place or its rescaling is no finite number.")
        if (
            not (np.abs(lengths - 1) < 1e-2).all()
            or abs(directions[0] @ directions[1]) > 1e-2
            or min(down, across) <= 0
        ):
            raise InputError(f"{name}: its axes are no right angle of length 1, or its pixels have no edges.")
        slices.append(_Slice(file, stored, slope, intercept, position, directions, (across, down)))
    return slices


def _groups(elements: Any, frames: int, name: str) -> list[tuple[Any, Any, Any, Any]]:
    """For each frame the data sets that hold its position, its orientation, its edges and its rescaling."""
    if "ModalityLUTSequence" in elements:
        raise InputError(f"{name}: its values go through a look-up table, which fer does not read.")
    if not 0 < frames <= _MOST_FRAMES:
        raise InputError(f"{name}: {frames} frames, expected 1 to {_MOST_FRAMES}.")
    if "PerFrameFunctionalGroupsSequence" not in elements:
        if frames > 1:
            raise InputError(f"{name}: has {frames} frames without a place for each, expected a volume.")
        return [(elements, elements, elements, elements)]
    of_frames = elements["PerFrameFunctionalGroupsSequence"].value
    shared = elements["SharedFunctionalGroupsSequence"].value if "SharedFunctionalGroupsSequence" in elements else []
    if len(of_frames) != frames:
        raise InputError(f"{name}: tells the places of {len(of_frames)} frames, but has {frames}.")

    def found(group: Any, key: str) -> Any:
        for holder in (group, *shared[:1]):
            if key in holder and len(holder[key].value):
                return holder[key].value[0]
        return {}

    return [
        (
            found(group, "PlanePositionSequence"),
            found(group, "PlaneOrientationSequence"),
            found(group, "PixelMeasuresSequence"),
            found(group, "PixelValueTransformationSequence"),
        )
        for group in of_frames
    ]


def _pixels(elements: Any, frames: int, name: str) -> Shaped[np.ndarray, "frame y x"]:
    """The stored pixels of a file; those where low values are white are inverted."""
    kind = str(elements.get("PhotometricInterpretation", ""))
    if elements.get("SamplesPerPixel", 1) != 1 or kind not in ("MONOCHROME1", "MONOCHROME2"):
        raise InputError(f"{name}: its pixels are {kind[:20] or 'of no kind'}, expected grey values.")
    sides = (frames, int(elements["Rows"].value), int(elements["Columns"].value))
    count = checked_size(sides, name)
    syntax = str(elements.file_meta.TransferSyntaxUID)
    for key, floating in (("FloatPixelData", np.float32), ("DoubleFloatPixelData", np.float64)):
        if key in elements:
            if kind == "MONOCHROME1" or syntax == _RLE:
                raise InputError(f"{name}: holds floating numbers where low values are white, or compressed.")
            return _whole(elements, key, np.dtype(floating), sides, name)
    bits, stored, high = (int(elements[key].value) for key in ("BitsAllocated", "BitsStored", "HighBit"))
    if bits not in (8, 16, 32) or not 0 < stored <= bits or high != stored - 1:
        raise InputError(
            f"{name}: {stored} of {bits} bits up to bit {high} hold a pixel; expected the lower of 8, 16 or 32."
        )
    is_signed = int(elements["PixelRepresentation"].value) == 1
    dtype = np.dtype(f"{'i' if is_signed else 'u'}{bits // 8}")
    if syntax == _RLE:
        pixels = _unpacked(elements, count * dtype.itemsize, frames, name).reshape(sides)
    else:
        pixels = _whole(elements, "PixelData", dtype, sides, name)
    # What lies above the stored bits, such as an overlay of older files, is no part of a pixel.
    pixels = np.left_shift(pixels, bits - stored) >> (bits - stored) if stored < bits else pixels
    if kind == "MONOCHROME1":
        # low + high − value, which the bits of a value turned over are.
        pixels = ~pixels if is_signed else np.array(2**stored - 1, dtype) - pixels
    return pixels


def _whole(elements: Any, key: str, dtype: np.dtype, sides: tuple[int, int, int], name: str) -> np.ndarray:
    """Uncompressed pixels, of which there must be as many as are promised."""
    content = elements[key].value if key in elements else b""
    count = int(np.prod(sides))
    is_little = str(elements.file_meta.TransferSyntaxUID) != _BIG_ENDIAN
    if not is_little and dtype.itemsize == 1 and elements[key].VR == "OW":
        raise InputError(f"{name}: holds bytes in words of the other byte order; save it in Explicit VR Little Endian.")
    if not isinstance(content, bytes) or len(content) < count * dtype.itemsize:
        found = len(content) if isinstance(content, bytes) else 0
        raise InputError(f"{name}: holds {found} bytes of pixels, expected {count * dtype.itemsize}.")
    order = dtype.newbyteorder("<" if is_little else ">")
    return np.frombuffer(content, order, count).reshape(sides).astype(dtype, copy=False)


def _unpacked(elements: Any, wanted: int, frames: int, name: str) -> np.ndarray:
    """Pixels of RLE, by pydicom's own decoder."""
    content = elements["PixelData"].value
    if not isinstance(content, bytes) or len(content) > 2 * wanted + 1024 * frames:
        raise InputError(f"{name}: its packed pixels are more than {wanted} bytes of pixels need.")
    decoder = package("pydicom.pixels", "DICOM files").get_decoder(_RLE)
    pixels, _ = decoder.as_array(elements, raw=True, decoding_plugin="pydicom")
    return np.asarray(pixels)


def _volume(slices: list[_Slice], name: str) -> Scan:
    """The slices in order along their normal, with the affine map of all."""
    first = slices[0]
    for other in slices[1:]:
        if other.pixels.shape != first.pixels.shape or not np.allclose(other.edges, first.edges, rtol=1e-3):
            sides = " and ".join("×".join(map(str, each.pixels.shape[::-1])) for each in (first, other))
            raise InputError(
                f"{name}: {first.file} and {other.file} differ in size ({sides} pixels) or in the edges of pixels; "
                "leave out what is not of the volume."
            )
        if np.abs(other.directions - first.directions).max() > 1e-3:
            raise InputError(
                f"{name}: {first.file} and {other.file} look into different directions; leave out localizers."
            )
    checked_size((*first.pixels.shape, len(slices)), name)
    normal = np.cross(*first.directions)
    slices = sorted(slices, key=lambda each: float(each.position @ normal))
    step = _step(slices, normal, name)
    matrix = np.eye(4)
    matrix[:3, 0], matrix[:3, 1] = (row * edge for row, edge in zip(first.directions, first.edges, strict=True))
    matrix[:3, 2], matrix[:3, 3] = step, slices[0].position
    require_extent(matrix, name)
    return Scan(_values(slices), LPS_TO_RAS @ matrix, True, True)


def _step(slices: Sequence[_Slice], normal: np.ndarray, name: str) -> Float64[np.ndarray, " 3"]:
    """From one slice to the next, in millimetres. Raises InputError where slices do not lie evenly."""
    positions = np.stack([each.position for each in slices])
    gaps = np.diff(positions @ normal)
    usual = float(np.median(gaps))
    most = max(_EVEN, _EVEN * usual)
    if (gaps < most).any():
        at = int(np.argmin(gaps))
        raise InputError(
            f"{name}: {slices[at].file} and {slices[at + 1].file} lie at the same place; it holds several points in "
            "time or several series. Put each into a folder of its own."
        )
    off = np.abs(gaps - usual)
    if (off > most).any():
        at = int(np.argmax(off))
        missing = gaps / usual
        between = f"between {slices[at].file} and {slices[at + 1].file} lie {gaps[at]:.4g} mm, elsewhere {usual:.4g} mm"
        if (np.abs(missing - np.round(missing)) < 0.1).all():
            count = int(np.round(missing).sum()) - len(gaps)
            raise InputError(
                f"{name}: {count} slices are missing: {between}. Add them, or keep the slices of one side."
            )
        raise InputError(f"{name}: its slices lie unevenly: {between}. Resample it to even distances.")
    step: np.ndarray = (positions[-1] - positions[0]) / (len(slices) - 1)
    aside = positions - positions[0] - np.arange(len(slices))[:, None] * step
    if np.abs(aside).max() > 10 * most:
        raise InputError(f"{name}: its slices do not lie on a line; leave out what is not of the volume.")
    return step


def _values(slices: Sequence[_Slice]) -> Shaped[np.ndarray, "1 x y z"]:
    """Rescaled values: those stored where nothing is rescaled, else whole numbers where all are."""
    factors = np.array([[each.slope, each.intercept] for each in slices])
    stored = np.result_type(*{each.pixels.dtype for each in slices})
    is_plain = bool((factors == [1.0, 0.0]).all())
    is_whole = stored.kind in "iu" and stored.itemsize <= 2 and bool((factors == np.round(factors)).all())
    is_small = is_whole and float(np.abs(factors).max()) < 2**14
    dtype = stored if is_plain else np.dtype(np.int32 if is_small else np.float64)
    rows, columns = slices[0].pixels.shape
    values = np.empty((1, columns, rows, len(slices)), dtype)
    for z, each in enumerate(slices):
        if is_plain:
            values[0, :, :, z] = each.pixels.T
        else:
            with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused
                values[0, :, :, z] = each.pixels.T.astype(dtype) * dtype.type(each.slope) + dtype.type(each.intercept)
    return values
