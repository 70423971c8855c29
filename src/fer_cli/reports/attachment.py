"""What `fer attach` found in a network: the levels with their costs, for the terminal and as JSON."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Group
from rich.table import Table

from fer_cli.codebooks.clustering import default_codes, expected_seconds
from fer_cli.network.attach import AttachSettings, Overview
from fer_cli.network.backbone import Level
from fer_cli.storage.schema import Json

_PATHS = 2
_HALF, _SINGLE, _COUNT = 2, 4, 4


def level_json(level: Level, box: np.ndarray, codes: int, samples: int, classes: int) -> Json:
    """One level: name, shape, receptive field of the central location, size of features and codebooks in bytes."""
    centre = tuple(side // 2 for side in level.shape)
    per_code = _SINGLE * level.filters + _COUNT * (classes + 1)
    return {
        "name": level.name,
        "filters": level.filters,
        "shape": list(level.shape),
        "is_cut": level.is_cut,
        "signed": level.signed,
        "field": level.field,
        "receptive_field": box[centre].tolist(),
        "codebook_bytes": _PATHS * level.locations * codes * per_code,
        "feature_bytes": _HALF * samples * level.locations * level.filters,
    }


def overview_json(overview: Overview, settings: AttachSettings) -> Json:
    """The levels chosen and left out, and how the network fits the labels."""
    spec, codes = overview.spec, default_codes(len(overview.spec.levels), overview.training_samples)
    chosen = {level.name for level in spec.levels}
    return {
        "levels": [
            {
                **level_json(level, overview.fields[level.name], k, overview.training_samples, len(spec.classes)),
                "train_seconds": overview.level_seconds[level.name],
                "cluster_seconds": expected_seconds(level.filters, level.locations, k, overview.training_samples),
            }
            for level, k in zip(spec.levels, codes, strict=True)
        ],
        "other_levels": [
            {"name": c.name, "module": c.kind, "filters": c.filters, "shape": list(c.shape), "is_cut": c.is_cut}
            for c in overview.candidates
            if c.name not in chosen
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
    answer = overview_json(overview, settings)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("level", overflow="fold", max_width=28)
    for heading in ("filters", "map", "sees", "cut", "codes", "features", "minutes"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row, level in zip(level_rows(answer["levels"]), answer["levels"], strict=True):
        minutes = f"{_minutes(level['train_seconds'])}+{_minutes(level['cluster_seconds'])}"
        table.add_row(*map(str, row.values()), _size(level["codebook_bytes"]), _size(level["feature_bytes"]), minutes)
    others = len(answer["other_levels"])
    lines = [
        f"{overview.spec.input}, {len(overview.spec.classes)} classes, output: {answer['readout']}; "
        f"{answer['training_accuracy']:.1%} of checked training samples right",
        f"{others} more activations can be named with --levels (--dry-run --json lists them)" if others else "",
        f"training: about {_minutes(overview.seconds)} min, {overview.epochs} epochs of "
        f"{overview.training_samples} samples"
        + (", from the feedback network of the former model.h5" if overview.resumed_feedback else ""),
        "codes, features: size on disk; minutes: of training + of fer cluster",
    ]
    return Group(table, *filter(None, lines))


def level_rows(levels: Sequence[Mapping[str, Any]]) -> list[Json]:
    """Levels as rows of a table: name, filters, map, receptive field of the central location, whether it is a cut."""
    rows = []
    for level in levels:
        sides = "×".join(str(high - low) for low, high in level["receptive_field"])
        sees = {"exact": sides, "gradient": f"≈{sides}", "whole": "all"}[level["field"]]
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
