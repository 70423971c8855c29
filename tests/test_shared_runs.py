"""Runs made by version 0.1.0, as users have them, are read by today's program and say what they said then."""

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from fer_cli.calibration.calibrate import calibrate, read_validation
from fer_cli.calibration.confidence import Calibration
from fer_cli.calibration.departure import known_course
from fer_cli.calibration.p_value import PredictedClasses
from fer_cli.calibration.typicality import known_typicality
from fer_cli.data.occupancy import VoxelSettings
from fer_cli.data.voxelize import voxelize_source
from fer_cli.network.weights import load_network
from fer_cli.reports.selection import misclassified
from fer_cli.run import Run
from fer_cli.storage.artifact import open_artifact
from fer_cli.storage.run_paths import RunPaths
from fer_cli.storage.schema import MODEL, VOXELS

pytestmark = pytest.mark.real_data
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def shared_runs(shared_data: Path) -> Path:
    """Folder of the runs that lie beside the real data; skips where there is none."""
    folder = shared_data.parent / "runs"
    if not folder.is_dir():
        pytest.skip(f"no runs of earlier versions beside the real data ({folder})")
    return folder


def test_demo_of_an_earlier_version_has_its_mistakes_and_is_explained(shared_runs: Path, tmp_path: Path) -> None:
    for name in ("voxels.h5", "model.h5", "codebook.h5"):
        shutil.copy(shared_runs / "demo" / name, tmp_path)
    run = Run(RunPaths.in_folder(tmp_path), device=CPU)
    assert len(run.voxels.indices("test")) == 200
    wrong = misclassified(run, "test")
    assert len(wrong) == 20
    # What its codebook holds of the validation samples is what reading them again gives.
    held = run.temperatures
    calibrate(run.paths, device=CPU)
    again = Run(run.paths, device=CPU)
    assert again.temperatures.probability == pytest.approx(held.probability, rel=1e-4)
    for path, layers in held.evidence.items():
        assert again.temperatures.evidence[path] == pytest.approx(layers, rel=1e-3)
    for name, values in run.calibration.scores.items():
        np.testing.assert_allclose(again.calibration.scores[name], values, rtol=1e-4, atol=1e-4)


def test_p_values_hold_where_validation_and_test_samples_are_exchanged_at_random(
    shared_runs: Path, tmp_path: Path
) -> None:
    """The control: of samples drawn from both alike, at most 5 % are called unusual, by suspicion of the correct ones.

    Half of the 200 test samples and of the validation samples are the reference, the others are tested; thirty splits.
    """
    for name in ("voxels.h5", "model.h5", "codebook.h5"):
        shutil.copy(shared_runs / "demo" / name, tmp_path)
    paths = RunPaths.in_folder(tmp_path)
    calibrate(paths, device=CPU, views=4)
    run = Run(paths, device=CPU)
    network, layers = run.network, run.network.spec.layer_names
    indices = np.concatenate([run.model.read("validation/index"), run.voxels.indices("test")])
    views, known_codes = run.views, run.training_codes
    assert views is not None
    assert known_codes is not None
    columns = read_validation(network, run.codebook, run.voxels, indices, views, known_codes)
    of = partial(columns_of, columns)
    correct = columns["label"] == columns["predicted"]
    rates: dict[str, list[float]] = {"departure": [], "suspicion": [], "atypicality": []}
    for seed in range(30):
        order = np.random.default_rng(seed).permutation(len(indices))
        known, new = order[: len(order) // 2], order[len(order) // 2 :]
        classes = PredictedClasses(columns["predicted"][known], len(network.spec.classes))
        predicted = columns["predicted"][new]
        course = known_course(layers, of("distance", known), of("return_error", known), classes)
        typicality = known_typicality(of("distance", known), classes)
        calibration = Calibration(of("score", known), correct[known], classes)
        found = {
            "departure": [d.p_value for d in course.measure(of("distance", new), of("return_error", new), predicted)],
            "suspicion": calibration.p_value(calibration.suspicion(of("score", new)), predicted)[correct[new]],
            "atypicality": [a.p_value for a in typicality.measure(of("distance", new), predicted)],
        }
        for name, values in found.items():
            rates[name].append(float(np.mean(np.asarray(values) <= 0.05)))
    for name, values in rates.items():
        assert 0.025 <= np.mean(values) <= 0.065, name  # cross-fitted references are a little farther than new samples


def columns_of(columns: dict[str, np.ndarray], kind: str, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Some rows of all columns of one kind, by the rest of their names."""
    return {
        name.removeprefix(f"{kind}/"): values[rows] for name, values in columns.items() if name.startswith(f"{kind}/")
    }


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_model_of_an_earlier_version_is_read(shared_runs: Path, seed: int) -> None:
    with open_artifact(shared_runs / f"modelnet10-compact-seed{seed}.h5", MODEL) as model:
        network = load_network(model)
    assert (str(network.spec.input), len(network.spec.classes), network.spec.local_layer) == ("32³", 10, "conv3")
    assert network.spec.level_shape("conv3") == (128, 4, 4, 4)


def test_voxels_of_the_archive_are_those_that_earlier_models_were_made_from(
    shared_runs: Path, shared_data: Path, tmp_path: Path
) -> None:
    voxels = tmp_path / "voxels.h5"
    voxelize_source(shared_data / "modelnet10-binvox.zip", voxels, VoxelSettings())
    models = sorted(shared_runs.glob("modelnet10-*.h5"))
    assert models
    with open_artifact(voxels, VOXELS) as made:
        for path in models:
            with open_artifact(path, MODEL) as model:
                assert model.parents["voxels"] == made.id
