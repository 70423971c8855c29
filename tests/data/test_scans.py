import gzip
import io
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pytest

from fer_cli.data.formats.registry import GreyError
from fer_cli.data.formats.scans import file_suffix, read_scan
from fer_cli.data.formats.volume import Scan, spacing_of
from fer_cli.data.preparation import PreparationSettings, orientation_of, prepare
from fer_cli.errors import InputError, UsageError

AFFINE = np.array([[-0.8, 0, 0, 30], [0, 1.5, 0, -12], [0, 0, 2, 5], [0, 0, 0, 1.0]])
GREY = np.random.default_rng(0).integers(-900, 900, (6, 5, 4)).astype(np.int16)


def nifti(values=GREY, affine=AFFINE, *, of=nibabel.Nifti1Image, compressed=True, slope=None) -> bytes:
    image = of(values, affine)
    if slope is not None:
        image.header.set_slope_inter(*slope)
    image.header["descrip"] = b"Jane Doe 1970"
    content = image.to_bytes()
    return gzip.compress(content) if compressed else content


def npz(**arrays) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


@pytest.mark.parametrize("of", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float32, np.float64, ">i2", ">f4"])
@pytest.mark.parametrize("compressed", [True, False])
def test_nifti_is_what_nibabel_reads(of, dtype, compressed):
    content = nifti(np.abs(GREY).astype(dtype), of=of, compressed=compressed)
    image = of.from_bytes(gzip.decompress(content) if compressed else content)
    scan = read_scan(content, "a.nii.gz" if compressed else "a.nii")
    np.testing.assert_array_equal(scan.values[0], np.asanyarray(image.dataobj))
    np.testing.assert_allclose(scan.index_to_world, image.affine, atol=1e-6)
    assert scan.is_placed
    assert scan.values.dtype.isnative


def test_nifti_is_scaled_by_its_header():
    content = nifti(slope=(0.5, -10))
    np.testing.assert_array_equal(read_scan(content, "a.nii.gz").values[0], GREY * 0.5 - 10)


def test_fourth_axis_of_nifti_are_channels():
    values = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
    np.testing.assert_array_equal(read_scan(nifti(values), "a.nii.gz").values, np.moveaxis(values, 3, 0))
    assert read_scan(nifti(values[..., :1]), "a.nii.gz").values.shape == (1, 2, 3, 4)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"\x1f\x8bnonsense", "cannot be unpacked"),
        (nifti()[:-20], "cannot be unpacked"),
        (nifti()[:-8] + bytes(8), "cannot be unpacked: CRC check failed"),
        (nifti(compressed=False)[:-7], "expected 240"),
        (nifti(compressed=False)[:100], "no header"),
        (nifti(GREY.astype(np.complex64)), "complex64"),
        (nifti(np.where(GREY > 800, np.nan, GREY).astype(np.float32)), "not finite"),
    ],
)
def test_damaged_nifti_is_refused(content, said):
    name = "a.nii.gz" if content[:1] == b"\x1f" else "a.nii"
    with pytest.raises(InputError, match=said):
        read_scan(content, name)


def test_nifti_without_extent_is_refused():
    content = bytearray(nifti(compressed=False))
    content[280:328] = bytes(48)  # the rows of the sform
    with pytest.raises(InputError, match="plane"):
        read_scan(bytes(content), "a.nii")


def test_nifti_that_declares_more_than_it_holds_costs_no_memory():
    image = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4))
    content = bytearray(image.to_bytes())
    content[42:48] = np.array([500, 500, 500], "<i2").tobytes()
    with pytest.raises(InputError, match="expected 125000000"):
        read_scan(bytes(content), "a.nii")
    content[42:48] = np.array([30000, 30000, 30000], "<i2").tobytes()
    with pytest.raises(InputError, match="30000×30000×30000"):
        read_scan(gzip.compress(bytes(content)), "a.nii.gz")


