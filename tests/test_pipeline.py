"""The whole pipeline on real shapes, stage by stage through `fer`; the demo is in test_install."""

import json
import math
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fer_cli.diagnosis.categories import CATEGORIES
from forks import Outcome, fer

pytestmark = pytest.mark.end_to_end

CLASSES = ["bathtub", "bed", "chair", "desk", "dresser", "monitor", "night_stand", "sofa", "table", "toilet"]
LAYERS = ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7"]
# Side of each layer's feature map at 32³.
SIDES = {"conv1": 16, "conv2": 8, "conv3": 4, "conv4": 2, "conv5": 1, "fc6": 1, "fc7": 1, "output": 1}
ERRORS = {"input_vs_local", "nearest_vs_code", "local_vs_code", "input_vs_code"}
PER_CLASS = 12  # a tenth is one of a class
FEEDBACK_EPOCHS = 5
K = "8,8,8,8,8,8,8"


def done(*arguments: object, folder: Path) -> Outcome:
    """A command that ends well."""
    outcome = fer(*arguments, folder=folder)
    assert outcome.code == 0, outcome.stderr
    return outcome


def answer(*arguments: object, folder: Path) -> dict[str, Any]:
    """What a command says with `--json`: its stdout has to be one JSON object and nothing else."""
    parsed = json.loads(done(*arguments, "--json", folder=folder).stdout)
    assert isinstance(parsed, dict)
    return parsed


@dataclass(frozen=True)
class Pipeline:
    """A run in `folder`/fer-run on downsampled ModelNet10: what each stage said, and training's stderr."""

    folder: Path
    said: dict[str, dict[str, Any]]
    training_log: str

    @property
    def mistake(self) -> dict[str, Any]:
        """The first misclassified test sample."""
        return dict(self.said["evaluate"]["misclassified"][0])


