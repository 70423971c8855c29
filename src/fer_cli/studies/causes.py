"""Which cause is named: of the mistakes of a split, and where a cause was planted in correctly classified samples.

What is asked is `diagnosis.explain`, so that the causes counted are those that a user is shown. Only plantings that
change the prediction count; of a changed label the prediction differs at once. `overlap` is expected of untouched
mistakes between two classes that are often mixed up, `none` of untouched correct samples.
"""

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int

from fer_cli.artifacts import RunArtifacts
from fer_cli.data.sample_input import Sample
from fer_cli.diagnosis.cause import NONE, SOME_VOTES, Signs
from fer_cli.diagnosis.diagnosis import Diagnosis
from fer_cli.diagnosis.explain import explain
from fer_cli.evaluation.encoded import local_features
from fer_cli.evaluation.label_issues import FOLDS, cross_fitted_probabilities, questionable_labels
from fer_cli.evaluation.study_results import Average, CauseAtDose, Causes, CauseScore, LabelSearch
from fer_cli.network.activations import predict, predict_samples
from fer_cli.network.explained import ExplainedNetwork
from fer_cli.network.poses import poses
from fer_cli.studies.planted import with_weight_noise
from fer_cli.studies.plantings import DAMAGES, DOSES, EXPECTED, Damage, tipped
from fer_cli.studies.trust import share_interval

MOST = 24
"""Samples that are tried for each kind of damage and dose; twice as many for other plantings, fourfold untouched."""
FLIPPED = 0.03
"""Share of the split's labels that are changed."""
_OFTEN = 0.1
"""Share of the mistakes that lie between two classes often mixed up."""
_PER_LAYER = 4
_CONFIDENT = 0.9
_DRAWS = 2000

Report = Callable[[int, int], None]


@dataclass(frozen=True)
class Case:
    """One planting: what and at which dose, whether the prediction changed, and the cause named if it did."""

    planted: str
    kind: str
    dose: float | None
    turned: bool
    named: str | None
    by_neighbours: str | None = None


def by_neighbours(signs: Signs | None) -> str:
    """The cause that nearest neighbours and softmax alone would name: what all else is compared with."""
    if signs is None or signs.around is None or signs.label is None:
        return NONE
    if signs.around.votes[signs.label] >= SOME_VOTES:
        return "overlap"
    return "label" if signs.probabilities[signs.predicted] >= _CONFIDENT else "gap"


def explain_mistakes(
    run: RunArtifacts, indices: Int[np.ndarray, " mistake"], report: Report = lambda done, total: None
) -> dict[int, Diagnosis]:
    """The diagnosis of each misclassified sample, by its index in the voxel set."""
    found = {}
    for done, index in enumerate(indices.tolist()):
        found[index] = explain(run, _sample(run, index))
        report(done + 1, len(indices))
    return found


def plant_causes(
    run: RunArtifacts,
    indices: Int[np.ndarray, " sample"],
    predicted: Int[np.ndarray, " sample"],
    mistakes: dict[int, Diagnosis],
    *,
    seed: int = 0,
    report: Report = lambda done, total: None,
) -> tuple[dict[str, dict[str, int]], Causes]:
    """Plant causes in the samples of a split, given the predictions and the diagnoses of its mistakes.

    How often each cause was named, by the one planted, and how well that is.
    """
    labels = run.voxels.labels[indices]
    right = indices[(labels == predicted)]
    generator = np.random.default_rng(seed)
    parts = (
        _untouched(run, right, mistakes, generator),
        _poses(run, right, generator),
        _damages(run, right, generator),
        _layers(run, right, generator),
        _labels(run, right, generator),
    )
    cases = []
    for done, part in enumerate(parts):
        report(done, len(parts) + 1)
        cases += list(part)
    report(len(parts), len(parts) + 1)
    search = _search_labels(run, indices, predicted, mistakes, generator)
    report(len(parts) + 1, len(parts) + 1)
    return summarise(cases, search)


