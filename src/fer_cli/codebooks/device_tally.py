"""The statistics of `tally`, added up on a device."""

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int
from torch import Tensor

from fer_cli.codebooks.tally import Tally
from fer_cli.execution.transfer import moved

_NUMBERS = 1 << 26
"""Numbers worked on at once, in double precision."""


class DeviceTally:
    """Statistics of the codes at some locations, over the samples seen so far; see `Tally`."""

    def __init__(self, centroids: Float32[Tensor, "location code filter"], classes: int) -> None:
        locations, k, filters = centroids.shape
        self._centroids, self._classes = centroids, classes
        self._histogram = torch.zeros(locations, k * classes, dtype=torch.int64, device=centroids.device)
        self._exemplar = torch.full((locations, k), -1, device=centroids.device)
        self._distance = torch.full((locations, k), torch.inf, dtype=torch.float64, device=centroids.device)
        self._inertia, self._square = (
            torch.zeros(locations, dtype=torch.float64, device=centroids.device) for _ in range(2)
        )
        self._total = torch.zeros(locations, filters, dtype=torch.float64, device=centroids.device)

    def add(
        self,
        vectors: Float32[Tensor, "location sample filter"],
        codes: Int[Tensor, "location sample"],
        *,
        samples: Int[np.ndarray, " sample"],
        labels: Int[np.ndarray, " sample"],
    ) -> None:
        """Add samples, in ascending order over all calls: vectors, codes, classes."""
        indices, classes = (moved(torch.from_numpy(each).long(), codes.device) for each in (samples, labels))
        cells = codes * self._classes + classes
        self._histogram.scatter_add_(1, cells, torch.ones_like(cells))
        step = max(1, _NUMBERS // max(1, vectors.shape[1] * vectors.shape[2]))
        for start in range(0, len(vectors), step):
            part = slice(start, start + step)
            self._add(part, vectors[part], codes[part], indices)

    def _add(self, part: slice, vectors: Tensor, codes: Tensor, samples: Tensor) -> None:
        centroids = self._centroids[part]
        offset = vectors - centroids[:, :1].double()
        self._total[part] += offset.sum(1)
        self._square[part] += offset.square().sum((1, 2))
        own = centroids.gather(1, codes[..., None].expand(-1, -1, centroids.shape[2]))
        distance: Float64[Tensor, "location sample"] = (vectors - own.double()).square().sum(2)
        self._inertia[part] += distance.sum(1)
        known = self._distance[part]
        best = known.scatter_reduce(1, codes, distance, "amin")
        nearest = (distance == best.gather(1, codes)) & (distance < known.gather(1, codes))
        last = torch.iinfo(torch.int64).max
        found = torch.full_like(self._exemplar[part], last)
        found.scatter_reduce_(1, codes, torch.where(nearest, samples, last), "amin")
        self._exemplar[part] = torch.where(found < last, found, self._exemplar[part])
        self._distance[part] = best

    def tally(self) -> Tally:
        """The statistics, on the host."""
        return Tally(
            histogram=self._histogram.view(*self._exemplar.shape, self._classes).cpu().numpy(),
            exemplar=self._exemplar.cpu().numpy(),
            distance=self._distance.cpu().numpy(),
            inertia=self._inertia.cpu().numpy(),
            total=self._total.cpu().numpy(),
            square=self._square.cpu().numpy(),
        )
