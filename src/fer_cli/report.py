"""What a run found, for a terminal and as JSON: a diagnosis, an evaluation, an artifact.

Nothing is decided here: verdict, evidence and blame come from the diagnosis. Evidence is shown calibrated, since layers
have between 4096 locations and one.

Source: Table I.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from fer_cli.activations import PATHS
from fer_cli.departure import Departure
from fer_cli.diagnosis import Diagnosis, LayerReading, Suspicion
from fer_cli.repair import RepairTest

ERRORS = {
    "input_vs_local": (
        "input−local",
        "Input and local reconstruction",
        "what the local features lose of this very shape.",
    ),
    "nearest_vs_code": (
        "nearest−code",
        "Nearest training sample and class-code reconstruction",
        "how far the picture that the class code paints is from the training sample most like it.",
    ),
    "local_vs_code": (
        "local−code",
        "Local and class-code reconstruction",
        "how far what the network saw is from what it recognised.",
    ),
    "input_vs_code": (
        "input−code",
        "Input and class-code reconstruction",
        "how far the shape itself is from what the network recognised; the paper's sign of a failure.",
    ),
}
"""Table I's errors: name in a table, the two shapes compared, and what the error tells."""
_BARS = "▁▂▃▄▅▆▇█"
_SPOKEN_FOR = ("true", "predicted")
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


def terminal_report(diagnosis: Diagnosis) -> RenderableType:
    """The diagnosis on one screen of 80 × 24 characters."""
    correct, suspicion = diagnosis.correct, diagnosis.suspicion
    facts = Table.grid(padding=(0, 2))
    facts.add_row("predicted", Text.assemble((printable(diagnosis.predicted), "bold"), "   ", _truth(diagnosis)))
    top = sorted(diagnosis.probabilities.items(), key=lambda item: -item[1])[:3]
    facts.add_row("probability", Text(" · ".join(f"{printable(name)} {p:.3f}" for name, p in top)))
    said = [f"{head} {diagnosis.errors[key]:.0f}" for key, (head, _, _) in ERRORS.items()]
    facts.add_row("error", Text(f"{said[0]} · {said[1]}\n{said[2]} · {said[3]}"))
    facts.add_row("nearest", Text(printable(diagnosis.nearest_training_sample)))
    if diagnosis.blame.layer is not None:
        places = " ".join(",".join(map(str, location)) for location in diagnosis.blame.locations[:6])
        more = len(diagnosis.blame.locations) - 6
        facts.add_row("blame", Text(f"{diagnosis.blame.layer} at {places}{f' and {more} more' if more > 0 else ''}"))
    for test in diagnosis.repair[:1]:
        facts.add_row("repair", Text(_short_repair(test)))
    facts.add_row("category", Text(f"{diagnosis.category.name}: {printable(diagnosis.category.criterion)}"))
    facts.add_row(
        "suspicion",
        Text(f"{suspicion.score:.2f} of 1: {suspicion_level(suspicion)}, conformal p {suspicion.p_value:.3f}"),
    )
    heading = Text.assemble(
        (printable(diagnosis.sample), "bold"),
        "  ",
        ("", "") if correct is None else _mark_text(correct),
        _short_departure(diagnosis.departure),
    )
    note = Text(
        "calibrated evidence in nats, for the predicted class and for the "
        + ("true one" if correct is False else "best other")
    )
    return Group(heading, Text(printable(diagnosis.verdict)), facts, note, _layer_table(diagnosis))


def diagnosis_json(diagnosis: Diagnosis, *, report: str | None) -> dict[str, Any]:
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
        "nearest_training_sample": diagnosis.nearest_training_sample,
        "layers": [
            {
                "name": layer.name,
                "feedforward_class": layer.feedforward_class,
                "feedback_class": layer.feedback_class,
                "feedforward_evidence": _finite(layer.feedforward_evidence),
                "feedback_evidence": _finite(layer.feedback_evidence),
                "feedforward_exemplar": layer.feedforward_exemplar,
                "feedback_exemplar": layer.feedback_exemplar,
            }
            for layer in diagnosis.layers
        ],
        "blame": {
            "layer": diagnosis.blame.layer,
            "locations": [[int(index) for index in location] for location in diagnosis.blame.locations],
            "margin": diagnosis.blame.margin,
        },
        "departure": None
        if diagnosis.departure is None
        else {
            "layer": diagnosis.departure.layer,
            "locations": [[int(index) for index in location] for location in diagnosis.departure.locations],
            **_finite({key: getattr(diagnosis.departure, key) for key in ("score", "margin", "p_value")}),
        },
        "repair": [
            {
                "layer": test.layer,
                "replaced": test.replaced,
                "locations": test.locations,
                "wanted": test.wanted,
                "chosen_by": test.chosen_by,
                "donor": test.donor,
                "predicted": test.predicted,
                "repaired": test.repaired,
                **_finite({"probability": test.probability, "gain": test.gain, "p_value": test.p_value}),
            }
            for test in diagnosis.repair
        ],
        "suspicion": _finite({"score": diagnosis.suspicion.score, "p_value": diagnosis.suspicion.p_value}),
        "category": diagnosis.category.name,
        "criterion": diagnosis.category.criterion,
        "verdict": diagnosis.verdict,
        "report": report,
    }


