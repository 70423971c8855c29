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

    Samples of several runs are pooled, without an expected range: the runs read the same samples. `departure` is left
    out for older codebooks, which do not store return errors.
    """
    of_runs = [_p_values(run, reading) for run, reading in zip(runs, readings, strict=True)]
    scores = [score for score in of_runs[0] if all(score in of_run for of_run in of_runs)]
    right = np.concatenate([~reading.outcomes.wrong for reading in readings])
    labels = np.concatenate([reading.outcomes.labels for reading in readings])
    found: dict[str, FalseAlarms] = {}
    for score in scores:
        flagged = np.concatenate([of_run[score] for of_run in of_runs]) <= SIGNIFICANT
        by_class = {name: flagged[right & (labels == label)] for label, name in enumerate(runs[0].voxels.classes)}
        found[score] = {
            "rate": _mean(flagged[right]),
            "n": int(right.sum()),
            "expected": _expected(int(right.sum()), _references(runs[0], score)) if len(runs) == 1 else None,
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


def _references(run: RunArtifacts, score: str) -> int:
    """Number of validation samples that a score is compared with."""
    correct = run.calibration.correct
    return int(correct.sum()) if score == "suspicion" else len(correct)


def _expected(samples: int, references: int) -> list[float] | None:
    """95 % range of the rate for valid p-values; None without samples or references.

    With n references and a = ⌊0.05 (n + 1)⌋, the number of p-values of at most 5 % among exchangeable samples is
    beta-binomial with parameters a and n + 1 − a.
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