def test_gzip_is_inflated_no_further_than_the_header_says():
    content = nifti(np.ones((2, 2, 2), np.uint8), compressed=False) + bytes(1 << 28)
    assert read_scan(gzip.compress(content, 1), "a.nii.gz").values.sum() == 8


def test_npy_and_npz_of_one_volume():
    assert read_scan(npz(arr_0=GREY), "a.npz").values.shape == (1, *GREY.shape)
    stream = io.BytesIO()
    np.save(stream, np.stack([GREY, GREY]))
    scan = read_scan(stream.getvalue(), "a.npy")
    assert scan.values.shape == (2, *GREY.shape)
    assert not scan.is_placed
    with pytest.raises(InputError, match="2 arrays"):
        read_scan(npz(a=GREY, b=GREY), "a.npz")
    with pytest.raises(InputError, match="not a readable"):
        read_scan(npz(a=GREY)[:-30], "a.npz")


def test_npz_that_would_fill_the_memory_is_refused(monkeypatch):
    monkeypatch.setattr("fer_cli.data.formats.registry.MAX_VOXELS", 10)
    with pytest.raises(InputError, match="would grow"):
        read_scan(npz(a=GREY), "a.npz")


def test_suffixes():
    assert file_suffix("x/b.NII.GZ") == ".nii.gz"
    assert file_suffix("x.y/b.npy") == ".npy"
    assert file_suffix("plain") == ""


def scan(values=GREY, affine=AFFINE, *, is_placed=True) -> Scan:
    return Scan(values[None] if values.ndim == 3 else values, affine, is_placed)


def world(of: Scan, index) -> np.ndarray:
    return (of.index_to_world @ [*index, 1])[:3]


def test_grey_volume_is_not_made_binary_unasked():
    with pytest.raises(GreyError, match=r"--kind intensity.*--threshold"):
        prepare(scan(), PreparationSettings(), "a.nii")
    kept = prepare(scan(), PreparationSettings(kind="intensity"), "a")
    assert kept.values.dtype == np.float32
    np.testing.assert_array_equal(kept.values[0], GREY)
    made = prepare(scan(), PreparationSettings(threshold=5.0), "a")
    np.testing.assert_array_equal(made.values[0], GREY >= 5)
    masks = [np.array([[[0, 255]]], np.uint8), np.array([[[False, True]]]), np.array([[[0.0, 0.3]]])]
    for mask in masks:
        np.testing.assert_array_equal(prepare(scan(mask), PreparationSettings(), "a").values[0], [[[0, 1]]])
    with pytest.raises(GreyError):
        prepare(scan(np.array([[[-1, 1]]])), PreparationSettings(), "a")


def test_orientation_turns_axes_and_keeps_the_place_of_every_voxel():
    assert orientation_of(AFFINE) == "LAS"
    turned = prepare(scan(), PreparationSettings(kind="intensity", orientation="SRP"), "a")
    assert orientation_of(turned.index_to_world) == "SRP"
    assert turned.values.shape == (1, 4, 6, 5)
    for x, y, z in [(0, 0, 0), (5, 0, 3), (2, 4, 1)]:
        new = (z, 5 - x, 4 - y)
        assert turned.values[(0, *new)] == GREY[x, y, z]
        np.testing.assert_allclose(world(turned, new), world(scan(), (x, y, z)), atol=1e-6)


def test_crop_and_padding_keep_the_place_of_every_voxel():
    fitted = prepare(scan(), PreparationSettings(kind="intensity", shape=(3, 8, 4)), "a")
    assert fitted.values.shape == (1, 3, 8, 4)
    assert fitted.values.min() == GREY.min()  # what is padded has the smallest value
    np.testing.assert_array_equal(fitted.values[0, :, 1:6], GREY[1:4])
    np.testing.assert_allclose(world(fitted, (0, 1, 0)), world(scan(), (1, 0, 0)), atol=1e-6)


