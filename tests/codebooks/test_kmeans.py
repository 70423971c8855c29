import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_cli.codebooks import kmeans
from fer_cli.codebooks.kmeans import cluster, distinct_rows, in_half, in_single, nearest, use_one_thread
from fer_cli.codebooks.lookup import CentroidIndex


def squared_distances(vectors: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    return np.square(vectors[:, None].astype(np.float64) - centroids[None]).sum(axis=2)


def some_vectors(count: int, filters: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, filters)).astype(np.float32)


def clustered(vectors: np.ndarray, k: int, seed: int = 0) -> np.ndarray:
    return cluster(distinct_rows(vectors), k, seed=seed)


def inertia(vectors: np.ndarray, centroids: np.ndarray) -> float:
    return float(squared_distances(vectors, centroids).min(axis=1).sum())


@pytest.mark.parametrize(("k", "filters"), [(1, 3), (7, 1), (30, 5), (60, 64), (200, 17)])
def test_centroids_are_assigned_themselves(k: int, filters: int) -> None:
    centroids = some_vectors(k, filters)
    np.testing.assert_array_equal(nearest(centroids, centroids), np.arange(k))


@pytest.mark.parametrize("count", [1, 19, 20, 1000, 5000])  # FAISS changes its way at 20 and at 4096
@pytest.mark.parametrize("offset", [0, 1000])  # where float32 loses three digits of the distances
def test_nearest_is_nearest_in_float64(count: int, offset: float) -> None:
    vectors, centroids = some_vectors(count, 24) + np.float32(offset), some_vectors(50, 24, seed=1) + np.float32(offset)
    np.testing.assert_array_equal(nearest(vectors, centroids), squared_distances(vectors, centroids).argmin(axis=1))


def test_lowest_of_equally_near_codes_is_taken() -> None:
    centroids = np.array([[2, 0], [0, 2], [0, -2], [9, 9]], np.float32)
    np.testing.assert_array_equal(nearest(np.zeros((30, 2), np.float32), centroids), 0)
    np.testing.assert_array_equal(nearest(np.full((30, 2), [0, 3], np.float32), centroids[::-1].copy()), 2)


def test_a_tie_far_from_zero_stays_one_where_vectors_are_centred() -> None:
    """In float32 the differences tell the two apart; of the squares of the vectors this is less than 10⁻¹²."""
    vectors = np.zeros((49, 2), np.float32)
    vectors[:, 0] = 4096 + np.arange(49) - 24
    centroids = np.array([[4096.25, 2.0**-8], [4095.75, 0.0]], np.float32)
    index = CentroidIndex(torch.from_numpy(centroids)[None], torch.tensor([2]))
    expected = [1] * 24 + [0] * 25
    assert nearest(vectors, centroids).tolist() == expected
    assert index.search(torch.from_numpy(vectors)[None])[0].tolist() == expected


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-2, 2), st.integers(-2, 2)), min_size=1, max_size=40))
def test_distinct_rows_are_those_of_a_set(pairs: list[tuple[int, int]]) -> None:
    vectors = np.array(pairs, np.float32)
    distinct = distinct_rows(vectors)
    assert [tuple(row) for row in distinct.rows] == list(dict.fromkeys((float(a), float(b)) for a, b in pairs))
    np.testing.assert_array_equal(distinct.rows[distinct.back], vectors)
    np.testing.assert_array_equal(vectors[distinct.first], distinct.rows)
    np.testing.assert_array_equal(distinct.count, np.bincount(distinct.back))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_rows_that_share_a_key_are_told_apart(dtype: type, monkeypatch: pytest.MonkeyPatch) -> None:
    class Same:
        def integers(self, high: int, size: int, dtype: type) -> np.ndarray:
            return np.zeros(size, dtype)

    monkeypatch.setattr(kmeans.np.random, "default_rng", lambda seed: Same())
    high, low = (1, 2**-12) if dtype == np.float16 else (2**-126, 2**-149)
    vectors = np.array([[high, 0, low, 0], [low, 0, high, 0], [high, 0, low, 0]], dtype)
    distinct = distinct_rows(vectors)
    assert distinct.rows.tolist() == vectors[:2].tolist()
    assert (distinct.back.tolist(), distinct.count.tolist(), distinct.first.tolist()) == ([0, 1, 0], [2, 1], [0, 1])


def test_halves_are_what_they_are_in_single_precision() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    every = every[np.isfinite(every)]
    np.testing.assert_array_equal(in_single(every).view(np.uint32), every.astype(np.float32).view(np.uint32))
    np.testing.assert_array_equal(in_half(in_single(every)).view(np.uint16), every.view(np.uint16))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("filters", [1, 3, 8])
def test_zeros_of_either_sign_are_equal(filters: int, dtype: type) -> None:
    vectors = np.zeros((5, filters), dtype)
    vectors[1::2] = -0.0
    assert len(distinct_rows(vectors).rows) == 1


