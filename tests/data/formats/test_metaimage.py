import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from fer_cli.data.formats.scans import read_scan
from fer_cli.data.preparation import orientation_of
from fer_cli.errors import InputError
from itk_images import GREY, affine_of, image

HEAD = (
    b"ObjectType = Image\nNDims = 3\nBinaryData = True\nDimSize = 6 5 4\nElementType = MET_SHORT\n"
    b"ElementDataFile = LOCAL\n"
)
PLAIN = HEAD + GREY.tobytes("F")


def edited(old: bytes, new: bytes) -> bytes:
    assert old in HEAD
    return HEAD.replace(old, new) + GREY.tobytes("F")


@pytest.mark.parametrize("is_packed", [True, False])
@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
def test_a_file_of_itk_holds_its_values_where_it_says(is_packed: bool, dtype: str, tmp_path: Path) -> None:
    made = image((np.abs(GREY) % 100).astype(dtype))
    SimpleITK.WriteImage(made, str(tmp_path / "a.mha"), is_packed)
    scan = read_scan((tmp_path / "a.mha").read_bytes(), "a.mha")
    np.testing.assert_array_equal(scan.values[0], (np.abs(GREY) % 100).astype(dtype))
    np.testing.assert_allclose(scan.index_to_world, affine_of(made), atol=1e-6)
    assert scan.is_placed
    assert orientation_of(scan.index_to_world) == "LSP"


def test_several_numbers_a_voxel_are_channels(tmp_path: Path) -> None:
    values = np.stack([GREY, GREY + 1], 3)
    SimpleITK.WriteImage(image(values), str(tmp_path / "a.mha"))
    np.testing.assert_array_equal(
        read_scan((tmp_path / "a.mha").read_bytes(), "a.mha").values, np.moveaxis(values, 3, 0)
    )


def test_bytes_in_the_other_order_are_turned() -> None:
    content = HEAD.replace(b"BinaryData", b"ElementByteOrderMSB = True\nBinaryData") + GREY.astype(">i2").tobytes("F")
    np.testing.assert_array_equal(read_scan(content, "a.mha").values[0], GREY)


def test_a_rescaling_that_changes_nothing_is_none() -> None:
    content = edited(b"BinaryData", b"ElementToIntensityFunctionSlope = 1.0\nBinaryData")
    np.testing.assert_array_equal(read_scan(content, "a.mha").values[0], GREY)


def test_edges_alone_measure_a_volume() -> None:
    assert not read_scan(PLAIN, "a.mha").has_spacing
    scan = read_scan(edited(b"BinaryData", b"ElementSpacing = 1 2 3\nBinaryData"), "a.mha")
    assert (scan.is_placed, scan.is_measured) == (False, True)
    np.testing.assert_array_equal(np.diag(scan.index_to_world), [1, 2, 3, 1])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"PNG", "no line ElementDataFile"),
        (edited(b"BinaryData", b"ElementToIntensityFunctionSlope = 2\nBinaryData"), "values are to be rescaled"),
        (edited(b"BinaryData", b"ElementToIntensityFunctionOffset = x\nBinaryData"), "values are to be rescaled"),
        (PLAIN[:-1], "239 bytes of voxels, expected 240"),
        (edited(b"LOCAL", b"/etc/passwd"), "voxels are in another file"),
        (edited(b"BinaryData = True", b"BinaryData = False"), "voxels are text"),
        (edited(b"6 5 4", b"60000 50000 40000"), "60000×50000×40000"),
        (edited(b"6 5 4", b"6 5 -4"), "voxels, expected 1 to"),
        (edited(b"6 5 4", b"6 5 2 2"), "expected three axes"),
        (edited(b"6 5 4", b"6 5 nan"), "expected numbers up to"),
        (edited(b"MET_SHORT", b"MET_OTHER"), "no usable 'MET_OTHER'"),
        (edited(b"BinaryData", b"ElementSpacing = 1 0 1\nBinaryData"), "a plane or a point"),
        (edited(b"BinaryData", b"TransformMatrix = 1 0 0 1\nBinaryData"), "4 numbers, expected 9"),
        (edited(b"BinaryData", b"ElementNumberOfChannels = 99999\nBinaryData"), "99999 channels"),
        (edited(b"BinaryData", b"CompressedData = True\nBinaryData"), "cannot be unpacked"),
    ],
)
def test_damaged_files_are_refused(content: bytes, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_scan(content, "a.mha")


def test_packed_voxels_are_unpacked_no_further_than_the_header_says() -> None:
    head = HEAD.replace(b"BinaryData", b"CompressedData = True\nBinaryData")
    content = head + zlib.compress(GREY.tobytes("F") + bytes(1 << 26))
    np.testing.assert_array_equal(read_scan(content, "a.mha").values[0], GREY)
    broken = bytearray(zlib.compress(GREY.tobytes("F")))
    broken[-1] ^= 1  # within the checksum
    with pytest.raises(InputError, match="cannot be unpacked"):
        read_scan(head + bytes(broken), "a.mha")
