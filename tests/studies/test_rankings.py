import numpy as np
import pytest
import torch

from fer_cli.diagnosis.replacement import Replacement
from fer_cli.network.activations import encode
from fer_cli.run import Run
from fer_cli.studies import rankings as attribution
from fer_cli.studies.rankings import conductance, integrated_gradients, mean_feature, occlusion, rankings

LAYER = "conv1"


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
