"""A value that is wrong is told before a file that exists, so that nobody deletes a file to learn of a typing error."""

import re
import shutil
from pathlib import Path

import pytest
import torch

from fer_cli.errors import UsageError
from fer_cli.network.phases import TrainingSettings
from fer_cli.network.training import train
from fer_cli.storage.run_paths import RunPaths
from forks import Outcome, forked

CASES = {
    "train --label-smoothing -0.1": "label smoothing is a share from 0 to below 1, not -0.1",
    "train --learning-rate -1": "a learning rate is a number above 0, not -1",
    "train --feedback-learning-rate nan": "a learning rate is a number above 0, not nan",
    "train --augment bogus=3": "--augment takes none, .* not 'bogus'",
    "train --augment shift=nan": "--augment shift takes a number, got 'nan'",
    "train --device abacus": "device 'abacus' cannot be used here",
    "cluster --k 5,4": "--k names 2 numbers, but the network has 4 layers",
    "cluster --k 5,4,0,3": "--k 5,4,0,3: a layer has at least one code",
    "cluster --memory lots": "--memory takes a size",
    "cluster --scratch /nosuch": "--scratch /nosuch is no folder",
    "cluster --views 0": "0 views cannot be taken",
    "cluster --vary bogus": "--vary takes none, .* not 'bogus'",
    "calibrate --views 5000": "5000 views cannot be taken",
    "calibrate --vary shift=much": "--vary shift takes a number",
    **{
        f"cluster --scheduler {address}": "--scheduler takes an address such as tcp://127.0.0.1:8786, got "
        for address in ("127.0.0.1:8786", "tcp://127.0.0.1", "http://host:80", "tcp://host:80/path")
    },
    "voxelize BOXES --scheduler here": "--scheduler takes an address",
    "voxelize BOXES --resolution 7": "resolution 7 is out of range",
    "voxelize BOXES --test-fraction 2": "a test fraction of 2 leaves nothing",
    "voxelize BOXES --threshold nan": "--threshold takes a number, got nan",
    "attach nosuch.py:build --decision 4": "a decision threshold is a probability between 0 and 1, not 4",
    "attach nosuch.py:build --feedback-learning-rate 0": "a learning rate is a number above 0, not 0",
}


@pytest.fixture(scope="module")
def refused(run_paths: RunPaths, box_source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """What each command ended with, in a run all of whose files exist."""
    folder = tmp_path_factory.mktemp("values")
    for path in (run_paths.voxels, run_paths.model, run_paths.codebook, run_paths.calibration):
        shutil.copy(path, folder)
    commands = [command.replace("BOXES", str(box_source)).split() for command in CASES]
    return dict(zip(CASES, forked(commands, folder=folder, FER_RUN="."), strict=True))


@pytest.mark.end_to_end
@pytest.mark.parametrize("command", CASES)
def test_wrong_values_are_told_before_files_that_exist(command: str, refused: dict[str, Outcome]) -> None:
    assert re.search(CASES[command], refused[command].stderr), refused[command].stderr
    assert refused[command].code == 2


@pytest.mark.parametrize(
    ("epochs", "pretrained", "says"), [(0, False, "--encoder keeps a classifier"), (2, True, "Give one of the two")]
)
def test_networks_to_start_from_are_checked_before_a_model_that_exists(
    epochs: int, pretrained: bool, says: str, run_paths: RunPaths, tmp_path: Path
) -> None:
    existing, other = tmp_path / "model.h5", run_paths.model
    existing.touch()
    settings = TrainingSettings("smoke", feedback_epochs=epochs)
    named = {"encoder": other, "pretrained": other if pretrained else None}
    with pytest.raises(UsageError, match=says):
        train(run_paths.voxels, existing, settings, device=torch.device("cpu"), **named)
