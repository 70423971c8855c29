"""Running statistics of a layer's codes: class histograms, exemplars, inertia, total sum of squares."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int, Int64

_NUMBERS = 1 << 21
"""Numbers worked on at once."""


@dataclass
class Tally:
    """Statistics of the codes at some locations, over the samples seen so far.

    `exemplar` is the sample of a code nearest to the centroid (the first of ties, −1 for none), `distance` its squared
    distance. `inertia` sums squared distances to centroids. `total` and `square`
    sum the vectors' offsets from the first centroid and their squared lengths.
    """

    histogram: Int64[np.ndarray, "location code klass"]
    exemplar: Int64[np.ndarray, "location code"]
    distance: Float64[np.ndarray, "location code"]
    inertia: Float64[np.ndarray, " location"]
    total: Float64[np.ndarray, "location filter"]
    square: Float64[np.ndarray, " location"]

    @classmethod
    def empty(cls, locations: int, k: int, filters: int, classes: int) -> "Tally":
        """A tally of no samples."""
        return cls(
            histogram=np.zeros((locations, k, classes), np.int64),
            exemplar=np.full((locations, k), -1, np.int64),
            distance=np.full((locations, k), np.inf),
            inertia=np.zeros(locations),
            total=np.zeros((locations, filters)),
            square=np.zeros(locations),
        )

    def add(
        self,
        vectors: Float32[np.ndarray, "location sample filter"],
        codes: Int[np.ndarray, "location sample"],
        centroids: Float32[np.ndarray, "location code filter"],
        *,
        samples: Int[np.ndarray, " sample"],
        labels: Int[np.ndarray, " sample"],
    ) -> None:
        """Add samples, in ascending order over all calls: vectors, codes, classes."""
        np.add.at(self.histogram, (np.arange(len(codes))[:, None], codes, labels), 1)
        self.add_weighted(vectors, codes, centroids, samples=samples, count=np.ones(len(samples), np.int64))

    def add_weighted(
        self,
        vectors: Float32[np.ndarray, "location sample filter"],
        codes: Int[np.ndarray, "location sample"],
        centroids: Float32[np.ndarray, "location code filter"],
        *,
        samples: Int[np.ndarray, " sample"],
        count: Int[np.ndarray, " sample"],
    ) -> None:
        """Accumulate samples with weights `count`, without the class histogram."""
        step = max(1, _NUMBERS // max(1, vectors.shape[1] * vectors.shape[2]))
        for start in range(0, len(vectors), step):
            part = slice(start, start + step)
            self._add(part, vectors[part], codes[part], centroids[part], samples, count)

    def _add(
        self,
        part: slice,
        vectors: Float32[np.ndarray, "location sample filter"],
        codes: Int[np.ndarray, "location sample"],
        centroids: Float32[np.ndarray, "location code filter"],
        samples: Int[np.ndarray, " sample"],
        count: Int[np.ndarray, " sample"],
    ) -> None:
        row = np.arange(len(centroids))[:, None]
        # Sums over one axis at a time do not depend on how locations are parted.
        offset = vectors - centroids[:, :1].astype(np.float64)
        self.total[part] += (offset * count[:, None]).sum(axis=1)
        self.square[part] += (np.square(offset, out=offset).sum(axis=2) * count).sum(axis=1)
        difference = vectors - centroids[row, codes].astype(np.float64)
        distance = np.square(difference, out=difference).sum(axis=2)
        self.inertia[part] += (distance * count).sum(axis=1)
        best = self.distance[part].copy()
        np.minimum.at(best, (row, codes), distance)
        improved = (best < self.distance[part])[row, codes] & (distance == best[row, codes])
        where, which = np.nonzero(improved)
        # Of equally near ones the first stays: written last to first.
        self.exemplar[part][where[::-1], codes[where, which][::-1]] = samples[which[::-1]]
        self.distance[part] = best

    @property
    def scatter(self) -> Float64[np.ndarray, " location"]:
        """Summed squared distance of the samples to their mean."""
        count = max(1, int(self.histogram[:1].sum()))
        return np.maximum(self.square - np.square(self.total).sum(axis=1) / count, 0.0)

    @staticmethod
    def joined(tallies: list["Tally"]) -> "Tally":
        """The tally of the locations of several tallies, in their order."""
        return Tally(**{name: np.concatenate([vars(tally)[name] for tally in tallies]) for name in vars(tallies[0])})
