import numpy as np
import pytest
import torch
from torch import Tensor

from fer_cli.codebooks import batched_kmeans
from fer_cli.codebooks.batched_fitting import fit_batched
from fer_cli.codebooks.batched_kmeans import cluster_batched, distinct_vectors
from fer_cli.codebooks.fitting import Counted, fit_locations


def relu_features(locations: int, samples: int, filters: int, clusters: int, spread: float) -> np.ndarray:
    """Features as a network's: around some means, cut off at 0, a third of them one vector."""
    generator = np.random.default_rng(0)
    means = generator.standard_normal((locations, clusters, filters))
    own = generator.integers(0, clusters, (locations, samples))
    features = np.take_along_axis(means, own[..., None], axis=1)
    features = np.maximum(features + spread * generator.standard_normal(features.shape), 0)
    features[:, ::3] = features[:, :1]
    return features


def inertia(features: np.ndarray, k: int, *, batched: bool) -> float:
    """Summed over locations, mean of eight seeds."""
    counted = Counted(np.arange(features.shape[1]), np.zeros(features.shape[1], np.int64), 1)
    found = []
    for first in range(0, 8 * len(features), len(features)):
        seeds = list(range(first, first + len(features)))
        fitted = (
            fit_batched(torch.from_numpy(features), k, seeds, counted)
            if batched
            else fit_locations(features, k, seeds, counted)
        )
        assert fitted.tally is not None
        found.append(fitted.tally.inertia.sum())
    return float(np.mean(found))


@pytest.mark.parametrize(("k", "clusters", "spread"), [(20, 12, 0.5), (30, 100, 0.8), (40, 200, 1.0)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_inertia_is_that_of_faiss(k: int, clusters: int, spread: float, dtype: type) -> None:
    """Within 0.5 %, over enough locations and seeds that the luck of starts is small."""
    features = relu_features(128, 600, 8, clusters, spread).astype(dtype)
    ours, theirs = (inertia(features, k, batched=batched) for batched in (True, False))
    assert ours == pytest.approx(theirs, rel=0.005)


def test_a_result_is_reproduced_bit_for_bit_and_differs_with_the_seed() -> None:
    features = torch.from_numpy(relu_features(5, 200, 6, 9, 0.6).astype(np.float16))
    one, same, other = (fit_batched(features, 7, [seed] * 5, None).centroids for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_a_location_depends_on_no_other_and_not_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    features = torch.from_numpy(relu_features(6, 150, 5, 9, 0.6).astype(np.float16))
    whole = fit_batched(features, 7, list(range(6)), None).centroids
    monkeypatch.setattr(batched_kmeans, "NUMBERS", 1)
    parted = fit_batched(features, 7, list(range(6)), None).centroids
    np.testing.assert_allclose(whole, parted, rtol=1e-4, atol=1e-5)


def test_repeats_weigh_as_the_vectors_that_they_stand_for() -> None:
    rows = torch.tensor([[[0.0], [1.0], [10.0], [12.0]]])
    count = torch.tensor([[3, 1, 1, 1]])
    found = cluster_batched(rows, count, 2, [0])
    assert sorted(found.flatten().tolist()) == pytest.approx([0.25, 11.0])


def test_rows_that_count_nothing_are_not_there() -> None:
    rows = torch.tensor([[[5.0], [6.0], [20.0], [999.0]]])
    found = cluster_batched(rows, torch.tensor([[1, 1, 1, 0]]), 2, [1])
    assert sorted(found.flatten().tolist()) == pytest.approx([5.5, 20.0])


def test_an_empty_cluster_takes_the_row_that_adds_most() -> None:
    rows = torch.tensor([[[0.0], [1.0], [8.0]], [[0.0], [4.0], [5.0]]])
    count = torch.ones(2, 3, dtype=torch.int64)
    _, centroids = batched_kmeans._iterate(rows, count, torch.tensor([[[0.0], [-90.0]], [[0.0], [5.0]]]))
    assert centroids[0].flatten().tolist() == [3.0, 8.0]
    assert centroids[1].flatten().tolist() == [0.0, 4.5]


def test_small_differences_of_large_numbers_are_told_apart() -> None:
    base = torch.full((1, 40, 4), 1000.0)
    base[0, 20:] += 1.0  # half precision's step there is 0.5
    found = cluster_batched(base, torch.ones(1, 40, dtype=torch.int64), 2, [0])
    assert sorted(found[0, :, 0].tolist()) == [1000.0, 1001.0]


@pytest.mark.parametrize("repeats", [1, 4])
def test_distinct_vectors_are_those_of_a_loop(repeats: int) -> None:
    halves = torch.from_numpy(
        np.random.default_rng(1).integers(-2, 3, (7, 90, 3)).astype(np.float16) * -1
    )  # zeros of both signs
    halves[:, ::repeats] = halves[:, :1]
    found = distinct_vectors(halves)
    for location in range(7):
        known: list[tuple[float, ...]] = []
        for sample, row in enumerate(map(tuple, (halves[location] + 0.0).tolist())):
            if row not in known:
                known.append(row)
                assert found.first[location, sample] == sample
            assert found.rank[location, sample] == known.index(row)
        assert found.number[location] == len(known)


def test_keys_that_collide_are_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    by_keys, tried = batched_kmeans._by_keys, []

    def colliding(words: Tensor, seed: int) -> batched_kmeans.DistinctVectors:
        tried.append(seed)
        return by_keys(words * 0 if seed == 0 else words, seed)

    monkeypatch.setattr(batched_kmeans, "_by_keys", colliding)
    assert distinct_vectors(torch.eye(4, dtype=torch.float16)[None]).number.tolist() == [4]
    assert tried == [0, 1]
