"""k-means at some locations of a layer on the device that its features are on: `fitting` for GPUs."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, UInt16
from torch import Tensor

from fer_cli.codebooks.batched_kmeans import NUMBERS, DistinctVectors, blocks, cluster_batched, distinct_vectors
from fer_cli.codebooks.device_tally import DeviceTally
from fer_cli.codebooks.fitting import Counted, Fitted
from fer_cli.codebooks.kmeans import distinct_rows
from fer_cli.codebooks.lookup import CentroidIndex
from fer_cli.codebooks.tally import Tally
from fer_cli.execution.transfer import moved
from fer_cli.network.activations import round_to


def fit_batched(
    features: Float[Tensor, "location sample filter"], k: int, seeds: Sequence[int], counted: Counted | None
) -> Fitted:
    """What `fit_locations` gives, but for the draws of k-means; only the result leaves the device."""
    found, silent = [], []
    for part in _parts(features):
        halves = _halved(features[part])
        found.append(distinct_vectors(halves))
        silent.append((halves == 0).all(1).sum(1))
    number, dead = (torch.cat(each).cpu().numpy() for each in ([each.number for each in found], silent))
    centroids = np.zeros((len(features), k, features.shape[2]), np.float32)
    order = np.argsort(number, kind="stable")
    known = DistinctVectors(*(torch.cat([getattr(each, name) for each in found]) for name in vars(found[0])))
    for part in blocks(number[order].tolist(), features.shape[2] + 3 * k):
        centroids[order[part]] = _fit(features, known, order[part], int(number[order[part][-1]]), k, seeds)
    n_codes = np.zeros(len(features), np.int64)
    for location, own in enumerate(centroids):
        codes = distinct_rows(own[: number[location]]).rows
        n_codes[location] = len(codes)
        centroids[location] = 0.0
        centroids[location, : len(codes)] = codes
    tally, code = (None, None) if counted is None else _counted(features, centroids, n_codes, counted)
    return Fitted(centroids, n_codes, number, dead, tally, code)


def _parts(features: Tensor) -> Iterator[slice]:
    """The locations, as many at a time as may be worked on at once."""
    step = max(1, NUMBERS // max(1, features.shape[1] * features.shape[2]))
    for start in range(0, len(features), step):
        yield slice(start, start + step)


def _halved(features: Tensor) -> Tensor:
    """What half precision does not tell apart needs no two centroids."""
    return round_to(features, 16)


def _fit(
    features: Tensor,
    known: DistinctVectors,
    locations: Int64[np.ndarray, " chosen"],
    width: int,
    k: int,
    seeds: Sequence[int],
) -> Float32[np.ndarray, "chosen code filter"]:
    """Centroids of some locations that have at most `width` distinct vectors; with at most k, these."""
    chosen = moved(torch.from_numpy(locations), features.device)
    distinct = DistinctVectors(known.first[chosen], known.rank[chosen], known.number[chosen])
    samples, count = distinct.rows(width)
    stored = features[chosen[:, None], samples]
    rows = _halved(stored).float() * (count > 0)[..., None]
    found = torch.zeros(len(locations), k, features.shape[2], device=features.device)
    found[:, :width] = rows[:, :k]
    many = (distinct.number > k).nonzero()[:, 0]
    if len(many):
        wanted = [seeds[locations[row]] for row in many.tolist()]
        found[many] = cluster_batched(rows[many], count[many], k, wanted)
    return found.cpu().numpy()


def _counted(
    features: Tensor, centroids: Float32[np.ndarray, "location code filter"], n_codes: np.ndarray, counted: Counted
) -> tuple[Tally, UInt16[np.ndarray, "location sample"] | None]:
    """What each code holds, and the samples' codes where these are kept."""
    device, tallies, kept = features.device, [], []
    for part in _parts(features):
        own, used = (moved(torch.from_numpy(each[part]), device) for each in (centroids, n_codes))
        vectors = round_to(features[part], 8 * features.element_size()).float()
        tally = DeviceTally(own, counted.n_classes)
        codes = CentroidIndex(own, used).search(vectors)
        tally.add(vectors, codes, samples=counted.samples, labels=counted.labels)
        tallies.append(tally.tally())
        if counted.keep:
            kept.append(codes.cpu().numpy().astype(np.uint16))
    return Tally.joined(tallies), np.concatenate(kept) if kept else None
