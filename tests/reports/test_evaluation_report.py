import copy
import io
import re
from typing import Any

import pytest
from rich.console import Console

from fer_cli.reports.evaluation_report import evaluation_report
from fer_cli.run import Run
from fer_cli.studies.evaluate import evaluate


def printed(evaluation: dict[str, Any]) -> str:
    console = Console(width=80, file=io.StringIO())
    console.print(evaluation_report(evaluation))
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def found(run: Run) -> dict[str, Any]:
    return evaluate(run, votes=2, sanity=True, planted=True)


def test_the_report_fits_a_terminal_and_cuts_nothing_off(found: dict[str, Any]) -> None:
    text = printed(found)
    assert max(map(len, text.split("\n"))) <= 80
    assert "…" not in text


def test_the_report_tells_the_figures_of_the_result(found: dict[str, Any]) -> None:
    text = printed(found)
    assert f"test: {found['n']} samples, {found['n_errors']} misclassified" in text
    assert f"{found['accuracy']:.4f}" in text
    assert "by a vote of 2 views" in text
    assert "combined" not in text  # an older name of suspicion
    for name in ("suspicion", "max_softmax", "nearest_grid"):
        assert re.search(rf"^{name} +{found['detection'][name]['auroc']:.3f} ", text, re.MULTILINE), name
    for claim in found["claims"]:
        assert claim["claim"] in " ".join(text.split())
    hits = found["planted"]["layer"]["feature"]["all"]
    named = found["planted"]["answer"]["feature"]["all"][0]
    figures = rf"{hits['n']} +{named:.2f} +{hits['departure_hit']:.2f} .* {hits['hit']:.2f} *$"
    assert re.search(rf"^feature +all +{figures}", text, re.MULTILINE)
    assert f"by the mean over 24 views: accuracy {found['views']['accuracy']:.4f}" in " ".join(text.split())
    assert "correct samples, nothing planted" in text
    assert found["sanity"][0]["findings"][0] in " ".join(text.split())


def test_the_best_score_of_a_kind_comes_first(found: dict[str, Any]) -> None:
    text = printed(found).partition("baselines, the best first")[2].partition("trivial")[0]
    values = [float(value) for value in re.findall(r"^\w+ +(\d\.\d{3}) +(?:\d\.\d{3} to|–)", text, re.MULTILINE)]
    assert len(values) > 10
    assert values == sorted(values, reverse=True)


def test_what_is_not_defined_is_a_dash_and_the_reason_is_said(found: dict[str, Any]) -> None:
    empty = copy.deepcopy(found)
    empty |= {"undefined": "no sample is misclassified.", "comparisons": [], "added_to_softmax": [], "votes": None}
    empty["table1"]["misclassified"] = empty["errors_norm"]["misclassified"] = None
    for row in empty["detection"].values():
        row.update({key: None for key in row if key != "kind"})
    text = printed(empty)
    assert "no sample is misclassified." in text
    assert re.search(r"^max_softmax +– +– +– +– +–", text, re.MULTILINE)
    assert re.search(r"misclassified\W+–\W+–\W+–\W+–\W+–", text)
    assert "vote" not in text


def test_layers_of_the_figures_are_apart_and_what_cannot_be_otherwise_is_marked(found: dict[str, Any]) -> None:
    text = " ".join(printed(found).partition("what the paper claims")[2].split())
    claim = "Feedback clusters of misclassified samples show the predicted class"
    shown, others = f"{claim}, layers of Figs 4 and 6:", f"{claim}, other layers:"
    assert text.index(shown) < text.index(others)
    assert re.search(r"(borne out|undecided), by construction", text.partition(shown)[2])
    free = text.partition("Local reconstructions resemble the input regardless")[2].partition("Feedforward")[0]
    assert "between 0.8 and 1.25" in free
    assert "by construction" not in free


def test_repair_is_a_row_for_each_ranking_and_says_where_ours_is_ahead(found: dict[str, Any]) -> None:
    def layer(other: float, least: float) -> dict[str, Any]:
        ranked = {"normalised": other, "ours_less": 0.5, "ours_less_ci": [least, 0.9]}
        return {"donors": {"label": {"donor_path": {"normalised": 0.75}, "grad_cam": ranked, "oracle": {}}}}

    repair = {"n_errors": 8, "layers": {"conv1": layer(0.25, 0.125), "conv2": layer(0.5, -0.25)}}
    text = printed(found | {"repair": repair}).partition("repair of 8 mistakes")[2]
    assert re.search(r"^blame by +conv1 +conv2 +ours ahead at *$", text, re.MULTILINE)
    assert re.search(r"^donor_path +0\.75 +0\.75 *$", text, re.MULTILINE)
    assert re.search(r"^grad_cam +0\.25 +0\.50 +conv1 *$", text, re.MULTILINE)
    assert "oracle  " not in text


