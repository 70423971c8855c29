import json
import re
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from diagnoses import CLASSES, CORRECT, INPUT, LOCATIONS, REPAIR, UNKNOWN, UNUSUAL, changed, diagnosis_of, named_layers
from fer_cli.codebooks.reconstruction import ERRORS
from fer_cli.diagnosis.blame import Blame
from fer_cli.diagnosis.categories import Category
from fer_cli.diagnosis.cause import PoseFound, Signs
from fer_cli.diagnosis.diagnosis import Suspicion
from fer_cli.diagnosis.repair import RANDOM_DRAWS
from fer_cli.network.activations import PATHS
from fer_cli.reports import explained, report
from fer_cli.reports.sentences import answer_sentence, repair_sentence, short_repair


def printed(renderable, width=80):
    console = Console(width=width, force_terminal=False, file=None)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


@pytest.mark.parametrize("changes", [{}, CORRECT, UNKNOWN, UNUSUAL, INPUT])
def test_terminal_report_says_it_all_on_one_screen(changes):
    diagnosis = diagnosis_of(**changes)
    text = printed(report.terminal_report(diagnosis))
    lines = text.rstrip("\n").split("\n")
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert "…" not in text
    assert " ".join(text.split()).count(diagnosis.verdict) == 1
    assert diagnosis.cause.remedy in " ".join(text.split())
    nearest = "table_0011 · chair_0123" if diagnosis.correct is False else "table_0011"
    cause = "cause        the two classes overlap (strong)"
    for part in ("chair_0891", f"{diagnosis.predicted} 0.", cause, nearest, "0.87 of 1", *LOCATIONS):
        assert part in text, part


def test_terminal_report_of_a_long_verdict_fits_one_screen():
    verdict = (
        "A night_stand taken for a dresser (probability 0.70), likely because no training sample of the true class is "
        "like it. Between the two the evidence turns from night_stand to dresser at conv3, on the whole, narrowly; 40% "
        "of correctly classified validation samples look at least as suspicious for their class."
    )
    criterion = "calibrated evidence turns from night_stand to dresser, 14.0 nats ahead of the next best layer"
    diagnosis = diagnosis_of(verdict=verdict, category=Category("representation", criterion))
    assert len(printed(report.terminal_report(diagnosis)).rstrip("\n").split("\n")) <= 24


def test_terminal_report_tells_outcome_and_answer_without_colour():
    wrong, right, unknown = (printed(report.terminal_report(diagnosis_of(**c))) for c in ({}, CORRECT, UNKNOWN))
    assert "✗ misclassified" in wrong
    assert "where        conv3 at 0,1,2 (+1): evidence turns; computation usual, p 0.310" in wrong
    assert "where        nowhere: computation usual, p 0.310" in right
    assert "where        nowhere: computation usual, p 0.310" in unknown
    assert re.search(r"▶ conv3 +✗ table +\+0\.50 +\+0\.48 +✗ table +\+0\.75 +−0\.25", wrong)
    assert re.search(r"  conv1 +✓ chair +\+0\.10 +\+0\.50 +✗ table", wrong)
    assert "✓ correct" in right
    assert "true class unknown" in unknown
    assert "✗" not in unknown
    assert "✓" not in unknown


def marked(text):
    """The layers marked in the table."""
    return re.findall(r"^▶ (\w+)", text, re.MULTILINE)


def test_terminal_report_of_an_unusual_computation_names_its_layer_and_no_other():
    text = printed(report.terminal_report(diagnosis_of(**UNUSUAL)))
    assert "where        conv2 at 1,2,3 (+1): computation unusual, p 0.010" in text
    assert marked(text) == ["conv2"]
    assert set(named_layers(text.split("calibrated evidence")[0])) == {"conv2"}


def test_terminal_report_of_an_input_like_another_class_marks_no_layer():
    text = printed(report.terminal_report(diagnosis_of(**INPUT)))
    assert "where        input at voxel 7,11,18 (+1): computation usual, p 0.310" in text
    assert marked(text) == []


def test_terminal_report_points_at_nothing_where_the_layer_sees_the_whole_input():
    whole = Blame("conv5", ((0, 0, 0),), (((0, 32),) * 3,), 1.0, (1.0,))
    text = printed(report.terminal_report(diagnosis_of(blame=whole)))
    assert "where        conv5: evidence turns; computation usual, p 0.310" in text