@pytest.fixture(scope="module")
def pipeline(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    folder = tmp_path_factory.mktemp("pipeline")
    archive = shared_data / "modelnet10-binvox.zip"
    said = {"voxelize": answer("voxelize", archive, "--per-class", PER_CLASS, folder=folder)}
    training = done("train", "--preset", "smoke", "--feedback-epochs", FEEDBACK_EPOCHS, "--json", folder=folder)
    said["train"] = json.loads(training.stdout)
    said["cluster"] = answer("cluster", "--k", K, folder=folder)
    said["evaluate"] = answer("evaluate", folder=folder)
    return Pipeline(folder, said, training.stderr)


@pytest.fixture(scope="module")
def explained_mistake(pipeline: Pipeline) -> dict[str, Any]:
    return answer("explain", pipeline.mistake["sample"], folder=pipeline.folder)


def check_explanation(said: dict[str, Any]) -> None:
    """Keys of the contract, and what must hold of any explanation."""
    assert set(said) == {
        *("sample", "predicted", "label", "correct", "probabilities", "errors", "errors_norm"),
        "nearest_training_sample",
        *("layers", "blame", "answer", "nearest", "departure", "repair", "suspicion", "views"),
        *("category", "category_name", "criterion", "cause", "pose", "verdict"),
        *("source", "trained_on", "own_label", "remarks", "report"),
    }
    assert sorted(said["probabilities"]) == CLASSES
    assert math.isclose(sum(said["probabilities"].values()), 1, abs_tol=1e-5)  # float32 softmax
    assert said["predicted"] == max(said["probabilities"], key=said["probabilities"].__getitem__)
    assert said["correct"] == (said["label"] == said["predicted"])
    assert set(said["errors"]) == ERRORS
    assert all(0 <= error < 32**3 for error in said["errors"].values())
    assert [layer["name"] for layer in said["layers"]] == [*LAYERS, "output"]
    for layer in said["layers"]:
        assert set(layer) == {"name"} | {
            f"{path}_{part}" for path in ("feedforward", "feedback") for part in ("class", "evidence", "exemplar")
        }
        for path in ("feedforward", "feedback"):
            evidence = layer[f"{path}_evidence"]
            assert sorted(evidence) == CLASSES
            assert evidence[layer[f"{path}_class"]] == max(evidence.values())
            assert re.fullmatch(r"[a-z_]+_\d{4}", layer[f"{path}_exemplar"])
    assert set(said["blame"]) == {"layer", "locations", "weights", "margin"}
    assert len(said["blame"]["weights"]) == len(said["blame"]["locations"])
    assert (said["blame"]["margin"] is None) == (said["blame"]["layer"] is None)
    check_answer(said)
    assert said["category_name"] == CATEGORIES[said["category"]]
    assert said["criterion"]
    assert set(said["suspicion"]) == {"score", "p_value", "n_reference", "enough", "by"}
    assert 0 <= said["suspicion"]["score"] <= 1
    assert 0 < said["suspicion"]["p_value"] <= 1
    assert said["verdict"]


def check_answer(said: dict[str, Any]) -> None:
    """One answer, by the departure first and by blame else; the nearest training samples are of their class."""
    found, p_value = said["answer"], said["departure"]["p_value"]
    assert set(found) == {"outcome", "layer", "why", "p_value"}
    assert found["p_value"] == p_value
    if p_value <= 0.05:
        assert (found["outcome"], found["layer"], found["why"]) == ("layer", said["departure"]["layer"], "anomaly")
    elif said["blame"]["layer"] in (None, LAYERS[0]):
        outcome = "none" if said["blame"]["layer"] is None else "input"
        assert (found["outcome"], found["layer"], found["why"]) == (outcome, None, None)
    else:
        assert (found["outcome"], found["layer"], found["why"]) == ("layer", said["blame"]["layer"], "turn")
    named = {name for name in (*LAYERS, "output") if re.search(rf"\b{name}\b", said["verdict"])}
    assert named <= {found["layer"]}
    assert set(said["nearest"]) == {"predicted", "true"}
    for of, klass in (("predicted", said["predicted"]), ("true", said["label"])):
        assert len(said["nearest"][of]) <= 3
        assert all(name.startswith(f"{klass}_") for name in said["nearest"][of])


@pytest.mark.real_data
def test_every_shape_of_the_downsampled_archive_is_voxelized(pipeline: Pipeline) -> None:
    said = pipeline.said["voxelize"]
    assert said["classes"] == {name: {"train": PER_CLASS, "test": PER_CLASS} for name in CLASSES}
    assert (said["samples"], said["skipped"]) == (2 * PER_CLASS * len(CLASSES), [])


@pytest.mark.real_data
def test_progress_of_training_goes_to_stderr(pipeline: Pipeline) -> None:
    assert re.search(r"^feedforward\s+1/20\s+loss .* validation accuracy", pipeline.training_log, re.MULTILINE)
    feedback = rf"^feedback\s+{FEEDBACK_EPOCHS}/{FEEDBACK_EPOCHS}\s+loss .* validation voxel IoU"
    assert re.search(feedback, pipeline.training_log, re.MULTILINE)


@pytest.mark.real_data
def test_a_held_out_tenth_of_the_training_split_is_neither_trained_nor_clustered_on(pipeline: Pipeline) -> None:
    training = pipeline.said["train"]
    total = PER_CLASS * len(CLASSES)
    assert training["training_samples"] + training["validation_samples"] == total
    assert 0.08 * total <= training["validation_samples"] <= 0.12 * total
    assert pipeline.said["cluster"]["samples"] == training["training_samples"]


@pytest.mark.real_data
def test_every_layer_is_clustered_in_both_paths(pipeline: Pipeline) -> None:
    layers = pipeline.said["cluster"]["layers"]
    assert [(layer["path"], layer["layer"]) for layer in layers] == [
        (path, name) for path in ("feedforward", "feedback") for name in [*LAYERS, "output"]
    ]
    codes = dict(zip(LAYERS, map(int, K.split(",")), strict=True)) | {"output": len(CLASSES)}
    for layer in layers:
        assert layer["k"] == codes[layer["layer"]]
        assert layer["locations"] == SIDES[layer["layer"]] ** 3
        assert 0 <= layer["explained"] <= 1
        assert 1 / len(CLASSES) <= layer["purity"] <= 1


@pytest.mark.real_data
def test_evaluation_has_the_keys_of_the_contract(pipeline: Pipeline) -> None:
    said = pipeline.said["evaluate"]
    assert set(said) == {
        *("split", "n", "n_errors", "accuracy", "class_accuracy", "per_class_accuracy", "table1", "detection"),
        *("misclassified", "without_duplicates", "votes", "reconstruction", "runs", "confusion", "comparisons"),
        *("added_to_softmax", "undefined", "curves", "claims", "shares", "sanity", "repair", "planted"),
        *("not_applicable", "recognition", "false_alarms", "errors_norm", "views"),
        *("groups", "trust", "causes", "cause_scores"),
    }
    assert sum(group["size"] for group in said["groups"]) == said["n_errors"]
    assert said["causes"] is None
    assert set(said["false_alarms"]) == {"departure", "suspicion", "atypicality"}
    for found in said["false_alarms"].values():
        assert sum(share * n for share, n in found["by_class"].values() if n) == pytest.approx(
            found["rate"] * found["n"]
        )
        assert found["n"] + found["misclassified"][1] == said["n"]
    assert list(said["reconstruction"]) == [*LAYERS, "output"]
    assert all(set(by_gates) == {"shut", "open"} for by_gates in said["reconstruction"].values())
    assert set(said["table1"]) == {"all", "correct", "misclassified"}
    assert all(set(row) == ERRORS | {"ratio"} for row in said["table1"].values())
    scores = {"max_softmax", "suspicion", "combined", "input_vs_code", "input_vs_code/input_vs_local"}
    scores |= {f"evidence_{path}_{layer}" for path in ("feedforward", "feedback") for layer in LAYERS}
    assert scores <= set(said["detection"])
    for figures in said["detection"].values():
        assert set(figures) >= {"auroc", "auroc_ci", "aurc", "augrc", "fpr95"}
        assert figures["auroc_ci"][0] <= figures["auroc"] <= figures["auroc_ci"][1]
    assert json.loads((pipeline.folder / "fer-run/evaluate/test.json").read_text()) == said


@pytest.mark.real_data
def test_the_network_recognises_far_more_than_chance_would(pipeline: Pipeline) -> None:
    said = pipeline.said["evaluate"]
    assert (said["split"], said["n"]) == ("test", PER_CLASS * len(CLASSES))
    assert said["accuracy"] >= 0.5  # chance is 0.1; this preset on so few shapes gives about 0.7
    assert said["n_errors"] == len(said["misclassified"])
    assert math.isclose(said["accuracy"], 1 - said["n_errors"] / said["n"])
    # Every class has as many test shapes, so the mean over classes is the accuracy.
    assert sorted(said["per_class_accuracy"]) == CLASSES
    assert math.isclose(said["class_accuracy"], said["accuracy"])


@pytest.mark.real_data
def test_the_local_features_reconstruct_the_input_better_than_the_class_code(pipeline: Pipeline) -> None:
    errors = pipeline.said["evaluate"]["table1"]["all"]
    assert errors["input_vs_local"] < errors["input_vs_code"]
    assert math.isclose(errors["ratio"], errors["input_vs_code"] / errors["input_vs_local"])


@pytest.mark.real_data
def test_a_mistake_is_explained_with_a_layer_to_blame(pipeline: Pipeline, explained_mistake: dict[str, Any]) -> None:
    said, mistake = explained_mistake, pipeline.mistake
    check_explanation(said)
    assert said["correct"] is False
    for key in ("sample", "label", "predicted"):
        assert said[key] == mistake[key]
    # The evaluation reads samples in batches; convolutions round differently there.
    assert math.isclose(said["probabilities"][said["predicted"]], mistake["max_softmax"], rel_tol=1e-3)
    layer, locations = said["blame"]["layer"], said["blame"]["locations"]
    assert layer in SIDES
    assert locations
    assert np.all((np.array(locations) >= 0) & (np.array(locations) < SIDES[layer]))
    assert said["label"] in said["verdict"]
    assert said["predicted"] in said["verdict"]


@pytest.mark.real_data
def test_an_explanation_is_written_as_a_page_with_pictures(
    pipeline: Pipeline, explained_mistake: dict[str, Any]
) -> None:
    page = pipeline.folder / explained_mistake["report"]
    assert page == pipeline.folder / "fer-run/explain" / explained_mistake["sample"] / "index.html"
    assert explained_mistake["verdict"] in page.read_text(encoding="utf-8")
    assert json.loads((page.parent / "diagnosis.json").read_text(encoding="utf-8")) == explained_mistake
    pictures = sorted(page.parent.glob("*.png"))
    assert {"input.png", "local.png", "nearest.png", "class-code.png"} <= {picture.name for picture in pictures}
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)


