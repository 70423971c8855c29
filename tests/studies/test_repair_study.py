import numpy as np
import pytest
import torch

from fer_cli.diagnosis.replacement import Replacement
from fer_cli.errors import UsageError
from fer_cli.run import Run
from fer_cli.studies import repair_study
from fer_cli.studies.repair_study import LayerRepairs, Repairs, _greedy, repair_counts, study_repairs, summarise_repairs


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


def slow_greedy(edit: Replacement, row: int, klass: int, most: int) -> int | None:
    """How many locations one sample needs by the rule of `_greedy`, each tried alone; None beyond `most`."""
    one = edit.rows(torch.tensor([row]))
    chosen: list[int] = []

    def with_locations(places: list[int]) -> torch.Tensor:
        where = torch.zeros(1, edit.locations, dtype=torch.bool)
        where[0, places] = True
        return one.logits(one.replaced(where))

    while len(chosen) < most:
        others = [place for place in range(edit.locations) if place not in chosen]
        gains = {place: float(one.log_odds(with_locations([*chosen, place]))) for place in others}
        best = sorted(others, key=lambda place: -gains[place])
        chosen += best[: min(max(1, len(chosen) // 4), most - len(chosen))]
        if int(with_locations(chosen).argmax()) == klass:
            return len(chosen)
    return None


def test_greedy_repairs_many_samples_as_each_alone(edit: Replacement) -> None:
    counts = (1, 2, 6, 12)
    for klass in range(3):
        true = torch.full((len(edit),), klass)
        found = _greedy(edit, true, counts)
        for row in range(len(edit)):
            needed = slow_greedy(edit, row, klass, counts[-1])
            assert found[row].tolist() == [needed is not None and needed <= count for count in counts]


def test_greedy_in_a_large_layer_repairs_many_samples_as_each_alone(
    edit: Replacement, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repair_study, "_SMALL", 8)
    counts = (1, 4, 16, 64)
    for klass in range(3):
        true = torch.full((len(edit),), klass)
        together = _greedy(edit, true, counts)
        alone = [_greedy(edit.rows(torch.tensor([row])), true[:1], counts)[0] for row in range(len(edit))]
        assert together.tolist() == [each.tolist() for each in alone]
