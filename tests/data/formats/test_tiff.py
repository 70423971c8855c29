import io
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from fer_cli.data.formats.scans import read_scan
from fer_cli.data.preparation import PreparationSettings, prepare
from fer_cli.errors import InputError

GREY = np.random.default_rng(0).integers(0, 900, (6, 5, 4)).astype(np.uint16)


def tiff(values: np.ndarray = GREY, **options: Any) -> bytes:
    """A file of values (x, y, z, …), by tifffile; it writes (z, y, x, …)."""
    options = {"photometric": "minisblack", "metadata": None, **options}
    tifffile.imwrite(stream := io.BytesIO(), np.ascontiguousarray(values.swapaxes(0, 2)), **options)
    return stream.getvalue()


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "<i2", ">i2", "u4", "i4", "f4", "f8", "f2"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rowsperstrip": 2},
        {"compression": "zlib"},
        {"compression": "zlib", "rowsperstrip": 2},
        {"tile": (16, 16)},
        {"tile": (16, 16), "compression": "zlib"},
        {"bigtiff": True},
        {"byteorder": ">"},
    ],
)
def test_values_are_those_that_tifffile_wrote(dtype: str, options: dict[str, Any]) -> None:
    values = (GREY % 100).astype(dtype)
    scan = read_scan(tiff(values, **options), "a.tiff")
    np.testing.assert_array_equal(scan.values[0], values)
    assert scan.values.dtype.isnative
    assert not scan.has_spacing


def by_pillow(compression: str) -> bytes:
    first, *further = (Image.fromarray(GREY[:, :, z].T.astype(np.uint8)) for z in range(GREY.shape[2]))
    first.save(stream := io.BytesIO(), "TIFF", save_all=True, append_images=further, compression=compression)
    return stream.getvalue()


def test_packbits_are_unpacked_and_lzw_is_refused() -> None:
    np.testing.assert_array_equal(read_scan(by_pillow("packbits"), "a.tif").values[0], GREY.astype(np.uint8))
    np.testing.assert_array_equal(read_scan(by_pillow("tiff_adobe_deflate"), "a.tif").values[0], GREY.astype(np.uint8))
    with pytest.raises(InputError, match="compressed by LZW; save it uncompressed or with Deflate"):
        read_scan(by_pillow("tiff_lzw"), "a.tif")


def test_predicted_pixels_are_undone() -> None:
    content = tiff(compression="zlib", predictor=True, rowsperstrip=2)
    np.testing.assert_array_equal(read_scan(content, "a.tif").values[0], GREY)


@pytest.mark.parametrize(
    ("unit", "step"), [("um", 1e-3), ("micron", 1e-3), ("\\u00B5m", 1e-3), ("nm", 1e-6), ("mm", 1.0), ("inch", 25.4)]
)
def test_edges_are_those_of_imagej(unit: str, step: float) -> None:
    metadata = {"axes": "ZYX", "spacing": 2.5, "unit": unit}
    scan = read_scan(tiff(imagej=True, metadata=metadata, resolution=(1 / 0.25, 1 / 0.5)), "a.tif")
    np.testing.assert_array_equal(scan.values[0], GREY)
    assert (scan.is_placed, scan.is_measured) == (False, True)
    np.testing.assert_allclose(np.diag(scan.index_to_world)[:3], np.array([0.25, 0.5, 2.5]) * step, rtol=1e-6)
    with pytest.raises(InputError, match="how its axes lie in a body"):
        prepare(scan, PreparationSettings(kind="intensity", orientation="RAS"), "a.tif")


def test_edges_without_those_along_z_are_none() -> None:
    metadata = {"axes": "ZYX", "unit": "um"}
    assert not read_scan(tiff(imagej=True, metadata=metadata, resolution=(4, 4)), "a.tif").has_spacing
    assert not read_scan(tiff(resolution=(72, 72), resolutionunit="INCH"), "a.tif").has_spacing


def test_edges_are_those_of_ome() -> None:
    metadata = {
        "axes": "ZYX",
        "PhysicalSizeX": 0.25,
        "PhysicalSizeY": 0.5,
        "PhysicalSizeZ": 2,
        "PhysicalSizeZUnit": "mm",
    }
    scan = read_scan(tiff(ome=True, metadata=metadata), "a.ome.tif")
    np.testing.assert_array_equal(scan.values[0], GREY)
    np.testing.assert_allclose(np.diag(scan.index_to_world)[:3], [0.25e-3, 0.5e-3, 2])


