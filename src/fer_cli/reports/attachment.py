"""What `fer attach` found in a network: the levels with their costs, for the terminal and as JSON."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Group
from rich.table import Table

from fer_cli.codebooks.clustering import default_codes, expected_seconds
from fer_cli.network.attach import AttachSettings
from fer_cli.network.attach_overview import Overview
from fer_cli.network.attached.survey import Candidate
from fer_cli.network.backbone import Level

_PATHS = 2
_HALF, _SINGLE, _COUNT = 2, 4, 4


@dataclass(frozen=True)
class LevelCosts:
    """Size of a level's codebooks and features in bytes, and time to train the step from it and to cluster it."""

    codebook_bytes: int
    feature_bytes: int
    train_seconds: float
    cluster_seconds: float


def level_facts(level: Level, box: np.ndarray) -> dict[str, object]:
    """The fields of a level but for `call`, and the receptive field of its central location."""
    facts = {key: value for key, value in vars(level).items() if key != "call"}
    return {**facts, "receptive_field": box[tuple(side // 2 for side in level.shape)].tolist()}


def level_costs(overview: Overview) -> list[LevelCosts]:
    """Costs of the levels chosen."""
    spec, samples = overview.spec, overview.training_samples
    return [
        LevelCosts(
            _PATHS * level.locations * k * (_SINGLE * level.filters + _COUNT * (len(spec.classes) + 1)),
            _HALF * samples * level.locations * level.filters,
            overview.level_seconds[level.name],
            expected_seconds(level.filters, level.locations, k, samples),
        )
        for level, k in zip(spec.levels, default_codes(len(spec.levels), samples), strict=True)
    ]


def overview_json(overview: Overview, settings: AttachSettings) -> dict[str, object]:
    """The levels chosen and left out, and how the network fits the labels."""
    return {
        "levels": [
            {**level_facts(level, overview.fields[level.name]), **vars(costs)}
            for level, costs in zip(overview.spec.levels, level_costs(overview), strict=True)
        ],
        "other_levels": [
            {"name": c.name, "module": c.kind, "filters": c.filters, "shape": list(c.shape), "is_cut": c.is_cut}
            for c in _left_out(overview)
        ],
        "readout": overview.readout,
        "training_accuracy": overview.fit.accuracy,
        "training_samples": overview.training_samples,
        "validation_samples": overview.validation_samples,
        "epochs": overview.epochs,
        "expected_seconds": overview.seconds,
        "starts_from_old_feedback": overview.resumed_feedback,
        "fitted_on": settings.fitted_on,
    }


def overview_table(overview: Overview, settings: AttachSettings) -> Group:
    """The same for the terminal, in 80 columns."""
    levels = [level_facts(level, overview.fields[level.name]) for level in overview.spec.levels]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("level", overflow="fold", max_width=28)
    for heading in ("filters", "map", "sees", "cut", "codes", "features", "minutes"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row, costs in zip(level_rows(levels), level_costs(overview), strict=True):
        minutes = f"{_minutes(costs.train_seconds)}+{_minutes(costs.cluster_seconds)}"
        table.add_row(*map(str, row.values()), _size(costs.codebook_bytes), _size(costs.feature_bytes), minutes)
    others = len(_left_out(overview))
    lines = [
        f"{overview.spec.input}, {len(overview.spec.classes)} classes, output: {overview.readout}; "
        f"{overview.fit.accuracy:.1%} of checked training samples right",
        f"{others} more activations can be named with --levels (--dry-run --json lists them)" if others else "",
        f"training: about {_minutes(overview.seconds)} min, {overview.epochs} epochs of "
        f"{overview.training_samples} samples"
        + (", from the feedback network of the former model.h5" if overview.resumed_feedback else ""),
        "codes, features: size on disk; minutes: of training + of fer cluster",
    ]
    return Group(table, *filter(None, lines))


def _left_out(overview: Overview) -> list[Candidate]:
    chosen = {level.name for level in overview.spec.levels}
    return [candidate for candidate in overview.candidates if candidate.name not in chosen]


def level_rows(levels: Sequence[Mapping[str, Any]]) -> list[dict[str, str | int]]:
    """Levels as rows of a table: name, filters, map, receptive field of the central location, whether it is a cut."""
    rows = []
    for level in levels:
        sides = "×".join(str(high - low) for low, high in level["receptive_field"])
        sees = {"exact": sides, "gradient": f"≈{sides}", "noise": f"≈{sides}", "whole": "all"}[level["field"]]
        cut = "yes" if level["is_cut"] else "no"
        named = {"level": level["name"], "filters": level["filters"], "map": _sides(level["shape"])}
        rows.append({**named, "sees": sees, "cut": cut})
    return rows


def _sides(shape: list[int]) -> str:
    if max(shape) == 1:
        return "–"
    return f"{shape[0]}³" if len(set(shape)) == 1 else "×".join(map(str, shape))


def _minutes(seconds: float) -> str:
    return str(max(1, math.ceil(seconds / 60))) if seconds > 30 else "<1"


def _size(count: int) -> str:
    for unit, step in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= step:
            return f"{count / step:.1f} {unit}"
    return f"{count} B"