def summarise(cases: list[Case], labels: LabelSearch) -> tuple[dict[str, dict[str, int]], Causes]:
    """Counts, shares with intervals, and detection by dose."""
    turned = [case for case in cases if case.turned]
    named = {
        planted: dict(Counter(str(case.named) for case in turned if case.planted == planted))
        for planted in dict.fromkeys(case.planted for case in cases)
    }
    doses: list[CauseAtDose] = []
    for kind, dose in dict.fromkeys((case.kind, case.dose) for case in cases if case.dose is not None):
        tried = [case for case in cases if (case.kind, case.dose) == (kind, dose)]
        hit = [case.named == case.planted for case in tried if case.turned]
        doses.append({"kind": kind, "dose": float(dose or 0), "tried": len(tried), **score_of(hit)})
    return named, {
        "average": averages(turned),
        "planted": {
            planted: score_of([case.named == case.planted for case in turned if case.planted == planted])
            for planted in named
        },
        "doses": doses,
        "labels": labels,
    }


def averages(turned: list[Case]) -> dict[str, Average]:
    """Mean over planted causes of the share named, by ours and by two simpler ways."""
    counts = Counter(case.planted for case in turned if case.planted != NONE)
    if not counts:
        return {}
    [(most, _)] = counts.most_common(1)
    ways: dict[str, Callable[[Case], str | None]] = {
        "ours": lambda case: case.named,
        "neighbours": lambda case: case.by_neighbours,
        "majority": lambda case: most,
    }
    found: dict[str, Average] = {}
    for way, name in ways.items():
        hits = [np.array([name(case) == planted for case in turned if case.planted == planted]) for planted in counts]
        generator = np.random.default_rng(0)
        drawn = [generator.choice(of, (_DRAWS, len(of))).mean(axis=1) for of in hits]
        ends = np.percentile(np.mean(drawn, axis=0), [2.5, 97.5])
        found[way] = {"right": float(np.mean([of.mean() for of in hits])), "ci": [float(end) for end in ends]}
    return found


def score_of(hits: list[bool]) -> CauseScore:
    """Share of hits, with Wilson's 95 % interval."""
    if not hits:
        return {"n": 0, "right": None, "ci": None}
    return {"n": len(hits), "right": sum(hits) / len(hits), "ci": share_interval(sum(hits), len(hits))}


def often_mixed_up(mistakes: dict[int, Diagnosis]) -> set[frozenset[str]]:
    """Pairs of classes between which a tenth of the mistakes lie, and three at least."""
    pairs = Counter(frozenset((str(found.label), found.predicted)) for found in mistakes.values())
    return {pair for pair, count in pairs.items() if count >= max(3, _OFTEN * len(mistakes))}


def _untouched(
    run: RunArtifacts, right: Int[np.ndarray, " right"], mistakes: dict[int, Diagnosis], generator: np.random.Generator
) -> Iterator[Case]:
    often = often_mixed_up(mistakes)
    for found in mistakes.values():
        if frozenset((str(found.label), found.predicted)) in often:
            yield Case("overlap", "untouched", None, True, found.cause.name, by_neighbours(found.signs))
    for index in generator.permutation(right)[: 4 * MOST].tolist():
        yield Case("none", "untouched", None, True, explain(run, _sample(run, index)).cause.name)


def _poses(run: RunArtifacts, right: Int[np.ndarray, " right"], generator: np.random.Generator) -> Iterator[Case]:
    every = poses(run.network.spec.input.shape)
    for index in generator.permutation(right)[: 2 * MOST].tolist():
        pose = tipped(every, generator)
        if pose is None:
            return
        sample = _sample(run, index)
        turned = pose.apply(torch.from_numpy(sample.volume[None]))[0].numpy()
        yield _case(run, "pose", None, replace(sample, volume=turned))


def _damages(run: RunArtifacts, right: Int[np.ndarray, " right"], generator: np.random.Generator) -> Iterator[Case]:
    kind_of_input = run.network.spec.input.kind
    for kind in DAMAGES:
        for dose in DOSES[kind]:
            for index in generator.permutation(right)[:MOST].tolist():
                sample = _sample(run, index)
                damaged = Damage(kind, dose).apply(sample.volume, kind_of_input, generator)
                yield _case(run, kind, dose, replace(sample, volume=damaged))


