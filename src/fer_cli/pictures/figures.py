"""`fer figures`: Figs 2 to 7 and Table I of the paper for a run, on samples that a written rule picks.

Each figure is one sheet with captions; `figures.json` says what was picked and what holds over the whole split, so that
a figure is never all there is to believe. What the paper claims of each is in `docs/paper.md`.
"""

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TypedDict

import numpy as np
from jaxtyping import Float

from fer_cli.artifacts import RunArtifacts
from fer_cli.codebooks.reconstruction import ERRORS
from fer_cli.data.places import Location
from fer_cli.diagnosis.diagnosis import Diagnosis, LayerReading
from fer_cli.diagnosis.explain import explain
from fer_cli.diagnosis.probe import Probe, layer_locations, probe
from fer_cli.evaluation.results import Errors, Shares
from fer_cli.evaluation.survey import RULE, Survey, survey
from fer_cli.network.activations import PATHS
from fer_cli.network.backbone import Backbone
from fer_cli.pictures import render
from fer_cli.pictures.scene import (
    CHOSEN,
    FIELD,
    LEGEND,
    SEEN,
    SHAPE,
    Colour,
    Scene,
    boxes_scene,
    cells_scene,
    flat,
    grid_scene,
    overlay_scene,
)
from fer_cli.pictures.sheet import Image, Panel, Row, mount
from fer_cli.pictures.slice_pictures import view_of_diagnosis
from fer_cli.pictures.slices import BLAMED, View, box_share, draw_slices, middle_of, view_of
from fer_cli.storage.disk import make_folder, write_whole

PAPER_TABLE1 = {"input_vs_local": 19.185, "nearest_vs_code": 22.610, "local_vs_code": 26.467, "input_vs_code": 35.837}
"""The paper's Table I, on misclassified samples: Euclidean norms, by their size."""
_PANEL = 200
_FEW, _MANY = 3, 7

Drawn = tuple[Scene | Image, str, str]
"""What a panel shows, a scene or a picture that is drawn already, its bold and its plain line."""


class DrawnFigure(TypedDict):
    """Where a figure is, and the samples that it shows."""

    path: str
    samples: list[str]


class FiguresAnswer(TypedDict):
    """Content of `figures.json`."""

    split: str
    rule: str
    figures: dict[str, DrawnFigure | None]
    table1: dict[str, Errors | None]
    errors_norm: dict[str, Errors | None]
    shares: dict[str, Shares]


def write_figures(
    run: RunArtifacts,
    folder: Path,
    *,
    split: str = "test",
    report: Callable[[int, int], None] = lambda done, total: None,
) -> FiguresAnswer:
    """Draw Figs 2 to 7 into `folder`, with `table1.md` and `figures.json`; the content of the latter.

    Raises UsageError if the split has no labelled sample, ResourceError where the folder cannot be written.
    """
    make_folder(folder)
    found = survey(run, split=split, report=report)

    @cache
    def diagnosis(name: str) -> Diagnosis:
        return explain(run, run.sample(name), local_layer=run.network.spec.local_layer)

    first, right, wrong = found.most_typical(), found.typical(correct=True), found.typical(correct=False)
    sheets: dict[str, tuple[list[str], Image]] = {}
    if first is not None:
        sheets["fig2"] = [first], _response_fields(run, first)
        sheets["fig3"] = [first], _representatives("Fig. 3: clusters layer by layer", [diagnosis(first)], whole=True)
    for number, names, kind in (("4", right, "correctly classified"), ("6", wrong, "misclassified")):
        if names:
            chosen = [diagnosis(name) for name in names[:_FEW]]
            title = f"Fig. {number}: clusters of {kind} samples"
            sheets[f"fig{number}"] = names[:_FEW], _representatives(title, chosen, whole=False)
    for number, names, kind in (("5", right, "correctly classified"), ("7", wrong, "misclassified")):
        if names:
            chosen = [diagnosis(name) for name in names[:_MANY]]
            title = f"Fig. {number}: reconstructions of {kind} samples"
            sheets[f"fig{number}"] = names[:_MANY], _reconstructions(title, chosen)
    answer: FiguresAnswer = {
        "split": split,
        "rule": RULE,
        "figures": {
            name: None if name not in sheets else {"path": str(folder / f"{name}.png"), "samples": sheets[name][0]}
            for name in ("fig2", "fig3", "fig4", "fig5", "fig6", "fig7")
        },
        "table1": found.outcomes.table1(),
        "errors_norm": found.outcomes.errors_norm(),
        "shares": found.outcomes.shares(),
    }
    for name, (_, picture) in sheets.items():
        write_whole(folder / f"{name}.png", render.encode_png(picture))
    write_whole(folder / "table1.md", table1_text(found))
    write_whole(folder / "figures.json", json.dumps(answer, indent=2, allow_nan=False) + "\n")
    return answer


