import numpy as np
import pytest
import torch

from fer_cli.activations import (
    FEEDBACK,
    FEEDFORWARD,
    PATHS,
    batches,
    class_probabilities,
    collect,
    encode,
    feed_back,
    plan_passes,
)
from fer_cli.errors import UsageError
from fer_cli.model import OUTPUT, PRESETS, NetworkConfig
from fer_cli.run import Run


@pytest.mark.parametrize("memory", [8_192_000, 10**7, 12_345_678, 10**9, 10**12])
def test_passes_cover_each_location_once_within_memory(memory: int) -> None:
    config, samples = NetworkConfig(PRESETS["paper"], ("a", "b"), 32), 1000
    passes = plan_passes(config, samples, memory)
    covered: dict[str, list[int]] = {layer: [] for layer in config.layer_names}
    for slabs in passes:
        used = 0
        for slab in slabs:
            assert slab.start < slab.stop
            covered[slab.layer].extend(range(slab.start, slab.stop))
            used += (slab.stop - slab.start) * samples * config.level_shape(slab.layer)[0] * 4
        assert 0 < used <= memory
    for layer, locations in covered.items():
        assert locations == list(range(int(np.prod(config.level_shape(layer)[1:]))))
    if memory == 10**12:
        assert len(passes) == 1


def test_memory_too_small_for_one_location_is_refused() -> None:
    config = NetworkConfig(PRESETS["paper"], ("a", "b"), 32)
    message = r"one location of conv5 needs 8 MB for 1000 samples, more than --memory allows \(8 MB\)"
    with pytest.raises(UsageError, match=message):
        plan_passes(config, 1000, 8_191_999)


@pytest.mark.parametrize("path", PATHS)
def test_features_collected_are_those_of_the_network_for_any_plan(run: Run, path: str) -> None:
    config, network = run.network.config, run.network
    indices = np.array([5, 70, 3, 3, *range(10, 75)])  # more than one batch, unordered, repeated
    probabilities = class_probabilities(network, run.voxels, indices)
    expected = []
    for part in batches(indices):
        forward = encode(network, run.voxels.tensor(part))
        expected.append(forward if path == FEEDFORWARD else feed_back(network, forward[OUTPUT]))
    for memory in (2_500 * 4, 20_000, 10**9):
        found: dict[str, list[np.ndarray]] = {}
        for slabs in plan_passes(config, len(indices), memory):
            collected = collect(network, run.voxels, indices, path=path, slabs=slabs, probabilities=probabilities)
            for slab in slabs:
                found.setdefault(slab.layer, []).append(collected[slab])
        for layer in config.layer_names:
            whole = np.concatenate([features[layer].numpy() for features in expected])
            for (x, y, z), location in np.ndenumerate(np.arange(np.prod(whole.shape[2:])).reshape(whole.shape[2:])):
                np.testing.assert_array_equal(np.concatenate(found[layer])[location], whole[:, :, x, y, z])


def test_feedback_features_hang_on_the_probabilities_alone(run: Run) -> None:
    grids = run.voxels.tensor([0, 30])
    forward = encode(run.network, grids)
    features = feed_back(run.network, forward[OUTPUT])
    assert list(features) == list(reversed(run.network.config.layer_names))
    assert torch.equal(features[OUTPUT], forward[OUTPUT])
    decoding = run.network.decode(forward[OUTPUT], OUTPUT)
    assert all(torch.equal(decoding.features[layer], features[layer]) for layer in decoding.features)


def test_probabilities_are_those_of_each_sample(run: Run) -> None:
    indices = np.arange(len(run.voxels))[::-1].copy()
    probabilities = class_probabilities(run.network, run.voxels, indices)
    assert probabilities.shape == (len(indices), 3, 1, 1, 1)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(len(indices), 1, 1, 1))
    alone = encode(run.network, run.voxels.tensor([7]))[OUTPUT]
    torch.testing.assert_close(probabilities[len(indices) - 1 - 7], alone[0])


def test_batches_are_consecutive() -> None:
    indices = np.arange(10) * 3
    assert [part.tolist() for part in batches(indices, 4)] == [[0, 3, 6, 9], [12, 15, 18, 21], [24, 27]]
    assert not list(batches(indices[:0]))
    assert FEEDBACK in PATHS
