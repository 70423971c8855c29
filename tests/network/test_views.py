import numpy as np
import pytest
import torch

from fer_cli.data.augmentation import Augmentation
from fer_cli.data.volumes import InputSpec
from fer_cli.errors import UsageError
from fer_cli.network.activations import predict, predict_variations
from fer_cli.network.precision import mixed_precision
from fer_cli.network.views import Views, views_from, views_of
from fer_cli.run import Run

VARIED = Augmentation(shift=1, mirror="xy", rotation=20.0, stretch=0.1)
TRAINED = {"training": {"augmentation": {"shift": 3, "mirror": True}}}


def test_probabilities_are_the_mean_over_the_sample_and_its_variations(run: Run) -> None:
    volumes = run.voxels.tensor(run.voxels.indices("test")[:5])
    drawn = VARIED.draw(3, torch.Generator().manual_seed(7))
    found = Views(4, VARIED, seed=7).probabilities(run.network, volumes)
    for volume, of in zip(volumes, found, strict=True):
        seen = torch.cat([volume[None], drawn.apply(volume.expand(3, *volume.shape).contiguous())])
        np.testing.assert_allclose(of, predict_variations(run.network, seen).mean(axis=0), atol=1e-6)
    assert np.abs(found - Views(4, VARIED, seed=8).probabilities(run.network, volumes)).max() > 1e-6


def test_variations_are_read_in_the_precision_that_the_network_was_trained_in(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    volumes, backbone = run.voxels.tensor(run.voxels.indices("test")), run.network.backbone
    plain = predict(run.network, volumes)
    with mixed_precision(backbone.device):
        trained = predict(run.network, volumes)
    np.testing.assert_array_equal(predict_variations(run.network, volumes), trained)
    np.testing.assert_allclose(trained, plain, atol=0.02)
    assert (np.abs(trained - plain).max() > 1e-5) == torch.ops.mkldnn._is_mkldnn_bf16_supported()
    monkeypatch.setattr(type(backbone), "takes_mixed_precision", False)  # as any other network
    np.testing.assert_array_equal(predict_variations(run.network, volumes), plain)


def test_a_sample_says_the_same_whatever_is_read_with_it(run: Run) -> None:
    volumes = run.voxels.tensor(run.voxels.indices("test")[:5])
    views = Views(6, VARIED)
    together = views.probabilities(run.network, volumes)
    for row, volume in enumerate(volumes):
        np.testing.assert_array_equal(views.probabilities(run.network, volume[None])[0], together[row])


@pytest.mark.parametrize("views", [Views(1, VARIED), Views(24, Augmentation()), Views(24, Augmentation(edge=True))])
def test_what_does_not_vary_is_the_prediction_itself(views: Views, run: Run) -> None:
    volumes = run.voxels.tensor(run.voxels.indices("test")[:3])
    assert not views.vary
    np.testing.assert_array_equal(views.probabilities(run.network, volumes), predict(run.network, volumes))


def test_defaults_are_the_trained_variations_and_fewer_views_of_large_volumes() -> None:
    small, large = InputSpec(1, (48, 48, 48)), InputSpec(1, (64, 48, 48), "intensity")
    assert views_of(TRAINED, small) == Views(24, Augmentation(shift=3, mirror="xy"))
    assert views_of(TRAINED, large) == Views(8, Augmentation(shift=3, mirror="xy"))
    asked = views_of(TRAINED, large, number=5, vary="mirror,turn,shift=1")
    assert asked == Views(5, Augmentation(shift=1, mirror="xy", rotation=10.0, edge=True))
    assert views_from(asked.to_json()) == asked
    assert views_from(None) is None


@pytest.mark.parametrize("number", [0, -3, 361])
def test_a_number_of_views_that_cannot_be_taken_is_refused(number: int) -> None:
    with pytest.raises(UsageError, match=f"{number} views cannot be taken"):
        Views(number, VARIED)
