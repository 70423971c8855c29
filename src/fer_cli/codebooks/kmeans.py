"""k-means and nearest centroids of one set of vectors, with FAISS. The only module that imports faiss, when needed.

Features repeat themselves: a location that mostly sees empty space gives one vector for thousands of samples. Each
distinct vector is therefore clustered once, with the number of its repetitions as its weight, which has the same
optimum and takes a fraction of the time. FAISS would sample at most 256 vectors a centroid and warn below 39; here
every vector given counts.
"""

import threading
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float16, Float32, Int, UInt64

_HALF_MAX = float(np.finfo(np.float16).max)
"""The end of half precision's range, to which what is beyond it is brought."""
HAS_FAISS = find_spec("faiss") is not None
"""Without it `batched_kmeans` clusters, on CPUs too."""
ITERATIONS = 20
"""Most iterations of a k-means."""
ENOUGH_GAIN = 1e-2
"""Share of the objective by which an iteration has to lower it for another to follow."""
TIE = 1e-12
"""Squared distances that differ by less than this share of the vectors' squared lengths count as equal."""
_REFINED = 1 << 20
"""Numbers held at once when near ties are decided."""
_HALF_SIZE, _HALF_INFINITY = np.uint16(0x7FFF), np.uint16(0x7C00)
_HALF_WORD = np.uint64(32)
_PIECE = 1 << 14
_LANES = 16
"""Numbers that a processor takes at once; FAISS's k-means++ takes the rest of a vector singly, up to twice as long."""


@dataclass(frozen=True)
class DistinctRows:
    """The distinct rows of some vectors, in the order in which they first appear.

    `first` is where each first appears, `count` how often, `back` which of them each vector is.
    """

    rows: Float32[np.ndarray, "distinct filter"]
    first: Int[np.ndarray, " distinct"]
    count: Int[np.ndarray, " distinct"]
    back: Int[np.ndarray, " sample"]


def in_half(vectors: Float32[np.ndarray, "*axes"]) -> Float16[np.ndarray, "*axes"]:
    """Finite numbers in half precision, clipped to its range."""
    halves = _cast(vectors, np.float16)
    if ((halves.view(np.uint16) & _HALF_SIZE) >= _HALF_INFINITY).any():
        return np.clip(vectors, -_HALF_MAX, _HALF_MAX).astype(np.float16)
    return halves


def in_single(halves: Float16[np.ndarray, "*axes"]) -> Float32[np.ndarray, "*axes"]:
    """Finite half-precision numbers in single precision."""
    return _cast(halves, np.float32)


def _cast(numbers: Float[np.ndarray, "*axes"], dtype: type[np.floating]) -> Float[np.ndarray, "*axes"]:
    """The same as NumPy's cast, in a tenth of the time; in pieces so small that PyTorch starts no threads."""
    cast = np.empty(numbers.shape, dtype)
    given = np.require(numbers, requirements=("C", "W"))
    pairs = (torch.from_numpy(each).view(-1).split(_PIECE) for each in (cast, given))
    for target, piece in zip(*pairs, strict=True):
        target.copy_(piece)
    return cast


def distinct_rows(vectors: Float[np.ndarray, "sample filter"]) -> DistinctRows:
    """What is distinct among the rows of `vectors`, in half or single precision."""
    words = _words(vectors)
    # The high half of a word joins its low half, or words that differ in high bits alone would rarely be told apart.
    keys = np.einsum("sw,w->s", words ^ (words >> _HALF_WORD), _odd_factors(words.shape[1]))
    _, first, back, count = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    again = np.flatnonzero(first[back] != np.arange(len(words)))
    if not np.array_equal(words[first[back[again]]], words[again]):  # two rows share a key
        _, first, back, count = np.unique(words, axis=0, return_index=True, return_inverse=True, return_counts=True)
    is_first = np.zeros(len(words), dtype=bool)
    is_first[first] = True
    rank = (np.cumsum(is_first) - 1)[first]
    in_order = np.empty_like(count)
    in_order[rank] = count
    firsts = np.flatnonzero(is_first)
    rows = vectors.take(firsts, axis=0)
    return DistinctRows(in_single(rows) if rows.dtype == np.float16 else rows, firsts, in_order, rank[back])


