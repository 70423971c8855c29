"""NIfTI files of a diagnosis: what they hold, and that they lie where the sample lay."""

import gzip
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel.eulerangles import euler2mat

from diagnoses import diagnosis_of
from fer_cli.data.formats.nifti import encode_nifti
from fer_cli.data.formats.scans import read_scan
from fer_cli.data.preparation import PreparationSettings, prepare
from fer_cli.data.sample_input import Sample
from fer_cli.diagnosis.blame import Blame
from fer_cli.diagnosis.probe import Probe
from fer_cli.reports.nifti import write_nifti, write_probe_nifti

OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = euler2mat(0.3, -0.2, 0.1) @ np.diag([-0.8, 1.5, 2.0])
OBLIQUE[:3, 3] = (30, -12.5, 105)
SHEARED = OBLIQUE @ [[1, 0.3, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
SHAPE = (20, 14, 11)


def loaded(path: Path) -> nibabel.Nifti1Image:
    return nibabel.load(path)


def nifti(values: np.ndarray, affine: np.ndarray) -> bytes:
    image = nibabel.Nifti1Image(values, affine)
    image.header["descrip"], image.header["db_name"] = b"Jane Doe 1970", b"ward 3"
    return image.to_bytes()


def prepared(values: np.ndarray, affine: np.ndarray, **given: object) -> nibabel.Nifti1Image:
    """The volume that a network reads of a file, written back."""
    scan = prepare(read_scan(nifti(values, affine), "a.nii"), PreparationSettings(kind="intensity", **given), "a.nii")  # type: ignore[arg-type]
    content = encode_nifti(scan.values, scan.index_to_world, is_placed=scan.is_placed)
    return nibabel.Nifti1Image.from_bytes(gzip.decompress(content))


@pytest.mark.parametrize("affine", [OBLIQUE, SHEARED])
@pytest.mark.parametrize("given", [{}, {"orientation": "RAS"}, {"orientation": "SLP", "shape": (9, 24, 30)}])
def test_a_landmark_stays_where_it_was(affine: np.ndarray, given: dict[str, object]) -> None:
    values = np.zeros(SHAPE, np.float32)
    landmark = (9, 8, 5)
    values[landmark] = 1
    image = prepared(values, affine, **given)
    found = np.argwhere(image.get_fdata() == 1)
    assert len(found) == 1
    # A NIfTI header holds the affine as float32.
    np.testing.assert_allclose(image.affine @ [*found[0], 1], affine @ [*landmark, 1], rtol=1e-6, atol=2e-5)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 2.0, 3.0)])
def test_resampled_values_lie_where_they_lay(spacing: tuple[float, float, float]) -> None:
    """Interpolation keeps a linear function of the place, away from the rim."""
    slope = np.array([0.3, -0.2, 0.5])
    places = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1) @ OBLIQUE[:3, :3].T + OBLIQUE[:3, 3]
    image = prepared((places @ slope).astype(np.float32), OBLIQUE, orientation="RAS", spacing=spacing, shape=(8, 8, 6))
    inner = np.stack(np.meshgrid(*(np.arange(2, side - 2) for side in image.shape), indexing="ij"), -1)
    expected = (inner @ image.affine[:3, :3].T + image.affine[:3, 3]) @ slope
    np.testing.assert_allclose(image.get_fdata()[2:-2, 2:-2, 2:-2], expected, atol=2e-4)


