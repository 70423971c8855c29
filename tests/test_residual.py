"""Preset `residual` from end to end, as its documents say: a classifier alone first, its feedback network later."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fer_cli import load_run
from fer_cli.data.synthetic import write_collection
from fer_cli.network.fer_cnn import PRESETS
from fer_cli.network.training import preset_settings
from fer_cli.storage.artifact import open_artifact
from fer_cli.storage.schema import MODEL
from forks import Outcome, fer

pytestmark = pytest.mark.end_to_end

MAP_LAYERS = [spec.name for spec in PRESETS["residual"]]


def done(*words: object, folder: Path) -> Outcome:
    ended = fer(*words, folder=folder, FER_RUN="run")
    assert ended.code == 0, ended.stderr
    return ended


def arrays(model: Path, part: str) -> dict[str, bytes]:
    with open_artifact(model, MODEL) as artifact:
        return {name: artifact.read(name).tobytes() for name in artifact.names(part)}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose classifier was trained alone, in `run/classifier.h5`, and then got its feedback network."""
    folder = tmp_path_factory.mktemp("residual")
    write_collection(folder / "meshes", per_class_train=4, per_class_test=2, seed=0)
    done("voxelize", "meshes", folder=folder)
    alone = ("--preset", "residual", "--epochs", 2, "--feedback-epochs", 0, "-o", "run/classifier.h5")
    (folder / "said.json").write_text(done("train", *alone, "--json", folder=folder).stdout)
    done("train", "--encoder", "run/classifier.h5", "--feedback-epochs", 1, folder=folder)
    done("cluster", "--k", ",".join(["2"] * len(MAP_LAYERS)), folder=folder)
    return folder


def test_classifier_alone_has_no_score_and_no_feedback_network(place: Path) -> None:
    said = json.loads((place / "said.json").read_text())
    assert said["score"] == {"name": "voxel IoU", "value": None}
    assert said["voxel_iou"] is None
    assert 0 <= said["accuracy"] <= 1
    assert arrays(place / "run/classifier.h5", "feedback/") == {}
    assert Path(said["curve"]).name == "classifier.curve.png"
    assert (place / said["curve"]).exists()
    told = done("info", "run/classifier.h5", folder=place).stdout
    assert "residual" in told
    assert "feedforward" in told


def test_classifier_alone_predicts_and_lists_its_mistakes_from_python(place: Path) -> None:
    run = load_run(place / "run", model=place / "run/classifier.h5")
    indices = run.voxels.indices("test")
    with torch.inference_mode():
        logits = run.network.backbone.logits(run.voxels.tensor(indices))
    wrong = indices[logits.argmax(1).numpy() != run.voxels.labels[indices]]
    assert run.mistakes() == [run.voxels.names[index] for index in wrong]


def test_what_explains_refuses_a_classifier_alone(place: Path) -> None:
    for words in (
        ("cluster", "--model", "run/classifier.h5", "-o", "codes.h5"),
        ("probe", "bathtub_0005", "--model", "run/classifier.h5", "--layer", "conv1", "-o", "probed"),
    ):
        ended = fer(*words, folder=place, FER_RUN="run")
        assert ended.code == 2, ended.stderr
        assert "the model is a classifier alone" in ended.stderr
        assert "fer train --encoder" in ended.stderr
    assert not (place / "codes.h5").exists()


def test_feedback_network_comes_later_on_the_same_classifier(place: Path) -> None:
    assert arrays(place / "run/model.h5", "encoder/") == arrays(place / "run/classifier.h5", "encoder/")
    with open_artifact(place / "run/model.h5", MODEL) as model:
        training = model.config["training"]
        assert [spec.get("units", 0) for spec in model.config["network"]["layers"]] == [
            spec.units for spec in PRESETS["residual"]
        ]
    assert training["preset"] == "residual"
    assert training["feedback_epochs"] == 1
    assert training["learning_rate"] == preset_settings("residual").learning_rate
    nothing = ("--encoder", "run/classifier.h5", "--feedback-epochs", 0, "-o", "n.h5")
    ended = fer("train", *nothing, folder=place, FER_RUN="run")
    assert ended.code == 2
    assert "nothing is left to train" in ended.stderr


def test_residual_network_is_explained_at_every_layer(place: Path) -> None:
    said = json.loads(done("explain", "bathtub_0005", "-o", "why", "--json", folder=place).stdout)
    assert [layer["name"] for layer in said["layers"]] == [*MAP_LAYERS, "output"]
    assert np.isfinite(list(said["errors"].values())).all()
    evaluated = json.loads(done("evaluate", "--json", folder=place).stdout)
    assert 0 <= evaluated["accuracy"] <= 1