@pytest.mark.parametrize(
    ("axes", "options"),
    [("ZCYX", {"imagej": True}), ("ZCYX", {"ome": True}), ("CZYX", {"ome": True})],
)
def test_channels_of_imagej_and_ome_are_channels(axes: str, options: dict[str, Any]) -> None:
    channels = np.stack([GREY, GREY + 1])  # (channel, x, y, z)
    written = np.einsum("cxyz->zcyx" if axes[0] == "Z" else "cxyz->czyx", channels)
    tifffile.imwrite(
        stream := io.BytesIO(), written.copy(), photometric="minisblack", metadata={"axes": axes}, **options
    )
    np.testing.assert_array_equal(read_scan(stream.getvalue(), "a.tif").values, channels)


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_rgb_is_three_channels(planar: str) -> None:
    channels = np.stack([GREY, GREY + 1, GREY + 2]).astype(np.uint8)
    written = np.einsum("cxyz->zyxc" if planar == "contig" else "cxyz->zcyx", channels)
    tifffile.imwrite(stream := io.BytesIO(), written.copy(), photometric="rgb", planarconfig=planar, metadata=None)
    np.testing.assert_array_equal(read_scan(stream.getvalue(), "a.tif").values, channels)


def two_forms() -> bytes:
    with tifffile.TiffWriter(stream := io.BytesIO()) as writer:
        for values in (GREY[:, :, 0], GREY[:, :, 1], GREY[:3, :3, 0]):
            writer.write(values, photometric="minisblack", metadata=None)
    return stream.getvalue()


def edited(content: bytes, old: bytes, new: bytes) -> bytes:
    assert old in content
    return content.replace(old, new)


COMPRESSION = b"\x03\x01\x03\x00\x01\x00\x00\x00"
PHOTOMETRIC = b"\x06\x01\x03\x00\x01\x00\x00\x00"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"PNG", "not a readable TIFF file"),
        (tiff(GREY[:, :, :1]), "one page of each channel"),
        (two_forms(), "page 2 holds uint16 3×3, but the first uint16 6×5"),
        (edited(tiff(), COMPRESSION + b"\1", COMPRESSION + b"\5"), "compressed by LZW; save it uncompressed"),
        (edited(tiff(), COMPRESSION + b"\1", COMPRESSION + b"\7"), "compressed by JPEG"),
        (edited(tiff(), PHOTOMETRIC + b"\1", PHOTOMETRIC + b"\0"), "MINISWHITE"),
        (edited(tiff(), PHOTOMETRIC + b"\1", PHOTOMETRIC + b"\3"), "PALETTE"),
        (tiff(GREY > 400), "1 bits a sample"),
        (tiff(GREY.astype(np.complex64)), "bits a sample"),
        (tiff(GREY.astype("f4") * np.float32(np.nan)), "not finite"),
    ],
)
def test_files_that_are_no_volume_are_refused(content: bytes, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_scan(content, "a.tif")


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"imagej": True, "metadata": {"axes": "ZYX"}}])
def test_a_file_that_ends_early_is_refused_or_lacks_nothing_of_its_pixels(options: dict[str, Any]) -> None:
    content = tiff(**options)
    for length in range(0, len(content), 7):
        try:
            found = read_scan(content[:length], "a.tif").values[0]
        except InputError:
            continue
        np.testing.assert_array_equal(found, GREY)
        assert length > 0.9 * len(content)  # of the last page's tags some lie behind the pixels


def test_points_in_time_are_refused() -> None:
    tifffile.imwrite(stream := io.BytesIO(), np.zeros((3, 4, 5, 6), np.uint8), imagej=True, metadata={"axes": "TZYX"})
    with pytest.raises(InputError, match="3 points in time"):
        read_scan(stream.getvalue(), "a.tif")


def test_a_page_that_promises_more_than_the_file_holds_costs_no_memory() -> None:
    width = b"\x00\x01\x04\x00\x01\x00\x00\x00\x06\x00"
    content = edited(tiff(), width, width[:8] + b"\xff\xff")
    with pytest.raises(InputError, match=r"promises more pages|truncated"):
        read_scan(content, "a.tif")


def test_packed_pages_are_not_unpacked_further_than_promised() -> None:
    small = np.zeros((8, 8, 2), np.uint8)
    content = tiff(small, compression="zlib")
    # The tags now say half the width, so that each page unpacks to twice as many bytes as they promise.
    content = edited(content, b"\x00\x01\x04\x00\x01\x00\x00\x00\x08", b"\x00\x01\x04\x00\x01\x00\x00\x00\x04")
    with pytest.raises(InputError, match="does not unpack to 32 bytes"):
        read_scan(content, "a.tif")
