"""Diagnosis → a folder with pictures and one page.

A page alone holds its pictures as data URIs, and its style, script and plotly.js inline, so that it can be sent to
someone and opened from disk; it makes no request. The pages of a site share style and scripts, and link their pictures,
see `site`. Without script or WebGL, and in print, it shows pictures of what it otherwise
lets rotate. Nothing is decided here: verdict, evidence and answer come from the diagnosis. Evidence is shown
calibrated, since layers have between 4096 locations and one.

Source: Figs 3 to 7 and Table I.
"""

import base64
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from fer_cli.diagnosis.answer import ANOMALY
from fer_cli.diagnosis.diagnosis import Diagnosis
from fer_cli.diagnosis.slicing import Slicing
from fer_cli.network.activations import FEEDBACK, FEEDFORWARD, PATHS
from fer_cli.pictures import render, scene
from fer_cli.pictures.charts import Figure, depth_chart, error_chart, rank_sentence
from fer_cli.pictures.drawing import Drawing
from fer_cli.pictures.planes import orientation_of, spacing_words
from fer_cli.pictures.shape_pictures import compared, shape_pictures
from fer_cli.pictures.slice_pictures import cursor_words, slice_pictures, slice_sheet
from fer_cli.pictures.slice_viewer import slice_facts
from fer_cli.pictures.slices import BLAMED, ERROR, encode_slices
from fer_cli.pictures.viewer import css_colour, embedded_json, packed_library, viewer_facts
from fer_cli.reports.explained import diagnosis_json
from fer_cli.reports.report import ERRORS, read_path
from fer_cli.reports.sentences import answer_sentence, repair_sentence, suspicion_basis, where_heading
from fer_cli.reports.tables import signed
from fer_cli.storage.disk import write_whole

CONTROLS = (
    ("left", "←", "Rotate to the left"),
    ("right", "→", "Rotate to the right"),
    ("up", "↑", "See from higher up"),
    ("down", "↓", "See from lower down"),
    ("nearer", "+", "Zoom in"),
    ("farther", "−", "Zoom out"),
    ("reset", "Reset", "Reset the view"),
)
"""What the buttons do, by the name that the script has for it: sign and words."""
POLICY = (
    "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'"
)
"""The page may not ask for anything, whatever is in it."""
SHARED_POLICY = POLICY.replace("data: blob:", "data: blob: 'self' file:").replace(
    "'unsafe-inline'", "'unsafe-inline' 'self' file:"
)
"""A page in a folder of several also reads pictures, style and scripts from that folder."""
_PATH_MEANINGS = {
    "feedforward": "Clusters chosen by what came in, from the input up.",
    "feedback": "Clusters chosen by what was recognised, from the class probabilities down.",
}


@dataclass(frozen=True)
class Site:
    """What the page of a report is part of: all paths are links from the page.

    `assets` is the folder of scripts and style that the pages of a gallery share; a page without one carries them and
    all its pictures.
    `trust` is the page of the run's evaluation, `doubts` what that evaluation found that its reports cannot do,
    each with the predicted class whose reports it is about, None for all.
    """

    assets: str | None = None
    trust: str | None = None
    doubts: Mapping[str, str | None] = field(default_factory=dict)


def write_report(diagnosis: Diagnosis, target: Path, drawing: Drawing | None = None, *, alone: bool = False) -> Path:
    """Write pictures, `diagnosis.json` and `index.html` into the folder `target`, made if need be; the page's path.

    With `alone`, write only the page, to the file `target`. Files of an earlier report are replaced.
    Pictures are drawn by `drawing` if given, else by this process.

    Raises ResourceError if the target cannot be written or the machine cannot draw.
    """
    return begin_report(diagnosis, target, drawing, alone=alone)()


