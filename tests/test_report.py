import json
import re
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from diagnoses import CLASSES, CORRECT, DEPARTURE, LOCATIONS, UNKNOWN, VERDICT, diagnosis_of
from fer_cli import report
from fer_cli.activations import PATHS
from fer_cli.diagnosis import Suspicion
from fer_cli.reconstruction import ERRORS


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
    assert "departure not known; run 'fer cluster' again" in unknown


def test_terminal_report_fits_long_class_names():
    long = diagnosis_of(predicted="night_stand", probabilities={"night_stand": 1.0})
    layers = tuple(
        replace(layer, feedback_class="night_stand", feedforward_class="night_stand") for layer in long.layers
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
        "sample", "predicted", "label", "correct", "probabilities", "errors", "nearest_training_sample", "layers",
        "blame", "departure", "repair", "suspicion", "category", "criterion", "verdict", "report",
    ]  # fmt: skip
    assert set(summary["errors"]) == {"input_vs_local", "nearest_vs_code", "local_vs_code", "input_vs_code"}
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
    assert summary["blame"] == {"layer": "conv3", "locations": [[0, 1, 2], [3, 3, 1]], "margin": 3.25}
    assert summary["departure"] == {
        "layer": "conv2", "locations": [[1, 2, 3], [7, 0, 4]], "score": 6.5, "margin": 1.25, "p_value": 0.01,
    }  # fmt: skip
    assert report.diagnosis_json(diagnosis_of(departure=None), report=None)["departure"] is None
    assert set(summary["suspicion"]) == {"score", "p_value"}
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


def record(phase, epoch, **changes):
    terms = {"class_loss": 2.0} if phase == "feedforward" else {"voxel_loss": 0.171, "feature_loss": 0.159}
    return {
        "phase": phase,
        "epoch": epoch,
        "training_loss": 2.0 - epoch / 10,
        **dict.fromkeys(("class_loss", "voxel_loss", "feature_loss")),
        **terms,
        "validation_loss": 0.5,
        "validation_score": epoch / 10,
        "seconds": 117.24,
        **changes,
    }


def test_training_history_fits_a_terminal_and_its_curves_rise_and_fall_as_the_values():
    history = [*(record("feedforward", epoch) for epoch in range(1, 9)), record("feedback", 1)]
    text = printed(report.training_history(history))
    assert max(map(len, text.split("\n"))) <= 80
    assert "…" not in text
    assert re.search(r"^loss +█▇▆▅▄▃▂▁ 1\.900 → 1\.200 *$", text, re.MULTILINE)
    assert re.search(r"^validation loss +▁{8} 0\.500 → 0\.500 *$", text, re.MULTILINE)
    assert re.search(r"^score +▁ 0\.100 → 0\.100 *$", text, re.MULTILINE)
    # The terms of a loss only where it has several.
    assert re.search(r"^epoch +loss +validation loss +score +seconds *$", text, re.MULTILINE)
    assert re.search(r"^epoch +loss +voxel +feature +validation loss +score +seconds *$", text, re.MULTILINE)
    assert re.search(r"^ +1 +1\.900 +0\.1710 +0\.1590 +0\.5000 +0\.1000 +117\.2 *$", text, re.MULTILINE)
    many = [record("feedforward", epoch, training_loss=float(epoch)) for epoch in range(1000)]
    assert max(map(len, printed(report.training_history(many)).split("\n"))) <= 80


def test_info_table_indents_nested_parts_and_shortens_lists():
    text = printed(
        report.info_table(
            {
                "format": "fer-codebook",
                "version": 1,
                "parents": {"model": "9bc2"},
                "config": {"k": list(range(40)), "seed": 0, "memory": None, "rate": 0.002},
                "content": {"share": 0.123456789, "classes": ["bed", "[red]chair"], "skipped": []},
            }
        )
    )
    assert re.search(r"^format +fer-codebook", text, re.MULTILINE)
    assert re.search(r"^  model +9bc2", text, re.MULTILINE)
    assert "… (40)" in text
    assert re.search(r"^  share +0\.1235", text, re.MULTILINE)
    assert re.search(r"^  rate +0\.002", text, re.MULTILINE)
    assert "bed, [red]chair" in text
    assert re.search(r"^  memory +–", text, re.MULTILINE)
    assert re.search(r"^  skipped +–", text, re.MULTILINE)


def test_info_table_shows_records_as_rows_with_as_many_decimals_as_they_need():
    layers = [
        {"k": 60, "layer": "[red]conv1", "used": 49.3298, "explained": 0.83339},
        {"k": 50, "layer": "conv2", "used": 50.0, "explained": None},
    ]
    text = printed(report.info_table({"id": "3fa1", "content": {"layers": layers}}))
    lines = [line.split() for line in text.split("\n") if "─" not in line]
    start = lines.index(["layers"])
    assert lines[start + 1 : start + 4] == [
        ["layer", "k", "used", "explained"],
        ["[red]conv1", "60", "49.33", "0.8334"],
        ["conv2", "50", "50.00", "–"],
    ]


def test_info_table_shows_records_with_names_as_rows():
    text = printed(report.info_table({"classes": {"bed": {"train": 515, "test": 100}, "sofa": {"train": 680}}}))
    lines = [line.split() for line in text.split("\n") if "─" not in line]
    assert lines[1:4] == [["train", "test"], ["bed", "515", "100"], ["sofa", "680", "–"]]
    apart = printed(report.info_table({"config": {"network": {"k": 1}, "training": {"seed": 0}}}))
    assert re.search(r"^    seed +0", apart, re.MULTILINE)


def test_several_diagnoses_are_a_line_each_the_most_suspicious_first():
    answers = [
        report.diagnosis_json(diagnosis_of(sample=name, suspicion=Suspicion(score, 0.125), **changes), report=None)
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
        "shares": {"correct": {"n": 7, "layers": layers}},
    }
    text = printed(report.figures_table(answer))
    assert text.startswith("the first of each\n")
    assert "fig2  f/fig2.png: chair_1, bed_2\n" in text
    assert "fig3  no such sample in the split\n" in text
    assert "correct, 7: share whose clusters speak for the true | predicted class" in text
    assert re.search(r"^conv1 +0\.25 \| – +0\.25 \| – *$", text, re.MULTILINE)
