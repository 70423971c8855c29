import math

import numpy as np
import pytest
import torch

from fer_cli.diagnosis import repair, replacement
from fer_cli.diagnosis.donor_path import donor_path
from fer_cli.diagnosis.donors import Donors
from fer_cli.diagnosis.explain import explain
from fer_cli.diagnosis.replacement import Replacement, highest
from fer_cli.errors import UsageError
from fer_cli.network.activations import FEEDFORWARD, encode
from fer_cli.run import Run
from networks import SMOKE


def test_only_marked_locations_are_replaced_in_c_order(edit: Replacement) -> None:
    where = torch.zeros(3, edit.locations, dtype=torch.bool)
    x, y, z = 1, 2, 3
    where[1, (x * 4 + y) * 4 + z] = True
    expected = edit.feature.clone()
    expected[1, :, x, y, z] = edit.donor[1, :, x, y, z]
    assert torch.equal(edit.replaced(where), expected)
    assert torch.equal(edit.logits(edit.replaced(~(where & False))), edit.logits(edit.donor))
    assert edit.gains(where & False).abs().max() == 0


def test_highest_takes_the_first_of_equals() -> None:
    score = torch.tensor([[1.0, 3.0, 3.0, 2.0], [0.0, 0.0, 0.0, 0.0]])
    assert highest(score, 2).tolist() == [[False, True, True, False], [True, True, False, False]]


def test_gradient_is_that_of_finite_differences(edit: Replacement) -> None:
    gradient = edit.gradient(edit.feature)
    place = (0, 2, 1, 1, 2)
    step = 1e-2
    shifted = [edit.feature.clone() for _ in range(2)]
    shifted[0][place] += step
    shifted[1][place] -= step
    odds = [edit.log_odds(edit.logits(feature))[0] for feature in shifted]
    # Features are piecewise linear, so that only float32's rounding and a kink near by are left.
    assert gradient[place] == pytest.approx(float(odds[0] - odds[1]) / (2 * step), abs=2e-3)


def test_a_network_without_a_gradient_is_named(edit: Replacement, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = edit.backbone.logits
    monkeypatch.setattr(edit.backbone, "logits", lambda *args, **options: logits(*args, **options).detach())
    with pytest.raises(UsageError, match=r"no gradient between the layer 'conv1' and its output, .*require grad"):
        edit.gradient(edit.feature)


def test_path_to_the_donor_sums_to_what_replacing_everything_gains(edit: Replacement) -> None:
    """Completeness, Sundararajan et al., 2017; Riemann's error at 400 steps is below a hundredth of a nat here."""
    everything = torch.ones(3, edit.locations, dtype=torch.bool)
    assert donor_path(edit, 400).sum(1).tolist() == pytest.approx(edit.gains(everything).tolist(), abs=0.01)


def test_donor_is_the_nearest_candidate_of_its_class_that_the_network_knows(run: Run) -> None:
    donors = Donors(run.network, run.codebook, run.voxels, ("conv1", "conv2"))
    grids = run.voxels.tensor([0, 25, 50])
    features = encode(run.network, grids)
    for layer in ("conv1", "conv2"):
        found = donors.find(layer, features[layer], np.array([1, 1, 2]))
        assert run.voxels.labels[found.index].tolist() == [1, 1, 2]
        encoded = encode(run.network, run.voxels.tensor(found.index))
        assert torch.allclose(found.feature, encoded[layer], atol=1e-5)
        exemplars = run.codebook.layer(FEEDFORWARD, layer).exemplar
        assert set(found.index) <= set(exemplars.ravel().tolist())


def test_test_is_made_where_there_are_locations_to_draw_from() -> None:
    found = [repair.tested_layer(SMOKE.spec, layer) for layer in SMOKE.spec.layer_names]
    assert found == ["conv1", "conv2", "conv3", *["conv3"] * 5]


def test_repair_test_of_a_mistake_and_of_a_shape_without_label(run: Run) -> None:
    wrong = next(
        sample
        for index in run.voxels.indices("test")
        if (sample := run.sample(run.voxels.names[index])).label is not None
        and int(encode(run.network, torch.from_numpy(sample.volume)[None])["output"].argmax()) != sample.label
    )
    found = explain(run, wrong).repair
    classes = run.voxels.classes
    assert [test.chosen_by for test in found] == ["label", "evidence"]
    assert found[0].wanted == classes[wrong.label]
    for test in found:
        assert test.layer == "conv1"
        assert (test.replaced, test.locations) == (8, 64)
        assert 1 / 40 <= test.p_value <= 1
        assert test.repaired == (test.predicted == test.wanted)
        assert math.isfinite(test.gain)
        donor = run.voxels.index_of(test.donor)
        assert (classes[run.voxels.labels[donor]], run.voxels.splits[donor]) == (test.wanted, "train")
    assert explain(run, wrong).repair == found


def test_correct_shape_has_no_repair_test(run: Run) -> None:
    diagnosis = next(
        found
        for index in run.voxels.indices("test")
        if (found := explain(run, run.sample(run.voxels.names[index]))).correct
    )
    assert diagnosis.repair == ()


def test_donors_of_many_samples_are_those_of_each_alone_and_of_a_loop_over_its_candidates(run: Run) -> None:
    indices = run.voxels.indices("test")
    features = encode(run.network, run.voxels.tensor(indices))
    wanted = np.arange(len(indices)) % len(run.voxels.classes)
    for layer in ("conv1", "conv2"):
        donors = Donors(run.network, run.codebook, run.voxels, ("conv1", "conv2"))
        together = donors.find(layer, features[layer], wanted)
        for row, klass in enumerate(wanted):
            own = features[layer][row : row + 1]
            assert donors.find(layer, own, np.array([klass])).index == together.index[row]
            assert together.index[row] == slow_donor(run, layer, own[0], int(klass))
        assert torch.equal(together.feature[0], donors.find(layer, features[layer][:1], wanted[:1]).feature[0])


def slow_donor(run: Run, layer: str, feature: torch.Tensor, klass: int) -> int:
    """The rule of `donors`, location by location and candidate by candidate."""
    book, labels = run.codebook.layer(FEEDFORWARD, layer), run.voxels.labels
    votes: dict[int, int] = {}
    for location, vector in enumerate(feature.flatten(1).T.double().numpy()):
        named = [code for code, name in enumerate(book.exemplar[location]) if name >= 0 and labels[name] == klass]
        if named:
            best = min(named, key=lambda code: np.square(vector - book.centroids[location, code]).sum())
            name = int(book.exemplar[location, best])
            votes[name] = votes.get(name, 0) + 1
    candidates = sorted(votes, key=lambda name: (-votes[name], name))[:6]
    encoded = encode(run.network, run.voxels.tensor(candidates))
    right = [row for row in range(len(candidates)) if int(encoded["output"][row].argmax()) == klass]
    rows = right or range(len(candidates))
    return candidates[min(rows, key=lambda row: float((encoded[layer][row] - feature).square().sum()))]


def test_gradients_at_several_features_are_those_at_each(edit: Replacement, monkeypatch: pytest.MonkeyPatch) -> None:
    features = [edit.feature, edit.donor, (edit.feature + edit.donor) / 2, edit.feature * 0.5, edit.donor * 0.5]
    expected = [edit.gradient(feature) for feature in features]
    for batch in (64, 7, 2):  # all five together, two at a time, each alone
        monkeypatch.setattr(replacement, "BATCH", batch)
        found = list(edit.gradients(features))
        assert len(found) == len(expected)
        # Products of matrices of other sizes round otherwise.
        assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(found, expected, strict=True))
