"""A diagnosis for a terminal, in words and figures; Table I and what the layers of a split speak for.

Nothing is decided here: verdict, evidence and answer come from the diagnosis. Evidence is shown calibrated, since
layers have between 4096 locations and one.

Source: Table I.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fer_cli.calibration.confidence import VIEWS
from fer_cli.diagnosis.diagnosis import Diagnosis, LayerReading
from fer_cli.evaluation.results import COMBINED, SUSPICION, Claim, Detector
from fer_cli.network.activations import PATHS
from fer_cli.reports.explained import place_of
from fer_cli.reports.sentences import (
    short_answer,
    short_cause,
    short_nearest,
    short_pose,
    short_repair,
)
from fer_cli.reports.tables import number_or_dash, open_table, printable, signed

ERRORS = {
    "input_vs_local": (
        "input−local",
        "Input and local reconstruction",
        "what the local features lose of this very sample.",
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
        "how far the input is from what the network recognised; the paper's sign of a failure.",
    ),
}
"""Table I's errors: name in a table, the two shapes compared, and what the error tells."""
FIDELITY = {"iou": "voxel IoU", "psnr": "PSNR (dB)", "ssim": "SSIM"}
"""Scores of reconstructions, by JSON key."""
_SPOKEN_FOR = ("true", "predicted")


def terminal_report(diagnosis: Diagnosis) -> RenderableType:
    """The diagnosis on one screen of 80 × 24 characters."""
    correct, suspicion = diagnosis.correct, diagnosis.suspicion
    facts = Table.grid(padding=(0, 2))
    top = sorted(diagnosis.probabilities.items(), key=lambda item: -item[1])[:3]
    facts.add_row("cause", Text(printable(short_cause(diagnosis.cause))))
    facts.add_row("remedy", Text(printable(diagnosis.cause.remedy)))
    facts.add_row("probability", Text(" · ".join(f"{printable(name)} {p:.3f}" for name, p in top)))
    if said := short_pose(diagnosis):
        facts.add_row("pose", Text(printable(said)))
    facts.add_row("nearest", Text(short_nearest(diagnosis)))
    facts.add_row("where", Text(short_answer(diagnosis)))
    for test in diagnosis.repair[:1]:
        facts.add_row("repair", Text(short_repair(test, diagnosis.predicted)))
    if diagnosis.remarks:
        facts.add_row("remarks", Text(printable("; ".join(diagnosis.remarks))))
    alarm = f"{suspicion.score:.2f} of 1: {suspicion.level}, p {suspicion.p_value:.3f}"
    facts.add_row("suspicion", Text(alarm + _viewed_words(diagnosis)))
    heading = Text.assemble(
        (printable(diagnosis.sample), "bold"),
        "  ",
        ("true class unknown", "") if correct is None else _mark_text(correct),
    )
    note = Text(
        "calibrated evidence in nats, for the predicted class and for the "
        + ("true one" if correct is False else "best other")
    )
    return Group(heading, Text(printable(diagnosis.verdict)), facts, note, _layer_table(diagnosis))


def _viewed_words(diagnosis: Diagnosis) -> str:
    """What views say where it is another class, or what suspicion goes by where there are none."""
    viewed = diagnosis.viewed
    if diagnosis.suspicion.by != VIEWS:
        return f" by {diagnosis.suspicion.by}"
    if viewed is None or viewed.predicted == diagnosis.predicted:
        return ""
    return f"; {viewed.number} views say {printable(viewed.predicted)}"


