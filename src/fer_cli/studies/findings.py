"""Results of planted faults: records of single faults, and hit rates with intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from fer_cli.calibration.departure import SIGNIFICANT, Departure
from fer_cli.diagnosis.answer import INPUT, OUTCOMES, Answer, find_answer
from fer_cli.evaluation.resampling import mean_with_interval, shape_weights
from fer_cli.evaluation.study_results import AtDose, Departures, LayerHits, Located, Overlap, Planted

GRAFT, SYNTHETIC, FEATURE, WEIGHT, DOSE = "graft", "synthetic", "feature", "weight", "dose"
CORRECT, MISCLASSIFIED = "correct", "misclassified"
"""What nothing was planted in."""


@dataclass(frozen=True)
class Finding:
    """One planted fault: which layer was planted, which is blamed, and at which the computation departs.

    Layers are indices, None where not known or not asked; `p_value` is the departure's.

    `overlap` and `rank` are, for each ranking, the IoU of the true locations with as many of the highest score, and the
    mean rank of the true ones among all, from 0 (first) to 1; `share` is how many of the layer's locations are true.
    `dose` is the standard deviation of weight noise, in those of the weights, `turned` whether the prediction changed.
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
    dose: float = math.nan
    turned: bool = True

    @property
    def told(self) -> int | None:
        """The layer at which the computation departs with p ≤ 0.05; None where it does not."""
        return self.departed if self.p_value <= SIGNIFICANT else None


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


def summarise_planted(plantings: Sequence[Planting], *, layers: Sequence[str], seed: int = 0) -> Planted:
    """Figures of the faults of one run or of several pooled, with 95 % intervals over shapes.

    `hit` is the share of faults whose layer was blamed, `near` counts the layers beside it too; `departure_hit` and
    `departure_near` are the same of departures at 5 %, whose share is `significant`. `chance` is that of a guess,
    `hit_chance` and `departure_chance` how often the layer is named though the fault is at another one. Of locations:
    IoU and mean rank by layer and ranking, with what a random choice would have.
    """
    findings = [found for planting in plantings for found in planting.findings]
    answer: Planted = {
        "answer": answer_shares(findings, layers),
        "layer": {},
        "location": {},
        "unplanted": {},
        "grafts": {},
        "weights_by_dose": [],
    }
    for kind in (CORRECT, MISCLASSIFIED):
        if some := [found for found in findings if found.kind == kind]:
            answer["unplanted"][kind] = _departures(some, seed)
    for attempt in (attempt for planting in plantings for attempt in planting.attempts):
        counts = answer["grafts"].setdefault(attempt.kind, {})
        count = counts.setdefault(f"{attempt.giver} on {attempt.receiver}", {"tried": 0, "turned": 0})
        count["tried"] += 1
        count["turned"] += attempt.turned
    for kind in (FEATURE, WEIGHT):
        rows = [found for found in findings if found.kind == kind]
        for name in ("all", *layers):
            if some := [found for found in rows if name in ("all", found.layer)]:
                answer["layer"].setdefault(kind, {})[name] = _layer_hits(some, rows, len(layers), seed)
    at_doses = [found for found in findings if found.kind == DOSE]
    for dose in sorted({found.dose for found in at_doses}):
        answer["weights_by_dose"].append(_at_dose(dose, [each for each in at_doses if each.dose == dose], layers, seed))
    for kind in (GRAFT, SYNTHETIC, FEATURE):
        for layer in layers:
            some = [found for found in findings if found.kind == kind and found.layer == layer and found.overlap]
            if some:
                answer["location"].setdefault(kind, {})[layer] = _location_scores(some, seed)
    return answer


def answer_shares(findings: Sequence[Finding], layers: Sequence[str]) -> dict[str, dict[str, list[float | int]]]:
    """How often the answer that `fer explain` gives names what was planted: by kind and place, share and number.

    Of faults in features or weights the place is the planted layer, and `all` of them; of grafts it is `input`. Of
    samples in which nothing was planted, the shares are those of each outcome.
    """
    shares: dict[str, dict[str, list[float | int]]] = {}
    for kind in (FEATURE, WEIGHT):
        rows = [found for found in findings if found.kind == kind]
        for name in ("all", *layers):
            if some := [found for found in rows if name in ("all", found.layer)]:
                named = [_answer(found, layers).layer == layers[found.planted or 0] for found in some]
                shares.setdefault(kind, {})[name] = [float(np.mean(named)), len(some)]
    for kind in (GRAFT, SYNTHETIC):
        # A graft is a finding at every layer of several locations, with the same answer.
        once = {
            (found.shape, found.blamed, found.departed, found.p_value): found
            for found in findings
            if found.kind == kind
        }
        if once:
            named = [_answer(found, layers).outcome == INPUT for found in once.values()]
            shares[kind] = {INPUT: [float(np.mean(named)), len(once)]}
    for kind in (CORRECT, MISCLASSIFIED):
        outcomes: list[str] = [_answer(found, layers).outcome for found in findings if found.kind == kind]
        if outcomes:
            shares[kind] = {name: [outcomes.count(name) / len(outcomes), len(outcomes)] for name in OUTCOMES}
    return shares


