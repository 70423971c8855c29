"""What `fer info` shows on a terminal: the content of an artifact, and how a training went."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from fer_cli.reports.tables import aligned, open_table, plain, printable

_BARS = "▁▂▃▄▅▆▇█"
_LOSS_TERMS = ("class_loss", "voxel_loss", "feature_loss")
_HISTORY_HEADS = {
    "epoch": "epoch",
    "training_loss": "loss",
    "class_loss": "class",
    "voxel_loss": "voxel",
    "feature_loss": "feature",
    "validation_loss": "validation loss",
    "validation_score": "score",
    "seconds": "seconds",
}


def info_table(info: Mapping[str, Any]) -> RenderableType:
    """`fer info`'s summary of an artifact, nested parts indented, records as rows of a table."""
    rows = list(_rows(info, 0))
    width = max(2 * depth + len(key) for depth, key, _ in rows)
    parts: list[RenderableType] = []
    for depth, key, value in rows:
        grid = Table.grid(padding=(0, 2))
        grid.add_column(no_wrap=True, width=width)
        grid.add_column(overflow="fold")
        text = Text("" if isinstance(value, Table) else value)
        grid.add_row(Text("  " * depth + key, style="" if depth else "bold"), text)
        parts.append(grid)
        if isinstance(value, Table):
            parts.append(Padding(value, (0, 0, 0, 2 * depth + 2)))
    return Group(*parts)


def training_history(history: Sequence[Mapping[str, Any]]) -> RenderableType:
    """A training history, phase by phase: a line an epoch, then small curves with their first and last value."""
    parts: list[RenderableType] = []
    for phase in dict.fromkeys(record["phase"] for record in history):
        records = [record for record in history if record["phase"] == phase]
        several = sum(records[0][key] is not None for key in _LOSS_TERMS) > 1
        columns = {
            key: head
            for key, head in _HISTORY_HEADS.items()
            if records[0][key] is not None and (several or key not in _LOSS_TERMS)
        }
        table = open_table(*columns.values())
        table.columns[0].justify = "right"
        for cells in zip(*(aligned([record[key] for record in records]) for key in columns), strict=True):
            table.add_row(*cells)
        parts += [Text(f"\n{printable(phase)}", style="bold"), table, Text()]
        for key in ("training_loss", "validation_loss", "validation_score"):
            values = [float(record[key]) for record in records]
            parts.append(Text(f"{_HISTORY_HEADS[key]:<16} {_sparkline(values)} {values[0]:.3f} → {values[-1]:.3f}"))
    return Group(*parts)


def _sparkline(values: Sequence[float], width: int = 32) -> str:
    """Values as bars, their range as the bars' range; of more values than `width` each bar is a mean."""
    groups = [part for part in np.array_split(np.asarray(values, dtype=float), min(width, len(values))) if len(part)]
    means = [float(np.mean(part)) for part in groups]
    low, high = min(means), max(means)
    return "".join(_BARS[round((mean - low) / (high - low or 1.0) * (len(_BARS) - 1))] for mean in means)


def _rows(values: Mapping[str, Any], depth: int) -> Iterator[tuple[int, str, str | Table]]:
    for key, value in values.items():
        name = printable(str(key))
        if (records := _records(value)) is not None:
            yield depth, name, records
        elif isinstance(value, Mapping) and value:
            yield depth, name, ""
            yield from _rows(value, depth + 1)
        elif isinstance(value, list | tuple):
            shown = ", ".join(plain(item) for item in value[:12])
            yield depth, name, (shown or "–") + (f", … ({len(value)})" if len(value) > 12 else "")
        else:
            yield depth, name, plain(value)


def _records(value: Any) -> Table | None:
    """The table of a list of records, or of a mapping of names to records that share a key; None if it is neither."""
    named = isinstance(value, Mapping)
    rows = list(value.values()) if named else list(value) if isinstance(value, list | tuple) else []
    if len(rows) < 1 + named or not all(isinstance(row, Mapping) and row for row in rows):
        return None
    if any(isinstance(item, Mapping | list | tuple) for row in rows for item in row.values()):
        return None
    columns = list(dict.fromkeys(key for row in rows for key in row))
    if named and not set(columns).intersection(*rows):
        return None
    table = open_table("") if named else open_table()
    cells = [[Text(printable(str(key))) for key in value]] if named else []
    figures_of = {column: [row.get(column) for row in rows] for column in columns}
    text_columns = {column for column in columns if any(isinstance(figure, str) for figure in figures_of[column])}
    for column in sorted(columns, key=lambda column: column not in text_columns):
        head = Text(printable(str(column)).replace("_", " "))
        table.add_column(head, justify="left" if column in text_columns else "right")
        cells.append([Text(cell) for cell in aligned(figures_of[column])])
    for row_cells in zip(*cells, strict=True):
        table.add_row(*row_cells)
    return table