def diagnosis_table(answers: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Several diagnoses, as `diagnosis_json` gives them, a line each, the most suspicious first."""
    table = open_table("sample", "true", "predicted", "cause", "where", "suspicion", "p")
    for column in table.columns[:5]:
        column.justify, column.no_wrap, column.overflow = "left", False, "fold"
    for answer in sorted(answers, key=lambda answer: -answer["suspicion"]["score"]):
        cause = answer["cause"]["name"]
        words = (answer["sample"], answer["label"], answer["predicted"], cause, place_of(answer["answer"]))
        figures = (f"{answer['suspicion']['score']:.2f}", f"{answer['suspicion']['p_value']:.3f}")
        table.add_row(*(Text(printable(word or "–")) for word in words), *figures)
    return table


def trained_on_line(answers: Sequence[Mapping[str, Any]]) -> str | None:
    """Which of several samples the network was trained on; None if on none."""
    named = [printable(answer["sample"]) for answer in answers if answer["trained_on"]]
    if not named:
        return None
    return f"The network was trained on {len(named)} of these {len(answers)} samples: {', '.join(named)}"


def figures_table(answer: Mapping[str, Any]) -> RenderableType:
    """`fer figures`'s results: the rule, what was drawn, Table I, and what layers speak for over the whole split."""
    parts: list[RenderableType] = [Text(answer["rule"]), Text()]
    for name, figure in answer["figures"].items():
        said = "no such sample in the split" if figure is None else f"{figure['path']}: {', '.join(figure['samples'])}"
        parts.append(Text(f"{name}  {printable(said)}"))
    parts += [Text("\nTable I: summed squares, mean over samples", style="italic"), error_table(answer["table1"])]
    parts += [Text("\nTable I: Euclidean norms, the paper's unit", style="italic"), error_table(answer["errors_norm"])]
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


@dataclass(frozen=True)
class PathReading:
    """What one path's clusters say at a layer; `mark` whether it is the true class, the figures are calibrated nats."""

    path: str
    speaks_for: str
    mark: str
    rival_name: str
    predicted: float
    rival: float
    exemplar: str


def read_path(diagnosis: Diagnosis, layer: LayerReading, path: str) -> PathReading:
    """What one path's clusters say at `layer`; calibrated evidence for the predicted class and its rival.

    The rival is the true class of a misclassified sample, and else the best of the other classes.
    """
    said = layer.paths[path]
    evidence, speaks_for = said.evidence, said.speaks_for
    others = [name for name in evidence if name != diagnosis.predicted]
    rival = max(others, key=lambda name: evidence[name])
    if diagnosis.correct is False and diagnosis.label is not None:
        rival = diagnosis.label
    return PathReading(
        path=path,
        speaks_for=speaks_for,
        mark="" if diagnosis.label is None else "✓" if speaks_for == diagnosis.label else "✗",
        rival_name=rival,
        predicted=float(evidence[diagnosis.predicted]) / said.temperature,
        rival=float(evidence[rival]) / said.temperature,
        exemplar=said.exemplar,
    )


def error_table(table1: Mapping[str, Mapping[str, float] | None]) -> Table:
    """Table I by outcome."""
    table = open_table("samples", *(head for head, _, _ in ERRORS.values()), "ratio")
    for group in ("all", "correct", "misclassified"):
        row = table1.get(group) or {}
        table.add_row(group, *(number_or_dash(row.get(key), 1) for key in ERRORS), number_or_dash(row.get("ratio"), 2))
    return table


def fidelity_scores(reconstruction: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[str]:
    """Keys of the scores that reconstructions have, by what the volumes are; squared errors are in the JSON alone."""
    rows = [row for by_gates in reconstruction.values() for row in by_gates.values()]
    return [key for key in FIDELITY if all(key in row for row in rows)]


def detectors(detection: Mapping[str, Detector]) -> dict[str, Detector]:
    """The scores that detect mistakes, each once: `combined` is an older name of suspicion."""
    return {name: row for name, row in detection.items() if name != COMBINED or SUSPICION not in detection}


def claims_by_head(claims: Sequence[Claim]) -> dict[str, list[Claim]]:
    """The rows of each claim, those of layers that Figs 4 and 6 do not show by themselves."""
    rows: dict[str, list[Claim]] = {}
    for row in sorted(claims, key=lambda row: row["in_figures"] is False):
        apart = {True: ", layers of Figs 4 and 6", False: ", other layers", None: ""}[row["in_figures"]]
        rows.setdefault(f"{row['claim']}{apart}", []).append(row)
    return rows


def said_of(claim: Claim) -> str:
    """A claim's verdict, and whether it could not be otherwise."""
    if claim["verdict"] is None:
        return "–"
    return f"{claim['verdict']}, by construction" if claim["by_construction"] else claim["verdict"]


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
            name = f"{reading.mark} {printable(reading.speaks_for)}".strip()
            cells += [Text(name), Text(signed(reading.predicted)), Text(signed(reading.rival))]
        named = layer.name == diagnosis.answer.layer
        table.add_row(Text(("▶ " if named else "  ") + layer.name), *cells, style="bold" if named else "")
    return table


def _mark_text(correct: bool) -> tuple[str, str]:
    return ("✓ correct", "bold green") if correct else ("✗ misclassified", "bold red")