def begin_report(
    diagnosis: Diagnosis,
    target: Path,
    drawing: Drawing | None = None,
    *,
    alone: bool = False,
    parts: int = 1,
    site: Site | None = None,
) -> Callable[[], Path]:
    """Begin a report as `write_report` writes it; returns a function that draws and writes all files."""
    part_of = site or Site()
    words, finish = _begin_pictures(diagnosis, drawing, parts, shared=part_of.assets is not None)
    if part_of.assets is None:
        packed_library()  # while others draw

    def write() -> Path:
        folder, page = (target.parent, target) if alone else (target, target / "index.html")
        summary = json.dumps(diagnosis_json(diagnosis, report=str(page)), indent=2, allow_nan=False, ensure_ascii=False)
        pngs = finish()
        if not alone:
            for name, png in pngs.items():
                write_whole(folder / f"{name}.png", png)
            write_whole(folder / "diagnosis.json", summary + "\n")
        write_whole(page, _fill_page(diagnosis, words, pngs, part_of))
        return page

    return write


def _begin_pictures(
    diagnosis: Diagnosis, drawing: Drawing | None, parts: int, *, shared: bool
) -> tuple[dict[str, str], Callable[[], dict[str, bytes]]]:
    """Text alternatives of the page's pictures by name, and a function that draws these, and others, as PNGs.

    Shapes are drawn by `drawing` if given; slices are quick, and drawn here. Pages that share a folder have smaller
    pictures of shapes, and only those that are not alike.
    """
    if diagnosis.slicing is not None:
        slices = slice_pictures(diagnosis, diagnosis.slicing)
        sheet = slice_sheet(diagnosis, diagnosis.slicing, slices)
        images = {name: picture.image for name, picture in slices.items()} | {"slices": sheet}
        words = {name: picture.words for name, picture in slices.items()}
        return words, lambda: {name: encode_slices(image) for name, image in images.items()}
    shapes = shape_pictures(diagnosis)
    sizes: dict[str, int] = {}
    if shared:
        left_out = _left_out(diagnosis)
        shapes = {name: picture for name, picture in shapes.items() if name not in left_out}
        sizes = {name: _small(name) for name in shapes}
    scenes = {name: picture.scene for name, picture in shapes.items()}
    words = {name: picture.words for name, picture in shapes.items()}
    if drawing is None:
        return words, partial(render.draw_pngs, scenes, sizes=sizes)
    return words, drawing.begin(scenes, parts=parts, sizes=sizes)


def _left_out(diagnosis: Diagnosis) -> set[str]:
    """Pictures that the page of a site does without: overlays, which its script draws, and feedback shown elsewhere."""
    overlays = {f"{name}-overlay" for name in compared(diagnosis)}
    alike = _feedback_alike(diagnosis)
    again = () if alike is None else tuple(layer.name for layer in diagnosis.pictured_layers)[1:]
    return overlays | {f"{layer}-{FEEDBACK}{kind}" for layer in again for kind in ("", "-exemplar")}


def _small(name: str) -> int:
    """Pixels along a picture of a site: exemplars are shown small, representatives larger, others largest."""
    if name.endswith("-exemplar"):
        return 160
    return 240 if name.endswith(PATHS) else 320


