import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fer_cli.codebooks.reading import read_samples
from fer_cli.codebooks.reconstruction import ERRORS
from fer_cli.data.dataset import open_voxels
from fer_cli.diagnosis.explain import explain
from fer_cli.errors import ResourceError, UsageError
from fer_cli.evaluation.detection import METRICS, detection_metrics
from fer_cli.evaluation.pooled import _apart
from fer_cli.evaluation.results import Evaluation
from fer_cli.evaluation.votes import voted_probabilities
from fer_cli.run import Run
from fer_cli.storage.artifact import Artifact
from fer_cli.storage.run_paths import RunPaths
from fer_cli.studies.evaluate import evaluate, write_evaluation
from tiny import Rewrite

KINDS = ("ours", "baseline", "trivial")


def test_evaluation_is_the_diagnoses_of_its_samples_put_together(run: Run) -> None:
    seen: list[tuple[str, int, int]] = []
    result = evaluate(run, report=lambda doing, done, total: seen.append((doing, done, total)))
    indices = run.voxels.indices("test")
    diagnoses = [explain(run, run.sample(run.voxels.names[i])) for i in indices]
    wrong = np.array([not d.correct for d in diagnoses])
    assert (result["split"], result["n"], result["n_errors"]) == ("test", 18, wrong.sum())
    assert result["n_errors"] >= 1
    assert result["accuracy"] == pytest.approx(1 - wrong.mean())
    assert ("reading", 18, 18) in seen
    for name in run.voxels.classes:
        mine = [not w for w, d in zip(wrong, diagnoses, strict=True) if d.label == name]
        assert result["per_class_accuracy"][name] == pytest.approx(np.mean(mine))
    for group, chosen in [("all", np.ones(18, bool)), ("correct", ~wrong), ("misclassified", wrong)]:
        # One sample or eighteen at once: sums in float32 in another order.
        means = {e: np.mean([d.errors[e] for d, c in zip(diagnoses, chosen, strict=True) if c]) for e in ERRORS}
        table = result["table1"][group]
        assert [table[e] for e in ERRORS] == pytest.approx([means[e] for e in ERRORS], rel=1e-4)
        assert table["ratio"] == pytest.approx(means["input_vs_code"] / means["input_vs_local"], rel=1e-4)
        norms = {e: np.mean([d.errors[e] ** 0.5 for d, c in zip(diagnoses, chosen, strict=True) if c]) for e in ERRORS}
        table = result["errors_norm"][group]
        assert [table[e] for e in ERRORS] == pytest.approx([norms[e] for e in ERRORS], rel=1e-4)
        assert table["ratio"] == pytest.approx(norms["input_vs_code"] / norms["input_vs_local"], rel=1e-4)
    expected = [(d.sample, d.label, d.predicted) for d, w in zip(diagnoses, wrong, strict=True) if w]
    assert [(m["sample"], m["label"], m["predicted"]) for m in result["misclassified"]] == expected
    suspicious = [d.suspicion.score for d, w in zip(diagnoses, wrong, strict=True) if w]
    # A score that float32 cannot tell from a validation sample's may be ranked on either side of it, one sample at a
    # time or in a batch: a step of 1/n for n validation samples in one score of one family.
    step = 1 / len(run.calibration.correct)
    assert [m["suspicion"] for m in result["misclassified"]] == pytest.approx(suspicious, abs=step)
    scores = {
        "suspicion": np.array([1 - d.suspicion.score for d in diagnoses]),
        "max_softmax": np.array([max(d.probabilities.values()) for d in diagnoses]),
        "input_vs_code": np.array([-d.errors["input_vs_code"] for d in diagnoses]),
        "input_vs_code/input_vs_local": np.array(
            [-d.errors["input_vs_code"] / d.errors["input_vs_local"] for d in diagnoses]
        ),
    }
    pair = 1 / (wrong.sum() * (~wrong).sum())  # such a step, or a last bit, may turn a pair of samples round
    for name, values in scores.items():
        expected_auroc = detection_metrics(values, wrong)["auroc"]
        assert result["detection"][name]["auroc"] == pytest.approx(expected_auroc, abs=2 * pair)


