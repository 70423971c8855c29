"""Runs made by version 0.1.0, as users have them, are read by today's program and say what they said then."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from fer_cli.calibration.calibrate import calibrate
from fer_cli.network.weights import load_network
from fer_cli.reports.gallery import misclassified
from fer_cli.run import Run
from fer_cli.storage.artifact import open_artifact
from fer_cli.storage.run_paths import RunPaths
from fer_cli.storage.schema import MODEL

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


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_model_of_an_earlier_version_is_read(shared_runs: Path, seed: int) -> None:
    with open_artifact(shared_runs / f"modelnet10-compact-seed{seed}.h5", MODEL) as model:
        network = load_network(model)
    assert (str(network.spec.input), len(network.spec.classes), network.spec.local_layer) == ("32³", 10, "conv3")
    assert network.spec.level_shape("conv3") == (128, 4, 4, 4)
