"""`fer evaluate`: accuracy, reconstructions, Table I, the paper's claims, and how well scores detect misclassification.

Of one run or of several on the same voxels, whose samples are put together. Nothing is fitted or chosen on the split
that is evaluated, but where the result says so.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int
from sklearn.metrics import confusion_matrix

from fer_cli.artifacts import RunArtifacts
from fer_cli.diagnosis.diagnosis import Diagnosis
from fer_cli.errors import UsageError
from fer_cli.evaluation.baselines import not_applicable
from fer_cli.evaluation.cluster_scores import RATIO
from fer_cli.evaluation.failures import SOFTMAX, best_baseline, curves, detect_failures
from fer_cli.evaluation.false_alarms import false_alarms
from fer_cli.evaluation.pooled import Pool, require_same_data
from fer_cli.evaluation.recognition import mean_recognition, recognise
from fer_cli.evaluation.resampling import draw_weights
from fer_cli.evaluation.results import (
    SUSPICION,
    Accuracy,
    Evaluation,
    Fidelity,
    Mistake,
    Recognition,
    RunResult,
    Viewed,
)
from fer_cli.evaluation.scored import Scored, score_run
from fer_cli.evaluation.split_reading import SplitReading, read_split
from fer_cli.evaluation.study_results import Causes, Group, Sanity
from fer_cli.storage.disk import write_whole
from fer_cli.studies.causes import explain_mistakes, plant_causes
from fer_cli.studies.claims import judge_claims
from fer_cli.studies.findings import Planting, summarise_planted
from fer_cli.studies.groups import group_mistakes
from fer_cli.studies.planted import plant_faults
from fer_cli.studies.repair_study import Repairs, study_repairs, summarise_repairs
from fer_cli.studies.sanity import check_sanity
from fer_cli.studies.trust import trust_card

READING, SCORING, CHECKING = "reading", "scoring", "checking sanity"
REPAIRING, PLANTING = "repairing", "planting faults"
EXPLAINING, PLANTING_CAUSES = "explaining mistakes", "planting causes"
_MOST_LOCATIONS = 512

Report = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is."""


def evaluate(
    *runs: RunArtifacts,
    split: str = "test",
    votes: int | None = None,
    views: int | None = None,
    sanity: bool = False,
    repair: bool = False,
    planted: bool = False,
    causes: bool = False,
    report: Report = lambda doing, done, total: None,
) -> Evaluation:
    """Evaluate one run or several on a split; the result's keys are those of `fer evaluate --json` (`docs/cli.md`).

    `votes` adds the accuracy of a vote over this number of turns about the vertical, `views` that of the mean over this
    number of views as in training, in three draws; `sanity` the model-randomisation
    sanity check, `repair` counterfactual patching tests of the misclassified samples, `planted` the detection of
    planted faults, `causes` how often the cause is named where one was planted. Mistakes are explained and grouped of
    one run alone.

    Raises UsageError if the split has no labelled sample, the votes cannot be taken, or the runs are of different data
    sets, and what opening the runs' artifacts raises.
    """
    for run in runs:
        run.codebook  # noqa: B018 - what is missing is said before anything is computed
    require_same_data(runs, split)
    if causes and len(runs) > 1:
        raise UsageError("--causes plants causes in one run; give one RUN with it.")
    asked = _Asked(split, votes, views, sanity, repair, planted, causes, grouped=len(runs) == 1)
    named = [f" {number + 1} of {len(runs)}" if len(runs) > 1 else "" for number in range(len(runs))]
    of_runs = [_study(run, asked, which, report) for run, which in zip(runs, named, strict=True)]
    parts = [of_run.scored for of_run in of_runs]
    pool = Pool(tuple(parts))
    outcomes = pool.outcomes
    weights = draw_weights(outcomes.index)
    classes = runs[0].voxels.classes
    wrong, labels = outcomes.wrong, outcomes.labels
    detected = detect_failures(pool, weights, repeated=True)
    drawn = [SUSPICION, SOFTMAX, "input_vs_code", RATIO]
    if detected["undefined"] is None:
        drawn.append(best_baseline(detected["detection"]))
    distinct, voted = ~outcomes.repeated, outcomes.voted
    repairs = [of_run.repairs for of_run in of_runs if of_run.repairs]
    plantings = [of_run.planting for of_run in of_runs if of_run.planting]
    [first, *_] = of_runs
    evaluation: Evaluation = {
        "split": split,
        "runs": [_run_result(run, part) for run, part in zip(runs, parts, strict=True)],
        **accuracy_of(wrong, labels),
        "recognition": mean_recognition([_recognised(run, part) for run, part in zip(runs, parts, strict=True)]),
        "per_class_accuracy": {
            name: float(1 - wrong[labels == label].mean()) if (labels == label).any() else None
            for label, name in enumerate(classes)
        },
        "confusion": confusion_matrix(labels, outcomes.predicted, labels=np.arange(len(classes))).tolist(),
        "without_duplicates": {
            **accuracy_of(wrong[distinct], labels[distinct]),
            **(detected if distinct.all() else detect_failures(pool, weights, repeated=False)),
        },
        "votes": None if voted is None else {"views": votes or 0, **accuracy_of(voted != labels, labels)},
        "views": _viewed([part.reading for part in parts]),
        "reconstruction": mean_reconstruction([part.reading.reconstruction or {} for part in parts]),
        "table1": outcomes.table1(),
        "errors_norm": outcomes.errors_norm(),
        **detected,
        "not_applicable": not_applicable(runs[0].network),
        "curves": curves(pool, drawn),
        "claims": judge_claims(outcomes, weights),
        "shares": outcomes.shares(),
        "false_alarms": false_alarms(runs, [part.reading for part in parts]),
        "sanity": [of_run.sanity for of_run in of_runs if of_run.sanity] or None,
        "repair": summarise_repairs(repairs) if repairs else None,
        "planted": summarise_planted(plantings, layers=runs[0].network.spec.layer_names) if planted else None,
        "groups": first.groups,
        "trust": [],
        "causes": None if first.causes is None else first.causes[0],
        "cause_scores": None if first.causes is None else first.causes[1],
        "misclassified": _misclassified(runs, pool, classes, first.mistakes),
    }
    evaluation["trust"] = trust_card(evaluation, local_layer=runs[0].network.spec.local_layer)
    return evaluation


