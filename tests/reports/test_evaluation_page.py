import copy
import html
import json
import re
from pathlib import Path
from typing import Any

import pytest

from fer_cli.errors import ResourceError
from fer_cli.evaluation.results import Evaluation
from fer_cli.reports.evaluation_page import write_evaluation_page


@pytest.fixture(scope="module")
def found(evaluated: Evaluation) -> dict[str, Any]:
    return copy.deepcopy(dict(evaluated))


def without_script(page: Path) -> str:
    source = page.read_text(encoding="utf-8").replace("<wbr>", "")
    text = re.sub(r"<(script|style)\b.*?</\1>", "", source, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())


def charts_of(page: Path) -> dict[str, Any]:
    facts = re.search(r'<script type="application/json" id="facts">(.*?)</script>', page.read_text(encoding="utf-8"))
    assert facts is not None
    charts: dict[str, Any] = json.loads(facts[1])["charts"]
    return charts


def test_the_page_tells_the_figures_of_the_result(found: dict[str, Any], tmp_path: Path) -> None:
    text = without_script(write_evaluation_page(found, tmp_path / "test.html"))
    assert f"{found['n_errors']} of {found['n']} samples misclassified" in text
    assert f"{found['accuracy']:.4f}" in text
    assert "combined" not in text  # an older name of suspicion
    for name in found["detection"].keys() - {"combined"}:
        row = found["detection"][name]
        assert re.search(rf"{re.escape(name)} {row['kind']} {row['auroc']:.3f} ", text), name
    for claim in found["claims"]:
        assert claim["claim"] in text
    alarms = found["false_alarms"]
    rates = " ".join(f"{row['rate']:.3f} of {row['n']}" for row in alarms.values())
    assert f"by {' '.join(alarms)} correct samples {rates} expected" in " ".join(text.split())
    for mistake in found["misclassified"]:
        assert f"{mistake['sample']} {mistake['label']} {mistake['predicted']} {mistake['cause']}" in text


def test_the_page_begins_with_groups_and_tells_what_may_be_trusted(found: dict[str, Any], tmp_path: Path) -> None:
    causes = {
        "planted": {
            "pose": {"n": 9, "right": 0.778, "ci": [0.45, 0.94]},
            "none": {"n": 5, "right": 1.0, "ci": [0.6, 1.0]},
        },
        "doses": [{"kind": "noise", "dose": 0.05, "tried": 24, "n": 12, "right": 0.917, "ci": [0.65, 0.99]}],
    }
    text = without_script(write_evaluation_page(found | {"cause_scores": causes}, tmp_path / "test.html"))
    assert found["groups"]
    for group in found["groups"]:
        assert group["title"] in text
        assert group["remedy"] in text
        assert ", ".join(group["samples"]) in text
    assert text.index(found["groups"][0]["title"]) < text.index("Does a score tell mistakes")
    for question in found["trust"]:
        assert question["question"] in text
        assert question["follows"] in text
    assert "pose 9 0.78 0.45 to 0.94" in text
    assert "none: correct samples 5 1.00 0.60 to 1.00" in text
    assert "noise 0.05 24 12 0.92 0.65 to 0.99" in text


def test_the_page_holds_all_it_shows_and_its_charts_the_curves(found: dict[str, Any], tmp_path: Path) -> None:
    page = write_evaluation_page(found, tmp_path / "new" / "test.html")
    assert page.stat().st_size < 8e6
    assert not re.search(r"https?://", page.read_text(encoding="utf-8"))
    charts = charts_of(page)
    assert set(charts) == {"chart-roc", "chart-risk", "chart-auroc"}
    for chart in ("chart-roc", "chart-risk"):
        assert [line["name"] for line in charts[chart]["data"]] == list(found["curves"])
    for dots in charts["chart-auroc"]["data"]:
        for name, value in zip(dots["y"], dots["x"], strict=True):
            assert value == pytest.approx(found["detection"][name]["auroc"], abs=1e-4)


def test_names_from_files_are_escaped(found: dict[str, Any], tmp_path: Path) -> None:
    hostile = '</script><img src=x onerror="alert(1)"> 😀'
    named = copy.deepcopy(found)
    named["runs"] = [{**run, "run": hostile} for run in named["runs"] * 2]
    first, *others = named["per_class_accuracy"].items()
    named["per_class_accuracy"] = dict([(hostile, first[1]), *others])
    named["misclassified"][0] |= {"sample": hostile, "label": hostile, "predicted": hostile}
    page = write_evaluation_page(named, tmp_path / "test.html")
    assert "<img" not in page.read_text(encoding="utf-8")
    assert without_script(page).count(hostile) >= 5


def test_without_mistakes_the_page_says_what_cannot_be_computed(found: dict[str, Any], tmp_path: Path) -> None:
    nothing: dict[str, Any] = {"undefined": "no sample is misclassified.", "comparisons": [], "added_to_softmax": []}
    empty = copy.deepcopy(found) | nothing | {"curves": {}, "misclassified": []}
    empty["table1"]["misclassified"] = empty["errors_norm"]["misclassified"] = None
    for row in empty["detection"].values():
        row.update({key: None for key in row if key != "kind"})
    page = write_evaluation_page(empty, tmp_path / "test.html")
    assert "No sample is misclassified." in without_script(page)
    assert charts_of(page) == {}
    assert page.stat().st_size < 1e5


def test_a_folder_that_cannot_be_made_is_a_resource_error(found: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot write"):
        write_evaluation_page(found, tmp_path / "file" / "test.html")
