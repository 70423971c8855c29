from dataclasses import replace

import numpy as np
import pytest

from fer_cli.errors import UsageError
from fer_cli.model import PRESETS, NetworkConfig
from fer_cli.planted import (
    CODE_DISTANCE,
    CORRECT,
    FEATURE,
    GRAFT,
    MISCLASSIFIED,
    WEIGHT,
    Attempt,
    Finding,
    Planting,
    locations_over,
    plant_faults,
    summarise_planted,
)
from fer_cli.repair_study import LayerRepairs, Repairs, repair_counts, study_repairs, summarise_repairs
from fer_cli.resampling import mean_with_interval, shape_weights
from fer_cli.run import Run


def test_middles_of_the_receptive_fields_fill_the_grid_side_by_side() -> None:
    config = NetworkConfig(PRESETS["smoke"], ("p", "q"), 32)
    voxels = np.zeros((32, 32, 32), bool)
    voxels[9, 17, 31] = True
    for layer, step in (("conv1", 2), ("conv2", 4), ("conv3", 8), ("conv4", 16)):
        found = np.flatnonzero(locations_over(config, layer, voxels))
        shape = (32 // step,) * 3
        assert found.tolist() == [np.ravel_multi_index((9 // step, 17 // step, 31 // step), shape)]


def test_planted_faults_name_layers_and_places(run: Run) -> None:
    planting = plant_faults(run, per_layer=3, split="test", seed=1)
    assert planting.attempts == ()  # boxes have no tables to put a back on
    unplanted = [each for each in planting.findings if each.kind in (CORRECT, MISCLASSIFIED)]
    assert sorted(each.shape for each in unplanted) == sorted(run.voxels.names[i] for i in run.voxels.indices("test"))
    found = planting.findings[len(unplanted) :]
    assert {each.kind for each in found} <= {FEATURE, WEIGHT}
    names = run.network.config.layer_names
    for each in found:
        assert names[each.planted] == each.layer
        assert 0 <= each.blamed < len(names)
        assert 0 <= each.departed < len(names)
        assert 0 < each.p_value <= 1
        assert all(0 <= value <= 1 for value in (*each.overlap.values(), *each.rank.values()))
        assert bool(each.overlap) == (each.kind == FEATURE and each.layer in ("conv1", "conv2"))
        assert not each.overlap or CODE_DISTANCE in each.overlap
    assert repr(planting) == repr(plant_faults(run, per_layer=3, split="test", seed=1))  # nan is nan


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


def test_rows_of_one_shape_are_drawn_together() -> None:
    weights = shape_weights(["a", "b", "a", "c"], draws=50)
    assert (weights[0] == 1).all()
    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[1:, [0, 1, 3]].sum(axis=1) == 3).all()
    once, twice = (
        mean_with_interval(np.array(values), shape_weights(names, seed=2))
        for values, names in (([0.0, 1, 1, 0, 1], list("abcde")), ([0.0, 1, 1, 0, 1] * 2, list("abcde" * 2)))
    )
    assert once == twice  # seeds that say the same add nothing


def test_normalised_score_is_between_random_and_oracle() -> None:
    rates = {"random": [0.0, 0.2], "oracle": [0.4, 0.8], "donor_path": [0.2, 0.5], "grad_cam": [0.0, 0.2]}
    table = {name: np.tile(rate, (4, 1)) for name, rate in rates.items()}
    layer = LayerRepairs(8, (1, 2), {"label": table}, {"donor_path": np.zeros((4, 2))}, {"own": np.zeros((3, 2))})
    study = Repairs(("a", "b", "c", "d"), ("e", "f", "g"), np.array([True, True, False, True]), {"conv1": layer})
    found = summarise_repairs([study, study])
    assert (found["n_errors"], found["runs"], found["implied_class_is_true"]) == (8, 2, 0.75)
    rows = found["layers"]["conv1"]["donors"]["label"]
    assert rows["donor_path"]["normalised"] == pytest.approx((0.35 - 0.1) / (0.6 - 0.1))
    assert rows["grad_cam"]["ours_less"] == pytest.approx(0.5)
    assert rows["grad_cam"]["ours_less_ci"] == pytest.approx([0.5, 0.5])
    assert "normalised" not in rows["oracle"]


def test_study_of_the_tiny_run(run: Run) -> None:
    found = study_repairs(run, split="test")
    assert len(found.errors) >= 1
    assert set(found.layers) == {"conv1", "conv2"}
    for layer in found.layers.values():
        assert layer.counts == repair_counts(layer.locations)
        for table in layer.repaired.values():
            assert all(values.shape == (len(found.errors), len(layer.counts)) for values in table.values())
            best = table["oracle"]
            assert all((best >= values - 1e-9).all() for name, values in table.items() if name != "random")
            assert (np.diff(best, axis=1) >= 0).all()
        assert layer.broken["own"].shape == (len(found.correct), len(layer.counts))


def test_study_without_mistakes_is_refused(run: Run) -> None:
    correct = [run.voxels.index_of(name) for name in study_repairs(run, split="test").correct]
    with pytest.raises(UsageError, match="no sample is misclassified"):
        study_repairs(run, samples=np.array(correct))