@dataclass(frozen=True)
class _Asked:
    """What of each run is wanted."""

    split: str
    votes: int | None
    views: int | None
    sanity: bool
    repair: bool
    planted: bool
    causes: bool
    grouped: bool


@dataclass(frozen=True)
class _OfRun:
    """What was found of one run; `mistakes` are its diagnoses by index."""

    scored: Scored
    sanity: Sanity | None
    repairs: Repairs | None
    planting: Planting | None
    mistakes: dict[int, Diagnosis]
    groups: list[Group] | None
    causes: tuple[dict[str, dict[str, int]], Causes] | None


def _study(run: RunArtifacts, asked: _Asked, named: str, report: Report) -> _OfRun:
    split, sanity, repairs, planting = asked.split, None, None, None
    reading = read_split(
        run, split, votes=asked.votes, views=asked.views, fidelity=True, report=partial(report, READING + named)
    )
    scored = score_run(run, reading, report=partial(report, SCORING + named))
    if asked.sanity:
        told = partial(report, CHECKING + named)
        sanity = check_sanity(run, split, predicted=reading.outcomes.predicted, report=told)
    if asked.repair and reading.outcomes.wrong.any():
        told = partial(report, REPAIRING + named)
        repairs = study_repairs(run, split=split, layers=_repaired(run), report=told)
    if asked.planted:
        report(PLANTING + named, 0, 1)
        planting = plant_faults(run, split=split)
        report(PLANTING + named, 1, 1)
    if not asked.grouped:
        return _OfRun(scored, sanity, repairs, planting, {}, None, None)
    mistakes, groups, causes = _caused(run, asked, reading, report)
    return _OfRun(scored, sanity, repairs, planting, mistakes, groups, causes)


def _caused(
    run: RunArtifacts, asked: _Asked, reading: SplitReading, report: Report
) -> tuple[dict[int, Diagnosis], list[Group], tuple[dict[str, dict[str, int]], Causes] | None]:
    """The diagnoses of the mistakes, their groups, and what comes of planted causes if that is asked."""
    outcomes = reading.outcomes
    mistakes = explain_mistakes(run, outcomes.index[outcomes.wrong], partial(report, EXPLAINING))
    groups = group_mistakes(run, mistakes, outcomes.index[~outcomes.wrong])
    if not asked.causes:
        return mistakes, groups, None
    told = partial(report, PLANTING_CAUSES)
    return mistakes, groups, plant_causes(run, outcomes.index, outcomes.predicted, mistakes, report=told)