def diagnosis_table(answers: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Several diagnoses, as `diagnosis_json` gives them, a line each, the most suspicious first."""
    table = open_table("sample", "true", "predicted", "blamed", "suspicion", "p-value")
    for column in table.columns[1:4]:
        column.justify = "left"
    for answer in sorted(answers, key=lambda answer: -answer["suspicion"]["score"]):
        words = (answer["sample"], answer["label"], answer["predicted"], answer["blame"]["layer"])
        figures = (f"{answer['suspicion']['score']:.2f}", f"{answer['suspicion']['p_value']:.3f}")
        table.add_row(*(Text(printable(word or "–")) for word in words), *figures)
    return table


def figures_table(answer: Mapping[str, Any]) -> RenderableType:
    """`fer figures`'s results: the rule, what was drawn, Table I, and what layers speak for over the whole split."""
    parts: list[RenderableType] = [Text(answer["rule"]), Text()]
    for name, figure in answer["figures"].items():
        said = "no such sample in the split" if figure is None else f"{figure['path']}: {', '.join(figure['samples'])}"
        parts.append(Text(f"{name}  {printable(said)}"))
    parts += [Text("\nTable I: summed squares, mean over samples", style="italic"), error_table(answer["table1"])]
    for group, shares in answer["shares"].items():
        parts.append(
            Text(f"\n{group}, {shares['n']}: share whose clusters speak for the true | predicted class", style="italic")
        )
        table = open_table("layer", *PATHS)
        for layer in shares["layers"]:
            both = (" | ".join(number_or_dash(layer[f"{path}_{what}"], 2) for what in _SPOKEN_FOR) for path in PATHS)
            table.add_row(Text(printable(layer["name"])), *both)
        parts.append(table)
    return Group(*parts)


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
        for cells in zip(*(_aligned([record[key] for record in records]) for key in columns), strict=True):
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


def read_path(diagnosis: Diagnosis, layer: LayerReading, path: str) -> dict[str, Any]:
    """What one path's clusters say at `layer`; calibrated evidence for the predicted class and its rival.

    The rival is the true class of a misclassified sample, and else the best of the other classes.
    """
    evidence: Mapping[str, float] = getattr(layer, f"{path}_evidence")
    temperature: float = getattr(layer, f"{path}_temperature")
    speaks_for: str = getattr(layer, f"{path}_class")
    others = [name for name in evidence if name != diagnosis.predicted]
    rival = max(others, key=lambda name: evidence[name])
    if diagnosis.correct is False and diagnosis.label is not None:
        rival = diagnosis.label
    return {
        "path": path,
        "speaks_for": speaks_for,
        "mark": "" if diagnosis.label is None else "✓" if speaks_for == diagnosis.label else "✗",
        "rival_name": rival,
        "predicted": float(evidence[diagnosis.predicted]) / temperature,
        "rival": float(evidence[rival]) / temperature,
        "exemplar": getattr(layer, f"{path}_exemplar"),
    }


def suspicion_level(suspicion: Suspicion) -> str:
    """The conventional 5 %, and what one correct sample in five reaches."""
    p = suspicion.p_value
    return "suspicious" if p <= 0.05 else "somewhat unusual" if p <= 0.2 else "not unusual"


def departure_sentence(departure: Departure) -> str:
    """Where the computation departs from the usual one, if it does."""
    return (
        f"Below {departure.layer} the features are as they usually are, given one another; at {departure.layer} they "
        f"are not. {departure.p_value:.0%} of the validation samples depart as far somewhere."
    )


def _short_departure(departure: Departure | None) -> str:
    """The same in a few words; none where there is none to tell of."""
    if departure is None:
        return "  departure not known; run 'fer cluster' again"
    if not departure.is_significant:
        return ""
    return f"  departs from the usual at {printable(departure.layer)}, p {departure.p_value:.3f}"


def repair_sentence(test: RepairTest) -> str:
    """What a repair test did, and what came of it."""
    chosen = "the true class" if test.chosen_by == "label" else "the class that the clusters imply"
    said = f"says {test.predicted}" if test.repaired else f"still says {test.predicted}, not {test.wanted}"
    return (
        f"With the features of {test.donor} ({test.wanted}, {chosen}) at {test.replaced} of the {test.locations} "
        f"locations of {test.layer}, those to blame most, the network {said}, at probability {test.probability:.2f}. "
        f"The log odds of {test.wanted} change by {signed(test.gain)} nats; p = {test.p_value:.2f} against as many "
        "random locations."
    )


def _short_repair(test: RepairTest) -> str:
    """The same in a line."""
    return (
        f"{printable(test.predicted)} with {test.replaced} of {test.locations} of {test.layer} from "
        f"{printable(test.donor)}; p {test.p_value:.2f}"
    )


def signed(value: float) -> str:
    """With two decimals and a sign, a typographic one, unless it is zero."""
    shown = f"{value:+.2f}"
    return "0.00" if float(shown) == 0 else shown.replace("-", "−")


def error_table(table1: Mapping[str, Mapping[str, float] | None]) -> Table:
    """Table I by outcome."""
    table = open_table("samples", *(head for head, _, _ in ERRORS.values()), "ratio")
    for group in ("all", "correct", "misclassified"):
        row = table1.get(group) or {}
        table.add_row(group, *(number_or_dash(row.get(key), 1) for key in ERRORS), number_or_dash(row.get("ratio"), 2))
    return table


def open_table(*heads: str) -> Table:
    """A table without frame: names on the left, then columns of figures."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False)
    for index, head in enumerate(heads):
        table.add_column(head, justify="right" if index else "left", no_wrap=True)
    return table


def _rows(values: Mapping[str, Any], depth: int) -> Iterator[tuple[int, str, str | Table]]:
    for key, value in values.items():
        name = printable(str(key))
        if (records := _records(value)) is not None:
            yield depth, name, records
        elif isinstance(value, Mapping) and value:
            yield depth, name, ""
            yield from _rows(value, depth + 1)
        elif isinstance(value, list | tuple):
            shown = ", ".join(_plain(item) for item in value[:12])
            yield depth, name, (shown or "–") + (f", … ({len(value)})" if len(value) > 12 else "")
        else:
            yield depth, name, _plain(value)


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
        cells.append([Text(cell) for cell in _aligned(figures_of[column])])
    for row_cells in zip(*cells, strict=True):
        table.add_row(*row_cells)
    return table


def _aligned(figures: Sequence[Any]) -> list[str]:
    """A column: floats with as many decimals as give the largest four digits."""
    largest = max((abs(figure) for figure in figures if isinstance(figure, float)), default=0.0)
    if not 1e-3 <= largest < 1e6:
        return [_plain(figure) for figure in figures]
    decimals = max(0, 3 - max(-1, math.floor(math.log10(largest))))
    return [f"{figure:.{decimals}f}" if isinstance(figure, float) else _plain(figure) for figure in figures]


def _plain(value: Any) -> str:
    if value is None or value == {}:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else printable(str(value))


def _layer_table(diagnosis: Diagnosis) -> Table:
    rival = "true" if diagnosis.correct is False else "other"
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False)
    table.add_column("layer", no_wrap=True)
    for path in PATHS:
        table.add_column(path, no_wrap=True, max_width=15)
        table.add_column("predicted", justify="right", no_wrap=True)
        table.add_column(rival, justify="right", no_wrap=True)
    for layer in diagnosis.layers:
        cells = []
        for path in PATHS:
            reading = read_path(diagnosis, layer, path)
            name = f"{reading['mark']} {printable(reading['speaks_for'])}".strip()
            cells += [Text(name), Text(signed(reading["predicted"])), Text(signed(reading["rival"]))]
        blamed = layer.name == diagnosis.blame.layer
        table.add_row(Text(("▶ " if blamed else "  ") + layer.name), *cells, style="bold" if blamed else "")
    return table


def _truth(diagnosis: Diagnosis) -> Text:
    if diagnosis.label is None:
        return Text("true class unknown")
    return Text.assemble("label ", (printable(diagnosis.label), "bold"))


def _mark_text(correct: bool) -> tuple[str, str]:
    return ("✓ correct", "bold green") if correct else ("✗ misclassified", "bold red")


def number_or_dash(value: float | None, digits: int) -> str:
    """A figure to so many digits, a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def _finite(values: Mapping[str, float]) -> dict[str, float]:
    plain = {str(key): float(value) for key, value in values.items()}
    for key, value in plain.items():
        if not math.isfinite(value):
            raise ValueError(f"{key} is {value}, not a finite number.")
    return plain


def printable(text: str) -> str:
    """`text` without control characters, which a terminal would obey."""
    return "".join(letter if letter.isprintable() else "�" for letter in text)