def test_a_vote_of_one_view_is_the_network_itself_and_more_are_a_mean(run: Run, evaluated: Evaluation) -> None:
    result = evaluate(run, votes=1)
    assert result["votes"] == {
        "views": 1,
        **{key: result[key] for key in ("n", "n_errors", "accuracy", "class_accuracy")},
    }
    grids = run.voxels.tensor(run.voxels.indices("test"))
    quarters = [torch.rot90(grids, number, (2, 3)) for number in range(4)]
    mean = torch.stack([run.network.backbone(turned).softmax(1) for turned in quarters]).mean(0)
    torch.testing.assert_close(voted_probabilities(run.network, grids, 4), mean, atol=1e-5, rtol=0)
    assert evaluated["votes"] is None
    for votes in (0, 361):
        with pytest.raises(UsageError, match=f"{votes} votes cannot be taken; give 1 to 360"):
            evaluate(run, votes=votes)


def test_reconstructions_are_measured_from_every_level_with_gates_shut_and_open(
    run: Run, evaluated: Evaluation
) -> None:
    measured = evaluated["reconstruction"]
    assert list(measured) == list(run.network.spec.layer_names)
    grids = run.voxels.tensor(run.voxels.indices("test"))
    with torch.inference_mode():
        features = run.network.backbone.features(grids)
        for layer in measured:
            for gates, skips in (("shut", None), ("open", features)):
                occupancy = run.network.reconstruct(features[layer], layer, skips=skips)
                found, true = occupancy >= 0.5, grids > 0
                ious = (found & true).flatten(1).sum(1) / (found | true).flatten(1).sum(1)
                assert measured[layer][gates]["iou"] == pytest.approx(float(ious.mean()), abs=1e-6)
                mse = float((occupancy - grids).square().mean())
                assert measured[layer][gates]["mse"] == pytest.approx(mse, rel=1e-5)
    assert measured["conv1"]["shut"] == measured["conv1"]["open"]
    assert measured["output"]["shut"] != measured["output"]["open"]