def table1_text(found: Survey) -> str:
    """Table I as Markdown, in Euclidean norms: the run's errors beside the paper's."""
    lines = [
        f"| samples | {' | '.join(ERRORS)} | input_vs_code / input_vs_local |",
        "|---|" + "---|" * (len(ERRORS) + 1),
    ]
    for name, row in found.outcomes.errors_norm().items():
        if row is not None:
            figures = " | ".join(f"{row[error]:.3f}" for error in ERRORS)
            lines.append(f"| {name}, this run | {figures} | {row['ratio']:.2f} |")
    ratio = PAPER_TABLE1["input_vs_code"] / PAPER_TABLE1["input_vs_local"]
    figures = " | ".join(f"{PAPER_TABLE1[error]:.3f}" for error in ERRORS)
    lines.append(f"| misclassified, the paper | {figures} | {ratio:.2f} |")
    return "\n".join(lines) + "\n"


def fullest_location(backbone: Backbone, layer: str, volume: Float[np.ndarray, "channel x y z"]) -> Location:
    """The location whose receptive field holds the largest sum of voxel values, the first of equals."""
    fields = backbone.receptive_fields(layer)

    def total(location: Location) -> float:
        (x0, x1), (y0, y1), (z0, z1) = fields[location]
        return float(volume[:, x0:x1, y0:y1, z0:z1].sum(dtype=np.float64))

    return max(layer_locations(backbone.spec, layer), key=total)


def _response_fields(run: RunArtifacts, name: str) -> Image:
    """Fig. 2: at every layer the location, its response field, the reconstruction from it, and the receptive field."""
    spec, sample = run.network.spec, run.sample(name)
    view = view_of(sample, spec.input)
    rows: list[list[Drawn]] = [[], [], [], []]
    for layer in spec.layer_names[:-1]:
        location = fullest_location(run.network.backbone, layer, sample.volume)
        probed = probe(run.network, sample.volume, layer, location)
        at, count = ",".join(map(str, location)), len(probed.response_field)
        total = int(np.prod(probed.map_shape))
        cells = cells_scene(probed.map_shape, probed.response_field, location)
        sides = "×".join(str(high - low) for low, high in probed.receptive_field)
        seen, reconstructed, cut = (
            _shapes(probed, sample.volume) if view is None else _cuts(probed, sample.volume, view)
        )
        rows[0].append((seen, layer, f"location {at}"))
        rows[1].append((cells, layer, f"{count} of {total}"))
        rows[2].append((reconstructed, layer, "box: receptive field" if view is None else ""))
        rows[3].append((cut, layer, f"{sides} voxels"))
    titles = (
        "Feature location: the voxels that it sees",
        "Response field: the locations of the layer that see some of them too",
        "Reconstruction from the response field",
        "Receptive field cut out of it, over the input" if view is None else "Receptive field cut out of it",
    )
    legend = [("seen by the location", SEEN[0] if view is None else BLAMED), ("response field", FIELD)]
    if view is not None:
        return _sheet(f"Fig. 2: response fields of {name}", titles, rows, legend)
    # The location and what is missing are of one colour.
    legend += [(f"location; in the last row {kind}" if colour == CHOSEN else kind, colour) for kind, colour in LEGEND]
    return _sheet(f"Fig. 2: response fields of {name}", titles, rows, legend)


def _shapes(probed: Probe, volume: np.ndarray) -> tuple[Scene, Scene, Scene]:
    """What a location sees, the reconstruction with that box, and what it is inside the box, over the input."""
    full = grid_scene(flat(probed.reconstruction))
    return (
        boxes_scene(flat(volume), [probed.receptive_field]),
        Scene(full.shape, full.solids, (probed.receptive_field,)),
        overlay_scene(flat(probed.crop), flat(probed.cut(volume))),
    )


