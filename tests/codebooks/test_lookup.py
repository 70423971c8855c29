import numpy as np
import pytest
import torch

from fer_cli.codebooks.kmeans import nearest
from fer_cli.codebooks.lookup import CentroidIndex


def brute_force(vectors: np.ndarray, centroids: np.ndarray, n_codes: np.ndarray) -> np.ndarray:
    codes = np.empty(vectors.shape[:2], np.int64)
    for location, used in enumerate(n_codes):
        own = centroids[location, :used].astype(np.float64)
        codes[location] = np.square(vectors[location, :, None] - own).sum(axis=2).argmin(axis=1)
    return codes


@pytest.mark.parametrize(("locations", "samples", "k", "filters"), [(131, 7, 9, 5), (1, 64, 30, 700), (9, 1, 1, 3)])
@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_codes_are_the_nearest_in_float64(locations: int, samples: int, k: int, filters: int, offset: float) -> None:
    generator = np.random.default_rng(5)
    vectors = (generator.standard_normal((locations, samples, filters)) + offset).astype(np.float32)
    centroids = (generator.standard_normal((locations, k, filters)) + offset).astype(np.float32)
    n_codes = generator.integers(1, k + 1, locations)
    index = CentroidIndex(torch.from_numpy(centroids), torch.from_numpy(n_codes))
    codes = index.search(torch.from_numpy(vectors)).numpy()
    np.testing.assert_array_equal(codes, brute_force(vectors, centroids, n_codes))
    for location, used in enumerate(n_codes):
        np.testing.assert_array_equal(codes[location], nearest(vectors[location], centroids[location, :used]))


def test_a_code_hangs_neither_on_the_batch_nor_on_ties() -> None:
    generator = np.random.default_rng(6)
    vectors = generator.integers(-2, 3, (40, 64, 3)).astype(np.float32)  # small whole numbers: ties abound
    centroids = generator.integers(-2, 3, (40, 12, 3)).astype(np.float32)
    n_codes = np.full(40, 12)
    index = CentroidIndex(torch.from_numpy(centroids), torch.from_numpy(n_codes))
    whole = index.search(torch.from_numpy(vectors)).numpy()
    np.testing.assert_array_equal(whole, brute_force(vectors, centroids, n_codes))
    alone = [index.search(torch.from_numpy(vectors[:, i : i + 1])).numpy() for i in range(64)]
    np.testing.assert_array_equal(np.concatenate(alone, axis=1), whole)


def test_codes_that_do_not_exist_are_never_named() -> None:
    centroids = torch.zeros(2, 4, 3)
    centroids[:, 0] = 5
    index = CentroidIndex(centroids, torch.tensor([1, 2]))
    assert index.search(torch.zeros(2, 3, 3)).tolist() == [[0] * 3, [1] * 3]
