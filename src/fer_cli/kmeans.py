"""k-means and nearest centroids of one set of vectors, with FAISS. The only module that imports faiss.

Features repeat themselves: a location that mostly sees empty space gives one vector for thousands of samples. Each
distinct vector is therefore clustered once, with the number of its repetitions as its weight, which has the same
optimum and takes a fraction of the time. FAISS would sample at most 256 vectors a centroid and warn below 39; here
every vector given counts.
"""

import threading
from dataclasses import dataclass

import faiss
import numpy as np
from jaxtyping import Float32, Int

HALF_MAX = float(np.finfo(np.float16).max)
"""The end of half precision's range, to which what is beyond it is brought."""
ITERATIONS = 20
"""Most iterations of a k-means."""
_ENOUGH_GAIN = 1e-3
"""Share of the objective by which an iteration has to lower it for another to follow."""
TIE = 1e-12
"""Squared distances that differ by less than this share of the vectors' squared lengths count as equal."""
_REFINED = 1 << 20
"""Numbers held at once when near ties are decided."""


@dataclass(frozen=True)
class DistinctRows:
    """The distinct rows of some vectors, in the order in which they first appear.

    `first` is where each first appears, `count` how often, `back` which of them each vector is.
    """

    rows: Float32[np.ndarray, "distinct filter"]
    first: Int[np.ndarray, " distinct"]
    count: Int[np.ndarray, " distinct"]
    back: Int[np.ndarray, " sample"]


def distinct_rows(vectors: Float32[np.ndarray, "sample filter"]) -> DistinctRows:
    """What is distinct among the rows of `vectors`."""
    # Equal rows have equal projections; rows that only share a projection are told apart by the slow way.
    direction = np.random.default_rng(0).standard_normal(vectors.shape[1])
    projection = (vectors * direction).sum(axis=1)
    _, first, back, count = np.unique(projection, return_index=True, return_inverse=True, return_counts=True)
    if not np.array_equal(vectors[first][back], vectors):
        _, first, back, count = np.unique(vectors, axis=0, return_index=True, return_inverse=True, return_counts=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return DistinctRows(vectors[first[order]], first[order], count[order], rank[back])


def each_by_itself(vectors: Float32[np.ndarray, "sample filter"]) -> DistinctRows:
    """The vectors as if no two were equal."""
    order = np.arange(len(vectors))
    return DistinctRows(vectors, order, np.ones(len(vectors), dtype=np.int64), order)


def cluster(distinct: DistinctRows, k: int, *, seed: int) -> Float32[np.ndarray, "code filter"]:
    """k-means, each row weighed by its count, from a k-means++ start: at most k centroids, no two equal.

    With no more than k rows, they are the centroids.
    """
    rows = distinct.rows
    if len(rows) <= k:
        return rows
    live = (rows != rows[0]).any(axis=0)  # what never varies makes no difference
    varying = np.ascontiguousarray(rows[:, live])
    clustering = faiss.Clustering(varying.shape[1], k)
    clustering.niter = ITERATIONS
    clustering.early_stop_threshold = _ENOUGH_GAIN
    clustering.seed = seed
    clustering.init_method = faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS
    clustering.min_points_per_centroid = 1
    clustering.max_points_per_centroid = len(rows) + 1
    clustering.train(varying, faiss.IndexFlatL2(varying.shape[1]), distinct.count.astype(np.float32))
    centroids = np.tile(rows[0], (k, 1))
    centroids[:, live] = faiss.vector_to_array(clustering.centroids).reshape(k, -1)
    return distinct_rows(centroids).rows


def nearest(
    vectors: Float32[np.ndarray, "sample filter"], centroids: Float32[np.ndarray, "code filter"]
) -> Int[np.ndarray, " sample"]:
    """Code of the nearest centroid (Euclidean) of each vector, the lowest of equally near ones.

    Exact: where float32 cannot tell the two nearest apart, float64 decides.
    """
    if len(centroids) == 1:
        return np.zeros(len(vectors), dtype=np.int64)
    distances, found = faiss.knn(vectors, centroids, 2)
    codes = found[:, 0]
    lengths = np.sqrt(np.einsum("sf,sf->s", vectors, vectors))
    longest = np.sqrt(np.einsum("cf,cf->c", centroids, centroids).max())
    near = np.flatnonzero(distances[:, 1] - distances[:, 0] <= rounding(vectors.shape[1]) * (lengths + longest) ** 2)
    step = max(1, _REFINED // centroids.size)
    for start in range(0, len(near), step):
        rows = near[start : start + step]
        codes[rows] = _decide(vectors[rows], centroids)
    return codes


def use_one_thread() -> None:
    """Let FAISS use one thread where the calling thread calls it; in the main thread nothing is changed.

    Problems here are small and many: OpenMP threads started inside one cost more than they bring, so several problems
    run at once instead, in threads that each call this. FAISS and torch may share one OpenMP library, and in the main
    thread torch would be bound as well.
    """
    if threading.current_thread() is not threading.main_thread():
        faiss.omp_set_num_threads(1)


def rounding(filters: int) -> float:
    """How far the difference of two squared distances, each |v|² − 2 v·c + |c|² in float32, may be off.

    As a share of (|v| + |c|)²; a bound for sums in any order. Source: Higham, Accuracy and Stability of Numerical
    Algorithms, section 3.1.
    """
    return (filters + 8) * 2.0**-22


def _decide(
    vectors: Float32[np.ndarray, "sample filter"], centroids: Float32[np.ndarray, "code filter"]
) -> Int[np.ndarray, " sample"]:
    differences = vectors[:, None].astype(np.float64) - centroids
    distances = np.einsum("scf,scf->sc", differences, differences)
    scale = np.square(vectors, dtype=np.float64).sum(axis=1) + np.square(centroids, dtype=np.float64).sum(axis=1).max()
    return (distances <= distances.min(axis=1, keepdims=True) + TIE * scale[:, None]).argmax(axis=1)