def test_header_has_the_place_and_no_text() -> None:
    image = prepared(np.random.default_rng(0).random(SHAPE, np.float32), OBLIQUE)
    header = image.header
    assert header.get_xyzt_units()[0] == "mm"
    assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 1)
    np.testing.assert_allclose(image.get_qform(), OBLIQUE, atol=2e-5)
    assert not header.extensions
    for name in ("descrip", "db_name", "aux_file", "intent_name", "data_type"):
        assert not bytes(header[name]).strip(b"\0"), name
    assert int(prepared(np.ones(SHAPE, np.float32), SHEARED).header["qform_code"]) == 0
    unplaced = nibabel.Nifti1Image.from_bytes(
        gzip.decompress(encode_nifti(np.zeros((2, 5, 4, 3), np.float32), np.eye(4), is_placed=False))
    )
    assert (int(unplaced.header["sform_code"]), int(unplaced.header["qform_code"])) == (0, 0)
    assert unplaced.shape == (5, 4, 3, 2)
    told = nibabel.Nifti1Image.from_bytes(
        gzip.decompress(encode_nifti(np.zeros((1, 5, 4, 3)), OBLIQUE, is_placed=False))
    )
    assert int(told.header["sform_code"]) == 2


def test_files_of_a_diagnosis(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    volume, local, code = (generator.random((1, *SHAPE), np.float32) for _ in range(3))
    boxes = (((0, 4), (0, 4), (0, 4)), ((2, 6), (0, 4), (0, 4)))
    diagnosis = diagnosis_of(
        blame=Blame("conv2", ((0, 0, 0), (1, 0, 0)), boxes, 1.0, (0.75, 0.25)),
        input_volume=volume,
        local_volume=local,
        class_code_volume=code,
        nearest_volume=local,
        index_to_world=OBLIQUE,
        is_placed=True,
    )
    written = {path.name: path for path in write_nifti(diagnosis, tmp_path)}
    assert {path.parent for path in written.values()} == {tmp_path / "nifti"}
    images = {name.removesuffix(".nii.gz"): loaded(path) for name, path in written.items() if name.endswith(".gz")}
    layers = [layer.name for layer in diagnosis.layers]
    assert set(images) == {
        *("input", "nearest", "blame", "fields", "reconstruction-class-code", "error-class-code"),
        *(f"{what}-{diagnosis.local_layer}" for what in ("reconstruction", "error")),
        *(f"exemplar-{layer}-{path}" for layer in layers for path in ("feedforward", "feedback")),
    }
    for image in images.values():
        np.testing.assert_allclose(image.affine, OBLIQUE, atol=2e-5)
    np.testing.assert_array_equal(images["input"].get_fdata(), volume[0])
    np.testing.assert_allclose(images["error-class-code"].get_fdata(), np.abs(code - volume)[0])
    blame, fields = images["blame"].get_fdata(), images["fields"].get_fdata()
    assert (blame[1, 1, 1], blame[3, 1, 1], blame[5, 1, 1], blame[6, 1, 1]) == (0.75, 1, 0.25, 0)
    assert (fields[1, 1, 1], fields[3, 1, 1], fields[5, 1, 1], fields[6, 1, 1]) == (1, 1, 2, 0)
    listed = json.loads(written["fields.json"].read_text())
    assert listed[1] == {
        "label": 2, "layer": "conv2", "location": [1, 0, 0], "weight": 0.25, "box": [[2, 6], [0, 4], [0, 4]]
    }  # fmt: skip
    again = {path.name: path.read_bytes() for path in write_nifti(diagnosis, tmp_path / "again")}
    assert again == {name: path.read_bytes() for name, path in written.items()}


def test_files_of_a_probe(tmp_path: Path) -> None:
    volume = np.random.default_rng(2).random((1, 6, 5, 4), np.float32)
    sample = Sample("a", volume, None, None, OBLIQUE, True)
    probed = Probe("conv1", (2, 2, 2), (1, 0, 0), [(1, 0, 0)], ((2, 5), (0, 3), (0, 3)), volume / 2, None)
    field = next(path for path in write_probe_nifti(probed, sample, tmp_path) if path.name == "field.nii.gz")
    image = loaded(field)
    expected = np.zeros((6, 5, 4))
    expected[2:5, :3, :3] = 1
    np.testing.assert_array_equal(image.get_fdata(), expected)
    np.testing.assert_allclose(image.affine, OBLIQUE, atol=2e-5)