@pytest.mark.real_data
def test_a_binvox_file_is_explained_as_the_sample_that_was_made_from_it(
    pipeline: Pipeline, explained_mistake: dict[str, Any], shared_data: Path, tmp_path: Path
) -> None:
    name, label = explained_mistake["sample"], explained_mistake["label"]
    with zipfile.ZipFile(shared_data / "modelnet10-binvox.zip") as archive:
        content = archive.read(f"modelnet10-binvox/{label}/test/{name}.binvox")
    (tmp_path / f"{name}.binvox").write_bytes(content)
    said = answer(
        *("explain", tmp_path / f"{name}.binvox", "--label", label, "--no-images"),
        folder=pipeline.folder,
    )
    assert said == {**explained_mistake, "report": None, "source": str(tmp_path / f"{name}.binvox")}


@pytest.mark.real_data
def test_a_real_mesh_is_voxelized_and_explained(pipeline: Pipeline, shared_data: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(shared_data / "modelnet10-off.zip") as archive:
        member = min(name for name in archive.namelist() if "/bathtub/test/" in name and name.endswith(".off"))
        mesh = tmp_path / Path(member).name
        mesh.write_bytes(archive.read(member))
    said = answer("explain", mesh, "--label", "bathtub", "--no-images", folder=pipeline.folder)
    check_explanation(said)
    assert (said["sample"], said["label"], said["report"]) == (mesh.stem, "bathtub", None)
    if said["correct"]:
        assert said["blame"] == {"layer": None, "locations": [], "weights": [], "margin": None}


@pytest.mark.real_data
def test_a_probe_reconstructs_a_location_from_its_response_field(pipeline: Pipeline) -> None:
    sample = pipeline.mistake["sample"]
    said = answer("probe", sample, "--layer", "conv3", "--location", "2,1,3", folder=pipeline.folder)
    assert set(said) == {
        *("sample", "layer", "by", "location", "code", "receptive_field", "response_field", "kept"),
        *("reconstruction", "images"),
    }
    assert (said["sample"], said["layer"], said["location"]) == (sample, "conv3", [2, 1, 3])
    assert [2, 1, 3] in said["response_field"]
    assert all(0 <= low < high <= 32 for low, high in said["receptive_field"])
    reconstruction = np.load(pipeline.folder / said["reconstruction"], allow_pickle=False)
    assert reconstruction.shape == (32, 32, 32)
    assert 0 <= reconstruction.min() <= reconstruction.max() <= 1
    assert [(pipeline.folder / image).read_bytes()[:4] for image in said["images"]] == [b"\x89PNG"]


@pytest.mark.real_data
def test_info_tells_the_lineage_of_every_artifact(pipeline: Pipeline) -> None:
    said = {
        name: answer("info", f"fer-run/{name}.h5", folder=pipeline.folder) for name in ("voxels", "model", "codebook")
    }
    for name, info in said.items():
        assert set(info) == {"format", "version", "id", "parents", "created_by", "config", "content"}
        assert info["format"] == f"fer-{name}"
    voxels, model, codebook = said.values()
    assert voxels["parents"] == {}
    assert model["parents"] == {"voxels": voxels["id"]}
    assert codebook["parents"] == {"voxels": voxels["id"], "model": model["id"]}
    assert voxels["content"]["classes"] == pipeline.said["voxelize"]["classes"]
    assert codebook["content"]["layers"] == pipeline.said["cluster"]["layers"]