def test_centroids_are_means_of_their_members() -> None:
    vectors = some_vectors(3000, 6)
    centroids = clustered(vectors, 9, seed=1)
    assert centroids.shape == (9, 6)
    codes = squared_distances(vectors, centroids).argmin(axis=1)
    for code in range(9):  # after the last step means and members still differ a little
        assert np.abs(vectors[codes == code].mean(axis=0) - centroids[code]).max() < 0.1
    assert inertia(vectors, centroids) < 0.8 * np.square(vectors - vectors.mean(axis=0)).sum()


def test_repeated_vectors_weigh_as_often_as_they_are_there() -> None:
    vectors = np.repeat(np.array([[0.0], [1.0], [10.0], [11.0]], np.float32), [30, 10, 1, 3], axis=0)
    centroids = clustered(vectors, 2)
    np.testing.assert_allclose(np.sort(centroids[:, 0]), [0.25, 10.75], rtol=1e-6)


def test_filters_that_never_vary_make_no_difference() -> None:
    vectors = some_vectors(500, 5)
    wider = np.concatenate([vectors, np.full((500, 3), 7, np.float32)], axis=1)
    found = clustered(wider, 8, seed=3)
    np.testing.assert_array_equal(found[:, :5], clustered(vectors, 8, seed=3))
    np.testing.assert_array_equal(found[:, 5:], 7)


@pytest.mark.parametrize("count", [400, 10_000], ids=["below FAISS's threshold", "above"])
@pytest.mark.parametrize("offset", [3e3, 3e4])
def test_small_differences_of_large_numbers_are_told_apart(count: int, offset: float) -> None:
    generator = np.random.default_rng(0)
    blobs = generator.standard_normal((20, 16)) * 3
    near_zero = blobs[generator.integers(0, 20, count)] + generator.standard_normal((count, 16)) * 0.3
    vectors = (near_zero + offset).astype(np.float32)
    found, expected = (clustered(each.astype(np.float32), 20) for each in (vectors, near_zero))
    assert len(found) == 20
    assert inertia(vectors, found) == pytest.approx(inertia(near_zero.astype(np.float32), expected), rel=0.02)


def test_clusters_far_apart_are_found_exactly() -> None:
    generator = np.random.default_rng(2)
    centres = np.eye(4, dtype=np.float32) * 100
    truth = generator.permutation(np.repeat(np.arange(4), [5, 1, 9, 30]))
    vectors = centres[truth] + generator.standard_normal((45, 4)).astype(np.float32)
    for seed in range(5):  # a start by k-means++ does not miss one
        centroids = clustered(vectors, 4, seed=seed)
        codes = nearest(vectors, centroids)
        for code in range(4):
            members = truth[codes == code]
            assert len(set(members)) == 1
            np.testing.assert_allclose(centroids[code], vectors[truth == members[0]].mean(axis=0), rtol=1e-5)


def test_same_seed_is_the_same_clustering_and_another_is_not() -> None:
    vectors = some_vectors(300, 8)
    one, two, other = (clustered(vectors, 12, seed=seed) for seed in (4, 4, 5))
    assert one.tobytes() == two.tobytes()
    assert one.tobytes() != other.tobytes()


@pytest.mark.parametrize("distinct", [1, 2, 3, 5])
def test_vectors_no_more_than_codes_are_the_codes(distinct: int) -> None:
    vectors = np.repeat(np.eye(6, dtype=np.float32)[:distinct], 10, axis=0)
    np.testing.assert_array_equal(clustered(vectors, 5), np.eye(6)[:distinct])


def test_no_two_centroids_are_equal() -> None:
    vectors = np.round(some_vectors(400, 1), 1)  # some 50 values
    centroids = clustered(vectors, 40)
    assert len(np.unique(centroids, axis=0)) == len(centroids) <= 40


def test_torch_keeps_its_threads_when_faiss_works() -> None:
    before = torch.get_num_threads()
    vectors = some_vectors(200, 4)

    def work(seed: int) -> np.ndarray:
        use_one_thread()
        return clustered(vectors, 3, seed=seed)

    work(0)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, range(4)))
    assert torch.get_num_threads() == before


def test_another_library_of_swig_in_the_process_changes_nothing() -> None:
    code = (
        "import sys; {first}; import numpy as np; from fer_cli.codebooks.kmeans import cluster, distinct_rows\n"
        "vectors = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)\n"
        "sys.stdout.write(cluster(distinct_rows(vectors), 7, seed=0).tobytes().hex())"
    )
    pytest.importorskip("SimpleITK", reason="SimpleITK is not installed: pip install '.[test]'")
    alone, beside = (
        subprocess.run([sys.executable, "-c", code.format(first=first)], capture_output=True, text=True, check=True)
        for first in ("pass", "import SimpleITK")
    )
    assert alone.stdout
    assert alone.stdout == beside.stdout
