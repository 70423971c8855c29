from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, uid
from pydicom.sequence import Sequence

from fer_cli.data.formats import dicom
from fer_cli.data.formats.dicom import read_dicom, series_of
from fer_cli.data.formats.scans import read_scan
from fer_cli.data.preparation import orientation_of
from fer_cli.errors import InputError
from slices import EDGES, SYNTAXES, VALUES, dicom_frames, dicom_slice

# Left, posterior, superior of the files in right, anterior, superior.
AFFINE = np.array([[-EDGES[0], 0, 0, -1], [0, -EDGES[1], 0, -2], [0, 0, EDGES[2], 10], [0, 0, 0, 1]])
HOUNSFIELD = VALUES.astype(np.int64) * 2 - 1024


def series(**changes: Any) -> list[tuple[str, bytes]]:
    """The four slices in no order; `changes` replace elements of the third."""
    return [(f"{z}.dcm", dicom_slice(z, **(changes if z == 2 else {}))) for z in (2, 0, 3, 1)]


def of_all(**changes: Any) -> list[tuple[str, bytes]]:
    return [(f"{z}.dcm", dicom_slice(z, **changes)) for z in (2, 0, 3, 1)]


def refusal(files: list[tuple[str, bytes]]) -> str:
    with pytest.raises(InputError) as caught:
        read_dicom(files, "case")
    return str(caught.value)


@pytest.mark.parametrize("kind", SYNTAXES)
def test_slices_make_a_volume_in_the_order_of_their_places(kind: str) -> None:
    scan = read_dicom(of_all(kind=kind), "case")
    np.testing.assert_array_equal(scan.values[0], HOUNSFIELD)
    np.testing.assert_allclose(scan.index_to_world, AFFINE, atol=1e-6)
    assert scan.is_placed
    assert orientation_of(scan.index_to_world) == "LPS"


@pytest.mark.parametrize("kind", [kind for kind in SYNTAXES if kind != "big endian"])
def test_frames_of_an_enhanced_file_make_a_volume(kind: str) -> None:
    scan = read_scan(dicom_frames(kind), "a.dcm")
    np.testing.assert_array_equal(scan.values[0], HOUNSFIELD)
    np.testing.assert_allclose(scan.index_to_world, AFFINE, atol=1e-6)
    np.testing.assert_array_equal(read_scan(dicom_frames(kind), "1.2.840.7").values, scan.values)


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [(dtype, "explicit") for dtype in (np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32)]
    + [(dtype, "rle") for dtype in (np.uint8, np.uint16, np.int16)],
)
def test_stored_values_of_every_type_are_kept(dtype: type, kind: str) -> None:
    values = np.abs(VALUES).astype(dtype)
    files = [(str(z), dicom_slice(z, kind, values=values, RescaleSlope=None, RescaleIntercept=None)) for z in range(4)]
    scan = read_dicom(files, "case")
    np.testing.assert_array_equal(scan.values[0], values)
    assert scan.values.dtype == dtype


def test_a_rescaling_of_its_own_for_each_slice_and_in_parts() -> None:
    slopes = (0.5, 1.25, 2.0, 1e-3)
    files = [(str(z), dicom_slice(z, RescaleSlope=slopes[z], RescaleIntercept=z)) for z in range(4)]
    np.testing.assert_allclose(read_dicom(files, "case").values[0], VALUES * np.array(slopes) + np.arange(4))


def test_low_values_that_are_white_are_inverted() -> None:
    scan = read_dicom(of_all(PhotometricInterpretation="MONOCHROME1"), "case")
    np.testing.assert_array_equal(scan.values[0], (-1 - VALUES.astype(np.int64)) * 2 - 1024)
    values = np.abs(VALUES).astype(np.uint16)
    given = {"values": values, "PhotometricInterpretation": "MONOCHROME1", "BitsStored": 12, "HighBit": 11}
    files = [(str(z), dicom_slice(z, RescaleSlope=None, RescaleIntercept=None, **given)) for z in range(4)]
    np.testing.assert_array_equal(read_dicom(files, "case").values[0], 4095 - values)


def test_bits_above_those_stored_are_no_part_of_a_value() -> None:
    values = np.abs(VALUES).astype(np.uint16)
    with_overlay = values | 0x8000
    files = [(str(z), dicom_slice(z, values=with_overlay, BitsStored=12, HighBit=11)) for z in range(4)]
    np.testing.assert_array_equal(read_dicom(files, "case").values[0], values.astype(np.int64) * 2 - 1024)
    signed = (VALUES & 0x0FFF).astype(np.int16)  # 12 bits in two's complement
    files = [(str(z), dicom_slice(z, values=signed, BitsStored=12, HighBit=11)) for z in range(4)]
    np.testing.assert_array_equal(read_dicom(files, "case").values[0], HOUNSFIELD)


