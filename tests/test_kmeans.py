import threading
import time

import numpy as np
import pytest
import torch

from fer_cli.kmeans import cluster, in_threads, nearest, nearest_by_location


def squared_distances(vectors: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    return np.square(vectors[:, None].astype(np.float64) - centroids[None]).sum(axis=2)


def some_vectors(count: int, filters: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, filters)).astype(np.float32)


@pytest.mark.parametrize(("k", "filters"), [(1, 3), (7, 1), (30, 5), (60, 64), (200, 17)])
def test_centroids_are_assigned_themselves(k: int, filters: int) -> None:
    centroids = some_vectors(k, filters)
    np.testing.assert_array_equal(nearest(centroids, centroids), np.arange(k))


@pytest.mark.parametrize("count", [1, 19, 20, 1000, 5000])  # FAISS changes its way at 20 and at 4096
def test_nearest_is_nearest_in_float64(count: int) -> None:
    vectors, centroids = some_vectors(count, 24), some_vectors(50, 24, seed=1)
    distances = squared_distances(vectors, centroids)
    chosen = distances[np.arange(count), nearest(vectors, centroids)]
    # FAISS expands |v − c|² in float32: each term is rounded to about 24 · 2⁻²⁴ of its size.
    scale = np.square(vectors).sum(axis=1) + np.square(centroids).sum(axis=1).max()
    assert (chosen - distances.min(axis=1) <= 4e-6 * scale).all()
    assert (chosen == distances.min(axis=1)).mean() > 0.999


def test_clustering_is_the_assignment_of_every_vector() -> None:
    vectors = some_vectors(3000, 6)
    clustering = cluster(vectors, 9, seed=1)
    assert clustering.centroids.shape == (9, 6)
    distances = squared_distances(vectors, clustering.centroids)
    np.testing.assert_array_equal(clustering.codes, distances.argmin(axis=1))
    np.testing.assert_allclose(clustering.distances, distances.min(axis=1), rtol=1e-6)  # differences in float32
    for code in range(9):  # after 20 iterations means and members still differ by the last step
        assert np.abs(vectors[clustering.codes == code].mean(axis=0) - clustering.centroids[code]).max() < 0.1
    assert clustering.distances.sum() < np.square(vectors - vectors.mean(axis=0)).sum()


def test_clusters_far_apart_are_found_exactly() -> None:
    generator = np.random.default_rng(2)
    centres = np.eye(4, dtype=np.float32) * 100
    truth = generator.permutation(np.repeat(np.arange(4), [5, 1, 9, 30]))
    vectors = centres[truth] + generator.standard_normal((45, 4)).astype(np.float32)
    found = min((cluster(vectors, 4, seed=seed) for seed in range(5)), key=lambda c: c.distances.sum())
    for code in range(4):
        members = truth[found.codes == code]
        assert len(set(members)) == 1
        assert len(members) == (truth == members[0]).sum()
        np.testing.assert_allclose(found.centroids[code], vectors[truth == members[0]].mean(axis=0), rtol=1e-5)


def test_same_seed_is_the_same_clustering_and_another_is_not() -> None:
    vectors = some_vectors(300, 8)
    one, two, other = (cluster(vectors, 12, seed=seed) for seed in (4, 4, 5))
    assert one.centroids.tobytes() == two.centroids.tobytes()
    assert one.codes.tobytes() == two.codes.tobytes()
    assert one.centroids.tobytes() != other.centroids.tobytes()


@pytest.mark.parametrize("distinct", [1, 2, 3])
def test_vectors_that_repeat_leave_codes_empty_and_centroids_finite(distinct: int) -> None:
    vectors = np.repeat(np.eye(4, dtype=np.float32)[:distinct], 10, axis=0)
    clustering = cluster(vectors, 5, seed=0)
    assert np.isfinite(clustering.centroids).all()
    assert len(np.unique(clustering.codes)) <= 5
    for rows in np.split(clustering.codes, distinct):
        assert len(set(rows.tolist())) == 1
    assert np.isfinite(clustering.distances).all()


def test_zero_vectors_are_at_no_distance() -> None:
    clustering = cluster(np.zeros((20, 3), np.float32), 4, seed=0)
    np.testing.assert_array_equal(clustering.distances, 0)
    np.testing.assert_array_equal(clustering.centroids, 0)


def test_as_many_codes_as_vectors_is_each_its_own() -> None:
    vectors = some_vectors(6, 3)
    clustering = cluster(vectors, 6, seed=0)
    assert sorted(clustering.codes.tolist()) == list(range(6))
    np.testing.assert_array_equal(clustering.distances, 0)


def test_more_codes_than_vectors_is_refused() -> None:
    with pytest.raises(ValueError, match="k-means with k = 7 needs at least 7 vectors, got 6"):
        cluster(some_vectors(6, 3), 7, seed=0)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_threads_give_results_in_the_order_of_tasks(workers: int) -> None:
    def work(task: int) -> int:
        time.sleep(0.002 * (5 - task % 5))
        return task**2

    assert list(in_threads(work, range(20), workers=workers)) == [task**2 for task in range(20)]


def test_interrupt_ends_the_threads_without_the_tasks_left() -> None:
    begun: list[int] = []

    def work(task: int) -> int:
        begun.append(task)
        time.sleep(0.001)
        return task

    results = in_threads(work, range(10_000), workers=2)
    before = threading.active_count()
    next(results)
    with pytest.raises(KeyboardInterrupt):
        results.throw(KeyboardInterrupt)  # type: ignore[attr-defined]
    assert len(begun) < 1000
    assert threading.active_count() <= before


def test_every_location_is_looked_up_among_its_own_centroids() -> None:
    generator = np.random.default_rng(5)
    vectors = generator.standard_normal((131, 7, 5)).astype(np.float32)
    centroids = generator.standard_normal((131, 9, 5)).astype(np.float32)
    expected = [nearest(rows, own) for rows, own in zip(vectors, centroids, strict=True)]
    np.testing.assert_array_equal(nearest_by_location(vectors, centroids), expected)


def test_torch_keeps_its_threads_when_faiss_works() -> None:
    before = torch.get_num_threads()
    vectors = some_vectors(200, 4)
    cluster(vectors, 3, seed=0)
    list(in_threads(lambda seed: cluster(vectors, 3, seed=seed), range(4), workers=2))
    nearest_by_location(vectors[None], vectors[None, :5])
    assert torch.get_num_threads() == before
