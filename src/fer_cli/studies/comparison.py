"""Two runs on the same samples: which mistakes of the first the second mends, which it makes, and their likely causes.

Samples are matched by name and label, so that the runs may have other training samples and other voxels of the same
shapes. Whether the accuracies differ is told by McNemar's exact test over the samples that only one of them gets right.

Source: McNemar, "Note on the sampling error of the difference between correlated proportions or percentages",
Psychometrika 1947.
"""

from collections import Counter
from collections.abc import Callable
from functools import partial

import numpy as np
from jaxtyping import Int
from scipy.stats import binomtest

from fer_cli.artifacts import RunArtifacts
from fer_cli.diagnosis.cause import Cause
from fer_cli.errors import UsageError
from fer_cli.evaluation.study_results import Comparison, Difference
from fer_cli.network.activations import predict_samples
from fer_cli.studies.causes import explain_mistakes

MENDED, BROKEN, OTHERWISE = "mended", "broken", "otherwise"
_DRAWS = 2000

Report = Callable[[int, int], None]


def compare(
    before: RunArtifacts,
    after: RunArtifacts,
    *,
    split: str = "test",
    causes: bool = True,
    report: Report = lambda done, total: None,
) -> Comparison:
    """What changes from one run to another on the samples of a split that both have.

    With `causes`, each mistake that only one of them makes is explained by the run that makes it. `report` is told of
    (mistakes explained, mistakes in all).

    Raises UsageError where the runs have no labelled sample of the split in common and, with `causes`, what
    explaining a sample raises.
    """
    runs = (before, after)
    indices = _matched(before, after, split)
    said = [_predicted(run, of_run) for run, of_run in zip(runs, indices, strict=True)]
    names = [before.voxels.names[index] for index in indices[0]]
    labels = [before.voxels.classes[label] for label in before.voxels.labels[indices[0]]]
    right = [np.array([klass == label for klass, label in zip(of_run, labels, strict=True)]) for of_run in said]
    rows = {MENDED: ~right[0] & right[1], BROKEN: right[0] & ~right[1]}
    rows[OTHERWISE] = ~right[0] & ~right[1] & np.array([one != two for one, two in zip(*said, strict=True)])
    explained: dict[str, Cause] = {}
    if causes:
        total = int(rows[MENDED].sum() + rows[BROKEN].sum())
        for run, of_run, kind in ((before, indices[0], MENDED), (after, indices[1], BROKEN)):
            told = partial(_tell, report, len(explained), total)
            mistakes = explain_mistakes(run, of_run[rows[kind]], told)
            explained |= {mistake.sample: mistake.cause for mistake in mistakes.values()}
    found: dict[str, list[Difference]] = {}
    for kind, which in rows.items():
        found[kind] = [
            {
                "sample": names[row],
                "label": labels[row],
                "before": said[0][row],
                "after": said[1][row],
                "cause": explained[names[row]].name if names[row] in explained else None,
                "remedy": explained[names[row]].remedy if names[row] in explained else None,
            }
            for row in np.flatnonzero(which)
        ]
    gained = right[1].astype(int) - right[0].astype(int)
    return {
        "split": split,
        "runs": [str(run.paths.model.parent) for run in runs],
        "n": len(names),
        "only_in": [len(run.voxels.indices(split)) - len(names) for run in runs],
        "accuracy": [float(of_run.mean()) for of_run in right],
        "difference": float(gained.mean()),
        "difference_ci": _interval(gained),
        "p_value": _mcnemar(len(found[MENDED]), len(found[BROKEN])),
        "mended": found[MENDED],
        "broken": found[BROKEN],
        "otherwise": found[OTHERWISE],
        "causes": {kind: _counted(found[kind]) for kind in (MENDED, BROKEN)},
    }


def _matched(before: RunArtifacts, after: RunArtifacts, split: str) -> list[Int[np.ndarray, " sample"]]:
    """Indices in both runs of the samples of a split with one name and one label, in the first one's order."""
    keyed = []
    for run in (before, after):
        indices = run.voxels.indices(split)
        classes, labels = run.voxels.classes, run.voxels.labels
        keyed.append({(run.voxels.names[index], classes[labels[index]]): int(index) for index in indices})
    common = [key for key in keyed[0] if key in keyed[1]]
    if not common:
        raise UsageError(
            f"{before.paths.voxels} and {after.paths.voxels} have no sample of the split {split!r} in common: none has "
            "the same name and class in both."
        )
    return [np.array([of_run[key] for key in common]) for of_run in keyed]


def _predicted(run: RunArtifacts, indices: Int[np.ndarray, " sample"]) -> list[str]:
    probabilities = predict_samples(run.network, run.voxels, indices)
    return [run.network.spec.classes[klass] for klass in probabilities.argmax(axis=1)]


def _tell(report: Report, before: int, total: int, done: int, _: int) -> None:
    report(before + done, total)


def _interval(gained: Int[np.ndarray, " sample"]) -> list[float]:
    """95 % of the differences of accuracy that a bootstrap over samples gives."""
    shares = np.array([(gained == value).mean() for value in (-1, 0, 1)])
    drawn = np.random.default_rng(0).multinomial(len(gained), shares, _DRAWS)
    low, high = np.percentile((drawn[:, 2] - drawn[:, 0]) / len(gained), [2.5, 97.5])
    return [float(low), float(high)]


def _mcnemar(mended: int, broken: int) -> float:
    """The p-value of McNemar's exact test; 1 where nothing changed."""
    return float(binomtest(mended, mended + broken).pvalue) if mended + broken else 1.0


def _counted(rows: list[Difference]) -> dict[str, int]:
    return dict(Counter(row["cause"] for row in rows if row["cause"] is not None).most_common())
