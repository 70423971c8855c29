"""k-means at many locations at once, by PyTorch: what a GPU clusters with. On a CPU FAISS is quicker (`kmeans`).

Equal vectors are one with a weight, the start is k-means++, and iterations end, as in `kmeans`. Distances and sums are
batched products of matrices, and random numbers come from the host, so that nothing depends on the order in which a
GPU's threads add up: one kind of device gives one result, bit for bit.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float16, Float32, Int64
from torch import Tensor

from fer_cli.codebooks.kmeans import ENOUGH_GAIN, ITERATIONS
from fer_cli.execution.transfer import moved

NUMBERS = 1 << 27
"""Numbers worked on at once. Blocks do not depend on free memory, since a product's last bits depend on its size."""
_MASS = 2.0**46
"""Into so many parts the probability of a k-means++ start is cut: sums of integers are exact in any order."""


@dataclass(frozen=True)
class DistinctVectors:
    """What is distinct among the vectors of each location, in the order in which they first appear.

    `first` is where each sample's vector first appears, `rank` which of the distinct ones it is, `number` how many
    there are.
    """

    first: Int64[Tensor, "location sample"]
    rank: Int64[Tensor, "location sample"]
    number: Int64[Tensor, " location"]

    def rows(self, width: int) -> tuple[Int64[Tensor, "location width"], Int64[Tensor, "location width"]]:
        """The sample of each distinct vector, and how often it appears, 0 beyond their number; at most `width`."""
        shape = (len(self.rank), width)
        samples = torch.zeros(shape, dtype=torch.int64, device=self.rank.device).scatter_(1, self.rank, self.first)
        count = torch.zeros_like(samples).scatter_add_(1, self.rank, torch.ones_like(self.rank))
        return samples, count


def distinct_vectors(halves: Float16[Tensor, "location sample filter"]) -> DistinctVectors:
    """Look for equal vectors at each location, by keys that are then verified. Zeros have no sign."""
    words = (halves + 0.0).view(torch.int16)
    for seed in range(100):
        found = _by_keys(words, seed)
        if torch.equal(words, words.gather(1, found.first[..., None].expand_as(words))):
            return found
    raise AssertionError("no keys tell these vectors apart")


def _by_keys(words: Tensor, seed: int) -> DistinctVectors:
    generator = torch.Generator().manual_seed(seed)
    factors = torch.randint(1 << 62, (words.shape[2],), generator=generator) * 2 + 1
    keys = (words * moved(factors, words.device)).sum(2)
    keys, order = keys.sort(dim=1, stable=True)
    at = torch.arange(keys.shape[1], device=keys.device)
    starts = torch.ones_like(keys, dtype=torch.bool)
    starts[:, 1:] = keys[:, 1:] != keys[:, :-1]
    start = torch.where(starts, at, 0).cummax(1).values
    first = torch.empty_like(order).scatter_(1, order, order.gather(1, start))
    is_first = first == at
    rank = (is_first.cumsum(1) - 1).gather(1, first)
    return DistinctVectors(first, rank, is_first.sum(1))


def cluster_batched(
    rows: Float32[Tensor, "location row filter"], count: Int64[Tensor, "location row"], k: int, seeds: Sequence[int]
) -> Float32[Tensor, "location code filter"]:
    """k-means at each location, each row weighed by its count, 0 for none; empty clusters take the farthest row.

    Every location needs more than k rows. `seeds` are those of the locations.
    """
    origin = rows[:, :1]
    rows = rows - origin  # squares of large numbers cancel
    drawn = torch.stack([_uniform(seed, k) for seed in seeds])
    centroids = _start(rows, count, moved(drawn, rows.device))
    open_ = torch.arange(len(rows), device=rows.device)
    result, before = centroids.clone(), torch.full((len(rows),), torch.inf, dtype=torch.float64, device=rows.device)
    for _ in range(ITERATIONS):
        objective, centroids = _iterate(rows, count, centroids)
        result[open_] = centroids
        goes_on = ~((before - objective) < ENOUGH_GAIN * before)
        if not goes_on.all():
            rows, count, centroids, objective, open_ = (
                each[goes_on] for each in (rows, count, centroids, objective, open_)
            )
        if not len(rows):
            break
        before = objective
    return result + origin


def _uniform(seed: int, k: int) -> Tensor:
    return torch.rand(k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _start(rows: Tensor, count: Tensor, drawn: Tensor) -> Tensor:
    """k-means++: centroids are rows, drawn one by one in proportion to the squared distance to the nearest one so far.

    As in FAISS, a row's count does not change its probability. So both engines reach the same inertia on average.
    """
    squares, each = rows.square().sum(2), torch.arange(len(rows), device=rows.device)
    distance: Tensor | None = None
    chosen = []
    for column in drawn.T:
        mass = (count > 0).double() if distance is None else (count > 0) * distance.double()
        parts = (mass / mass.sum(1, keepdim=True) * _MASS).long()
        edges = parts.cumsum(1)
        target = (column * edges[:, -1]).long().clamp(max=edges[:, -1] - 1)
        at = torch.searchsorted(edges, target[:, None], right=True).clamp(max=rows.shape[1] - 1)
        row = rows[each, at[:, 0]]
        chosen.append(row)
        to_it = (squares + squares.gather(1, at) - 2 * torch.bmm(rows, row[:, :, None])[..., 0]).clamp(min=0)
        distance = to_it if distance is None else torch.minimum(distance, to_it)
        distance.scatter_(1, at, 0.0)
    return torch.stack(chosen, dim=1)


def _iterate(rows: Tensor, count: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """The objective of some centroids, and the means of what is nearest to each."""
    squares = rows.square().sum(2)
    scores = torch.baddbmm(centroids.square().sum(2)[:, None], rows, centroids.transpose(1, 2), alpha=-2)
    least, codes = scores.min(dim=2)
    distance = (least + squares).clamp(min=0) * count
    weights = (codes[..., None] == torch.arange(centroids.shape[1], device=rows.device)) * count[..., None].float()
    held = weights.sum(1)
    means = torch.bmm(weights.transpose(1, 2), rows) / held.clamp(min=1)[..., None]
    _fill(means, held == 0, distance, rows)
    return distance.sum(1, dtype=torch.float64), means


def _fill(
    centroids: Tensor, empty: Bool[Tensor, "location code"], distance: Float32[Tensor, "location row"], rows: Tensor
) -> None:
    """Put every empty cluster, in place, where the row lies that adds most to the objective."""
    while len(at := empty.any(1).nonzero()[:, 0]):
        code, row = _first(empty[at]), _first(distance[at] == distance[at].amax(1, keepdim=True))
        centroids[at, code] = rows[at, row]
        empty[at, code] = False
        distance[at, row] = 0.0


def _first(marked: Bool[Tensor, "location place"]) -> Int64[Tensor, " location"]:
    """The first place that is marked in each row."""
    places = torch.arange(marked.shape[1], device=marked.device)
    return torch.where(marked, places, marked.shape[1] - 1).amin(1)


def blocks(widths: Sequence[int], each: int) -> Iterator[slice]:
    """Consecutive parts of ascending `widths`, so long that the widest times `each` numbers fit `NUMBERS`."""
    start = 0
    while start < len(widths):
        stop = start + 1
        while stop < len(widths) and (stop + 1 - start) * widths[stop] * each <= NUMBERS:
            stop += 1
        yield slice(start, stop)
        start = stop