def _fill_page(diagnosis: Diagnosis, words: Mapping[str, str], pngs: Mapping[str, bytes], site: Site) -> str:
    errors, voxels, shown = diagnosis.errors, diagnosis.input_volume.size, _shown(diagnosis)
    shared = site.assets is not None
    images = {name: _image(name, said, None if shared else pngs[name]) for name, said in words.items()}
    pictured = [layer.name for layer in diagnosis.pictured_layers]
    layers = [
        {
            "name": layer.name,
            "locations": layer.locations,
            "named": layer.name == diagnosis.answer.layer,
            "pictured": layer.name in pictured,
            "paths": [read_path(diagnosis, layer, path) for path in PATHS],
        }
        for layer in diagnosis.layers
    ]
    charts = _error_charts(diagnosis) | _depth_charts(diagnosis, layers)
    ranks = {name: rank_sentence(errors[name], _references(diagnosis, name)) for name in ERRORS}
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            diagnosis=diagnosis,
            images=images,
            legend=[(name, css_colour(colour)) for name, colour in scene.LEGEND],
            axes={} if diagnosis.slicing else scene.axis_places(scene.shape_of(scene.flat(diagnosis.input_volume))),
            seen=[
                (words, css_colour(colour))
                for words, colour in zip(("in one box", "in the most boxes"), scene.SEEN, strict=True)
            ],
            controls=CONTROLS,
            policy=SHARED_POLICY if shared else POLICY,
            site=site,
            like=nearest_training_samples(diagnosis, images),
            where=where_heading(diagnosis),
            marked=_marked(diagnosis),
            blame_words=_blame_words(diagnosis, images),
            feedback_alike=_feedback_alike(diagnosis),
            differences={} if diagnosis.slicing else _differences(diagnosis),
            slices=None if diagnosis.slicing is None else _slice_words(diagnosis, diagnosis.slicing, shown["slices"]),
            top=_most_probable(diagnosis),
            errors=[
                {
                    "pair": pair,
                    "meaning": meaning,
                    "sum": errors[key],
                    "mean": errors[key] / voxels,
                    "rank": ranks[key],
                    "chart": f"chart-{key}" if ranks[key] else None,
                }
                for key, (_, pair, meaning) in ERRORS.items()
            ],
            compared=any(ranks.values()),
            ratio=math.sqrt(errors["input_vs_code"] / errors["input_vs_local"])
            if errors["input_vs_local"] > 0
            else None,
            layers=layers,
            paths=[
                {"head": path.capitalize(), "meaning": _PATH_MEANINGS[path], "chart": f"chart-{path}"} for path in PATHS
            ],
            facts=embedded_json({**shown, "charts": charts}),
            library="" if shared else packed_library(),
        )
    )


def _most_probable(diagnosis: Diagnosis) -> list[tuple[str, float]]:
    """The five most probable classes, and the true one where it is none of them."""
    ranked = sorted(diagnosis.probabilities.items(), key=lambda item: -item[1])
    return ranked[:5] + [(name, p) for name, p in ranked[5:] if name == diagnosis.label]


def _marked(diagnosis: Diagnosis) -> str:
    """What the mark at a layer says; nothing where no layer has one."""
    if diagnosis.answer.layer is None:
        return ""
    return f"◀ {'computation unusual' if diagnosis.answer.why == ANOMALY else 'evidence turns'}."


def nearest_training_samples(
    diagnosis: Diagnosis, images: Mapping[str, object]
) -> list[tuple[str, str, tuple[str, ...]]]:
    """Picture, heading and names of the training samples most like the input, by class."""
    wrong, near = diagnosis.correct is False, diagnosis.nearest
    of = (
        ("like-predicted", f"Nearest {diagnosis.predicted}{' (predicted)' if wrong else ''}", near.predicted),
        ("like-true", f"Nearest {diagnosis.label} (true)", near.true),
    )
    return [(name, head, names) for name, head, names in of if name in images]


def _image(name: str, words: str, png: bytes | None) -> dict[str, str]:
    """A picture and its text alternative; without `png` the page links the file beside it."""
    uri = quote(f"{name}.png") if png is None else "data:image/png;base64," + base64.b64encode(png).decode()
    return {"name": name, "uri": uri, "words": words}


def _blame_words(diagnosis: Diagnosis, images: Mapping[str, object]) -> str:
    """Why no part of the input is shown to have decided; a word about what is shown where there is one."""
    if "blame" in images:
        return diagnosis.seen_words
    if diagnosis.sees_everything and diagnosis.places.boxes:
        return f"{diagnosis.places.layer} sees the whole input, so that no part of it is shown to have decided."
    return "No part of the input was found to have decided alone." if diagnosis.correct is False else ""


def _feedback_alike(diagnosis: Diagnosis) -> dict[str, Any] | None:
    """The class that the feedback clusters of all layers pictured speak for, their exemplars, and the first layer."""
    readings = {layer.name: layer.paths[FEEDBACK] for layer in diagnosis.pictured_layers}
    spoken = {reading.speaks_for for reading in readings.values()}
    if len(readings) < 2 or len(spoken) > 1:
        return None
    exemplars = dict.fromkeys(reading.exemplar for reading in readings.values())
    return {"klass": spoken.pop(), "exemplars": list(exemplars), "layer": next(iter(readings))}