def test_terminal_report_tells_of_departures_that_are_not_known():
    wrong, right = (printed(report.terminal_report(diagnosis_of(departure=None, **c))) for c in ({}, CORRECT))
    assert "evidence turns; run 'fer calibrate' to test the computation" in " ".join(wrong.split())
    assert "where        run 'fer calibrate' to test the computation" in right
    assert "nowhere" not in right


@pytest.mark.parametrize("changes", [{}, UNUSUAL, INPUT, CORRECT, UNKNOWN, {**CORRECT, **UNUSUAL}])
def test_verdict_and_answer_name_the_same_layer_or_none(changes):
    diagnosis = diagnosis_of(**({"verdict": "Classified as chair."} if changes in (CORRECT, UNKNOWN) else {}) | changes)
    text = printed(report.terminal_report(diagnosis))
    verdict, where = text.split("probability  ")[0], re.search(r"^where .*(\n {13}.*)*", text, re.MULTILINE)[0]
    expected = [diagnosis.answer.layer] if diagnosis.answer.layer else []
    assert named_layers(verdict) == named_layers(where) == expected
    assert named_layers(answer_sentence(diagnosis)) == []


def test_answer_sentence_says_what_the_answer_rests_on():
    said = {
        name: answer_sentence(diagnosis_of(**changes))
        for name, changes in {
            "turn": {},
            "unusual": UNUSUAL,
            "input": INPUT,
            "correct": CORRECT,
            "unknown": {**UNKNOWN, "departure": None},
        }.items()
    }
    assert said == {
        "turn": "Of the two classes the evidence favours table from here on. "
        "Each layer computes as usual, given those below it (p = 0.31).",
        "unusual": "The computation departs from the usual, most likely here (p = 0.010).",
        "input": "Of the two classes the evidence favours table from the lowest layer on, on the whole. "
        "Not every layer agrees (evidence by layer, below). "
        "Each layer computes as usual, given those below it (p = 0.31).",
        "correct": "The prediction is correct. Each layer computes as usual, given those below it (p = 0.31).",
        "unknown": "The true class is not known. "
        "Run 'fer calibrate' to learn whether a layer's computation is unusual.",
    }
    lowest = {**UNUSUAL, "departure": replace(UNUSUAL["departure"], layer="conv1")}
    assert (
        answer_sentence(diagnosis_of(**lowest))
        == "The computation departs from the usual, most likely here (p = 0.010)."
    )


def test_terminal_report_fits_long_class_names():
    long = diagnosis_of(predicted="night_stand", probabilities={"night_stand": 1.0})
    layers = tuple(
        changed(layer, **{path: {"speaks_for": "night_stand"} for path in layer.paths}) for layer in long.layers
    )
    text = printed(report.terminal_report(replace(long, layers=layers)))
    assert max(map(len, text.split("\n"))) <= 80
    assert text.count("✗ night_stand") == 16


def test_terminal_report_prints_no_control_characters_or_markup_of_names():
    text = printed(report.terminal_report(diagnosis_of(sample="\x1b[31m[bold]a[/bold]\n.off")))
    assert "\x1b" not in text
    assert "�[31m[bold]a[/bold]�.off" in text