def test_spacing_resamples_linearly_about_the_centre():
    ramp = np.broadcast_to(np.arange(12.0)[:, None, None], (12, 4, 4))
    half = prepare(scan(ramp, np.eye(4)), PreparationSettings(kind="intensity", spacing=(0.5, 1.0, 1.0)), "a")
    assert half.values.shape == (1, 24, 4, 4)
    np.testing.assert_allclose(spacing_of(half.index_to_world), (0.5, 1, 1))
    inner = half.values[0, 1:-1, 0, 0]
    np.testing.assert_allclose(inner, [world(half, (x, 0, 0))[0] for x in range(1, 23)], atol=1e-5)
    coarse = prepare(scan(ramp, np.eye(4)), PreparationSettings(kind="intensity", spacing=(3.0, 1.0, 1.0)), "a")
    np.testing.assert_allclose(coarse.values[0, :, 0, 0], [1, 4, 7, 10], atol=0.35)
    with pytest.raises(InputError, match="--spacing"):
        prepare(scan(is_placed=False), PreparationSettings(kind="intensity", spacing=(1.0, 1.0, 1.0)), "a")


def test_scaling():
    score = prepare(scan(), PreparationSettings(kind="intensity", scaling="zscore"), "a").values
    assert score.mean() == pytest.approx(0, abs=1e-6)
    assert score.std() == pytest.approx(1, abs=1e-6)
    span = prepare(scan(), PreparationSettings(kind="intensity", scaling="minmax"), "a").values
    assert (span.min(), span.max()) == (0, 1)
    window = PreparationSettings(kind="intensity", scaling="window", window=(-100.0, 300.0))
    np.testing.assert_allclose(prepare(scan(), window, "a").values[0], np.clip((GREY + 100) / 400, 0, 1), rtol=1e-6)
    flat = prepare(scan(np.full((2, 2, 2), 7.0)), PreparationSettings(kind="intensity", scaling="zscore"), "a")
    assert not flat.values.any()


@pytest.mark.parametrize(
    "wrong",
    [
        {"threshold": 1.0, "kind": "intensity"},
        {"kind": "occupancy", "scaling": "zscore"},
        {"shape": (0, 4, 4)},
        {"spacing": (1.0, -1.0, 1.0)},
        {"orientation": "RAX"},
        {"orientation": "RLS"},
        {"scaling": "window"},
        {"scaling": "window", "window": (3.0, 3.0)},
    ],
)
def test_settings_that_do_not_fit_are_refused(wrong):
    with pytest.raises(UsageError):
        PreparationSettings(**wrong)


def test_settings_are_read_as_they_were_recorded():
    settings = PreparationSettings(
        kind="intensity",
        shape=(3, 4, 5),
        spacing=(1.0, 2.0, 3.0),
        orientation="RAS",
        scaling="window",
        window=(0.0, 1.0),
    )
    assert PreparationSettings.from_json(settings.to_json()) == settings


@pytest.mark.real_data
def test_hippocampus_scans_are_what_nibabel_reads(shared_data: Path):
    with zipfile.ZipFile(shared_data / "msd-hippocampus-nifti-24.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".nii.gz")]
        assert len(names) == 48
        for name in names:
            image = nibabel.Nifti1Image.from_bytes(gzip.decompress(archive.read(name)))
            found = read_scan(archive.read(name), name)
            np.testing.assert_array_equal(found.values[0], np.asanyarray(image.dataobj))
            np.testing.assert_allclose(found.index_to_world, image.affine, atol=1e-6)


def test_a_grid_of_shapes_tells_no_place_in_a_patient():
    content = b"#binvox 1\ndim 2 2 2\ntranslate 5 0 0\nscale 1\ndata\n" + bytes([1, 8])
    scan = read_scan(content, "a.binvox")
    assert scan.values.shape == (1, 2, 2, 2)
    assert not scan.is_placed
    with pytest.raises(InputError, match=r"a\.binvox: holds no affine map; --orientation and --spacing need one"):
        prepare(scan, PreparationSettings(kind="intensity", spacing=(1.0, 1.0, 1.0)), "a.binvox")