@cache
def _odd_factors(words: int) -> UInt64[np.ndarray, " word"]:
    return 2 * np.random.default_rng(0).integers(1 << 63, size=words, dtype=np.uint64) + 1


def _words(vectors: Float[np.ndarray, "sample filter"]) -> UInt64[np.ndarray, "sample word"]:
    """The bits of each row, equal where rows are: zeros have no sign."""
    unsigned = np.dtype(f"u{vectors.itemsize}")
    sign = unsigned.type(1 << 8 * vectors.itemsize - 1)
    per_word = 8 // vectors.itemsize
    bits, filters = vectors.view(unsigned), vectors.shape[1]
    if filters % per_word or not bits.flags.c_contiguous:
        bits = np.zeros((len(vectors), -(-filters // per_word) * per_word), unsigned)
        bits[:, :filters] = vectors.view(unsigned)
    if (negative := bits == sign).any():
        bits = np.where(negative, unsigned.type(0), bits)
    return bits.view(np.uint64)


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
    faiss = _faiss()
    varying, live, centre = _as_faiss_likes(rows)
    clustering = faiss.Clustering(varying.shape[1], k)
    clustering.niter = ITERATIONS
    clustering.early_stop_threshold = ENOUGH_GAIN
    clustering.seed = seed
    clustering.init_method = faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS
    clustering.check_input_data_for_NaNs = False  # features are finite
    clustering.min_points_per_centroid = 1
    clustering.max_points_per_centroid = len(rows) + 1
    index = faiss.IndexFlatL2(varying.shape[1])
    clustering.train(varying, index, distinct.count.astype(np.float32))
    centroids = np.tile(rows[0], (k, 1))
    # The index holds them too; clustering.centroids cannot be read where SimpleITK, which SWIG made too, is loaded.
    centroids[:, live] = index.reconstruct_n(0, k)[:, : len(centre)] + centre
    return distinct_rows(centroids).rows


def _as_faiss_likes(
    rows: Float32[np.ndarray, "distinct filter"],
) -> tuple[Float32[np.ndarray, "distinct filled"], Bool[np.ndarray, " filter"], Float32[np.ndarray, " kept"]]:
    """Vectors with the distances of `rows`; which filters they keep, followed by zeros; and what was subtracted."""
    live = (rows != rows[0]).any(axis=0)  # what never varies makes no difference
    filled = -(-int(live.sum()) // _LANES) * _LANES
    if filled == rows.shape[1] and not rows[0, ~live].any():
        live[:] = True  # zeros change no distance
    varying = rows if live.all() else np.compress(live, rows, axis=1)
    centre = _centre(varying)
    if centre.any():
        varying = varying - centre
    if len(centre) < filled <= 1.25 * len(centre):
        varying = np.pad(varying, ((0, 0), (0, filled - len(centre))))
    return varying, live, centre


def _centre(vectors: Float32[np.ndarray, "sample filter"]) -> Float32[np.ndarray, " filter"]:
    """What to subtract from vectors before distances are computed: their mean, or zeros where that is not needed.

    FAISS computes a squared distance as |x|² − 2 x·c + |c|². In float32 this loses the small distances between vectors
    that are closer to each other than to zero.
    """
    centre = vectors.mean(axis=0)
    is_far = 2 * np.vdot(centre, centre) > np.vdot(vectors, vectors) / len(vectors)
    return centre if is_far else np.zeros_like(centre)


def nearest(
    vectors: Float32[np.ndarray, "sample filter"], centroids: Float32[np.ndarray, "code filter"]
) -> Int[np.ndarray, " sample"]:
    """Code of the nearest centroid (Euclidean) of each vector, the lowest of equally near ones.

    Exact: where float32 cannot tell the two nearest apart, float64 decides.
    """
    if len(centroids) == 1 or not len(vectors):
        return np.zeros(len(vectors), dtype=np.int64)
    centre = _centre(vectors)
    moved, to = (vectors - centre, centroids - centre) if centre.any() else (vectors, centroids)
    distances, found = _faiss().knn(moved, to, 2)
    codes = found[:, 0]
    # Ties are relative to the vectors before centring, so that a difference which float32 shows may still be a tie.
    tie = 2 * TIE * (_squares(vectors) + _squares(centroids).max())
    slack = rounding(vectors.shape[1]) * (np.sqrt(_squares(moved)) + np.sqrt(_squares(to).max())) ** 2 + tie
    doubtful = np.flatnonzero(distances[:, 1] - distances[:, 0] <= slack)
    step = max(1, _REFINED // centroids.size)
    for start in range(0, len(doubtful), step):
        rows = doubtful[start : start + step]
        close = _faiss().pairwise_distances(moved[rows], to)
        sample, code = np.nonzero(close <= (close.min(axis=1) + slack[rows])[:, None])
        codes[rows] = _decide(vectors[rows], centroids, sample, code)
    return codes


def _squares(vectors: Float32[np.ndarray, "sample filter"]) -> Float32[np.ndarray, " sample"]:
    return np.einsum("sf,sf->s", vectors, vectors)


def nearest_rows(
    vectors: Float32[np.ndarray, "sample filter"], rows: Float32[np.ndarray, "row filter"], count: int
) -> tuple[Float32[np.ndarray, "sample neighbour"], Int[np.ndarray, "sample neighbour"]]:
    """Squared distances and indices of the `count` nearest rows of each vector, ascending; found by brute force."""
    return _faiss().knn(np.ascontiguousarray(vectors), np.ascontiguousarray(rows), count)


def use_one_thread() -> None:
    """Let FAISS use one thread where the calling thread calls it; in the main thread nothing is changed.

    Problems here are small and many: OpenMP threads started inside one cost more than they bring, so several problems
    run at once instead, in threads that each call this. FAISS and torch may share one OpenMP library, and in the main
    thread torch would be bound as well.
    """
    if threading.current_thread() is not threading.main_thread():
        _faiss().omp_set_num_threads(1)


def _faiss() -> Any:
    """FAISS, which compares by its matrix product whatever the sizes.

    Below 128,000 numbers of the vectors it would take kernels of its own, which need up to 2.5 times as long.
    """
    import faiss

    faiss.cvar.distance_compute_blas_threshold = 0
    return faiss


def rounding(filters: int) -> float:
    """How far the difference of two squared distances, each |v|² − 2 v·c + |c|² in float32, may be off.

    As a share of (|v| + |c|)²; a bound for sums in any order, and for v and c that are rounded differences themselves.
    Source: Higham, Accuracy and Stability of Numerical Algorithms, section 3.1.
    """
    return (filters + 9) * 2.0**-22


def _decide(
    vectors: Float32[np.ndarray, "sample filter"],
    centroids: Float32[np.ndarray, "code filter"],
    sample: Int[np.ndarray, " pair"],
    code: Int[np.ndarray, " pair"],
) -> Int[np.ndarray, " sample"]:
    """The nearest in float64 among some centroids of each vector, given as pairs in ascending order."""
    differences = vectors[sample].astype(np.float64) - centroids[code]
    distances = np.einsum("pf,pf->p", differences, differences)
    first = np.searchsorted(sample, np.arange(len(vectors)))
    scale = np.square(vectors, dtype=np.float64).sum(axis=1) + np.square(centroids, dtype=np.float64).sum(axis=1).max()
    is_nearest = distances <= (np.minimum.reduceat(distances, first) + TIE * scale)[sample]
    return np.minimum.reduceat(np.where(is_nearest, code, len(centroids)), first)