def test_json_has_exactly_the_contracts_keys():
    summary = explained.diagnosis_json(diagnosis_of(), report="out/index.html")
    assert list(summary) == [
        "sample", "predicted", "label", "correct", "probabilities", "errors", "errors_norm", "nearest_training_sample",
        "layers", "blame", "answer", "nearest", "departure", "repair", "suspicion", "views", "category",
        "category_name", "criterion", "cause", "pose", "verdict", "source", "trained_on", "own_label", "remarks",
        "report",
    ]  # fmt: skip
    assert set(summary["errors"]) == {"input_vs_local", "nearest_vs_code", "local_vs_code", "input_vs_code"}
    assert summary["errors_norm"] == {name: pytest.approx(error**0.5) for name, error in summary["errors"].items()}
    assert [layer["name"] for layer in summary["layers"]] == list(LOCATIONS)
    for layer in summary["layers"]:
        assert set(layer) == {
            "name", "feedforward_class", "feedback_class", "feedforward_evidence", "feedback_evidence",
            "feedforward_exemplar", "feedback_exemplar",
        }  # fmt: skip
        assert set(layer["feedforward_evidence"]) == set(layer["feedback_evidence"]) == set(CLASSES)
    assert summary["repair"] == [
        {
            "layer": "conv3", "replaced": 8, "locations": 64, "wanted": "chair", "chosen_by": "label",
            "donor": "chair_0012", "predicted": "chair", "repaired": True,
            "probability": 0.91, "gain": 5.25, "p_value": 0.01,
        }
    ]  # fmt: skip
    assert summary["blame"] == {
        "layer": "conv3", "locations": [[0, 1, 2], [3, 3, 1]], "weights": [0.75, 0.25], "margin": 3.25
    }  # fmt: skip
    assert summary["departure"] == {
        "layer": "conv2", "locations": [[1, 2, 3], [7, 0, 4]], "score": 6.5, "margin": 1.25, "p_value": 0.31,
    }  # fmt: skip
    assert summary["answer"] == {"outcome": "layer", "layer": "conv3", "why": "turn", "p_value": 0.31}
    for changes, expected in (
        (UNUSUAL, {"outcome": "layer", "layer": "conv2", "why": "anomaly", "p_value": 0.01}),
        (INPUT, {"outcome": "input", "layer": None, "why": None, "p_value": 0.31}),
        (CORRECT, {"outcome": "none", "layer": None, "why": None, "p_value": 0.31}),
    ):
        assert explained.diagnosis_json(diagnosis_of(**changes), report=None)["answer"] == expected
    assert summary["nearest"] == {"predicted": ["table_0011", "table_0031"], "true": ["chair_0123", "chair_0007"]}
    assert explained.diagnosis_json(diagnosis_of(departure=None), report=None)["departure"] is None
    assert set(summary["suspicion"]) == {"score", "p_value", "n_reference", "enough", "by"}
    assert summary["report"] == "out/index.html"


def test_json_holds_plain_python_numbers():
    diagnosis = diagnosis_of(
        probabilities={name: np.float64(0.25) for name in CLASSES},
        errors={name: np.float64(1) for name in report.ERRORS},
    )
    summary = explained.diagnosis_json(diagnosis, report=None)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert type(summary["probabilities"]["bed"]) is float


def test_json_refuses_numbers_that_are_not_finite():
    with pytest.raises(ValueError, match="local_vs_code is nan"):
        explained.diagnosis_json(
            diagnosis_of(errors=diagnosis_of().errors | {"local_vs_code": float("nan")}), report=None
        )


def test_several_diagnoses_are_a_line_each_the_most_suspicious_first():
    answers = [
        explained.diagnosis_json(
            diagnosis_of(sample=name, suspicion=Suspicion(score, 0.125, 31), **changes), report=None
        )
        for name, score, changes in (
            ("sure", 0.25, CORRECT),
            ("odd", 0.75, {}),
            ("new\x1b", 0.5, UNKNOWN),
            ("far", 0.2, UNUSUAL),
            ("like", 0.1, INPUT),
        )
    ]
    lines = printed(report.diagnosis_table(answers)).rstrip("\n").split("\n")[-5:]
    assert [re.split(r"\s{2,}", line.strip()) for line in lines] == [
        ["odd", "chair", "table", "overlap", "conv3", "0.75", "0.125"],
        [lines[1].split()[0], "–", "table", "overlap", "–", "0.50", "0.125"],
        ["sure", "chair", "chair", "overlap", "–", "0.25", "0.125"],
        ["far", "chair", "table", "overlap", "conv2", "0.20", "0.125"],
        ["like", "chair", "table", "overlap", "input", "0.10", "0.125"],
    ]
    assert "\x1b" not in lines[1]


def test_long_names_in_the_table_of_several_diagnoses_are_folded_and_not_cut():
    names = {
        "sample": "an_airplane_of_a_long_name_0123",
        "label": "night_stand_of_oak",
        "predicted": "dresser_of_oak_too",
    }
    probabilities = {names["label"]: 0.4, names["predicted"]: 0.6}
    answer = explained.diagnosis_json(diagnosis_of(), report=None) | names | {"probabilities": probabilities}
    text = printed(report.diagnosis_table([answer]))
    assert max(map(len, text.split("\n"))) <= 80
    assert "…" not in text
    assert "suspicion" in text