def test_planted_faults_are_a_row_for_each_kind_and_layer(found: dict[str, Any]) -> None:
    row = {"n": 12, "hit": 0.75, "hit_ci": [0.5, 0.9], "departure_hit": 0.25, "departure_hit_ci": None, "chance": 0.2}
    planted = {
        "answer": {
            "feature": {"conv1": [0.5, 12]},
            "graft": {"conv2": [0.125, 12]},
            "correct": {"layer": [0.25, 30], "input": [0.0, 30], "none": [0.75, 30]},
        },
        "layer": {"feature": {"conv1": row}, "graft": {"conv2": row | {"hit": None, "hit_ci": None}}},
        "unplanted": {"correct": {"n": 30, "significant": 0.0625, "significant_ci": [0.0, 0.125]}},
        "grafts": {"table to chair": {"seat": {"turned": 2, "tried": 7}, "back": {"turned": 1, "tried": 4}}},
        "weights_by_dose": [
            {"dose": 0.5, "n": 64, "rate": 0.25, "rate_ci": [0.125, 0.5], "chance": None, "turned": 0.0},
        ],
    }
    text = printed(found | {"planted": planted}).partition("planted faults")[2]
    assert re.search(r"^feature +conv1 +12 +0\.50 +0\.25 +– +0\.75 *$", text, re.MULTILINE)
    assert re.search(r"^graft +conv2 +12 +0\.12 +0\.25 +– +– *$", text, re.MULTILINE)
    assert "a guess finds 0.20\n" in text
    assert re.search(r"^0\.5 +64 +0\.25 +0\.12 to 0\.50 +– +0\.00 *$", text, re.MULTILINE)
    assert "departures at 5 % of 30 correct samples, nothing planted: 0.06 (0.00 to 0.12)" in text
    assert "answers for 30 correct: layer 0.25, input 0.00, none 0.75" in text
    assert "table to chair: 3 of 11 turn the prediction" in text


def test_long_names_of_scores_are_folded_and_not_cut(found: dict[str, Any]) -> None:
    names = {"ours": "evidence_feedforward_conv3", "theirs": "evidence_feedforward_conv1", "why": "this very split"}
    difference = {"difference": -0.1234, "ci": [-0.2345, -0.0123]}
    row = found["comparisons"][0] | names | {"auroc": difference, "augrc": difference}
    text = printed(found | {"comparisons": [row]})
    assert max(map(len, text.split("\n"))) <= 80
    assert "…" not in text


def test_groups_come_first_each_with_the_command_that_explains_it(found: dict[str, Any]) -> None:
    text = printed(found)
    assert text.startswith("mistakes in groups")
    [run] = found["runs"]
    together = "".join(text.split())  # a long folder is folded
    for group in found["groups"][:6]:
        chosen = f"--errors --pair {group['true']},{group['predicted']} --cause {group['cause']}"
        wanted = chosen if group["size"] > 1 else group["samples"][0]
        assert f"fer explain {wanted} --run {run['run']}".replace(" ", "") in together
    assert " ".join(found["groups"][0]["remedy"].split()) in " ".join(text.split())


def test_groups_of_one_kind_are_explained_by_the_names_of_their_samples(found: dict[str, Any]) -> None:
    first = found["groups"][0] | {"size": 2, "samples": ["a", "b"], "title": "one"}
    other = first | {"samples": ["c", "d"], "title": "two"}
    text = "".join(printed(found | {"groups": [first, other]}).split())
    assert "ferexplainab--run" in text
    assert "ferexplaincd--run" in text
    many = first | {"size": 11, "samples": list("abcdefghijk")}
    text = "".join(printed(found | {"groups": [many, other]}).split())
    assert f"ferexplain--errors--pair{first['true']},{first['predicted']}--cause{first['cause']}" in text
    rest = [first | {"size": 1, "samples": [name], "cause": "gap"} for name in "lmn"]
    text = " ".join(printed(found | {"groups": [first] * 7 + rest}).split())
    assert "and 1 smaller group with 2 mistakes and 3 mistakes in no group" in text


def test_questions_that_were_not_measured_are_one_line_with_what_measures_them(found: dict[str, Any]) -> None:
    text = " ".join(printed(found).split())
    missing = [row for row in found["trust"] if row["verdict"] == "not measured"]
    assert len(missing) > 1
    assert text.count("not measured") == 1
    assert (
        f"not measured {len(missing)} questions, on the page; 'fer evaluate --causes --repair' measures them." in text
    )
    for row in found["trust"]:
        assert (row["question"] in text) == (row not in missing)
