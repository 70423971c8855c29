"""Causal repair over a split: do the locations that a ranking blames carry the mistake?

Of every misclassified sample the features at the m most blamed locations of a layer are replaced by those of a donor,
the rest of the network runs, and the prediction is repaired if it becomes the true class. The donor is of the true
class (`label`), or of the class that the feedforward evidence implies (`evidence`, label-free). The same is done to
correctly classified samples, where it should change nothing, and with a donor of a class drawn at random, which should
not repair.

`study_repairs` measures one run and keeps every sample's result; `summarise_repairs` pools runs. Nothing is fitted.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fer_cli.artifacts import RunArtifacts
from fer_cli.calibration.temperature import implied_class
from fer_cli.data.volumes import Volumes
from fer_cli.diagnosis.donor_path import Score, donor_path, summed
from fer_cli.diagnosis.donors import Donors
from fer_cli.diagnosis.replacement import Replacement, highest, random_scores
from fer_cli.errors import UsageError
from fer_cli.evaluation.resampling import mean_with_interval, shape_weights, weighted_mean, with_interval
from fer_cli.evaluation.study_results import LayerRepair, Ranking, Rates, Repair, Specificity
from fer_cli.execution.transfer import moved
from fer_cli.network.activations import BATCH, FEEDFORWARD, encode, predict_samples
from fer_cli.network.backbone import Features
from fer_cli.network.explained import ExplainedNetwork
from fer_cli.studies.rankings import OURS, donor_gradient, rankings

SHARES = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)
"""Of a layer's locations, how many are replaced."""
RANDOM, ORACLE = "random", "oracle"
CORRECT_SAMPLES = 100
_RANDOM_DRAWS = 10
_POOL = 8
_SMALL = 64
"""Of a layer with more locations the greedy oracle tries `_POOL` at a time, those of the steepest gradient."""


@dataclass(frozen=True)
class LayerRepairs:
    """Results at one layer; `counts` are the m. What is not a number could not be measured.

    `repaired[donor][ranking]` has axes (error, m), 0 or 1, for `random` the share of draws; `wrong_class` is the same
    for our ranking with a donor of a class that is neither the true nor the predicted one. `broken` has axes (correct
    sample, m), by the donor's class: that of the runner-up, and the sample's `own`.
    """

    locations: int
    counts: tuple[int, ...]
    repaired: dict[str, dict[str, Float[np.ndarray, "error m"]]]
    wrong_class: dict[str, Float[np.ndarray, "error m"]]
    broken: dict[str, Float[np.ndarray, "correct m"]]


@dataclass(frozen=True)
class Repairs:
    """What repairing did to the misclassified samples of a run, and to some of its correct ones."""

    errors: tuple[str, ...]
    correct: tuple[str, ...]
    implied_is_true: Bool[np.ndarray, " error"]
    layers: dict[str, LayerRepairs]


