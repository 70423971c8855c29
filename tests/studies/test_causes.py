import copy

import numpy as np
import pytest

from fer_cli.network.activations import batches, predict
from fer_cli.run import Run
from fer_cli.studies import causes
from fer_cli.studies.causes import Case, explain_mistakes, often_mixed_up, plant_causes, summarise
from fer_cli.studies.trust import share_interval

LABELS = {
    "changed": 0,
    "suspects": 0,
    "precision": {"n": 0, "right": None, "ci": None},
    "recall": {"n": 0, "right": None, "ci": None},
}


def test_only_plantings_that_change_the_prediction_count():
    cases = [
        Case("input", "noise", 0.1, True, "input"),
        Case("input", "noise", 0.1, True, "layer"),
        Case("input", "noise", 0.1, False, None),
        Case("input", "crop", 0.3, True, "input"),
        Case("pose", "pose", None, True, "pose"),
        Case("label", "label", None, False, None),
    ]
    named, found = summarise(cases, LABELS)
    assert named == {"input": {"input": 2, "layer": 1}, "pose": {"pose": 1}, "label": {}}
    assert found["planted"]["input"] == {"n": 3, "right": pytest.approx(2 / 3), "ci": share_interval(2, 3)}
    assert found["planted"]["label"] == {"n": 0, "right": None, "ci": None}
    noise, crop = found["doses"]
    assert (noise["kind"], noise["dose"], noise["tried"], noise["n"], noise["right"]) == ("noise", 0.1, 3, 2, 0.5)
    assert (crop["kind"], crop["n"], crop["right"]) == ("crop", 1, 1.0)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(causes, "MOST", 2)
    monkeypatch.setattr(causes, "_PER_LAYER", 1)


@pytest.mark.usefixtures("few")
def test_planting_in_a_run_counts_what_a_user_is_shown_and_changes_nothing(run: Run) -> None:
    before = copy.deepcopy(run.network.backbone.fingerprint)
    indices = run.voxels.indices("test")
    predicted = np.concatenate([predict(run.network, run.voxels.tensor(part)) for part in batches(indices)]).argmax(1)
    wrong = indices[predicted != run.voxels.labels[indices]]
    mistakes = explain_mistakes(run, wrong)
    assert [found.sample for found in mistakes.values()] == run.mistakes()
    told: list[tuple[int, int]] = []
    named, found = plant_causes(run, indices, predicted, mistakes, report=lambda *done: told.append(done))
    assert run.network.backbone.fingerprint == before
    assert told[-1][0] == told[-1][1]
    assert {"none", "pose", "input", "layer", "label"} <= set(named)
    assert sum(named["none"].values()) == min(4 * 2, len(indices) - len(wrong))
    for planted, score in found["planted"].items():
        assert score["n"] == sum(named[planted].values())
    again, _ = plant_causes(run, indices, predicted, mistakes)
    assert again == named


def test_classes_are_often_mixed_up_from_a_tenth_of_the_mistakes_on(run: Run) -> None:
    mistakes = explain_mistakes(run, np.array([run.voxels.index_of(name) for name in run.mistakes()]))
    pairs = [frozenset((str(found.label), found.predicted)) for found in mistakes.values()]
    often = often_mixed_up(mistakes)
    assert often == {pair for pair in pairs if pairs.count(pair) >= max(3, len(pairs) / 10)}


def test_averages_weigh_causes_alike_and_compare_with_simpler_ways() -> None:
    cases = [Case("pose", "pose", None, True, "pose", "gap")] * 3 + [Case("label", "label", None, True, "gap", "label")]
    found = summarise(cases, LABELS)[1]["average"]
    assert found["ours"] == {"right": 0.5, "ci": [0.5, 0.5]}
    assert found["neighbours"]["right"] == 0.5
    assert found["majority"]["right"] == 0.5
    assert summarise([], LABELS)[1]["average"] == {}


def test_causes_are_planted_where_no_sample_is_right(run: Run) -> None:
    wrong = np.array([run.voxels.index_of(name) for name in run.mistakes()])
    mistakes = explain_mistakes(run, wrong)
    predicted = np.array([run.voxels.classes.index(found.predicted) for found in mistakes.values()])
    _, found = plant_causes(run, wrong, predicted, mistakes)
    assert {planted: score["n"] for planted, score in found["planted"].items()}.items() <= {
        "overlap": len(wrong)
    }.items()
    assert all(row["tried"] == 0 for row in found["doses"])
