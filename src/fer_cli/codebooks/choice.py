"""`fer cluster --k auto`: the number of codes of each layer, by how stable clusterings are across seeds.

A layer gets the largest candidate whose clusterings agree with one another as well as those of the best candidate do,
to within one standard error: more codes say more, as long as it is the data that decides them and not the seed.
Agreement is the adjusted Rand index. Source: von Luxburg, "Clustering stability: an overview", 2010.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int

from fer_cli.codebooks.kmeans import cluster, distinct_rows, nearest, use_one_thread
from fer_cli.data.dataset import VolumeSet
from fer_cli.execution.executor import WorkExecutor, results_in_order
from fer_cli.network.activations import PATHS, batches, encode_paths, round_to
from fer_cli.network.explained import ExplainedNetwork

CANDIDATES = (5, 10, 15, 20, 30, 40, 50, 60, 80)
_SAMPLES = 1024
_FEWEST_A_CODE = 8
"""Samples that a code of a candidate needs."""
_LOCATIONS = 4
_SEEDS = 4


@dataclass(frozen=True)
class Candidate:
    """How well clusterings of a layer into `k` codes agree: mean adjusted Rand index, and its standard error.

    The mean is over paths and locations, and within each over pairs of seeds.
    """

    layer: str
    k: int
    agreement: float
    error: float
    chosen: bool


def choose_codes(
    network: ExplainedNetwork,
    voxels: VolumeSet,
    samples: Int[np.ndarray, " sample"],
    executor: WorkExecutor,
    *,
    seed: int,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> list[Candidate]:
    """The candidates of every layer below the output, the chosen ones marked.

    Looks at some locations, on some of the samples, all drawn by `seed`.
    """
    generator = np.random.default_rng([seed, 0xC40])
    some = np.sort(generator.permutation(samples)[:_SAMPLES])
    candidates = [k for k in CANDIDATES if k * _FEWEST_A_CODE <= len(some)] or [CANDIDATES[0]]
    layers = network.spec.layer_names[:-1]
    places = {layer: _draw_locations(network, layer, generator) for layer in layers}
    features = _features_at(network, voxels, some, places)
    seeds = [int(s) for s in generator.integers(0, 2**31, _SEEDS)]
    keys = list(features)
    agreements: dict[str, list[list[float]]] = {layer: [] for layer in layers}
    calls: Iterator[tuple[object, ...]] = ((features[key], candidates, seeds) for key in keys)
    for done, (key, found) in enumerate(
        zip(keys, results_in_order(executor, measure_agreement, calls), strict=True), start=1
    ):
        agreements[key[1]].append(found)
        report(done, len(keys))
    return [each for layer in layers for each in choose(layer, candidates, agreements[layer])]


def choose(layer: str, candidates: Sequence[int], agreements: Sequence[Sequence[float]]) -> list[Candidate]:
    """The candidates of a layer from the agreement of each (column) at each location (row)."""
    table = np.array(agreements)
    means = table.mean(axis=0)
    errors = table.std(axis=0, ddof=1) / np.sqrt(len(table)) if len(table) > 1 else np.zeros(len(means))
    best = int(means.argmax())
    good = [k for k, mean in zip(candidates, means, strict=True) if mean >= means[best] - errors[best]]
    return [
        Candidate(layer, k, float(mean), float(error), k == max(good))
        for k, mean, error in zip(candidates, means, errors, strict=True)
    ]


def choice_rows(choice: Sequence[Mapping[str, Any]]) -> list[dict[str, str | int | None]]:
    """One row a layer, from candidates as plain values: the chosen k, and under each candidate its agreement."""
    rows: dict[str, dict[str, str | int | None]] = {}
    for candidate in choice:
        row = rows.setdefault(candidate["layer"], {"layer": candidate["layer"], "k": None})
        row[str(candidate["k"])] = f"{candidate['agreement']:.2f}"
        if candidate["chosen"]:
            row["k"] = candidate["k"]
    return list(rows.values())


def measure_agreement(
    vectors: Float32[np.ndarray, "sample filter"], candidates: Sequence[int], seeds: Sequence[int]
) -> list[float]:
    """Mean adjusted Rand index between clusterings by different seeds, for each candidate."""
    from sklearn.metrics import adjusted_rand_score  # slow to import, and few runs need it

    use_one_thread()
    distinct = distinct_rows(vectors)
    agreements = []
    for k in candidates:
        codes = [nearest(distinct.rows, cluster(distinct, k, seed=seed))[distinct.back] for seed in seeds]
        agreements.append(float(np.mean([adjusted_rand_score(one, other) for one, other in combinations(codes, 2)])))
    return agreements


def _draw_locations(
    network: ExplainedNetwork, layer: str, generator: np.random.Generator
) -> Int[np.ndarray, " location"]:
    locations = network.spec.locations(layer)
    return np.sort(generator.permutation(locations)[:_LOCATIONS])


def _features_at(
    network: ExplainedNetwork,
    voxels: VolumeSet,
    samples: Int[np.ndarray, " sample"],
    places: dict[str, Int[np.ndarray, " location"]],
) -> dict[tuple[str, str, int], Float32[np.ndarray, "sample filter"]]:
    """Features of the samples by path, layer and location, in half precision, which codes are fitted on."""
    parts: dict[tuple[str, str, int], list[torch.Tensor]] = {}
    for part in batches(samples):
        features = encode_paths(network, voxels.tensor(part))
        for path in PATHS:
            for layer, locations in places.items():
                flat = round_to(features[path][layer].flatten(2)[:, :, locations], 16).float().cpu()
                for i, location in enumerate(locations.tolist()):
                    parts.setdefault((path, layer, location), []).append(flat[:, :, i])
    return {key: torch.cat(of_key).numpy() for key, of_key in parts.items()}
