"""The still pictures of a report on grey values: every volume, and its error, as slices through the first place.

Source: the panels of Figs 3 to 7, for volumes that are no shapes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fer_cli.data.places import Location
from fer_cli.diagnosis.diagnosis import Diagnosis
from fer_cli.diagnosis.slicing import Slicing
from fer_cli.network.activations import FEEDFORWARD, PATHS
from fer_cli.pictures.planes import orientation_of
from fer_cli.pictures.shape_pictures import compared, like
from fer_cli.pictures.sheet import Panel, Row, mount
from fer_cli.pictures.slices import (
    BLAMED,
    CUBE,
    PANEL,
    Image,
    View,
    Window,
    blamed_share,
    default_window,
    draw_slices,
    error_window,
    middle_of,
)


@dataclass(frozen=True)
class SlicePicture:
    """A picture, and its text alternative."""

    image: Image
    words: str


def cursor_of(diagnosis: Diagnosis) -> Location:
    """The voxel that slices go through: the middle of what the first of the places sees, else of the volume."""
    x, y, z = diagnosis.input_volume.shape[1:]
    boxes = diagnosis.places.boxes
    return middle_of(boxes[0] if boxes else ((0, x), (0, y), (0, z)))


def cursor_words(diagnosis: Diagnosis) -> str:
    """What that voxel is."""
    at = ", ".join(map(str, cursor_of(diagnosis)))
    if not diagnosis.places.boxes or diagnosis.sees_everything:
        return f"voxel {at}, the middle of the volume"
    return f"voxel {at}, the middle of {diagnosis.first_seen_words}"


def slice_pictures(diagnosis: Diagnosis, slicing: Slicing) -> dict[str, SlicePicture]:
    """All pictures of the report by file name. Only the first channel is drawn; all errors have the same window."""
    inputs, view, places = diagnosis.input_volume[0], view_of_diagnosis(diagnosis, slicing), diagnosis.places
    channel = " (channel 0)" if len(diagnosis.input_volume) > 1 else ""
    pictures: dict[str, SlicePicture] = {}

    def add(name: str, volume: np.ndarray, words: str) -> None:
        said = f"{words}{channel}: slices through {cursor_words(diagnosis)}."
        pictures[name] = SlicePicture(draw_slices(volume[0], view), said)

    add("input", diagnosis.input_volume, f"Input {diagnosis.sample}")
    errors = view.with_window(_error_window(diagnosis))
    for name, (volume, words) in compared(diagnosis).items():
        add(name, volume, words)
        said = f"{words}{channel}: absolute difference from the input, white from {errors.window[1]:.3g}."
        pictures[f"{name}-error"] = SlicePicture(draw_slices(np.abs(volume[0] - inputs), errors), said)
    for name, (volume, words) in like(diagnosis).items():
        add(name, volume, words)
    if places.boxes and not diagnosis.sees_everything:
        tint = blamed_share(inputs.shape, places.boxes, places.weights)
        words = f"Input{channel} with {diagnosis.seen_words}, in orange."
        pictures["blame"] = SlicePicture(draw_slices(inputs, view, tint=tint), words)
    for layer in diagnosis.pictured_layers:
        for path in PATHS:
            name, read = f"{layer.name}-{path}", layer.paths[path]
            add(name, read.representative, f"{layer.name}, {path} representative")
            add(f"{name}-exemplar", read.exemplar_volume, f"{layer.name}, {path} exemplar {read.exemplar}")
    return pictures


def slice_sheet(diagnosis: Diagnosis, slicing: Slicing, pictures: Mapping[str, SlicePicture]) -> Image:
    """One picture of input, reconstructions, errors, nearest training sample and exemplars, of `slice_pictures`."""
    view = view_of_diagnosis(diagnosis, slicing)
    heads = {"local": diagnosis.local_layer, "nearest": diagnosis.nearest_training_sample, "class-code": "class code"}
    said = ("local reconstruction", "nearest training sample", "class-code reconstruction")
    layers = [(layer.name, layer.paths[FEEDFORWARD]) for layer in diagnosis.pictured_layers]

    def panels(suffix: str, line: str) -> list[Panel]:
        return [
            Panel(pictures[f"{name}-{FEEDFORWARD}{suffix}"].image, name, str(getattr(read, line)))
            for name, read in layers
        ]

    rows = [
        Row(
            "Input, and what is compared with it",
            [
                Panel(pictures.get("blame", pictures["input"]).image, "input", diagnosis.label or ""),
                *(Panel(pictures[name].image, head, heads[name]) for name, head in zip(heads, said, strict=True)),
            ],
        ),
        Row(
            f"Absolute difference from the input, white from {_error_window(diagnosis)[1]:.3g}",
            [None, *(Panel(pictures[f"{name}-error"].image) for name in heads)],
        ),
        Row("Representatives: what the feedforward clusters stand for", panels("", "speaks_for")),
        Row("Exemplars: the training samples that most of these clusters name", panels("-exemplar", "exemplar")),
    ]
    low, high = view.window
    note = f"Slices through {cursor_words(diagnosis)}; window {low:.3g} to {high:.3g}. {view.orientation.words}"
    legend = [(diagnosis.seen_words, BLAMED)] if "blame" in pictures else []
    return mount(f"{diagnosis.sample}: predicted {diagnosis.predicted}", rows, note=note, legend=legend, panel=PANEL)


def view_of_diagnosis(diagnosis: Diagnosis, slicing: Slicing) -> View:
    """The slices of a diagnosis's pictures, in the window of its input."""
    return View(
        orientation_of(diagnosis.world),
        slicing.spacing or CUBE,
        cursor_of(diagnosis),
        default_window(diagnosis.input_volume[0]),
    )


def _error_window(diagnosis: Diagnosis) -> Window:
    """One window for all errors, so that they can be compared."""
    inputs = diagnosis.input_volume[0]
    return error_window(*(np.abs(volume[0] - inputs) for volume, _ in compared(diagnosis).values()))
