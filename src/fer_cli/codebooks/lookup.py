"""Nearest centroids of a batch of samples at all locations of a layer at once, exactly.

One batched product of matrices gives every distance in float32. Where that cannot tell the nearest centroids of a
vector apart, float64 decides among them, so that a code depends neither on the batch a sample comes in nor on the
machine: `kmeans.nearest` gives the same one for one location at a time.
"""

from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float32, Int
from torch import Tensor

from fer_cli.codebooks import kmeans
from fer_cli.codebooks.kmeans import TIE, rounding

_NEIGHBOURS = 1 << 26
"""Distances worked on at once among many rows."""
_SCORES, _DEVICE_SCORES = 1 << 18, 1 << 26
"""Distances worked on at once, so that they stay in a core's cache; and on a GPU, where every step costs a launch."""


class CentroidIndex:
    """The centroids of a layer, made ready for look-ups; codes from `n_codes` on are never named."""

    def __init__(self, centroids: Float32[Tensor, "location code filter"], n_codes: Int[Tensor, " location"]) -> None:
        self.centroids = centroids
        # In parts that stay in a core's cache; in one, float64 doubles the memory and its pages cost more than the sum.
        step = max(1, _SCORES // max(1, centroids[0].numel())) if centroids.device.type == "cpu" else len(centroids)
        squares = torch.cat([part.double().square_().sum(2) for part in centroids.split(step)])
        unused = torch.arange(centroids.shape[1], device=centroids.device) >= n_codes[:, None]
        self._longest = squares.masked_fill(unused, 0.0).amax(1)
        self._squares = squares.masked_fill(unused, torch.inf).float()

    @cached_property
    def _transposed(self) -> Float32[Tensor, "location filter code"]:
        return self.centroids.transpose(1, 2)

    @torch.inference_mode()
    def search(self, vectors: Float32[Tensor, "location sample filter"]) -> Int[Tensor, "location sample"]:
        """Code of the nearest centroid (Euclidean) of each vector, the lowest of equally near ones."""
        locations, samples, _ = vectors.shape
        codes = torch.empty(locations, samples, dtype=torch.int64, device=vectors.device)
        most = _SCORES if vectors.device.type == "cpu" else _DEVICE_SCORES
        step = max(1, most // max(1, samples * self.centroids.shape[1]))
        for start in range(0, locations, step):
            part = slice(start, start + step)
            codes[part] = self._search(vectors[part], part)
        return codes

    def relative_squares(
        self, vectors: Float32[Tensor, "location sample filter"], part: slice = slice(None)
    ) -> Float32[Tensor, "location sample code"]:
        """Squared distance of each vector to every centroid of its location, less the vector's own square."""
        return torch.baddbmm(self._squares[part, None], vectors, self._transposed[part], alpha=-2)

    def _search(self, vectors: Tensor, part: slice) -> Tensor:
        # |v|² is the same for all centroids of a vector and left out.
        scores = self.relative_squares(vectors, part)
        least, codes = scores.min(dim=2)
        lengths = vectors.square().sum(2).sqrt()
        slack = rounding(vectors.shape[2]) * (lengths + self._longest[part, None].sqrt().float()).square()
        near = scores <= (least + slack)[..., None]
        doubtful = near.sum(2) > 1
        if doubtful.any():
            codes[doubtful] = self._decide(vectors, part, near & doubtful[..., None])[doubtful]
        return codes

    def _decide(self, vectors: Tensor, part: slice, near: Tensor) -> Tensor:
        """The nearest in float64 among the centroids marked in `near`."""
        location, sample, code = near.nonzero(as_tuple=True)
        vector = vectors[location, sample].double()
        distance = (vector - self.centroids[part][location, code].double()).square().sum(1)
        tie = TIE * (vector.square().sum(1) + self._longest[part][location])
        row = location * vectors.shape[1] + sample
        rows = near.shape[0] * near.shape[1]
        least = distance.new_full((rows,), torch.inf).scatter_reduce(0, row, distance, "amin")
        nearest = distance <= least[row] + tie
        lowest = code.new_full((rows,), near.shape[2]).scatter_reduce(0, row[nearest], code[nearest], "amin")
        return lowest.view(near.shape[:2])


def nearest_rows(
    vectors: Float32[np.ndarray, "sample filter"],
    rows: Float32[np.ndarray, "row filter"],
    count: int,
    device: torch.device,
) -> tuple[Float32[np.ndarray, "sample neighbour"], Int[np.ndarray, "sample neighbour"]]:
    """Squared distances and indices of the `count` nearest rows of each vector, ascending; found by brute force."""
    if device.type == "cpu" and kmeans.HAS_FAISS:
        return kmeans.nearest_rows(vectors, rows, count)
    known = torch.from_numpy(np.ascontiguousarray(rows)).to(device)
    squares, found = known.square().sum(1), []
    for part in torch.from_numpy(np.ascontiguousarray(vectors)).split(max(1, _NEIGHBOURS // len(rows))):
        own = part.to(device)
        distance = torch.addmm(squares, own, known.T, alpha=-2).add_(own.square().sum(1)[:, None]).clamp_(min=0)
        found.append([each.cpu() for each in distance.topk(count, dim=1, largest=False)])
    distances, indices = (torch.cat(each).numpy() for each in zip(*found, strict=True))
    return distances, indices
