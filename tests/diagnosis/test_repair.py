import math

import numpy as np
import pytest
import torch

from fer_cli.diagnosis import attribution, repair
from fer_cli.diagnosis.attribution import (
    conductance,
    donor_path,
    integrated_gradients,
    mean_feature,
    occlusion,
    rankings,
)
from fer_cli.diagnosis.diagnosis import explain
from fer_cli.diagnosis.donors import Donors
from fer_cli.diagnosis.replacement import Replacement, highest
from fer_cli.network.activations import FEEDFORWARD, encode
from fer_cli.run import Run
from networks import SMOKE

LAYER = "conv1"


@pytest.fixture
def edit(run: Run) -> Replacement:
    """Three shapes of the tiny run at conv1, their features to be replaced by those of three others."""
    volumes = run.voxels.tensor([0, 25, 50, 10, 30, 45])
    features = encode(run.network, volumes)[LAYER]
    wanted, given = torch.tensor([2, 0, 1]), torch.tensor([0, 1, 2])
    return Replacement(run.network.backbone, LAYER, volumes[:3], features[:3], features[3:], wanted, given)


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


def test_path_to_the_donor_sums_to_what_replacing_everything_gains(edit: Replacement) -> None:
    """Completeness, Sundararajan et al., 2017; Riemann's error at 400 steps is below a hundredth of a nat here."""
    everything = torch.ones(3, edit.locations, dtype=torch.bool)
    assert donor_path(edit, 400).sum(1).tolist() == pytest.approx(edit.gains(everything).tolist(), abs=0.01)


def test_integrated_gradients_and_conductance_sum_to_what_the_shape_adds_to_the_empty_grid(
    run: Run, edit: Replacement
) -> None:
    grids = run.voxels.tensor([0, 25, 50])
    empty = encode(run.network, torch.zeros_like(grids[:1]))[LAYER]
    added = edit.log_odds(edit.logits(empty.expand_as(edit.feature))) - edit.log_odds(edit.logits(edit.feature))
    assert integrated_gradients(edit, empty, 400).sum(1).tolist() == pytest.approx(added.tolist(), abs=0.01)
    assert conductance(edit, 400).sum(1).tolist() == pytest.approx(added.tolist(), abs=0.02)


@pytest.mark.filterwarnings("ignore")
def test_integrated_gradients_and_conductance_agree_with_captum(run: Run, edit: Replacement) -> None:
    attr = pytest.importorskip("captum.attr", reason="captum is not installed (pip install fer-cli[attribution])")
    grids = run.voxels.tensor([0, 25, 50])
    empty = encode(run.network, torch.zeros_like(grids[:1]))[LAYER].clone()
    encoder, rows = run.network.backbone, torch.arange(3)

    def odds(inputs: torch.Tensor) -> torch.Tensor:
        logits, copies = encoder(inputs), len(inputs) // 3
        # Captum puts the copies of the batch one after another.
        chosen = rows.repeat(copies)
        return (
            logits[torch.arange(len(logits)), edit.given[chosen]]
            - logits[torch.arange(len(logits)), edit.wanted[chosen]]
        )

    layer = encoder.blocks[LAYER]
    for kind, found in (
        (attr.LayerIntegratedGradients, integrated_gradients(edit, empty, 64)),
        (attr.LayerConductance, conductance(edit, 64)),
    ):
        expected = kind(odds, layer).attribute(grids, torch.zeros_like(grids), n_steps=64, method="riemann_middle")
        expected = expected.detach().sum(1).flatten(1)
        # Conductance takes its steps elsewhere than Captum's, so only the limit is the same.
        assert torch.allclose(found, expected, atol=0.03 * float(expected.abs().max()))


def test_occlusion_agrees_with_a_loop(edit: Replacement, monkeypatch: pytest.MonkeyPatch) -> None:
    filling = torch.full_like(edit.feature[:1], 0.5)
    found = occlusion(edit, filling)
    for location in (0, 17, 63):
        feature = edit.feature.clone()
        x, y, z = np.unravel_index(location, (4, 4, 4))
        feature[:, :, x, y, z] = 0.5
        gain = edit.log_odds(edit.logits(feature)) - edit.log_odds(edit.logits(edit.feature))
        assert torch.allclose(found[:, location], gain, atol=1e-5)
    monkeypatch.setattr(attribution, "_BLOCKS", 8)
    cubes = occlusion(edit, filling).view(3, 2, 2, 2, 2, 2, 2)
    assert torch.equal(cubes[:, :, 0, :, 0, :, 0], cubes[:, :, 1, :, 1, :, 1])


def test_mean_feature_is_the_mean_of_the_clustered_samples(run: Run) -> None:
    held = run.model.read("validation/index")
    fitted = np.setdiff1d(run.voxels.indices("train"), held)
    expected = encode(run.network, run.voxels.tensor(fitted))["conv2"].mean(0, keepdim=True)
    # Centroids are of features in half precision.
    assert torch.allclose(mean_feature(run.codebook, "conv2"), expected, atol=5e-3)


def test_every_ranking_scores_every_location(run: Run, edit: Replacement) -> None:
    empty = encode(run.network, torch.zeros(1, 1, 8, 8, 8))[LAYER]
    for score in rankings(run.codebook, empty).values():
        found = score(edit)
        assert found.shape == (3, 64)
        assert torch.isfinite(found).all()


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