def test_figures_are_told_with_their_samples_and_what_layers_speak_for():
    errors = dict.fromkeys(ERRORS, 12.5) | {"ratio": 2.0}
    layers = [{"name": "conv1", **{f"{p}_{w}": v for p in PATHS for w, v in (("true", 0.25), ("predicted", None))}}]
    answer = {
        "rule": "the first of each",
        "figures": {"fig2": {"path": "f/fig2.png", "samples": ["chair_1", "bed_2"]}, "fig3": None},
        "table1": {"all": errors, "correct": errors, "misclassified": None},
        "errors_norm": {"all": dict.fromkeys(ERRORS, 3.5) | {"ratio": 1.4}, "correct": None, "misclassified": None},
        "shares": {"correct": {"n": 7, "layers": layers}},
    }
    text = printed(report.figures_table(answer))
    assert text.startswith("the first of each\n")
    assert "fig2  f/fig2.png: chair_1, bed_2\n" in text
    assert "fig3  no such sample in the split\n" in text
    assert re.search(r"^all +12\.5 .* 2\.00 *$.*Euclidean.*^all +3\.5 .* 1\.40 *$", text, re.MULTILINE | re.DOTALL)
    assert "correct, 7: share whose clusters speak for the true | predicted class" in text
    assert re.search(r"^conv1 +0\.25 \| – +0\.25 \| – *$", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("changes", "outcome", "short"),
    [
        (
            {"chosen_by": "evidence"},
            "Changed: table → chair.",
            "table → chair with 8 of 64 of conv3 from chair_0012; p 0.010",
        ),
        ({}, "Repaired: table → chair.", "table → chair with 8 of 64 of conv3 from chair_0012; p 0.010"),
        (
            {"predicted": "bed", "p_value": 0.4},
            "Failed: table → bed, not chair.",
            "failed: table → bed, not chair, with 8 of 64 of conv3; p 0.400",
        ),
        (
            {"predicted": "table", "p_value": 0.4},
            "Failed: still table, not chair.",
            "failed: still table, not chair, with 8 of 64 of conv3; p 0.400",
        ),
        (
            {"predicted": "table", "p_value": 0.4, "chosen_by": "evidence"},
            "Not changed to chair: still table.",
            "not changed to chair: still table, with 8 of 64 of conv3; p 0.400",
        ),
    ],
)
def test_a_repair_that_ends_in_a_third_class_is_not_told_as_a_success(changes, outcome, short):
    test = replace(REPAIR, **changes)
    assert repair_sentence(test, "table").startswith(outcome)
    assert short_repair(test, "table") == short


def test_the_lowest_p_value_of_a_repair_is_told_as_better_than_all_random_choices():
    lowest = replace(REPAIR, p_value=1 / (1 + RANDOM_DRAWS))
    assert f"more than by any of {RANDOM_DRAWS} random choices" in repair_sentence(lowest, "table")
    assert "more than" not in repair_sentence(replace(REPAIR, p_value=2 / (1 + RANDOM_DRAWS)), "table")


@pytest.mark.parametrize(
    ("turns", "turned_from", "said"),
    [
        ("90° about x", "z", "turned 90° about x it is a chair (0.93): try --up y"),
        ("-90° about y", "z", "turned -90° about y it is a chair (0.93): try --up x"),
        ("90° about x", "y", "turned 90° about x it is a chair (0.93)"),
        ("90° about x", None, "turned 90° about x it is a chair (0.93)"),
        ("180° about z", "z", "turned 180° about z it is a chair (0.93)"),
    ],
)
def test_another_pose_that_is_recognised_is_told_with_axis_angle_and_probability(turns, turned_from, said):
    signs = Signs("table", "chair", {"chair": 0.1, "table": 0.9}, 0.3)
    pose = PoseFound(turns, "chair", 0.93, is_usual=False, is_nearer=True)
    found = diagnosis_of(signs=replace(signs, pose=pose), turned_from=turned_from)
    assert f"pose         {said}" in [line.rstrip() for line in printed(report.terminal_report(found)).split("\n")]
    assert explained.diagnosis_json(found, report=None)["pose"] == {
        "turns": turns, "class": "chair", "probability": 0.93,
    }  # fmt: skip
    for doubt in ({"probability": 0.79}, {"is_nearer": False}):
        unsure = diagnosis_of(signs=replace(signs, pose=replace(pose, **doubt)))
        assert explained.diagnosis_json(unsure, report=None)["pose"] is None
        assert "pose  " not in printed(report.terminal_report(unsure))