def _run_result(run: RunArtifacts, part: Scored) -> RunResult:
    return {
        "run": str(run.paths.model.parent),
        "model": run.model.id,
        "seed": run.model.seed,
        **accuracy_of(part.reading.outcomes.wrong, part.reading.outcomes.labels),
        "alarm": part.alarm,
        "weights": {part.alarm: 1.0},
        "ridge": None,
    }


def _recognised(run: RunArtifacts, part: Scored) -> Recognition:
    return recognise(part.reading.probabilities, part.reading.outcomes.labels, *run.validation_probabilities)


def _repaired(run: RunArtifacts) -> list[str]:
    """Layers to run the repair tests at: with several, but at most `_MOST_LOCATIONS`, locations."""
    spec = run.network.spec
    return [layer for layer in spec.map_layers if spec.locations(layer) <= _MOST_LOCATIONS]


def write_evaluation(evaluation: Evaluation, folder: Path) -> Path:
    """Write an evaluation as JSON into `folder`. Raises ResourceError where that cannot be written."""
    pooled = "-pooled" if len(evaluation["runs"]) > 1 else ""
    path = folder / f"{evaluation['split']}{pooled}.json"
    write_whole(path, json.dumps(evaluation, indent=2, allow_nan=False) + "\n")
    return path


def accuracy_of(wrong: Bool[np.ndarray, " sample"], labels: Int[np.ndarray, " sample"]) -> Accuracy:
    """Samples, errors, accuracy, and the mean over classes of the accuracy within each; None without samples."""
    if not len(wrong):
        return {"n": 0, "n_errors": 0, "accuracy": None, "class_accuracy": None}
    return {
        "n": len(wrong),
        "n_errors": int(wrong.sum()),
        "accuracy": float(1 - wrong.mean()),
        "class_accuracy": float(np.mean([1 - wrong[labels == label].mean() for label in np.unique(labels)])),
    }


def _viewed(readings: Sequence[SplitReading]) -> Viewed | None:
    """Accuracy of the mean over views, the first draw of them, and of each draw if there were several."""
    drawn = [reading.viewed for reading in readings if reading.viewed is not None]
    if len(drawn) < len(readings):
        return None
    labels = np.concatenate([reading.outcomes.labels for reading in readings])
    wrong = [labels != np.concatenate(of_draw) for of_draw in zip(*(each.predicted for each in drawn), strict=True)]
    draws = [float(1 - of_draw.mean()) for of_draw in wrong]
    return {
        "n": drawn[0].number,
        "samples": len(labels),
        "n_errors": int(wrong[0].sum()),
        "accuracy": draws[0],
        "class_accuracy": accuracy_of(wrong[0], labels)["class_accuracy"],
        "draws": draws if len(draws) > 1 else None,
    }


def _misclassified(
    runs: tuple[RunArtifacts, ...], pool: Pool, classes: tuple[str, ...], mistakes: Mapping[int, Diagnosis]
) -> list[Mistake]:
    names, outcomes = runs[0].voxels.names, pool.outcomes
    return [
        {
            "sample": names[outcomes.index[i]],
            "run": int(pool.run[i]),
            "label": classes[outcomes.labels[i]],
            "predicted": classes[outcomes.predicted[i]],
            "max_softmax": float(pool.scores[SOFTMAX][i]),
            "suspicion": float(1 - pool.scores["suspicion"][i]),
            "cause": found.cause.name if (found := mistakes.get(int(outcomes.index[i]))) else None,
        }
        for i in np.flatnonzero(outcomes.wrong)
    ]


def mean_reconstruction(of_runs: Sequence[Fidelity]) -> Fidelity:
    """What `Fidelity` found of several runs, averaged level by level where all have the level."""
    return {
        layer: {
            gates: {what: float(np.mean([run[layer][gates][what] for run in of_runs])) for what in measures}
            for gates, measures in rows.items()
        }
        for layer, rows in of_runs[0].items()
        if all(layer in run for run in of_runs)
    }
