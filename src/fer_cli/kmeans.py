"""k-means and nearest centroids of one set of vectors, with FAISS. The only module that imports faiss.

FAISS would sample at most 256 vectors a centroid and warn below 39; here every vector counts, and the
result comes from an assignment of all of them, never from a subsample.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import faiss
import numpy as np
from jaxtyping import Float, Float32, Int

ITERATIONS = 20
_LOCATIONS_A_TASK = 64

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Clustering:
    """k centroids, the code of every vector, and each vector's squared distance to its centroid.

    A centroid that no vector is nearest to has no member; codes never name it.
    """

    centroids: Float32[np.ndarray, "code filter"]
    codes: Int[np.ndarray, " sample"]
    distances: Float[np.ndarray, " sample"]


def cluster(vectors: Float32[np.ndarray, "sample filter"], k: int, *, seed: int) -> Clustering:
    """k-means of the rows of `vectors`. Needs at least k rows; raises ValueError otherwise."""
    count, filters = vectors.shape
    if count < k:
        raise ValueError(f"k-means with k = {k} needs at least {k} vectors, got {count}")
    clustering = faiss.Clustering(filters, k)
    clustering.niter = ITERATIONS
    clustering.seed = seed
    clustering.min_points_per_centroid = 1
    clustering.max_points_per_centroid = count + 1
    clustering.train(vectors, faiss.IndexFlatL2(filters))
    centroids = faiss.vector_to_array(clustering.centroids).reshape(k, filters).astype(np.float32)
    codes = nearest(vectors, centroids)
    # FAISS expands |v − c|²; the difference itself does not cancel.
    distances = np.square(vectors - centroids[codes], dtype=np.float64).sum(axis=1)
    return Clustering(centroids, codes, distances)


def nearest(
    vectors: Float32[np.ndarray, "sample filter"], centroids: Float32[np.ndarray, "code filter"]
) -> Int[np.ndarray, " sample"]:
    """Code of the nearest centroid (Euclidean) of each vector."""
    _, codes = faiss.knn(vectors, centroids, 1)
    return codes[:, 0]


def nearest_by_location(
    vectors: Float32[np.ndarray, "location sample filter"], centroids: Float32[np.ndarray, "location code filter"]
) -> Int[np.ndarray, "location sample"]:
    """The same at every location of a layer, each with centroids of its own; shared among all cores."""
    locations = len(vectors)
    codes = np.empty(vectors.shape[:2], dtype=np.int64)

    def look_up(start: int) -> None:
        for location in range(start, min(start + _LOCATIONS_A_TASK, locations)):
            codes[location] = nearest(vectors[location], centroids[location])

    for _ in in_threads(look_up, range(0, locations, _LOCATIONS_A_TASK), workers=os.cpu_count() or 1):
        pass
    return codes


def in_threads(work: Callable[[_Task], _Result], tasks: Iterable[_Task], *, workers: int) -> Iterator[_Result]:
    """Results of `work` on each task, in order, from `workers` threads in each of which FAISS uses one.

    Problems here are small and many: OpenMP threads started inside one cost more than they bring, so several problems
    run at once instead. The number of OpenMP threads is set in the workers only. It is each thread's own, but FAISS and
    torch may share one OpenMP library, and set in the main thread it would bind torch as well.
    """
    with ThreadPoolExecutor(workers, initializer=faiss.omp_set_num_threads, initargs=(1,)) as pool:
        try:
            yield from pool.map(work, tasks)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