def test_tilted_and_turned_slices_lie_where_they_say() -> None:
    row, column = np.array([0, 0.8, -0.6]), np.array([1.0, 0, 0])
    files = [
        (
            str(z),
            dicom_slice(
                z,
                ImageOrientationPatient=[*row, *column],
                ImagePositionPatient=(np.array([5, 6, 7]) + z * np.array([0.1, 3.0, 4.0])).tolist(),
            ),
        )
        for z in range(4)
    ]
    scan = read_dicom(files, "case")
    order = 1 if np.cross(row, column) @ [0.1, 3, 4] > 0 else -1
    np.testing.assert_array_equal(scan.values[0], HOUNSFIELD[:, :, ::order])
    to_ras = np.array([-1, -1, 1])
    step = order * np.array([0.1, 3.0, 4.0])
    first = np.array([5, 6, 7]) + (0 if order > 0 else 3) * np.array([0.1, 3.0, 4.0])
    expected = np.stack([row * EDGES[0], column * EDGES[1], step, first], 1) * to_ras[:, None]
    np.testing.assert_allclose(scan.index_to_world[:3], expected, atol=1e-6)


def test_slices_that_are_missing_are_said() -> None:
    further = [(f"{z}.dcm", dicom_slice(3, ImagePositionPatient=[1, 2, 10 + 2.5 * z])) for z in (4, 5)]
    files = [file for file in series() if file[0] != "1.dcm"] + further
    assert refusal(files).startswith("case: 1 slices are missing: between 0.dcm and 2.dcm lie 5 mm, elsewhere 2.5 mm.")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ImagePositionPatient": [1, 2, 15.8]}, "lie unevenly: between 1.dcm and 2.dcm lie 3.3 mm, elsewhere 2.5 mm"),
        ({"ImagePositionPatient": [1, 2, 12.5]}, "lie at the same place; it holds several points in time"),
        ({"ImagePositionPatient": [3, 2, 15]}, "do not lie on a line"),
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, 1]}, "look into different directions; leave out localizers"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "2.dcm: its axes are no right angle"),
        ({"PixelSpacing": [1.5, 0.8]}, "differ in size .* or in the edges of pixels"),
        ({"ImagePositionPatient": None}, "2.dcm: does not tell where its slices lie"),
        ({"ImagePositionPatient": "nan"}, "2.dcm: "),
        ({"SeriesInstanceUID": "1.2.4", "SeriesNumber": 8}, r"holds 2 series: number 8 \(1 files, 2.dcm for one\)"),
        ({"PhotometricInterpretation": "RGB"}, "2.dcm: its pixels are RGB, expected grey values"),
        ({"SamplesPerPixel": 3}, "expected grey values"),
        ({"NumberOfFrames": 2}, "has 2 frames without a place for each"),
        ({"Rows": 500}, "2.dcm: holds 60 bytes of pixels, expected 6000"),
        ({"PixelData": None}, "2.dcm: holds 0 bytes of pixels"),
        ({"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0}, "1 of 1 bits"),
        ({"HighBit": 14}, "bit 14"),
        ({"RescaleSlope": "nan"}, "no finite number"),
        ({"ModalityLUTSequence": Sequence([Dataset()])}, "look-up table"),
    ],
)
def test_slices_that_make_no_volume_are_refused(changes: dict[str, Any], said: str) -> None:
    text = refusal(series(**changes))
    assert text.startswith("case: ")
    with pytest.raises(InputError, match=said):
        read_dicom(series(**changes), "case")


def test_one_slice_is_no_volume() -> None:
    assert "holds 1 slices, expected a volume: name the folder" in refusal(series()[:1])
    with pytest.raises(InputError, match="holds 1 slices"):
        read_scan(dicom_slice(0), "a.dcm")


def test_files_without_an_image_are_left_out() -> None:
    report = dicom_slice(0, Rows=None, Columns=None, PixelData=None, SeriesInstanceUID="1.2.9")
    np.testing.assert_array_equal(read_dicom([("r", report), *series()], "case").values[0], HOUNSFIELD)


def test_other_transfer_syntaxes_are_refused_by_name() -> None:
    jpeg, plain = uid.JPEGLossless.encode(), uid.ExplicitVRLittleEndian.encode()
    content = dicom_slice(0)
    place = content.index(plain + b"\0")
    longer = content[:place] + jpeg[: len(plain)].ljust(len(plain), b"0") + content[place + len(plain) :]
    assert "stored by" in refusal([("0", longer)])
    assert "convert it to an uncompressed file" in refusal([("0", longer)])


def test_a_deflated_file_that_grows_too_far_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom, "_MOST_DEFLATED", 1)
    assert "refused as a bomb" in refusal([("0", dicom_slice(0, "deflated", values=np.zeros((60, 50, 1), np.int16)))])


def test_packed_pixels_beyond_what_they_promise_are_refused() -> None:
    values = np.random.default_rng(0).integers(-900, 900, (50, 60, 1)).astype(np.int16)
    content = dicom_slice(0, "rle", values=values)
    rows = b"\x28\0\x10\0US\2\0"
    assert rows + b"\x3c\0" in content
    assert "its packed pixels are more than 200 bytes" in refusal(
        [("0", content.replace(rows + b"\x3c\0", rows + b"\x02\0"))]
    )


def test_the_series_of_a_file_is_told_by_its_beginning() -> None:
    assert series_of(dicom_slice(0)) == ("1.2.3", 1)
    assert series_of(dicom_slice(0)[:-100]) == ("1.2.3", 1)
    assert series_of(dicom_frames()) == ("1.2.3", 4)
    assert series_of(b"PNG") == ("", 0)