def study_repairs(
    run: RunArtifacts,
    *,
    split: str = "test",
    samples: Int[np.ndarray, " sample"] | None = None,
    layers: Sequence[str] | None = None,
    seed: int = 0,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Repairs:
    """Repair the misclassified samples of a split, or of the given `samples`, in every way there is.

    `layers` are those with several locations unless named.

    Raises UsageError if none is misclassified.
    """
    network, codebook, voxels = run.network, run.codebook, run.voxels
    indices = voxels.indices(split) if samples is None else samples
    labels = voxels.labels[indices]
    probabilities = predict_samples(network, voxels, indices)
    predicted = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    if not len(wrong):
        raise UsageError("no sample is misclassified, so there is nothing to repair.")
    generator = np.random.default_rng(seed)
    right = np.sort(generator.permutation(np.flatnonzero(predicted == labels))[:CORRECT_SAMPLES])
    mistaken, correct = (
        _Samples.read(run, indices[rows], predicted[rows], probabilities[rows]) for rows in (wrong, right)
    )
    implied = _implied(run, mistaken)
    strangers = np.array(
        [
            generator.choice([c for c in np.unique(voxels.labels[voxels.labels >= 0]) if c not in (a, b)] or [a])
            for a, b in zip(mistaken.labels, mistaken.predicted, strict=True)
        ]
    )
    layers = tuple(layers or network.spec.map_layers)
    donors = Donors(network, codebook, voxels, layers)
    empty = encode(network, torch.zeros(1, *network.spec.input.volume))
    results = {}
    for done, layer in enumerate(layers):
        ranked = rankings(codebook, empty[layer])
        results[layer] = _repair_layer(
            partial(_edit, network, donors, layer), ranked, mistaken, correct, implied, strangers, generator
        )
        report(done + 1, len(layers))
    return Repairs(
        tuple(voxels.names[i] for i in mistaken.indices),
        tuple(voxels.names[i] for i in correct.indices),
        implied == mistaken.labels,
        results,
    )


@dataclass(frozen=True)
class _Samples:
    """Some samples with their features; `runner_up` is the class of the second highest probability."""

    indices: Int[np.ndarray, " sample"]
    labels: Int[np.ndarray, " sample"]
    predicted: Int[np.ndarray, " sample"]
    runner_up: Int[np.ndarray, " sample"]
    volumes: Volumes
    features: Features

    @staticmethod
    def read(
        run: RunArtifacts,
        indices: Int[np.ndarray, " sample"],
        predicted: Int[np.ndarray, " sample"],
        probabilities: Float[np.ndarray, "sample klass"],
    ) -> "_Samples":
        volumes = moved(run.voxels.tensor(indices), run.network.backbone.device)
        parts = [encode(run.network, part) for part in volumes.split(BATCH)]
        features = {name: torch.cat([part[name] for part in parts]) for name in run.network.spec.layer_names}
        runner_up = np.argsort(-probabilities, axis=1, kind="stable")[:, 1]
        return _Samples(indices, run.voxels.labels[indices], predicted, runner_up, volumes, features)


def _implied(run: RunArtifacts, samples: _Samples) -> Int[np.ndarray, " sample"]:
    """The class that the feedforward evidence of each sample implies."""
    codebook, evidence = run.codebook, {}
    for layer in run.network.spec.layer_names[:-1]:
        codes = codebook.layer(FEEDFORWARD, layer).assign(samples.features[layer])
        evidence[layer] = codebook.evidence(FEEDFORWARD, layer, codes).sum(1)
    return implied_class(evidence, run.temperatures, samples.predicted)


def _edit(
    network: ExplainedNetwork, donors: Donors, layer: str, samples: _Samples, wanted: np.ndarray, given: np.ndarray
) -> Replacement:
    """The samples with donors of the `wanted` classes at a layer; the `given` ones are to be left."""
    features = samples.features[layer]
    return Replacement(
        network.backbone,
        layer,
        samples.volumes,
        features,
        donors.find(layer, features, wanted).feature,
        moved(torch.from_numpy(wanted), features.device),
        moved(torch.from_numpy(given), features.device),
    )


def _repair_layer(
    edit: Callable[[_Samples, np.ndarray, np.ndarray], Replacement],
    ranked: Mapping[str, Callable[[Replacement], Score]],
    mistaken: _Samples,
    correct: _Samples,
    implied: Int[np.ndarray, " error"],
    strangers: Int[np.ndarray, " error"],
    generator: np.random.Generator,
) -> LayerRepairs:
    """Every kind of repair at the layer that `edit` edits; `strangers` are classes that nobody speaks for."""
    by_label = edit(mistaken, mistaken.labels, mistaken.predicted)
    true = by_label.wanted
    counts = repair_counts(by_label.locations)
    repaired = {"label": _repaired(by_label, true, ranked, counts, generator)}
    repaired["evidence"] = {name: rates.copy() for name, rates in repaired["label"].items()}
    # The donor is the same where evidence implies the true class.
    if len(apart := np.flatnonzero(implied != mistaken.labels)):
        rows = moved(torch.from_numpy(apart), true.device)
        by_evidence = edit(mistaken, implied, mistaken.predicted).rows(rows)
        for name, rates in _repaired(by_evidence, true[rows], ranked, counts, generator).items():
            repaired["evidence"][name][apart] = rates
    stranger = edit(mistaken, strangers, mistaken.predicted)
    broken = {
        "runner_up": edit(correct, correct.runner_up, correct.predicted),
        "own": edit(correct, correct.labels, correct.runner_up),
    }
    return LayerRepairs(
        by_label.locations,
        counts,
        repaired,
        {
            name: _says(stranger, score(stranger), counts, true)
            for name, score in ((OURS, donor_path), ("donor_gradient", donor_gradient))
        },
        {
            name: 1 - _says(replacement, donor_path(replacement), counts, broken["own"].wanted)
            for name, replacement in broken.items()
        },
    )


def repair_counts(locations: int) -> tuple[int, ...]:
    """The m of a layer: `SHARES` of its locations, at least one."""
    return tuple(sorted({max(1, round(locations * share)) for share in SHARES}))


def _says(
    edit: Replacement,
    score: Float[Tensor, "sample location"],
    counts: Sequence[int],
    klass: Int[Tensor, " sample"],
) -> Float[np.ndarray, "sample m"]:
    """Whether the network says `klass` when the m locations of the highest score are replaced."""
    said = [edit.logits(edit.replaced(highest(score, count))).argmax(dim=1) == klass for count in counts]
    return torch.stack(said, dim=1).cpu().numpy().astype(np.float64)


def _repaired(
    edit: Replacement,
    true: Int[Tensor, " sample"],
    ranked: Mapping[str, Callable[[Replacement], Score]],
    counts: tuple[int, ...],
    generator: np.random.Generator,
) -> dict[str, Float[np.ndarray, "sample m"]]:
    results = {
        RANDOM: np.mean(
            [
                _says(edit, random_scores(len(edit), edit.locations, generator, true.device), counts, true)
                for _ in range(_RANDOM_DRAWS)
            ],
            axis=0,
        )
    }
    for name, score in ranked.items():
        results[name] = _says(edit, score(edit), counts, true)
    # What some ranking finds with m locations can be found, even where taking the best each time fails.
    found = np.max([_greedy(edit, true, counts), *(results[name] for name in results if name != RANDOM)], axis=0)
    results[ORACLE] = np.maximum.accumulate(found, axis=1)
    return results


def _greedy(edit: Replacement, true: Int[Tensor, " sample"], counts: tuple[int, ...]) -> Float[np.ndarray, "sample m"]:
    """Whether adding the location that helps most, again and again, repairs with m locations or fewer.

    From the fourth location on, a quarter of those there are is added at a time.
    """
    parts = torch.arange(len(edit), device=edit.feature.device).split(BATCH)
    return np.concatenate([_greedy_together(edit.rows(part), true[part], counts) for part in parts])


def _greedy_together(
    edit: Replacement, true: Int[Tensor, " sample"], counts: tuple[int, ...]
) -> Float[np.ndarray, "sample m"]:
    result = np.zeros((len(edit), len(counts)))
    chosen = torch.zeros(len(edit), edit.locations, dtype=torch.bool, device=edit.feature.device)
    left = torch.arange(len(edit), device=edit.feature.device)  # not repaired yet, with `size` locations chosen
    size, large = 0, edit.locations > _SMALL
    while size < counts[-1] and len(left):
        some, step = edit.rows(left), max(1, size // 4)
        pool = torch.nonzero(~chosen[left])[:, 1].view(len(left), -1)
        if large:
            now = some.replaced(chosen[left])
            slope = summed(some.gradient(now) * (some.donor - now)).gather(1, pool)
            pool = pool.gather(1, torch.argsort(slope, dim=1, descending=True)[:, : max(_POOL, step)])
        if not large or step < _POOL:
            odds = _odds_with_each(edit, left, chosen, pool)
            pool = pool.gather(1, torch.argsort(odds, dim=1, descending=True, stable=True))
        added = pool[:, : min(step, counts[-1] - size)]
        chosen[left[:, None], added] = True
        size += added.shape[1]
        repaired = some.logits(some.replaced(chosen[left])).argmax(dim=1) == true[left]
        result[left[repaired].cpu().numpy()] = np.array(counts) >= size
        left = left[~repaired]
    return result


def _odds_with_each(
    edit: Replacement,
    rows: Int[Tensor, " row"],
    chosen: Bool[Tensor, "sample location"],
    pool: Int[Tensor, "row candidate"],
) -> Float[Tensor, "row candidate"]:
    """Log odds of some samples when each location of a row's pool is replaced too, beside those chosen already."""
    samples, odds = rows.repeat_interleave(pool.shape[1]), []
    for part, added in zip(samples.split(BATCH), pool.flatten().split(BATCH), strict=True):
        trial = chosen[part].scatter_(1, added[:, None], True)
        some = edit.rows(part)
        odds.append(some.log_odds(some.logits(some.replaced(trial))))
    return torch.cat(odds).view(pool.shape)


def summarise_repairs(runs: Sequence[Repairs], *, seed: int = 0) -> Repair:
    """Figures of one run or of several pooled, with 95 % intervals over shapes.

    A ranking's area is its repair rate's mean over the m; its normalised score is (area − random's) / (oracle's −
    random's).
    """
    names = [name for run in runs for name in run.errors]
    weights = shape_weights(names, seed=seed)
    correct_weights = shape_weights([name for run in runs for name in run.correct], seed=seed)
    implied = np.concatenate([run.implied_is_true for run in runs]).astype(np.float64)
    share, ends = mean_with_interval(implied, weights)
    return Repair(
        n_errors=len(names),
        runs=len(runs),
        implied_class_is_true=share,
        implied_class_is_true_ci=ends,
        layers={
            layer: _summarised([run.layers[layer] for run in runs], weights, correct_weights)
            for layer in runs[0].layers
        },
    )


def _summarised(
    parts: Sequence[LayerRepairs],
    weights: Float[np.ndarray, "draw error"],
    correct_weights: Float[np.ndarray, "draw correct"],
) -> LayerRepair:
    first = parts[0]
    return LayerRepair(
        locations=first.locations,
        m=list(first.counts),
        donors={donor: _scores(_joined([part.repaired[donor] for part in parts]), weights) for donor in first.repaired},
        specificity=Specificity(
            wrong_class_repairs={
                name: _rates(values, weights) for name, values in _joined([part.wrong_class for part in parts]).items()
            },
            correct_broken={
                name: _rates(values, correct_weights)
                for name, values in _joined([part.broken for part in parts]).items()
            },
        ),
    )


def _joined(parts: Sequence[Mapping[str, Float[np.ndarray, "_ m"]]]) -> dict[str, Float[np.ndarray, "row m"]]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _rates(values: Float[np.ndarray, "row m"], weights: Float[np.ndarray, "draw row"]) -> Rates:
    each = [mean_with_interval(column, weights) for column in values.T]
    return Rates(rate=[rate for rate, _ in each], rate_ci=[ends for _, ends in each])


def _scores(
    rates: Mapping[str, Float[np.ndarray, "error m"]], weights: Float[np.ndarray, "draw row"]
) -> dict[str, Ranking]:
    areas = {name: values.mean(axis=1) for name, values in rates.items()}

    def normalised(name: str, w: Float[np.ndarray, "draw row"]) -> Float[np.ndarray, " draw"]:
        low, high = weighted_mean(areas[RANDOM], w), weighted_mean(areas[ORACLE], w)
        return (weighted_mean(areas[name], w) - low) / (high - low)

    def ahead(name: str, w: Float[np.ndarray, "draw row"]) -> Float[np.ndarray, " draw"]:
        return normalised(OURS, w) - normalised(name, w)

    result: dict[str, Ranking] = {}
    for name, values in rates.items():
        area, area_ci = mean_with_interval(areas[name], weights)
        rated = _rates(values, weights)
        row = Ranking(area=area, area_ci=area_ci, rate=rated["rate"], rate_ci=rated["rate_ci"])
        if name not in (RANDOM, ORACLE):
            row["normalised"], row["normalised_ci"] = with_interval(partial(normalised, name), weights)
            if name != OURS:
                row["ours_less"], row["ours_less_ci"] = with_interval(partial(ahead, name), weights)
        result[name] = row
    return result
