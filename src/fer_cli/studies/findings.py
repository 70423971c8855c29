"""What planted faults were found to be, and how often they were found: records of single faults, and their figures."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fer_cli.calibration.departure import SIGNIFICANT
from fer_cli.evaluation.resampling import mean_with_interval, shape_weights

GRAFT, SYNTHETIC, FEATURE, WEIGHT = "graft", "synthetic", "feature", "weight"
CORRECT, MISCLASSIFIED = "correct", "misclassified"
"""What nothing was planted in."""


@dataclass(frozen=True)
class Finding:
    """One planted fault: which layer was planted, which is blamed, and at which the computation departs.

    Layers are indices, None where not known or not asked; `p_value` is the departure's.

    `overlap` and `rank` are, for each ranking, the IoU of the true locations with as many of the highest score, and the
    mean rank of the true ones among all, from 0 (first) to 1; `share` is how many of the layer's locations are true.
    """

    kind: str
    shape: str
    layer: str
    planted: int | None = None
    blamed: int | None = None
    departed: int | None = None
    p_value: float = math.nan
    share: float = math.nan
    overlap: dict[str, float] = field(default_factory=dict)
    rank: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Attempt:
    """One graft that was tried: `turned` is whether the prediction changed."""

    kind: str
    receiver: str
    giver: str
    turned: bool


@dataclass(frozen=True)
class Planting:
    """What was planted in one run, and found."""

    findings: tuple[Finding, ...]
    attempts: tuple[Attempt, ...] = ()


def summarise_planted(plantings: Sequence[Planting], *, layers: Sequence[str], seed: int = 0) -> dict[str, Any]:
    """Figures of the faults of one run or of several pooled, with 95 % intervals over shapes.

    `hit` is the share of faults whose layer was blamed, `near` counts the layers beside it too; `departure_hit` and
    `departure_near` are the same of departures, and `significant` the share of departures at 5 %; `chance` is that of
    a guess. Of locations: IoU and mean rank by layer and ranking, with what a random choice would have.
    """
    findings = [found for planting in plantings for found in planting.findings]
    answer: dict[str, Any] = {"layer": {}, "location": {}, "unplanted": {}, "grafts": {}}
    for kind in (CORRECT, MISCLASSIFIED):
        some = [found for found in findings if found.kind == kind]
        if some:
            answer["unplanted"][kind] = {"n": len(some), **_significant(some, seed)}
    for attempt in (attempt for planting in plantings for attempt in planting.attempts):
        counts = answer["grafts"].setdefault(attempt.kind, {})
        count = counts.setdefault(f"{attempt.giver} on {attempt.receiver}", {"tried": 0, "turned": 0})
        count["tried"] += 1
        count["turned"] += attempt.turned
    for kind in (FEATURE, WEIGHT):
        rows = [found for found in findings if found.kind == kind]
        for name in ("all", *layers):
            some = [found for found in rows if name in ("all", found.layer)]
            if some:
                answer["layer"].setdefault(kind, {})[name] = _layer_hits(some, len(layers), seed)
    for kind in (GRAFT, SYNTHETIC, FEATURE):
        for layer in layers:
            some = [found for found in findings if found.kind == kind and found.layer == layer and found.overlap]
            if some:
                answer["location"].setdefault(kind, {})[layer] = _location_scores(some, seed)
    return answer


def _layer_hits(rows: Sequence[Finding], layers: int, seed: int) -> dict[str, Any]:
    weights = shape_weights([found.shape for found in rows], seed=seed)
    result: dict[str, Any] = {"n": len(rows), "chance": 1 / layers}
    planted = np.array([found.planted or 0 for found in rows])
    for prefix, named in (("", [found.blamed for found in rows]), ("departure_", [found.departed for found in rows])):
        away = np.abs(np.array([layer or 0 for layer in named]) - planted)
        for name, hit in (("hit", away == 0), ("near", away <= 1)):
            result[prefix + name], result[f"{prefix}{name}_ci"] = mean_with_interval(hit.astype(np.float64), weights)
    return {**result, **_significant(rows, seed)}


def _significant(rows: Sequence[Finding], seed: int) -> dict[str, Any]:
    values = np.array([found.p_value <= SIGNIFICANT for found in rows], dtype=np.float64)
    share, interval = mean_with_interval(values, shape_weights([found.shape for found in rows], seed=seed))
    return {"significant": share, "significant_ci": interval}


def _location_scores(rows: Sequence[Finding], seed: int) -> dict[str, Any]:
    weights = shape_weights([found.shape for found in rows], seed=seed)
    share = np.array([found.share for found in rows])
    result: dict[str, Any] = {
        "n": len(rows),
        # Of n locations with a share s true, n·s drawn at random meet n·s² of them.
        "chance_iou": float((share / (2 - share)).mean()),
        "chance_rank": 0.5,
        "rankings": {},
    }
    for name in rows[0].overlap:
        scores: Mapping[str, np.ndarray] = {
            "iou": np.array([found.overlap[name] for found in rows]),
            "rank": np.array([found.rank[name] for found in rows]),
        }
        row: dict[str, Any] = {}
        for key, values in scores.items():
            row[key], row[f"{key}_ci"] = mean_with_interval(values, weights)
        result["rankings"][name] = row
    return result
