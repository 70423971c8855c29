import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fer_cli import __version__, save_volumes
from fer_cli.errors import ArtifactError
from fer_cli.execution.progress import TrainingProgress
from fer_cli.network.phases import TrainingSettings
from fer_cli.network.training import train
from fer_cli.reports.info import describe
from fer_cli.run import Run
from fer_cli.storage.run_paths import RunPaths


def test_voxels_are_counted_by_class_and_split(run: Run, run_paths: RunPaths) -> None:
    described = describe(run_paths.voxels)
    assert (described["format"], described["version"], described["parents"]) == ("fer-voxels", 1, {})
    assert (described["id"], described["created_by"]) == (run.voxels.id, f"fer {__version__}")
    content = described["content"]
    assert (content["samples"], content["resolution"], content["skipped"]) == (78, 8, [])
    assert content["classes"] == {name: {"train": 20, "test": 6} for name in ("beam", "plate", "pole")}
    assert content["occupied_share"] == pytest.approx(float(run.voxels.grids(range(78)).mean()))


def test_grey_values_are_not_called_occupied(tmp_path: Path) -> None:
    volumes = np.random.default_rng(0).normal(size=(4, 1, 4, 4, 4)).astype(np.float32)
    save_volumes(tmp_path / "voxels.h5", (volumes, np.array([0, 0, 1, 1])), classes=["a", "b"])
    content = describe(tmp_path / "voxels.h5")["content"]
    assert (content["samples"], content["occupied_share"]) == (4, None)
    assert [record["occupied_share"] for record in content["records"]] == [None, None]


def test_model_is_counted_and_its_history_told(run: Run, run_paths: RunPaths) -> None:
    described = describe(run_paths.model)
    assert described["parents"] == {"voxels": run.voxels.id}
    assert described["config"] == run.model.config
    counts = {
        part: sum(t.numel() for name, t in module.state_dict().items() if "num_batches" not in name)
        for part, module in (("encoder", run.network.backbone), ("feedback", run.network.feedback))
    }
    assert described["content"]["parameters"] == counts
    history = described["content"]["history"]
    assert [(r["phase"], r["epoch"]) for r in history] == [
        *(("feedforward", epoch) for epoch in range(1, 7)),
        *(("feedback", epoch) for epoch in range(1, 5)),
    ]


def test_codebook_is_told_layer_by_layer(run_paths: RunPaths) -> None:
    content = describe(run_paths.codebook)["content"]
    assert content["validation_samples"] == 6
    calibration = describe(run_paths.calibration)
    assert calibration["content"]["validation_samples"] == 6
    assert 0 <= calibration["content"]["accuracy"] <= 1
    assert set(calibration["parents"]) == {"voxels", "model", "codebook"}
    names = ("conv1", "conv2", "conv3", "fc4", "output")
    found = {(s["path"], s["layer"]): (s["locations"], s["k"]) for s in content["layers"]}
    shapes = dict(zip(names, [(64, 5), (8, 4), (1, 4), (1, 3), (1, 3)], strict=True))
    assert found == {(path, name): shapes[name] for path in ("feedforward", "feedback") for name in names}
    assert all(0 <= s["explained"] <= 1 and 1 / 3 <= s["purity"] <= 1 for s in content["layers"])
    assert all(1 <= s["used"] <= s["k"] for s in content["layers"])


def test_checkpoint_is_described(run_paths: RunPaths, tmp_path: Path, tiny_preset: str) -> None:
    def stop(progress: TrainingProgress) -> None:
        if progress.record:
            raise KeyboardInterrupt

    settings = TrainingSettings(tiny_preset, epochs=1)
    with pytest.raises(KeyboardInterrupt):
        train(run_paths.voxels, tmp_path / "m.h5", settings, device=torch.device("cpu"), report=stop)
    described = describe(tmp_path / "m.checkpoint.h5")
    assert described["format"] == "fer-checkpoint"
    assert list(described["content"]["parameters"]) == ["weights"]
    assert len(described["content"]["history"]) == 1


def test_descriptions_are_plain_json(run_paths: RunPaths) -> None:
    for path in (run_paths.voxels, run_paths.model, run_paths.codebook, run_paths.calibration):
        described = describe(path)
        assert json.loads(json.dumps(described, allow_nan=False)) == described


def test_what_is_no_artifact_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="does not exist"):
        describe(tmp_path / "none.h5")
    (tmp_path / "a.h5").write_text("text")
    with pytest.raises(ArtifactError, match="not a readable HDF5 file"):
        describe(tmp_path / "a.h5")
