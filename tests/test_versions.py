"""Artifacts that earlier versions wrote: those of the present version are read, older ones refused with a remedy."""

import gzip
import re
from pathlib import Path

import h5py
import pytest
import torch

from fer_cli.calibration.calibrate import calibrate
from fer_cli.errors import ArtifactError
from fer_cli.reports.info import describe
from fer_cli.run import load_run
from fer_cli.storage.artifact import open_artifact
from fer_cli.storage.declarations import Format
from fer_cli.storage.run_paths import RunPaths
from fer_cli.storage.schema import CALIBRATION, CODEBOOK, FORMATS, MODEL, VOXELS

FIXTURES = Path(__file__).parent / "fixtures"
VERSIONS = [(form, version) for form in FORMATS.values() for version in range(1, form.version + 1)]
READ = [(form, version) for form, version in VERSIONS if version in (form.version, *form.older)]
REFUSED = [(form, version) for form, version in VERSIONS if (form, version) not in READ]


def unpack(form: Format, version: int, folder: Path) -> Path:
    """The kept artifact of a version, as the file that a run has."""
    name = form.name.removeprefix("fer-")
    path = folder / ("codebook.calibration.h5" if name == "calibration" else f"{name}.h5")
    path.write_bytes(gzip.decompress((FIXTURES / f"{name}-{version}.h5.gz").read_bytes()))
    return path


def test_a_small_artifact_of_every_version_is_kept() -> None:
    kept = {path.name for path in FIXTURES.glob("*.gz")}
    assert kept == {f"{form.name.removeprefix('fer-')}-{version}.h5.gz" for form, version in VERSIONS}
    assert all((FIXTURES / name).stat().st_size < 100_000 for name in kept)


@pytest.mark.parametrize(("form", "version"), REFUSED, ids=lambda value: getattr(value, "name", value))
def test_older_artifact_is_refused_with_the_command_that_makes_it_again(
    form: Format, version: int, tmp_path: Path
) -> None:
    path = unpack(form, version, tmp_path)
    with h5py.File(path) as file:  # it is of that version, and not damaged
        assert (file.attrs["format"], file.attrs["format_version"]) == (form.name, version)
    told = (
        f"{path} has version {version} of {form.name}, but this fer reads version {form.version}. "
        f"Run '{form.command}' again."
    )
    for asked in (form, None):
        with pytest.raises(ArtifactError, match=f"^{re.escape(told)}$"):
            open_artifact(path, asked)
    assert ArtifactError.exit_code == 4


def test_newer_artifact_is_refused_with_the_advice_to_upgrade(tmp_path: Path) -> None:
    form = next(iter(FORMATS.values()))
    path = unpack(form, form.version, tmp_path)
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = form.version + 1
    with pytest.raises(
        ArtifactError, match=rf"version {form.version + 1} of .+ Upgrade fer, or run '{form.command}' again\.$"
    ):
        open_artifact(path)


@pytest.mark.parametrize(("form", "version"), READ, ids=lambda value: getattr(value, "name", value))
def test_kept_artifact_of_a_version_that_is_read_is_described(form: Format, version: int, tmp_path: Path) -> None:
    described = describe(unpack(form, version, tmp_path))
    assert (described["format"], described["version"]) == (form.name, version)


@pytest.mark.parametrize("older", [True, False])
def test_run_of_kept_artifacts_is_explained(older: bool, tmp_path: Path) -> None:
    """With the codebook of version 2, which holds its own calibration, and with artifacts of the present versions."""
    for form in FORMATS.values():
        if form is not CALIBRATION or not older:
            unpack(form, 2 if form is CODEBOOK and older else form.version, tmp_path)
    diagnosis = load_run(tmp_path, device="cpu").explain("beam_test_02")
    assert (diagnosis.departure is None) == older  # that codebook was made before departures were measured
    assert diagnosis.label == "beam"
    assert [layer.name for layer in diagnosis.layers] == ["conv1", "conv2", "conv3", "fc4", "output"]


def test_an_older_codebook_is_calibrated_again_without_clustering(tmp_path: Path) -> None:
    for form, version in ((VOXELS, 1), (MODEL, 2), (CODEBOOK, 2)):
        unpack(form, version, tmp_path)
    paths = RunPaths.in_folder(tmp_path)
    before = paths.codebook.read_bytes()
    held = load_run(tmp_path, device="cpu").temperatures
    calibrate(paths, device=torch.device("cpu"))
    assert paths.codebook.read_bytes() == before
    run = load_run(tmp_path, device="cpu")
    assert run.temperatures.probability == pytest.approx(held.probability, rel=1e-3)
    assert run.course is not None
