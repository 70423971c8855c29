import math

import numpy as np
import pytest
import torch

from fer_cli.evaluation import resemblance
from fer_cli.evaluation.resemblance import nearest_other_errors
from fer_cli.run import Run


@torch.inference_mode()
def slowly(run: Run, indices: np.ndarray, others: np.ndarray) -> list[float]:
    """Sample by sample, with the reconstructions decoded one at a time."""
    network, layer = run.network, run.network.spec.local_layer
    local = {}
    for index in others.tolist():
        feature = network.backbone.features(run.voxels.tensor([index]), [layer])[layer]
        local[index] = network.reconstruct(feature, layer)[0].numpy().astype(np.float64)
    return [
        min(float(np.square(run.voxels.volumes([i])[0] - local[j]).sum()) for j in local if j != i)
        for i in indices.tolist()
    ]


def test_the_nearest_reconstruction_of_another_sample_is_found(run: Run) -> None:
    indices = run.voxels.indices("test")
    found = nearest_other_errors(run.network, run.voxels, indices)
    assert found == pytest.approx(slowly(run, indices, indices), rel=1e-4)


def test_where_memory_is_short_the_others_are_evenly_spaced(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resemblance, "_NUMBERS", 3 * math.prod(run.voxels.input.volume))
    indices = run.voxels.indices("test")
    others = indices[[0, round((len(indices) - 1) / 2), -1]]
    found = nearest_other_errors(run.network, run.voxels, indices)
    assert found == pytest.approx(slowly(run, indices, others), rel=1e-4)


def test_a_sample_alone_has_no_other(run: Run) -> None:
    assert np.isnan(nearest_other_errors(run.network, run.voxels, run.voxels.indices("test")[:1])).all()
