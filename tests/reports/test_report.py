import json
import re
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from diagnoses import CLASSES, CORRECT, DEPARTURE, LOCATIONS, UNKNOWN, VERDICT, changed, diagnosis_of
from fer_cli.codebooks.reconstruction import ERRORS
from fer_cli.diagnosis.diagnosis import Suspicion
from fer_cli.network.activations import PATHS
from fer_cli.reports import report


def printed(renderable, width=80):
    console = Console(width=width, force_terminal=False, file=None)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


@pytest.mark.parametrize("changes", [{}, CORRECT, UNKNOWN])
def test_terminal_report_says_it_all_on_one_screen(changes):
    diagnosis = diagnosis_of(**changes)
    text = printed(report.terminal_report(diagnosis))
    lines = text.rstrip("\n").split("\n")
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert "…" not in text
    assert " ".join(text.split()).count(VERDICT) == 1
    for part in ("chair_0891", f"{diagnosis.predicted} 0.", "input−code 2241", "table_0042", "0.87 of 1", *LOCATIONS):
        assert part in text, part


def test_terminal_report_tells_outcome_and_blame_without_colour():
    wrong, right, unknown = (printed(report.terminal_report(diagnosis_of(**c))) for c in ({}, CORRECT, UNKNOWN))
    assert "✗ misclassified" in wrong
    assert "blame        conv3 at 0,1,2 3,3,1" in wrong
    assert re.search(r"▶ conv3 +✗ table +\+0\.50 +\+0\.48 +✗ table +\+0\.75 +−0\.25", wrong)
    assert re.search(r"  conv1 +✓ chair +\+0\.10 +\+0\.50 +✗ table", wrong)
    assert "✓ correct" in right
    assert "true class unknown" in unknown
    assert "✗" not in unknown
    assert "✓" not in unknown


def test_terminal_report_tells_of_departures_that_are_significant_and_of_those_not_known():
    said, unsaid, unknown = (
        printed(report.terminal_report(diagnosis_of(departure=departure)))
        for departure in (DEPARTURE, replace(DEPARTURE, p_value=0.06), None)
    )
    assert "departs from the usual at conv2, p 0.010" in said
    assert "depart" not in unsaid
    assert "departure not known; run 'fer calibrate'" in unknown


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
    summary = report.diagnosis_json(diagnosis_of(), report="out/index.html")
    assert list(summary) == [
        "sample", "predicted", "label", "correct", "probabilities", "errors", "errors_norm", "nearest_training_sample",
        "layers",
        "blame", "departure", "repair", "suspicion", "category", "category_name", "criterion", "verdict", "report",
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
        "layer": "conv2", "locations": [[1, 2, 3], [7, 0, 4]], "score": 6.5, "margin": 1.25, "p_value": 0.01,
    }  # fmt: skip
    assert report.diagnosis_json(diagnosis_of(departure=None), report=None)["departure"] is None
    assert set(summary["suspicion"]) == {"score", "p_value", "n_reference", "enough"}
    assert summary["report"] == "out/index.html"


def test_json_holds_plain_python_numbers():
    diagnosis = diagnosis_of(
        probabilities={name: np.float64(0.25) for name in CLASSES},
        errors={name: np.float64(1) for name in report.ERRORS},
    )
    summary = report.diagnosis_json(diagnosis, report=None)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert type(summary["probabilities"]["bed"]) is float


def test_json_refuses_numbers_that_are_not_finite():
    with pytest.raises(ValueError, match="local_vs_code is nan"):
        report.diagnosis_json(diagnosis_of(errors=diagnosis_of().errors | {"local_vs_code": float("nan")}), report=None)


def test_several_diagnoses_are_a_line_each_the_most_suspicious_first():
    answers = [
        report.diagnosis_json(diagnosis_of(sample=name, suspicion=Suspicion(score, 0.125, 31), **changes), report=None)
        for name, score, changes in (("sure", 0.25, CORRECT), ("odd", 0.75, {}), ("new\x1b", 0.5, UNKNOWN))
    ]
    lines = printed(report.diagnosis_table(answers)).rstrip("\n").split("\n")[-3:]
    assert [re.split(r"\s{2,}", line.strip()) for line in lines] == [
        ["odd", "chair", "table", "conv3", "0.75", "0.125"],
        [lines[1].split()[0], "–", "table", "–", "0.50", "0.125"],
        ["sure", "chair", "chair", "–", "0.25", "0.125"],
    ]
    assert "\x1b" not in lines[1]


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
