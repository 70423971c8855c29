"""k-means at some locations of a layer: the unit of work that `fer cluster` distributes.

`fit_locations` is a pure function of arrays, so it can run in a thread or in another process.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int, Int64, UInt16

from fer_cli.codebooks.kmeans import (
    DistinctRows,
    cluster,
    distinct_rows,
    each_by_itself,
    in_half,
    nearest,
    use_one_thread,
)
from fer_cli.codebooks.tally import Tally


@dataclass(frozen=True)
class Fitted:
    """Codes of some locations.

    The first `n_codes` centroids of a location are its codes, the others zeros. `n_distinct` counts the vectors that
    half precision tells apart, `n_dead` the filters that are zero for every sample. `tally` is None where samples are
    yet to be counted. `code` is the code of each counted sample, where that is kept.
    """

    centroids: Float32[np.ndarray, "location code filter"]
    n_codes: Int64[np.ndarray, " location"]
    n_distinct: Int64[np.ndarray, " location"]
    n_dead: Int64[np.ndarray, " location"]
    tally: Tally | None
    code: UInt16[np.ndarray, "location sample"] | None = None

    @staticmethod
    def joined(parts: Sequence["Fitted"]) -> "Fitted":
        """The codes of the locations of several parts, in their order."""
        arrays = {
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in ("centroids", "n_codes", "n_distinct", "n_dead", "code")
            if getattr(parts[0], name) is not None
        }
        tallies = [part.tally for part in parts if part.tally is not None]
        return Fitted(**arrays, tally=Tally.joined(tallies) if tallies else None)


@dataclass(frozen=True)
class Counted:
    """Samples whose features a call receives and counts: indices, labels and the number of classes.

    `keep` says whether the code of each sample is to be returned.
    """

    samples: Int[np.ndarray, " sample"]
    labels: Int[np.ndarray, " sample"]
    n_classes: int
    keep: bool = False


def fit_locations(
    features: Float[np.ndarray, "location sample filter"], k: int, seeds: Sequence[int], counted: Counted | None
) -> Fitted:
    """k-means at each location, by a seed of its own; with `counted`, what each code holds.

    Needs at least k samples.
    """
    use_one_thread()
    locations, _, filters = features.shape
    centroids = np.zeros((locations, k, filters), np.float32)
    n_codes, n_distinct, n_dead = (np.zeros(locations, np.int64) for _ in range(3))
    tallies: list[Tally] = []
    code = np.zeros(features.shape[:2], np.uint16) if counted is not None and counted.keep else None
    for location, (stored, seed) in enumerate(zip(features, seeds, strict=True)):
        # What half precision does not tell apart needs no two centroids.
        distinct = distinct_rows(stored if stored.dtype == np.float16 else in_half(stored))
        found = cluster(distinct, k, seed=seed)
        n_codes[location], n_distinct[location] = len(found), len(distinct.rows)
        n_dead[location] = (~distinct.rows.any(axis=0)).sum()
        centroids[location, : len(found)] = found
        if counted is not None:
            exact = distinct if stored.dtype == np.float16 else each_by_itself(stored)
            tally, chosen = _count(exact, centroids[location], len(found), counted)
            tallies.append(tally)
            if code is not None:
                code[location] = chosen
    return Fitted(centroids, n_codes, n_distinct, n_dead, Tally.joined(tallies) if tallies else None, code)


def _count(
    distinct: DistinctRows, centroids: Float32[np.ndarray, "code filter"], n_codes: int, counted: Counted
) -> tuple[Tally, Int[np.ndarray, " sample"]]:
    """What each code of a location holds, and the code of each sample. Equal vectors are looked up once."""
    tally = Tally.empty(1, len(centroids), centroids.shape[1], counted.n_classes)
    codes = nearest(distinct.rows, centroids[:n_codes])
    tally.add_weighted(
        distinct.rows[None], codes[None], centroids[None], samples=counted.samples[distinct.first], count=distinct.count
    )
    chosen = codes[distinct.back]
    np.add.at(tally.histogram[0], (chosen, counted.labels), 1)
    return tally, chosen