def _layers(run: RunArtifacts, right: Int[np.ndarray, " right"], generator: np.random.Generator) -> Iterator[Case]:
    if not len(right):
        return
    for layer in run.network.spec.layer_names:
        for dose in DOSES["layer"]:
            faulty = _with_network(run, with_weight_noise(run.network, layer, dose, int(generator.integers(1 << 31))))
            chosen = generator.permutation(right)[:MOST]
            said = predict_samples(faulty.network, run.voxels, chosen)
            wrong = said.argmax(axis=1) != run.voxels.labels[chosen]
            for index in chosen[wrong][:_PER_LAYER].tolist():
                yield _case(faulty, "layer", dose, _sample(run, index))
            for _ in range(len(chosen) - int(wrong.sum())):
                yield Case("layer", "layer", dose, False, None)


def _labels(run: RunArtifacts, right: Int[np.ndarray, " right"], generator: np.random.Generator) -> Iterator[Case]:
    for index in generator.permutation(right)[: 2 * MOST].tolist():
        sample = _sample(run, index)
        yield _case(run, "label", None, replace(sample, label=_another(run, index, generator)))


def _search_labels(
    run: RunArtifacts,
    indices: Int[np.ndarray, " sample"],
    predicted: Int[np.ndarray, " sample"],
    mistakes: dict[int, Diagnosis],
    generator: np.random.Generator,
) -> LabelSearch:
    """Change some labels of the split, and see which of all samples are called questionable."""
    changed = generator.permutation(indices)[: max(1, round(FLIPPED * len(indices)))]
    suspects = {index for index, found in mistakes.items() if found.cause.name == "label"} - set(changed.tolist())
    said = dict(zip(indices.tolist(), predicted.tolist(), strict=True))
    for index in changed.tolist():
        label = _another(run, index, generator)
        if label != said[index] and explain(run, replace(_sample(run, index), label=label)).cause.name == "label":
            suspects.add(index)
    found = len(suspects & set(changed.tolist()))
    return {
        "changed": len(changed),
        "suspects": len(suspects),
        "precision": score_of([True] * found + [False] * (len(suspects) - found)),
        "recall": score_of([True] * found + [False] * (len(changed) - found)),
        "training": questionable_training_labels(run),
    }


def questionable_training_labels(run: RunArtifacts) -> list[str]:
    """Names of the training samples whose label is questionable, by the features of the local layer; cross-fitted."""
    training = run.voxels.indices("train")
    labels = run.voxels.labels[training]
    known, counts = np.unique(labels, return_counts=True)
    usable = np.isin(labels, known[counts >= FOLDS])
    training, labels = training[usable], labels[usable]
    if len(np.unique(labels)) < 2:
        return []
    features = local_features(run.network, run.voxels, training)
    columns = np.unique(labels, return_inverse=True)[1]
    suspects = questionable_labels(cross_fitted_probabilities(features, labels), columns)
    return [run.voxels.names[index] for index in training[suspects]]


def _another(run: RunArtifacts, index: int, generator: np.random.Generator) -> int:
    """Another class than that of a sample, at random."""
    others = [klass for klass in range(len(run.voxels.classes)) if klass != run.voxels.labels[index]]
    return int(generator.choice(others))


def _case(run: RunArtifacts, kind: str, dose: float | None, sample: Sample) -> Case:
    planted = EXPECTED.get(kind, kind)
    said = int(predict(run.network, torch.from_numpy(sample.volume[None])).argmax())
    if said == sample.label:
        return Case(planted, kind, dose, False, None)
    found = explain(run, sample)
    return Case(planted, kind, dose, True, found.cause.name, by_neighbours(found.signs))


def _sample(run: RunArtifacts, index: int) -> Sample:
    volume: Float[np.ndarray, "channel x y z"] = run.voxels.volumes([index])[0].astype(np.float32)
    return Sample(run.voxels.names[index], volume, int(run.voxels.labels[index]), index)


def _with_network(run: RunArtifacts, network: ExplainedNetwork) -> RunArtifacts:
    """The run with another network in the place of its own; all that was measured with its own stays."""
    other = copy.copy(run)
    vars(other)["network"] = network  # where the cached property keeps it
    return other
