"""How often correct samples are called unusual: whether p-values are what they say."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.stats import betabinom

from fer_cli.artifacts import RunArtifacts
from fer_cli.calibration.departure import SIGNIFICANT
from fer_cli.evaluation.results import FalseAlarms
from fer_cli.evaluation.split_reading import SplitReading


def false_alarms(runs: Sequence[RunArtifacts], readings: Sequence[SplitReading]) -> dict[str, FalseAlarms]:
    """Shares of samples with p-values of at most 5 %, by score: `departure`, `suspicion`, `atypicality`.

    Samples of several runs are pooled. No departure of codebooks that do not hold what it is measured against.
    """
    of_runs = [_p_values(run, reading) for run, reading in zip(runs, readings, strict=True)]
    scores = [score for score in of_runs[0] if all(score in of_run for of_run in of_runs)]
    right = np.concatenate([~reading.outcomes.wrong for reading in readings])
    labels = np.concatenate([reading.outcomes.labels for reading in readings])
    references = min(_references(run) for run in runs)
    found: dict[str, FalseAlarms] = {}
    for score in scores:
        flagged = np.concatenate([of_run[score] for of_run in of_runs]) <= SIGNIFICANT
        by_class = {name: flagged[right & (labels == label)] for label, name in enumerate(runs[0].voxels.classes)}
        found[score] = {
            "rate": _mean(flagged[right]),
            "n": int(right.sum()),
            "expected": _expected(int(right.sum()), references),
            "by_class": {name: [_mean(of_class), len(of_class)] for name, of_class in by_class.items()},
            "misclassified": [_mean(flagged[~right]), int((~right).sum())],
        }
    return found


def _p_values(run: RunArtifacts, reading: SplitReading) -> dict[str, Float[np.ndarray, " sample"]]:
    predicted = reading.outcomes.predicted
    found = {
        "suspicion": run.calibration.p_value(run.calibration.suspicion(reading.confidence), predicted),
        "atypicality": np.array([each.p_value for each in run.typicality.measure(reading.distances, predicted)]),
    }
    if run.course is None:
        return found
    departures = run.course.measure(reading.distances, reading.return_errors, predicted)
    return {"departure": np.array([each.p_value for each in departures]), **found}


def _references(run: RunArtifacts) -> int:
    """Correct validation samples, the fewest that any of the scores is compared with."""
    return int(run.calibration.correct.sum())


def _expected(samples: int, references: int) -> list[float] | None:
    """Within which the rate lies for 95 % of validation sets if the p-values hold; None without samples or references.

    Of n references a sample exceeds all but k with probability k + 1 of n + 1: the number of false alarms among the
    samples is beta-binomial.
    """
    allowed = int(SIGNIFICANT * (references + 1))
    if not samples or not references:
        return None
    if not allowed:
        return [0.0, 0.0]
    law = betabinom(samples, allowed, references + 1 - allowed)
    return [float(end) / samples for end in law.interval(0.95)]


def _mean(flagged: np.ndarray) -> float | None:
    return float(flagged.mean()) if len(flagged) else None
