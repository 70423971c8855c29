"""Diagnosis → a terminal screen, JSON, and a folder with pictures and one self-contained page.

The page holds its pictures as data URIs and its style inline, so that it can be sent to someone and opened
from disk; it makes no request and needs no script. Nothing is decided here: verdict, evidence and blame
come from the diagnosis. Evidence is shown per location, since layers have between 4096 and 1 of them.

Source: Figs 3 to 7 and Table I.
"""

import base64
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from jinja2 import Environment, PackageLoader, StrictUndefined
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fer_cli import render
from fer_cli.diagnosis import Diagnosis, LayerReading, Suspicion
from fer_cli.errors import ResourceError
from fer_cli.probe import Probe

PICTURED_LAYERS = ("conv3", "conv4", "conv5", "fc6", "fc7")
"""Layers whose representatives the paper shows (Figs 3, 4, 6)."""

PATHS = ("feedforward", "feedback")
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


def terminal_report(diagnosis: Diagnosis) -> RenderableType:
    """The diagnosis on one screen of 80 × 24 characters."""
    correct, suspicion = diagnosis.correct, diagnosis.suspicion
    facts = Table.grid(padding=(0, 2))
    facts.add_row("predicted", Text.assemble((_printable(diagnosis.predicted), "bold"), "   ", _truth(diagnosis)))
    top = sorted(diagnosis.probabilities.items(), key=lambda item: -item[1])[:3]
    facts.add_row("probability", Text(" · ".join(f"{_printable(name)} {p:.3f}" for name, p in top)))
    said = [f"{head} {diagnosis.errors[key]:.0f}" for key, (head, _, _) in ERRORS.items()]
    facts.add_row("error", Text(f"{said[0]} · {said[1]}\n{said[2]} · {said[3]}"))
    facts.add_row("nearest", Text(_printable(diagnosis.nearest_training_sample)))
    if diagnosis.blame.layer is not None:
        places = " ".join(",".join(map(str, location)) for location in diagnosis.blame.locations[:6])
        more = len(diagnosis.blame.locations) - 6
        facts.add_row("blame", Text(f"{diagnosis.blame.layer} at {places}{f' and {more} more' if more > 0 else ''}"))
    facts.add_row(
        "suspicion",
        Text(f"{suspicion.score:.2f} of 1: {_suspicion_level(suspicion)}, conformal p {suspicion.p_value:.3f}"),
    )
    heading = Text.assemble(
        (_printable(diagnosis.sample), "bold"), "  ", ("", "") if correct is None else _mark_text(correct)
    )
    note = Text(
        "evidence per location in nats, of the predicted class and of the "
        + ("true one" if correct is False else "best other")
    )
    return Group(heading, Text(_printable(diagnosis.verdict)), facts, note, _layer_table(diagnosis))


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
        },
        "suspicion": _finite({"score": diagnosis.suspicion.score, "p_value": diagnosis.suspicion.p_value}),
        "verdict": diagnosis.verdict,
        "report": report,
    }


