"""Diagnosis → a folder with pictures and one self-contained page; a probe → its picture and reconstruction.

The page holds its pictures as data URIs and its style inline, so that it can be sent to someone and opened
from disk; it makes no request and needs no script. Nothing is decided here: verdict, evidence and blame
come from the diagnosis. Evidence is shown per location, since layers have between 4096 and 1 of them.

Source: Figs 3 to 7 and Table I.
"""

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from jinja2 import Environment, PackageLoader, StrictUndefined

from fer_cli import render, scene
from fer_cli.activations import PATHS
from fer_cli.diagnosis import Diagnosis
from fer_cli.errors import ResourceError
from fer_cli.probe import Probe
from fer_cli.report import ERRORS, diagnosis_json, read_path, signed, suspicion_level

PICTURED_LAYERS = ("conv3", "conv4", "conv5", "fc6", "fc7")
"""Layers whose representatives the paper shows (Figs 3, 4, 6)."""


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
        source="from the response field alone" if probed.code is None else f"of centroids, code {probed.code} there",
    )
    render.write_png(picture, files.picture)
    return files


@dataclass(frozen=True)
class _Picture:
    scene: scene.Scene
    words: str


def _pictures(diagnosis: Diagnosis) -> dict[str, _Picture]:
    """Every picture of the report, with its text alternative, by file name."""
    pictures: dict[str, _Picture] = {}

    def shape(name: str, grid: scene.Grid, words: str) -> None:
        count = int(scene.occupied(grid).sum())
        pictures[name] = _Picture(scene.grid_scene(grid), f"{words}: {count} occupied voxels.")

    shape("input", diagnosis.input_grid, f"Input {diagnosis.sample}")
    for name, grid, words in (
        ("local", diagnosis.local_grid, f"Local reconstruction from {diagnosis.local_layer}"),
        ("nearest", diagnosis.nearest_grid, f"Nearest training sample {diagnosis.nearest_training_sample}"),
        ("class-code", diagnosis.class_code_grid, f"Class-code reconstruction of {diagnosis.predicted}"),
    ):
        shape(name, grid, words)
        counts = scene.count_differences(grid, diagnosis.input_grid)
        said = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        overlay = scene.overlay_scene(grid, diagnosis.input_grid)
        pictures[f"{name}-overlay"] = _Picture(overlay, f"{words} laid over the input: {said} voxels.")
    if diagnosis.blame.boxes:
        pictures["blame"] = _Picture(
            scene.boxes_scene(diagnosis.input_grid, diagnosis.blame.boxes),
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
    environment.filters["signed"] = signed
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
            "paths": [read_path(diagnosis, layer, path) for path in PATHS],
        }
        for layer in diagnosis.layers
    ]
    return environment.get_template("report.html.j2").render(
        diagnosis=diagnosis,
        images=images,
        legend=[(name, "#{:02x}{:02x}{:02x}".format(*colour)) for name, colour in scene.LEGEND],
        differences={
            name: scene.count_differences(grid, diagnosis.input_grid)
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
        suspicion_level=suspicion_level(diagnosis.suspicion),
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