def _shown(diagnosis: Diagnosis) -> dict[str, Any]:
    """What the page's script is given of the volumes."""
    if diagnosis.slicing is None:
        return viewer_facts(diagnosis)
    return {"slices": slice_facts(diagnosis, diagnosis.slicing)}


def _slice_words(diagnosis: Diagnosis, slicing: Slicing, facts: Mapping[str, Any]) -> dict[str, object]:
    """What the template says of slices, given what the script is given."""
    orientation = orientation_of(diagnosis.world)
    return {
        "planes": orientation.planes,
        "convention": orientation.words,
        "spacing": f"{spacing_words(slicing.spacing)} {slicing.prepared}".strip(),
        "cursor": cursor_words(diagnosis),
        "volumes": [(volume["name"], volume["words"]) for volume in facts["volumes"][1:]],
        "channels": len(diagnosis.input_volume),
        "fields": list(slicing.fields),
        "blamed": css_colour(BLAMED),
        "error": css_colour(ERROR),
    }


def _differences(diagnosis: Diagnosis) -> dict[str, dict[str, int]]:
    """By shape, how many of its voxels the input has too, lacks, or has alone."""
    inputs = scene.flat(diagnosis.input_volume)
    shapes = {
        "local": diagnosis.local_volume,
        "nearest": diagnosis.nearest_volume,
        "class-code": diagnosis.class_code_volume,
    }
    return {name: scene.count_differences(scene.flat(volume), inputs) for name, volume in shapes.items()}


def shared_assets(kind: str) -> dict[str, str]:
    """What the reports on a kind of volume (`occupancy` or `intensity`) share, by file name."""
    names = {"report.css": "report_style.j2", "report.js": "report_script.j2"}
    slices = kind != "occupancy"
    files = {name: environment().get_template(template).render(slices=slices) for name, template in names.items()}
    return files | {"library.js": f'document.getElementById("library").textContent = "{packed_library()}";\n'}


@cache
def environment() -> Environment:
    """The environment of the templates, with automatic escaping; it keeps what it has compiled."""
    found = Environment(
        loader=PackageLoader("fer_cli.reports"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    found.filters["signed"] = signed
    found.filters["repair_sentence"] = repair_sentence
    found.filters["answer_sentence"] = answer_sentence
    found.filters["suspicion_basis"] = suspicion_basis
    return found


def _references(diagnosis: Diagnosis, error: str) -> dict[str, np.ndarray]:
    """An error of the validation samples, by outcome."""
    reference, nothing = diagnosis.reference_errors, np.zeros(0)
    return {
        "correct": reference.correct.get(error, nothing),
        "misclassified": reference.misclassified.get(error, nothing),
    }


def _error_charts(diagnosis: Diagnosis) -> dict[str, Figure]:
    groups = {name: _references(diagnosis, name) for name in ERRORS}
    return {
        f"chart-{name}": error_chart(diagnosis.errors[name], by["correct"], by["misclassified"])
        for name, by in groups.items()
        if any(len(values) for values in by.values())
    }


def _depth_charts(diagnosis: Diagnosis, layers: Sequence[Mapping[str, Any]]) -> dict[str, Figure]:
    wrong = diagnosis.correct is False
    names = (f"{diagnosis.predicted} (predicted)", f"{diagnosis.label} (true)" if wrong else "best other class")
    values = [value for layer in layers for path in layer["paths"] for value in (path.predicted, path.rival)]
    return {
        f"chart-{path}": depth_chart(
            [layer["name"] for layer in layers],
            [layer["paths"][i].predicted for layer in layers],
            [layer["paths"][i].rival for layer in layers],
            names=names,
            span=(min(0.0, *values), max(0.0, *values)),
            named=diagnosis.answer.layer if path == FEEDFORWARD else None,
            because="unusual" if diagnosis.answer.why == ANOMALY else "turns",
        )
        for i, path in enumerate(PATHS)
    }
