"""What `fer explain` says of a sample, as JSON, and what is kept of it.

It imports nothing that draws or writes pages, so that a command without reports starts faster.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fer_cli.codebooks.reconstruction import ERRORS
from fer_cli.diagnosis.answer import INPUT, Answer
from fer_cli.diagnosis.blame import Blame
from fer_cli.diagnosis.diagnosis import Diagnosis, Suspicion, Viewed

PAGE = "index.html"
"""The page in the folder of a report, or of a gallery."""


@dataclass(frozen=True)
class Explained:
    """What is kept of a sample: its JSON, what the gallery sorts by, the files written, the places pointed at."""

    json: dict[str, Any]
    answer: Answer
    suspicion: Suspicion
    files: dict[str, Path]
    places: Blame | None = None


def is_page(target: Path) -> bool:
    """Whether a target that a user named is one page alone, not a folder: its name ends in .html."""
    return target.suffix.lower() == ".html"


def diagnosis_json(diagnosis: Diagnosis, *, report: str | None) -> dict[str, object]:
    """The contract's JSON object for `fer explain`, in plain Python types; `report` is the page's path.

    Raises ValueError if a number is not finite.
    """
    return {
        "sample": diagnosis.sample,
        "predicted": diagnosis.predicted,
        "label": diagnosis.label,
        "correct": None if diagnosis.correct is None else bool(diagnosis.correct),
        "probabilities": _finite(diagnosis.probabilities),
        "errors": _finite({key: diagnosis.errors[key] for key in ERRORS}),
        "errors_norm": _finite({key: math.sqrt(diagnosis.errors[key]) for key in ERRORS}),
        "nearest_training_sample": diagnosis.nearest_training_sample,
        "layers": [
            {
                "name": layer.name,
                **{f"{path}_class": said.speaks_for for path, said in layer.paths.items()},
                **{f"{path}_evidence": _finite(said.evidence) for path, said in layer.paths.items()},
                **{f"{path}_exemplar": said.exemplar for path, said in layer.paths.items()},
            }
            for layer in diagnosis.layers
        ],
        "blame": {
            "layer": diagnosis.blame.layer,
            "locations": [[int(index) for index in location] for location in diagnosis.blame.locations],
            "margin": diagnosis.blame.margin,
            "weights": [float(weight) for weight in diagnosis.blame.weights],
        },
        "answer": {
            "outcome": diagnosis.answer.outcome,
            "layer": diagnosis.answer.layer,
            "why": diagnosis.answer.why,
            "p_value": diagnosis.answer.p_value,
        },
        "nearest": {"predicted": list(diagnosis.nearest.predicted), "true": list(diagnosis.nearest.true)},
        "departure": None
        if diagnosis.departure is None
        else {
            "layer": diagnosis.departure.layer,
            "locations": [[int(index) for index in location] for location in diagnosis.departure.locations],
            **_finite({key: getattr(diagnosis.departure, key) for key in ("score", "margin", "p_value")}),
        },
        "repair": [
            {
                **vars(test),
                "repaired": test.repaired,
                **_finite({"probability": test.probability, "gain": test.gain, "p_value": test.p_value}),
            }
            for test in diagnosis.repair
        ],
        "suspicion": {
            **_finite({"score": diagnosis.suspicion.score, "p_value": diagnosis.suspicion.p_value}),
            "n_reference": diagnosis.suspicion.n_reference,
            "enough": diagnosis.suspicion.enough,
            "by": diagnosis.suspicion.by,
        },
        "views": _views_json(diagnosis.viewed),
        "category": diagnosis.category.id,
        "category_name": diagnosis.category.name,
        "criterion": diagnosis.category.criterion,
        "cause": {
            "name": diagnosis.cause.name,
            "strength": diagnosis.cause.strength,
            "remedy": diagnosis.cause.remedy,
            "evidence": list(diagnosis.cause.evidence),
        },
        "pose": _pose_json(diagnosis),
        "verdict": diagnosis.verdict,
        "source": None if diagnosis.source is None else str(diagnosis.source),
        "trained_on": diagnosis.trained_on,
        "own_label": diagnosis.own_label,
        "remarks": list(diagnosis.remarks),
        "report": report,
    }


def _pose_json(diagnosis: Diagnosis) -> dict[str, object] | None:
    pose = diagnosis.recognised_pose
    return (
        None
        if pose is None
        else {"turns": pose.turns, "class": pose.klass, **_finite({"probability": pose.probability})}
    )


def _views_json(viewed: Viewed | None) -> dict[str, object] | None:
    if viewed is None:
        return None
    return {"n": viewed.number, "predicted": viewed.predicted, "probabilities": _finite(viewed.probabilities)}


def place_of(answer: Mapping[str, Any]) -> str | None:
    """The layer that an answer of `diagnosis_json` names, or `input`; None where it names no place."""
    return "input" if answer["outcome"] == INPUT else answer["layer"]


def _finite(values: Mapping[str, float]) -> dict[str, float]:
    plain = {str(key): float(value) for key, value in values.items()}
    for key, value in plain.items():
        if not math.isfinite(value):
            raise ValueError(f"{key} is {value}, not a finite number.")
    return plain
