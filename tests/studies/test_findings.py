from dataclasses import replace

import pytest

from fer_cli.studies.findings import (
    CORRECT,
    DOSE,
    FEATURE,
    GRAFT,
    MISCLASSIFIED,
    WEIGHT,
    Attempt,
    Finding,
    Planting,
    summarise_planted,
)


def test_hits_and_places_are_counted() -> None:
    fault = Finding(FEATURE, "a", "q", 1, 1, 1, 0.01, 0.5, {"x": 1.0}, {"x": 0.25})
    rows = (
        fault,
        replace(fault, shape="b", blamed=2, overlap={"x": 0.0}),
        replace(fault, shape="c", blamed=3, departed=0, p_value=0.5),
    )
    unplanted = (Finding(CORRECT, "d", "", p_value=0.05), Finding(CORRECT, "e", "", p_value=0.06))
    tries = tuple(Attempt(GRAFT, "table", "chair", turned) for turned in (True, False, True))
    plantings = [Planting(rows[:2], tries[:1]), Planting((*rows[2:], *unplanted), tries[1:])]
    found = summarise_planted(plantings, layers=("p", "q", "r", "s"))
    assert found["grafts"] == {GRAFT: {"chair on table": {"tried": 3, "turned": 2}}}
    assert set(found["unplanted"]) == {CORRECT}
    assert (found["unplanted"][CORRECT]["n"], found["unplanted"][CORRECT]["significant"]) == (2, 0.5)
    hits = found["layer"][FEATURE]["all"]
    assert (hits["n"], hits["chance"]) == (3, 0.25)
    assert (hits["hit"], hits["near"]) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert hits["hit_ci"][0] == 0
    # The third fault departs at the neighbour of its layer, but not significantly: it is no hit, and not near.
    assert (hits["departure_hit"], hits["departure_near"]) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert hits["significant"] == pytest.approx(2 / 3)
    assert found["weights_by_dose"] == []
    places = found["location"][FEATURE]["q"]
    assert places["rankings"]["x"]["iou"] == pytest.approx(2 / 3)
    assert places["rankings"]["x"]["rank"] == pytest.approx(0.25)
    assert places["chance_iou"] == pytest.approx(1 / 3)


def test_answers_are_counted_by_what_was_planted() -> None:
    """The departure decides where it is significant, else where the evidence turns; the lowest layer is the input."""
    fault = Finding(FEATURE, "a", "q", 1, blamed=0, departed=1, p_value=0.05)
    graft = Finding(GRAFT, "e", "p", None, blamed=0, departed=3, p_value=0.06)
    findings = [
        fault,  # departs at q: named
        replace(fault, shape="b", p_value=0.06),  # the evidence says the input
        replace(fault, shape="c", p_value=0.06, blamed=1),  # the evidence turns at q: named
        replace(fault, shape="d", layer="r", planted=2),  # departs at q, planted at r
        replace(fault, kind=WEIGHT, layer="s", planted=3, departed=3),
        graft,
        replace(graft, layer="q"),  # the same graft at another layer
        replace(graft, shape="f", p_value=0.01),
        Finding(CORRECT, "g", "", departed=2, p_value=0.9),
        Finding(CORRECT, "h", "", departed=2, p_value=0.01),
        Finding(MISCLASSIFIED, "i", "", blamed=2, departed=2, p_value=0.9),
        Finding(MISCLASSIFIED, "j", "", blamed=0, departed=2, p_value=0.9),
    ]
    shares = summarise_planted([Planting(tuple(findings))], layers=("p", "q", "r", "s"))["answer"]
    assert shares == {
        FEATURE: {"all": [0.5, 4], "q": [pytest.approx(2 / 3), 3], "r": [0, 1]},
        WEIGHT: {"all": [1, 1], "s": [1, 1]},
        GRAFT: {"input": [0.5, 2]},
        CORRECT: {"layer": [0.5, 2], "input": [0, 2], "none": [0.5, 2]},
        MISCLASSIFIED: {"layer": [0.5, 2], "input": [0.5, 2], "none": [0, 2]},
    }


def test_a_departure_counts_only_where_it_is_significant() -> None:
    fault = Finding(FEATURE, "a", "q", 1, 1, 1, 0.05)
    rows = (fault, replace(fault, shape="b", p_value=0.051), replace(fault, shape="c", departed=2))
    [hits] = {
        name: of["all"] for name, of in summarise_planted([Planting(rows)], layers="pqr")["layer"].items()
    }.values()
    assert (hits["departure_hit"], hits["departure_near"]) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert (hits["hit"], hits["significant"]) == (1.0, pytest.approx(2 / 3))


def test_chance_is_how_often_a_layer_is_named_for_faults_elsewhere() -> None:
    at_q = Finding(WEIGHT, "a", "q", 1, 1, 1, 0.01)
    at_r = replace(at_q, layer="r", planted=2)  # whose fault is named, and blamed, at q
    rows = (at_q, at_r, replace(at_r, shape="b", departed=2), replace(at_r, shape="c", p_value=0.5, blamed=2))
    found = summarise_planted([Planting(rows)], layers=("p", "q", "r", "s"))["layer"][WEIGHT]
    assert found["q"]["departure_chance"] == pytest.approx(1 / 3)
    assert found["q"]["hit_chance"] == pytest.approx(2 / 3)
    assert (found["r"]["departure_chance"], found["r"]["hit_chance"]) == (0, 0)
    assert found["all"]["departure_chance"] == pytest.approx(1 / 12)
    assert found["all"]["chance"] == 0.25
    alone = summarise_planted([Planting(rows[:1])], layers=("p", "q"))["layer"][WEIGHT]
    assert (alone["q"]["departure_chance"], alone["q"]["hit_chance"]) == (None, None)


def test_the_rate_at_each_dose_counts_significant_hits_of_all_samples() -> None:
    weak = Finding(DOSE, "a", "p", 0, None, 0, 0.2, dose=0.5, turned=False)
    strong = replace(weak, p_value=0.01, dose=2.0)
    rows = (weak, replace(weak, layer="q", planted=1), strong, replace(strong, layer="q", planted=1, turned=True))
    one, two = summarise_planted([Planting(rows)], layers=("p", "q"))["weights_by_dose"]
    assert (one["dose"], one["rate"], one["n"], one["chance"], one["turned"]) == (0.5, 0, 2, 0, 0)
    assert (two["dose"], two["rate"], two["chance"], two["turned"]) == (2.0, 0.5, 0.5, 0.5)
    assert two["by_layer"] == {"p": 1.0, "q": 0.0}
    assert two["rate_ci"] == [0.5, 0.5]  # one shape
