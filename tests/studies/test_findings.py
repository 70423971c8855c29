from dataclasses import replace

import pytest

from fer_cli.studies.findings import (
    CORRECT,
    FEATURE,
    GRAFT,
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
    assert (hits["departure_hit"], hits["departure_near"]) == (pytest.approx(2 / 3), 1.0)
    assert hits["significant"] == pytest.approx(2 / 3)
    places = found["location"][FEATURE]["q"]
    assert places["rankings"]["x"]["iou"] == pytest.approx(2 / 3)
    assert places["rankings"]["x"]["rank"] == pytest.approx(0.25)
    assert places["chance_iou"] == pytest.approx(1 / 3)