def _answer(found: Finding, layers: Sequence[str]) -> Answer:
    departure = None
    if found.departed is not None:
        departure = Departure(layers[found.departed], score=0.0, margin=0.0, p_value=found.p_value)
    return find_answer(departure, None if found.blamed is None else layers[found.blamed], lowest=layers[0])


def _departures(rows: Sequence[Finding], seed: int) -> Departures:
    values = np.array([found.p_value <= SIGNIFICANT for found in rows], dtype=np.float64)
    share, ends = mean_with_interval(values, shape_weights([found.shape for found in rows], seed=seed))
    return Departures(n=len(rows), significant=share, significant_ci=ends)


def _at_dose(dose: float, rows: Sequence[Finding], layers: Sequence[str], seed: int) -> AtDose:
    told = [found.told for found in rows]
    hits = np.array([layer == found.planted for layer, found in zip(told, rows, strict=True)], dtype=np.float64)
    rate, ends = mean_with_interval(hits, shape_weights([found.shape for found in rows], seed=seed))
    of_layers = {
        name: float(hits[[found.layer == name for found in rows]].mean())
        for name in layers
        if any(found.layer == name for found in rows)
    }
    turned = float(np.mean([found.turned for found in rows]))
    chance = _named_elsewhere(rows, rows, told)
    return AtDose(dose=dose, rate=rate, rate_ci=ends, n=len(rows), chance=chance, turned=turned, by_layer=of_layers)


def _named_elsewhere(rows: Sequence[Finding], among: Sequence[Finding], named: Sequence[int | None]) -> float | None:
    """How often the layers at fault in `rows` are `named` in those faults `among` all that lie at other layers.

    The mean over the rows; None where no fault lies at another layer.
    """
    planted, told = np.array([found.planted for found in among]), np.array([-1 if at is None else at for at in named])
    shares = [
        float((told[planted != layer] == layer).mean())
        for layer in (found.planted for found in rows)
        if (planted != layer).any()
    ]
    return float(np.mean(shares)) if shares else None


def _layer_hits(rows: Sequence[Finding], among: Sequence[Finding], layers: int, seed: int) -> LayerHits:
    """Hits of the faults of one layer, or of all, `among` all faults of the kind."""
    weights = shape_weights([found.shape for found in rows], seed=seed)
    planted = np.array([found.planted or 0 for found in rows])
    blamed, departed = (
        np.abs(np.array([math.inf if layer is None else layer for layer in named]) - planted)
        for named in ([found.blamed for found in rows], [found.told for found in rows])
    )
    hit, near, departure_hit, departure_near = (
        mean_with_interval((away <= most).astype(np.float64), weights) for away in (blamed, departed) for most in (0, 1)
    )
    return LayerHits(
        chance=1 / layers,
        hit_chance=_named_elsewhere(rows, among, [found.blamed for found in among]),
        departure_chance=_named_elsewhere(rows, among, [found.told for found in among]),
        hit=hit[0],
        hit_ci=hit[1],
        near=near[0],
        near_ci=near[1],
        departure_hit=departure_hit[0],
        departure_hit_ci=departure_hit[1],
        departure_near=departure_near[0],
        departure_near_ci=departure_near[1],
        **_departures(rows, seed),
    )


def _location_scores(rows: Sequence[Finding], seed: int) -> Located:
    weights = shape_weights([found.shape for found in rows], seed=seed)
    share = np.array([found.share for found in rows])
    rankings: dict[str, Overlap] = {}
    for name in rows[0].overlap:
        iou = mean_with_interval(np.array([found.overlap[name] for found in rows]), weights)
        rank = mean_with_interval(np.array([found.rank[name] for found in rows]), weights)
        rankings[name] = Overlap(iou=iou[0], iou_ci=iou[1], rank=rank[0], rank_ci=rank[1])
    # Of n locations with a share s true, n·s drawn at random meet n·s² of them.
    chance = float((share / (2 - share)).mean())
    return Located(n=len(rows), chance_iou=chance, chance_rank=0.5, rankings=rankings)