def test_test_shapes_that_training_has_are_left_out_of_a_second_accuracy(
    run: Run, evaluated: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    test, training = run.voxels.indices("test"), run.voxels.indices("train")
    twins = test[[0, 3]]
    first = np.full(len(run.voxels), -1)
    first[twins] = training[:2]
    first[training[5]] = training[4]  # a repetition within training concerns no test shape
    read = Artifact.read
    monkeypatch.setattr(
        Artifact, "read", lambda self, name, *at: first if name == "record/duplicate_of" else read(self, name, *at)
    )
    assert run.voxels.repeats_training(test).tolist() == [i in twins for i in test]
    result = evaluate(run)
    assert result["without_duplicates"]["n"] == evaluated["n"] - 2
    wrong = {m["sample"] for m in evaluated["misclassified"]} - {run.voxels.names[i] for i in twins}
    assert result["without_duplicates"]["n_errors"] == len(wrong)


def test_evaluation_names_every_score(run: Run, evaluated: Evaluation) -> None:
    layers = run.network.spec.layer_names[:-1]
    kinds = {kind: {n for n, row in evaluated["detection"].items() if row["kind"] == kind} for kind in KINDS}
    assert kinds["ours"] == {
        "combined",
        "suspicion",
        "input_vs_code/input_vs_local",
        "input_vs_code_margin",
        *ERRORS,
        *(f"evidence_{path}_{layer}" for path in ("feedforward", "feedback") for layer in layers),
        *(f"calibrated_{path}_{layer}" for path in ("feedforward", "feedback") for layer in (*layers, "all")),
        *(f"{what}_{layer}" for what in ("agreement", "typicality") for layer in (*layers, "all")),
    }
    assert kinds["baseline"] == {
        *("max_softmax", "softmax_margin", "entropy", "max_logit", "max_logit_p_norm", "softmax_p_norm", "energy"),
        *("gen", "doctor", "temperature_scaling", "mahalanobis", "relative_mahalanobis", "deep_knn", "feature_knn"),
        *("vim", "trust_score_conv3", "trust_score_fc4", "mc_dropout", "rotations", "mirrored"),
    }
    assert kinds["trivial"] == {"class_mean_grid", "nearest_grid", "random_class_code", "random_decoder"}
    metrics = {key for metric in METRICS for key in (metric, f"{metric}_ci")}
    assert all(set(row) == {"kind", *metrics} for row in evaluated["detection"].values())


def test_runs_of_the_same_voxels_are_pooled_and_drawn_by_shape(run: Run, evaluated: Evaluation) -> None:
    one, two = evaluated, evaluate(run, run)
    assert (two["n"], two["n_errors"]) == (2 * one["n"], 2 * one["n_errors"])
    assert [found["n"] for found in two["runs"]] == [one["n"]] * 2
    for name, row in one["detection"].items():
        # The same samples twice are no more shapes: point and interval stay, but for how AURC counts a sample.
        assert two["detection"][name]["auroc"] == pytest.approx(row["auroc"], abs=1e-12)
        assert two["detection"][name]["auroc_ci"] == pytest.approx(row["auroc_ci"], abs=1e-12)
    assert two["claims"] == [
        {**claim, "value": pytest.approx(claim["value"]), "ci": pytest.approx(claim["ci"])} for claim in one["claims"]
    ]
    assert np.array_equal(two["confusion"], 2 * np.array(one["confusion"]))
    assert sorted({mistake["run"] for mistake in two["misclassified"]}) == [0, 1]


def test_runs_of_other_voxels_are_refused(run: Run, rewrite: Rewrite, tmp_path: Path) -> None:
    artifact = run.voxels.artifact
    voxels = tmp_path / "voxels.h5"
    changed = artifact.read("label").copy()
    changed[0] = (changed[0] + 1) % 3
    rewrite(artifact, voxels, {"label": changed})
    other = Run(RunPaths(voxels, run.paths.model, run.paths.codebook), device=torch.device("cpu"))
    other.__dict__["voxels"] = open_voxels(voxels)
    with pytest.raises(UsageError, match=r"runs of different data sets cannot be pooled.*train every run on the same"):
        evaluate(run, other)
    rewrite(artifact, voxels, {"classes": ["beam", "plate", "rod"]})
    other.__dict__["voxels"] = open_voxels(voxels)
    with pytest.raises(
        UsageError, match=r"differ in their classes; only the first has pole, only the second has rod\.$"
    ):
        evaluate(run, other)


def test_classes_that_differ_are_named_but_not_by_the_dozen() -> None:
    many = tuple(f"class{i}" for i in range(40))
    assert _apart(many[:2], many) == "only the second has class2, class3, class4 and 35 more"
    assert _apart(many[:4], many[:1]) == "only the first has class1, class2, class3"
    assert _apart(("a", "b"), ("b", "a")) == "they are the same in another order"


@pytest.mark.parametrize("all_wrong", [True, False])
def test_without_both_kinds_nothing_is_detected_and_that_is_said(
    run: Run, all_wrong: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = run.voxels.labels.copy()
    test = run.voxels.indices("test")
    predicted = read_samples(run.network, run.codebook, run.voxels.tensor(test)).predicted
    labels[test] = (predicted + all_wrong) % 3
    monkeypatch.setitem(run.__dict__, "voxels", replace(run.voxels, labels=labels))
    result = evaluate(run, sanity=True)
    assert result["n_errors"] == (18 if all_wrong else 0)
    assert all(row["auroc"] is row["auroc_ci"] is None for row in result["detection"].values())
    assert ("every" if all_wrong else "no") + " sample is misclassified" in result["undefined"]
    assert result["comparisons"] == result["added_to_softmax"] == []
    assert result["curves"] == {}
    json.dumps(result, allow_nan=False)
    if not all_wrong:
        assert all(claim["verdict"] is None for claim in result["claims"])


def test_curves_end_where_everything_is_accepted(evaluated: Evaluation) -> None:
    assert {"suspicion", "max_softmax"} <= set(evaluated["curves"])
    for drawn in evaluated["curves"].values():
        assert drawn["roc"]["true_positive_rate"][-1] == 1
        assert drawn["risk_coverage"]["risk"][-1] == pytest.approx(1 - evaluated["accuracy"])
        area = np.trapezoid(drawn["roc"]["true_positive_rate"], drawn["roc"]["false_positive_rate"])
        assert 0 <= area <= 1


def test_evaluation_is_the_same_twice_and_survives_json(run: Run, evaluated: Evaluation, tmp_path: Path) -> None:
    path = write_evaluation(evaluated, tmp_path / "new" / "evaluate")
    assert path == tmp_path / "new" / "evaluate" / "test.json"
    assert json.loads(path.read_text(encoding="utf-8")) == evaluated == evaluate(run)


def test_split_without_samples_is_refused(run: Run) -> None:
    with pytest.raises(UsageError, match="no labelled sample in the split 'unlabelled'"):
        evaluate(run, split="unlabelled")


def test_folder_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match=r"cannot write .*file/test\.json: (File exists|Not a directory)\."):
        write_evaluation({"split": "test", "runs": []}, tmp_path / "file")