def write_report(diagnosis: Diagnosis, folder: Path) -> Path:
    """Write pictures, `diagnosis.json` and `index.html` into `folder`, made if need be; the page's path.

    Files of an earlier report are replaced.

    Raises ResourceError if the folder cannot be written or the machine cannot draw.
    """
    page = folder / "index.html"
    summary = json.dumps(diagnosis_json(diagnosis, report=str(page)), indent=2, allow_nan=False, ensure_ascii=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        pictures = _pictures(diagnosis)
        images = render.render_scenes([picture.scene for picture in pictures.values()])
        pngs = {name: render.encode_png(image) for name, image in zip(pictures, images, strict=True)}
        for name, png in pngs.items():
            (folder / f"{name}.png").write_bytes(png)
        (folder / "diagnosis.json").write_text(summary + "\n", encoding="utf-8")
        page.write_text(_fill_page(diagnosis, pictures, pngs), encoding="utf-8")
    except OSError as error:
        raise ResourceError(f"cannot write the report to {folder}: {error.strerror or error}.") from error
    return page


@dataclass(frozen=True)
class ProbeFiles:
    """Where a probe was written: the four-panel picture, and the reconstruction as a .npy of probabilities."""

    picture: Path
    reconstruction: Path


def write_probe(probed: Probe, grid: UInt8[np.ndarray, "x y z"], folder: Path) -> ProbeFiles:
    """Draw a probe of the input `grid` into `folder`. Raises ResourceError where that cannot be written."""
    files = ProbeFiles(folder / "probe.png", folder / "reconstruction.npy")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        np.save(files.reconstruction, probed.reconstruction, allow_pickle=False)
    except OSError as error:
        raise ResourceError(f"cannot write {folder}: {error.strerror}.") from error
    picture = render.render_probe(
        probed.layer,
        feature_map=probed.map_shape,
        location=probed.location,
        response_field=probed.response_field,
        reconstruction=probed.reconstruction,
        receptive_field=probed.receptive_field,
        input_grid=grid.astype(np.float32),
    )
    render.write_png(picture, files.picture)
    return files


def evaluation_table(evaluation: Mapping[str, Any]) -> RenderableType:
    """`fer evaluate`'s results: accuracy, Table I by outcome, and every score's detection of failures."""
    line = Text.assemble(
        f"{_printable(str(evaluation['split']))}: {evaluation['n']} samples, {evaluation['n_errors']} wrong, accuracy ",
        (_number(evaluation["accuracy"], 4), "bold"),
        f", mean class accuracy {_number(evaluation['class_accuracy'], 4)}",
    )
    errors = Table(title="Reconstruction error (summed squares, mean over samples)", title_justify="left")
    errors.add_column("samples")
    for head, _, _ in ERRORS.values():
        errors.add_column(head, justify="right")
    errors.add_column("ratio", justify="right")
    for group in ("all", "correct", "misclassified"):
        row = evaluation["table1"].get(group) or {}
        errors.add_row(group, *(_number(row.get(key), 1) for key in ERRORS), _number(row.get("ratio"), 2))
    detection = Table(title="Scores as detectors of misclassification", title_justify="left")
    detection.add_column("score", overflow="fold")
    for head in ("AUROC", "95 % interval", "AURC", "AUGRC", "FPR95"):
        detection.add_column(head, justify="right")
    for name, row in evaluation["detection"].items():
        low, high = row.get("auroc_ci") or (None, None)
        interval = "–" if low is None or high is None else f"{low:.3f} to {high:.3f}"
        figures = [_number(row.get(key), digits) for key, digits in (("aurc", 4), ("augrc", 4), ("fpr95", 3))]
        detection.add_row(Text(_printable(name)), _number(row.get("auroc"), 3), interval, *figures)
    return Group(line, errors, detection)


def info_table(info: Mapping[str, Any]) -> RenderableType:
    """`fer info`'s summary of an artifact, nested parts indented."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for depth, key, value in _rows(info, 0):
        table.add_row(Text("  " * depth + _printable(key), style="bold" if depth == 0 else ""), Text(value))
    return table


def _rows(values: Mapping[str, Any], depth: int) -> Iterator[tuple[int, str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield depth, str(key), ""
            yield from _rows(value, depth + 1)
        elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
            yield depth, str(key), ""
            yield from _rows({str(index): item for index, item in enumerate(value)}, depth + 1)
        elif isinstance(value, list | tuple):
            shown = ", ".join(_plain(item) for item in value[:12])
            yield depth, str(key), shown + (f", … ({len(value)})" if len(value) > 12 else "")
        else:
            yield depth, str(key), _plain(value)


def _plain(value: Any) -> str:
    if value is None or value == {}:
        return "–"
    return f"{value:g}" if isinstance(value, float) else _printable(str(value))


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
            reading = _read_path(diagnosis, layer, path)
            name = f"{reading['mark']} {_printable(reading['speaks_for'])}".strip()
            cells += [Text(name), Text(_signed(reading["predicted"])), Text(_signed(reading["rival"]))]
        blamed = layer.name == diagnosis.blame.layer
        table.add_row(Text(("▶ " if blamed else "  ") + layer.name), *cells, style="bold" if blamed else "")
    return table


def _read_path(diagnosis: Diagnosis, layer: LayerReading, path: str) -> dict[str, Any]:
    """What one path's clusters say at `layer`; evidence per location of the predicted class and its rival.

    The rival is the true class of a misclassified sample, and else the best of the other classes.
    """
    evidence: Mapping[str, float] = getattr(layer, f"{path}_evidence")
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
        "predicted": float(evidence[diagnosis.predicted]) / layer.locations,
        "rival": float(evidence[rival]) / layer.locations,
        "exemplar": getattr(layer, f"{path}_exemplar"),
    }


def _truth(diagnosis: Diagnosis) -> Text:
    if diagnosis.label is None:
        return Text("true class unknown")
    return Text.assemble("label ", (_printable(diagnosis.label), "bold"))


def _mark_text(correct: bool) -> tuple[str, str]:
    return ("✓ correct", "bold green") if correct else ("✗ misclassified", "bold red")


def _suspicion_level(suspicion: Suspicion) -> str:
    """The conventional 5 %, and what one correct sample in five reaches."""
    p = suspicion.p_value
    return "suspicious" if p <= 0.05 else "somewhat unusual" if p <= 0.2 else "not unusual"


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _finite(values: Mapping[str, float]) -> dict[str, float]:
    plain = {str(key): float(value) for key, value in values.items()}
    for key, value in plain.items():
        if not math.isfinite(value):
            raise ValueError(f"{key} is {value}, not a finite number.")
    return plain


def _printable(text: str) -> str:
    """`text` without control characters, which a terminal would obey."""
    return "".join(letter if letter.isprintable() else "�" for letter in text)


@dataclass(frozen=True)
class _Picture:
    scene: render.Scene
    words: str


def _pictures(diagnosis: Diagnosis) -> dict[str, _Picture]:
    """Every picture of the report, with its text alternative, by file name."""
    pictures: dict[str, _Picture] = {}

    def shape(name: str, grid: render.Grid, words: str) -> None:
        count = int(render.occupied(grid).sum())
        pictures[name] = _Picture(render.grid_scene(grid), f"{words}: {count} occupied voxels.")

    shape("input", diagnosis.input_grid, f"Input {diagnosis.sample}")
    for name, grid, words in (
        ("local", diagnosis.local_grid, f"Local reconstruction from {diagnosis.local_layer}"),
        ("nearest", diagnosis.nearest_grid, f"Nearest training sample {diagnosis.nearest_training_sample}"),
        ("class-code", diagnosis.class_code_grid, f"Class-code reconstruction of {diagnosis.predicted}"),
    ):
        shape(name, grid, words)
        counts = render.count_differences(grid, diagnosis.input_grid)
        said = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        scene = render.overlay_scene(grid, diagnosis.input_grid)
        pictures[f"{name}-overlay"] = _Picture(scene, f"{words} laid over the input: {said} voxels.")
    if diagnosis.blame.boxes:
        pictures["blame"] = _Picture(
            render.boxes_scene(diagnosis.input_grid, diagnosis.blame.boxes),
            f"Input with the receptive fields of {len(diagnosis.blame.boxes)} blamed locations of "
            f"{diagnosis.blame.layer} as boxes.",
        )
    for layer in diagnosis.layers:
        for path in PATHS if layer.name in PICTURED_LAYERS else ():
            name, exemplar = f"{layer.name}-{path}", getattr(layer, f"{path}_exemplar")
            shape(name, getattr(layer, f"{path}_representative"), f"{layer.name}, {path} representative")
            shape(
                f"{name}-exemplar", getattr(layer, f"{path}_exemplar_grid"), f"{layer.name}, {path} exemplar {exemplar}"
            )
    return pictures


def _fill_page(diagnosis: Diagnosis, pictures: Mapping[str, _Picture], pngs: Mapping[str, bytes]) -> str:
    environment = Environment(
        loader=PackageLoader("fer_cli"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["signed"] = _signed
    errors, voxels = diagnosis.errors, diagnosis.input_grid.size
    images = {
        name: {
            "name": name,
            "uri": "data:image/png;base64," + base64.b64encode(pngs[name]).decode(),
            "words": picture.words,
        }
        for name, picture in pictures.items()
    }
    layers = [
        {
            "name": layer.name,
            "locations": layer.locations,
            "blamed": layer.name == diagnosis.blame.layer,
            "pictured": layer.name in PICTURED_LAYERS,
            "paths": [_read_path(diagnosis, layer, path) for path in PATHS],
        }
        for layer in diagnosis.layers
    ]
    return environment.get_template("report.html.j2").render(
        diagnosis=diagnosis,
        images=images,
        legend=[(name, "#{:02x}{:02x}{:02x}".format(*colour)) for name, colour in render.LEGEND],
        differences={
            name: render.count_differences(grid, diagnosis.input_grid)
            for name, grid in (
                ("local", diagnosis.local_grid),
                ("nearest", diagnosis.nearest_grid),
                ("class-code", diagnosis.class_code_grid),
            )
        },
        top=sorted(diagnosis.probabilities.items(), key=lambda item: -item[1])[:5],
        errors=[
            {
                "pair": pair,
                "meaning": meaning,
                "sum": errors[key],
                "mean": errors[key] / voxels,
                "share": errors[key] / max(*errors.values(), 1e-12),
            }
            for key, (_, pair, meaning) in ERRORS.items()
        ],
        ratio=errors["input_vs_code"] / errors["input_vs_local"] if errors["input_vs_local"] > 0 else None,
        layers=layers,
        chart=_chart(layers),
        suspicion_level=_suspicion_level(diagnosis.suspicion),
    )


def _chart(layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Places of the margins, predicted minus rival per location, on an SVG canvas of 460 × 270 units."""
    margins: dict[str, list[float]] = {
        path: [layer["paths"][i]["predicted"] - layer["paths"][i]["rival"] for layer in layers]
        for i, path in enumerate(PATHS)
    }
    low = min(0.0, *(value for line in margins.values() for value in line))
    high = max(0.0, *(value for line in margins.values() for value in line))
    step = _tick_step(high - low)
    low, high = math.floor(low / step) * step, max(math.ceil(high / step), 1) * step
    xs = [56 + 400 * (i + 0.5) / len(layers) for i in range(len(layers))]

    def height(value: float) -> float:
        return 30 + 200 * (high - value) / (high - low)

    return {
        "ticks": [
            (f"{value:+.3g}".replace("-", "−") if value else "0", height(value)) for value in _ticks(low, high, step)
        ],
        "zero": height(0.0),
        "columns": [(layer["name"], x, layer["blamed"]) for layer, x in zip(layers, xs, strict=True)],
        "lines": {
            path: [(x, height(value), value) for x, value in zip(xs, line, strict=True)]
            for path, line in margins.items()
        },
    }


def _tick_step(span: float) -> float:
    """A round step (1, 2 or 5 times a power of ten) that divides `span` into at most five."""
    power = 10.0 ** math.floor(math.log10(max(span, 1e-6) / 5))
    step: float = power * next(factor for factor in (1, 2, 5, 10) if factor * power * 5 >= span)
    return step


def _ticks(low: float, high: float, step: float) -> list[float]:
    return [round(low / step + i) * step for i in range(round((high - low) / step) + 1)]