def _cuts(probed: Probe, volume: np.ndarray, view: View) -> tuple[Image, Image, Image]:
    """The same of grey values, as slices through the middle of the receptive field."""
    box, size = probed.receptive_field, 2 * _PANEL
    view = view.through(middle_of(box))
    inside = view.through(
        middle_of(((0, box[0][1] - box[0][0]), (0, box[1][1] - box[1][0]), (0, box[2][1] - box[2][0])))
    )
    return (
        draw_slices(volume[0], view, tint=box_share(volume.shape[1:], box), size=size),
        draw_slices(probed.reconstruction[0], view, size=size),
        draw_slices(probed.crop[0], inside, size=size),
    )


def _drawn(diagnosis: Diagnosis, volume: np.ndarray) -> Scene | Image:
    """A volume of a diagnosis, as a shape or as slices."""
    if diagnosis.slicing is None:
        return grid_scene(flat(volume))
    return draw_slices(volume[0], view_of_diagnosis(diagnosis, diagnosis.slicing), size=2 * _PANEL)


def _legend(diagnoses: Sequence[Diagnosis]) -> tuple[tuple[str, Colour], ...]:
    return () if diagnoses[0].slicing else (("occupied at probability 0.5", SHAPE),)


def _representatives(title: str, diagnoses: Sequence[Diagnosis], *, whole: bool) -> Image:
    """Figs 3, 4, 6: the input and the representatives of its layers, all or from the local layer up, a row a path."""
    titles, rows = [], []
    for diagnosis in diagnoses:
        for path in PATHS:
            lead = (diagnosis.input_volume, "input", f"a {diagnosis.label}")
            names = [layer.name for layer in diagnosis.layers]
            first = 0 if whole else names.index(diagnosis.local_layer)
            shown = [_read(layer, path) for layer in diagnosis.layers[first:-1]]
            rows.append([(_drawn(diagnosis, volume), head, line) for volume, head, line in (lead, *shown)])
            titles.append(f"{diagnosis.sample}, taken for a {diagnosis.predicted}: {path}")
    return _sheet(title, titles, rows, _legend(diagnoses))


def _read(layer: LayerReading, path: str) -> tuple[np.ndarray, str, str]:
    said = layer.paths[path]
    return said.representative, layer.name, f"speaks for {said.speaks_for}"


def _reconstructions(title: str, diagnoses: Sequence[Diagnosis]) -> Image:
    """Figs 5, 7: input, local reconstruction, nearest training sample, class-code reconstruction, a column a sample."""
    rows: list[list[Drawn]] = [[], [], [], []]
    for diagnosis in diagnoses:
        errors = diagnosis.errors
        rows[0].append(
            (_drawn(diagnosis, diagnosis.input_volume), diagnosis.sample, f"taken for {diagnosis.predicted}")
        )
        for row, volume, line in (
            (1, diagnosis.local_volume, f"input_vs_local {errors['input_vs_local']:.0f}"),
            (2, diagnosis.nearest_volume, diagnosis.nearest_training_sample),
            (3, diagnosis.class_code_volume, f"input_vs_code {errors['input_vs_code']:.0f}"),
        ):
            rows[row].append((_drawn(diagnosis, volume), "", line))
    titles = (
        "Input",
        f"Local reconstruction, from {diagnoses[0].local_layer}",
        "Nearest training sample, by the class code",
        "Class-code reconstruction",
    )
    return _sheet(title, titles, rows, _legend(diagnoses))


def _sheet(
    title: str, titles: Sequence[str], rows: Sequence[Sequence[Drawn]], legend: Sequence[tuple[str, Colour]]
) -> Image:
    scenes = [shown for row in rows for shown, _, _ in row if isinstance(shown, Scene)]
    pictures = iter(render.render_scenes(scenes, size=2 * _PANEL))
    mounted = [
        Row(name, [Panel(next(pictures) if isinstance(shown, Scene) else shown, *words) for shown, *words in row])
        for name, row in zip(titles, rows, strict=True)
    ]
    return mount(title, mounted, legend=legend, panel=_PANEL)
