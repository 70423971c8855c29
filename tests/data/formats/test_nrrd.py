import bz2
import gzip
import io
from pathlib import Path

import nrrd
import numpy as np
import pytest
import SimpleITK

from fer_cli.data.formats.scans import read_scan
from fer_cli.data.preparation import PreparationSettings, orientation_of, prepare
from fer_cli.errors import InputError
from itk_images import GREY, affine_of, image

SPACE = {"space": "right-anterior-superior", "space directions": np.diag([0.7, 1.1, 2.5]), "space origin": [1, -2, 3.5]}


def nrrd_file(values: np.ndarray = GREY, **header: object) -> bytes:
    nrrd.write(stream := io.BytesIO(), values, {"encoding": "raw", **header})
    return stream.getvalue()


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "<i2", ">i2", "<u2", "<i4", ">u4", "<i8", "<f4", ">f8"])
def test_values_are_those_that_pynrrd_wrote(encoding: str, dtype: str) -> None:
    values = (np.abs(GREY) % 100).astype(dtype)
    scan = read_scan(nrrd_file(values, encoding=encoding, **SPACE), "a.nrrd")
    np.testing.assert_array_equal(scan.values[0], values)
    assert scan.values.dtype.isnative
    np.testing.assert_allclose(
        scan.index_to_world, [[0.7, 0, 0, 1], [0, 1.1, 0, -2], [0, 0, 2.5, 3.5], [0, 0, 0, 1]], atol=1e-6
    )


@pytest.mark.parametrize("is_packed", [True, False])
def test_a_file_of_itk_lies_where_itk_says(is_packed: bool, tmp_path: Path) -> None:
    SimpleITK.WriteImage(image(), str(tmp_path / "a.nrrd"), is_packed)
    scan = read_scan((tmp_path / "a.nrrd").read_bytes(), "a.nrrd")
    np.testing.assert_array_equal(scan.values[0], GREY)
    np.testing.assert_allclose(scan.index_to_world, affine_of(image()), atol=1e-6)
    assert scan.is_placed


@pytest.mark.parametrize(
    ("space", "axes"),
    [
        ("RAS", "RAS"),
        ("left-posterior-superior", "LPS"),
        ("LAS", "LAS"),
        ("right_anterior", None),
        ("scanner-xyz", None),
    ],
)
def test_space_of_the_file_becomes_that_of_fer(space: str, axes: str | None) -> None:
    scan = read_scan(nrrd_file(**{**SPACE, "space": space}), "a.nrrd")
    assert scan.is_placed == (axes is not None)
    assert scan.has_spacing
    if axes:
        assert orientation_of(scan.index_to_world) == axes
    else:
        with pytest.raises(InputError, match="how its axes lie in a body"):
            prepare(scan, PreparationSettings(kind="intensity", orientation="RAS"), "a.nrrd")


def test_spacings_alone_measure_a_volume_in_their_unit() -> None:
    scan = read_scan(nrrd_file(spacings=[1, 2, 3], units=["um", "um", "um"]), "a.nrrd")
    assert (scan.is_placed, scan.is_measured) == (False, True)
    np.testing.assert_allclose(np.diag(scan.index_to_world), [1e-3, 2e-3, 3e-3, 1])
    assert not read_scan(nrrd_file(), "a.nrrd").has_spacing
    assert not read_scan(nrrd_file(spacings=[1, 2, 3], units=["s", "s", "s"]), "a.nrrd").has_spacing
    halved = prepare(scan, PreparationSettings(kind="intensity", spacing=(2e-3, 2e-3, 3e-3)), "a.nrrd")
    assert halved.values.shape == (1, 3, 5, 4)


@pytest.mark.parametrize("place", [0, 3])
def test_the_axis_that_is_none_of_space_holds_channels(place: int) -> None:
    values = np.stack([GREY, GREY + 1], place)
    kinds, directions = ["domain"] * 3, [[1, 0, 0], [0, 2, 0], [0, 0, 3]]
    kinds.insert(place, "vector")
    directions.insert(place, [np.nan] * 3)
    told = {**SPACE, "space directions": np.array(directions), "kinds": kinds}
    for header in (told, {"kinds": kinds}):
        scan = read_scan(nrrd_file(values, **header), "a.nrrd")
        np.testing.assert_array_equal(scan.values, np.stack([GREY, GREY + 1]))
    with pytest.raises(InputError, match="which three axes are of space"):
        read_scan(nrrd_file(values), "a.nrrd")


def edited(old: bytes, new: bytes) -> bytes:
    content = nrrd_file(**SPACE)
    assert old in content
    return content.replace(old, new)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"NRRD0005\ntype: short\n", "no header"),
        (b"PNG", "no header"),
        (nrrd_file()[:-3], "237 bytes of voxels, expected 240"),
        (edited(b"encoding: raw", b"encoding: hex"), "save it as raw, gzip or bzip2"),
        (edited(b"encoding: raw", b"encoding: raw\ndata file: /etc/passwd"), "voxels are in another file"),
        (edited(b"encoding: raw", b"encoding: raw\nbyte skip: -1"), "skips lines or bytes"),
        (edited(b"sizes: 6 5 4", b"sizes: 60000 50000 40000"), "60000×50000×40000 voxels"),
        (edited(b"sizes: 6 5 4", b"sizes: 6 5"), "2 sizes for 3 axes"),
        (edited(b"(0.7,0,0)".replace(b"0.7,0,0", b"0.69999999999999996,0,0"), b"(0,0,0)"), "a plane or a point"),
        (edited(b"type: int16", b"type: block"), "not a readable NRRD file"),
        (edited(b"endian: little", b"x: 1"), "no byte order"),
        (nrrd_file(GREY.astype("f4") * np.nan), "not finite"),
    ],
)
def test_damaged_files_are_refused(content: bytes, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_scan(content, "a.nrrd")


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
def test_packed_voxels_are_unpacked_no_further_than_the_header_says(pack, monkeypatch: pytest.MonkeyPatch) -> None:
    name = {gzip.compress: "gzip", bz2.compress: "bzip2"}[pack]
    head, _, _ = edited(b"encoding: raw", f"encoding: {name}".encode()).partition(b"\n\n")
    packed = pack(GREY.tobytes("F") + bytes(1 << 26))
    np.testing.assert_array_equal(read_scan(head + b"\n\n" + packed, "a.nrrd").values[0], GREY)
    broken = bytearray(pack(GREY.tobytes("F")))
    broken[-6] ^= 1  # within the checksum
    with pytest.raises(InputError, match="cannot be unpacked"):
        read_scan(head + b"\n\n" + bytes(broken), "a.nrrd")
