"""The pictures of a report on occupancy: every shape, and how it differs from the input, as scenes.

Source: the panels of Figs 3 to 7.
"""

from dataclasses import dataclass

import numpy as np

from fer_cli.diagnosis.diagnosis import Diagnosis
from fer_cli.network.activations import PATHS
from fer_cli.pictures import scene


def compared(diagnosis: Diagnosis) -> dict[str, tuple[np.ndarray, str]]:
    """The volumes that a report compares with the input, each with its words, by the names of their pictures."""
    return {
        "local": (diagnosis.local_volume, f"Local reconstruction from {diagnosis.local_layer}"),
        "nearest": (
            diagnosis.nearest_volume,
            f"Nearest training sample by class code, {diagnosis.nearest_training_sample}",
        ),
        "class-code": (diagnosis.class_code_volume, f"Class-code reconstruction of {diagnosis.predicted}"),
    }


def like(diagnosis: Diagnosis) -> dict[str, tuple[np.ndarray, str]]:
    """The nearest training sample of the predicted class, and of a mistake's true one, as `compared` gives them."""
    near = diagnosis.nearest
    found = {"like-predicted": (near.predicted_volume, near.predicted, diagnosis.predicted)}
    if diagnosis.correct is False and diagnosis.label is not None:
        found["like-true"] = (near.true_volume, near.true, diagnosis.label)
    return {
        name: (volume, f"Nearest training sample of class {of}, {names[0]}")
        for name, (volume, names, of) in found.items()
        if volume is not None
    }


def colour_of(diagnosis: Diagnosis, klass: str | None) -> scene.Colour:
    """The colour of a shape that stands for a class: the true one's, the predicted one's, else that of any shape."""
    if klass is None or klass not in (diagnosis.label, diagnosis.predicted):
        return scene.SHAPE
    return scene.TRUE if klass == diagnosis.label else scene.PREDICTED


@dataclass(frozen=True)
class ShapePicture:
    """What a picture shows, and its text alternative."""

    scene: scene.Scene
    words: str


def shape_pictures(diagnosis: Diagnosis) -> dict[str, ShapePicture]:
    """Every picture of the report by file name."""
    pictures: dict[str, ShapePicture] = {}

    inputs = scene.flat(diagnosis.input_volume)

    def shape(name: str, volume: np.ndarray, words: str, of: str | None = None) -> None:
        grid = scene.flat(volume)
        count = int(scene.occupied(grid).sum())
        drawn = scene.grid_scene(grid, colour=colour_of(diagnosis, of))
        pictures[name] = ShapePicture(drawn, f"{words}: {count} occupied voxels.")

    shape("input", diagnosis.input_volume, f"Input {diagnosis.sample}")
    for name, (volume, words) in compared(diagnosis).items():
        shape(name, volume, words, diagnosis.predicted if name == "class-code" else None)
        counts = scene.count_differences(scene.flat(volume), inputs)
        said = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        overlay = scene.overlay_scene(scene.flat(volume), inputs)
        pictures[f"{name}-overlay"] = ShapePicture(overlay, f"{words} laid over the input: {said} voxels.")
    for name, (volume, words) in like(diagnosis).items():
        shape(name, volume, words, diagnosis.predicted if name == "like-predicted" else diagnosis.label)
    if diagnosis.places.boxes and not diagnosis.sees_everything:
        boxes = scene.boxes_scene(inputs, diagnosis.places.boxes)
        pictures["blame"] = ShapePicture(boxes, f"Input with {diagnosis.seen_words}, as boxes.")
    for layer in diagnosis.pictured_layers:
        for path in PATHS:
            name, read = f"{layer.name}-{path}", layer.paths[path]
            shape(name, read.representative, f"{layer.name}, {path} representative", read.speaks_for)
            shape(f"{name}-exemplar", read.exemplar_volume, f"{layer.name}, {path} exemplar {read.exemplar}")
    return pictures
