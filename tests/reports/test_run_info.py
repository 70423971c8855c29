import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from fer_cli.errors import ArtifactError
from fer_cli.evaluation.results import Evaluation
from fer_cli.network.checkpoint import checkpoint_path
from fer_cli.reports.inventory import run_tables
from fer_cli.reports.run_info import describe_run
from fer_cli.run import Run
from fer_cli.storage.run_paths import RunPaths
from fer_cli.studies.evaluate import write_evaluation
from tiny import Rewrite


@pytest.fixture
def folder(run_paths: RunPaths, tmp_path: Path) -> Path:
    """A copy of the tiny run, without an evaluation."""
    for path in (run_paths.voxels, run_paths.model, run_paths.codebook, run_paths.calibration):
        shutil.copy(path, tmp_path / path.name)
    return tmp_path


def test_a_run_is_described_by_what_its_artifacts_hold(folder: Path, run: Run) -> None:
    told = describe_run(folder)
    assert (told["format"], told["run"], told["problems"]) == ("fer-run", str(folder), [])
    assert {name: told[name]["id"] for name in ("voxels", "model")} == {"voxels": run.voxels.id, "model": run.model.id}
    assert told["voxels"]["classes"] == {name: {"train": 20, "test": 6} for name in ("beam", "plate", "pole")}
    assert (told["voxels"]["samples"], told["voxels"]["shape"]) == (78, [1, 8, 8, 8])
    assert (told["model"]["network"], told["model"]["validation_samples"]) == ("tiny", 6)
    assert told["model"]["layers"] == list(run.network.spec.layer_names)
    assert told["codebook"]["k"] == {"conv1": 5, "conv2": 4, "conv3": 4, "fc4": 3, "output": 3}
    probabilities, labels = run.validation_probabilities
    right = float((probabilities.argmax(axis=1) == labels).mean())
    assert told["calibration"]["accuracy"] == told["model"]["validation_accuracy"] == pytest.approx(right)


def test_the_next_command_is_the_first_stage_that_is_missing(folder: Path, evaluated: Evaluation) -> None:
    assert describe_run(folder)["next"] == ["evaluate"]
    write_evaluation(evaluated, folder / "evaluate")
    worst = max(evaluated["misclassified"], key=lambda mistake: mistake["suspicion"])["sample"]
    told = describe_run(folder)
    assert told["next"] == ["explain", worst]
    assert [(each["split"], each["n"], each["of_this_model"]) for each in told["evaluations"]] == [("test", 18, True)]
    other = json.loads((folder / "evaluate/test.json").read_bytes())
    other["runs"][0]["model"] = "another"
    (folder / "evaluate/test.json").write_text(json.dumps(other))
    (folder / "evaluate/broken.json").write_text("{")
    assert describe_run(folder)["next"] == ["evaluate"]
    paths = RunPaths.in_folder(folder)
    for path, words in (
        (paths.calibration, ["calibrate"]),
        (paths.codebook, ["cluster"]),
        (paths.model, ["train"]),
        (paths.voxels, ["voxelize", "SOURCE"]),
    ):
        path.rename(path.with_suffix(".away"))
        if path != paths.voxels:
            assert describe_run(folder)["next"] == words
    with pytest.raises(ArtifactError, match=r"is no folder of a run: .*begin a run with 'fer voxelize SOURCE --run"):
        describe_run(folder)
    paths.voxels.with_suffix(".away").rename(paths.voxels)
    checkpoint_path(paths.model).touch()
    assert describe_run(folder)["next"] == ["train", "--resume"]


def test_what_does_not_fit_or_is_damaged_is_named_and_made_again(folder: Path, run: Run, rewrite: Rewrite) -> None:
    paths = RunPaths.in_folder(folder)
    model = run.model
    changed = model.read("encoder/blocks.output.2.bias") + 1
    rewrite(model, paths.model, {"encoder/blocks.output.2.bias": changed})
    told = describe_run(folder)
    assert told["next"] == ["cluster", "--force"]
    assert "codebook.h5 was made from model" in told["codebook"]["problem"]
    paths.model.write_bytes(b"no HDF5")
    told = describe_run(folder)
    assert told["next"] == ["train", "--force"]
    assert "not a readable HDF5 file" in told["problems"][0]
    assert told["voxels"]["samples"] == 78


def test_tables_of_a_run_fit_80_columns_and_say_what_is_not_made(folder: Path, evaluated: Evaluation) -> None:
    write_evaluation(evaluated, folder / "evaluate")
    RunPaths.in_folder(folder).calibration.unlink()
    console = Console(width=80, force_terminal=False)
    with console.capture() as capture:
        for part in run_tables(describe_run(folder)):
            console.print(part)
    text = capture.get()
    assert max(map(len, text.split("\n"))) <= 80
    assert "calibration" in text
    assert "not made yet" in text
    assert "conv1 5, conv2 4, conv3 4, fc4 3, output 3" in text
