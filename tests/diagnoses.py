"""A diagnosis made by hand, for the tests of what shows it."""

import re
from dataclasses import replace

import numpy as np

from fer_cli.calibration.confidence import ReferenceErrors
from fer_cli.calibration.departure import Departure
from fer_cli.codebooks.reconstruction import ERRORS
from fer_cli.diagnosis.answer import find_answer
from fer_cli.diagnosis.blame import Blame
from fer_cli.diagnosis.categories import Category
from fer_cli.diagnosis.cause import Cause
from fer_cli.diagnosis.diagnosis import Diagnosis, LayerReading, Nearest, PathReading, Suspicion, Viewed
from fer_cli.diagnosis.repair import RepairTest
from fer_cli.diagnosis.slicing import Slicing

CLASSES = ("bed", "chair", "night_stand", "table")
LOCATIONS = {"conv1": 4096, "conv2": 512, "conv3": 64, "conv4": 8, "conv5": 1, "fc6": 1, "fc7": 1, "output": 1}
REPAIR = RepairTest("conv3", 8, 64, "chair", "label", "chair_0012", "chair", 0.91, 5.25, 0.01)
DEPARTURE = Departure("conv2", 6.5, 1.25, 0.31, ((1, 2, 3), (7, 0, 4)))
UNUSUAL = {
    "departure": replace(DEPARTURE, p_value=0.01),
    "places": Blame(
        "conv2", ((1, 2, 3), (7, 0, 4)), (((0, 9), (4, 12), (8, 20)), ((20, 32), (0, 4), (12, 24))), None, (0.6, 0.4)
    ),
    "repair": (replace(REPAIR, layer="conv2", replaced=64, locations=512),),
    "verdict": "A chair taken for a table. The computation departs from the usual, most likely at conv2.",
}
"""Its computation is unusual at conv2, as the answer then says."""
BLAME = Blame(
    "conv3",
    ((0, 1, 2), (3, 3, 1)),
    (((0, 16), (0, 24), (6, 32)), ((14, 32), (14, 32), (0, 24))),
    3.25,
    (0.75, 0.25),
)
INPUT = {
    "blame": replace(BLAME, layer="conv1", locations=((8, 10, 8), (2, 10, 8))),
    "repair": (replace(REPAIR, layer="conv1", replaced=512, locations=4096),),
    "verdict": "A chair taken for a table. The input itself looks like a table.",
}
"""Its evidence favours the wrong class from the lowest layer on: no layer goes wrong."""
VERDICT = "A chair taken for a table. Between the two the evidence turns from chair to table at conv3."


def chair(*, back=True):
    grid = np.zeros((32, 32, 32), np.float32)
    grid[8:24, 8:24, 12:14] = 1
    for x in (8, 22):
        for y in (8, 22):
            grid[x : x + 2, y : y + 2, 2:12] = 1
    if back:
        grid[8:24, 22:24, 14:30] = 1
    return grid


def volume(*, back=True):
    return chair(back=back)[None]


def reading(name, locations, index):
    feedforward = {"bed": -1.0, "chair": 0.5 - 0.01 * index, "night_stand": -2.0, "table": 0.1 + 0.2 * index}
    feedback = {"bed": -1.0, "chair": -0.25, "night_stand": -2.0, "table": 0.75}
    return LayerReading(
        name=name,
        locations=locations,
        paths={
            path: PathReading(
                speaks_for=max(evidence, key=lambda label: evidence[label]),
                evidence={label: value * locations for label, value in evidence.items()},
                temperature=float(locations),
                exemplar=exemplar,
                exemplar_volume=volume(back=back),
                representative=volume(back=back),
            )
            for path, evidence, exemplar, back in (
                ("feedforward", feedforward, "chair_0007", True),
                ("feedback", feedback, "table_0042", False),
            )
        },
    )


def changed(layer, **by_path):
    """The layer with other values in its paths: `changed(layer, feedback={"speaks_for": "bed"})`."""
    paths = {path: replace(said, **by_path.get(path, {})) for path, said in layer.paths.items()}
    return replace(layer, paths=paths)


def named_layers(prose):
    """The layers that prose names, each once."""
    return [name for name in LOCATIONS if re.search(rf"\b{name}\b", prose)]


def reference_errors():
    """Of nineteen correct samples 100, 200 … 1900, of four misclassified 1000, 1500 … 2500."""
    return ReferenceErrors(
        {name: np.arange(1.0, 20) * 100 for name in ERRORS},
        {name: np.arange(2.0, 6) * 500 for name in ERRORS},
    )


CAUSE = Cause(
    "overlap",
    "strong",
    "Add samples that tell chair from table; where people cannot tell them apart either, merge the two classes or "
    "accept such mistakes.",
    ("Of the nearest training samples 60% are of class table, 33% of class chair.",),
)


def diagnosis_of(**changes):
    """The diagnosis, changed; answer and places follow from departure and blame unless they are among the changes."""
    whole = Diagnosis(
        sample="chair_0891",
        predicted="table",
        label="chair",
        correct=False,
        probabilities={"bed": 0.05, "chair": 0.3, "night_stand": 0.04, "table": 0.61},
        errors={"input_vs_local": 1120.5, "nearest_vs_code": 1433.0, "local_vs_code": 1720.0, "input_vs_code": 2241.0},
        reference_errors=reference_errors(),
        nearest_training_sample="table_0042",
        layers=tuple(reading(name, count, index) for index, (name, count) in enumerate(LOCATIONS.items())),
        answer=find_answer(DEPARTURE, BLAME.layer, lowest="conv1"),
        places=BLAME,
        blame=BLAME,
        repair=(REPAIR,),
        departure=DEPARTURE,
        suspicion=Suspicion(0.87, 0.031, 999),
        viewed=Viewed(24, {"bed": 0.1, "chair": 0.42, "night_stand": 0.08, "table": 0.4}),
        nearest=Nearest(("table_0011", "table_0031"), ("chair_0123", "chair_0007"), volume(back=False), volume()),
        category=Category("representation", "calibrated evidence turns from chair to table"),
        cause=CAUSE,
        verdict=VERDICT,
        local_layer="conv3",
        input_volume=volume(),
        local_volume=volume() * np.float32(0.9),
        nearest_volume=volume(back=False),
        class_code_volume=np.roll(volume(back=False), 1, axis=3),
    )
    return _consistent(whole, changes)


def _consistent(whole, changes):
    changed = replace(whole, **changes)
    answer = find_answer(changed.departure, changed.blame.layer, lowest="conv1")
    return replace(changed, **{"answer": answer, "places": changed.blame, **changes})


CORRECT = {"predicted": "chair", "correct": True, "repair": (), "blame": Blame(None, (), ())}
UNKNOWN = {
    "label": None,
    "correct": None,
    "repair": (replace(REPAIR, chosen_by="evidence"),),
    "blame": Blame(None, (), ()),
}


GREY_SHAPE = (8, 6, 4)
RAS = np.array([[2.0, 0, 0, -10], [0, 1.5, 0, 20], [0, 0, 3.0, 5], [0, 0, 0, 1]])


def grey(seed, channels=1, shape=GREY_SHAPE):
    return np.random.default_rng(seed).normal(100, 40, (channels, *shape)).astype(np.float32)


def grey_diagnosis(*, channels=1, matrix=RAS, spacing=(2.0, 1.5, 3.0), **changes):
    """The same of a volume of grey values, with its place in the world unless `matrix` is None."""
    whole = diagnosis_of()
    volumes = {
        f"{name}_volume": grey(seed, channels) for seed, name in enumerate(("input", "local", "nearest", "class_code"))
    }
    layers = tuple(
        changed(
            layer,
            **{
                path: {"exemplar_volume": grey(20, channels), "representative": grey(30, channels)}
                for path in layer.paths
            },
        )
        for layer in whole.layers
    )
    halves = tuple(((0, side // 2), (side // 2, side)) for side in GREY_SHAPE)
    slicing = Slicing(
        spacing=spacing,
        reconstructions={"conv1": grey(10, channels), "conv3": volumes["local_volume"], "conv4": grey(11, channels)},
        fields={"conv3": halves},
    )
    blame = Blame(
        "conv3", ((1, 0, 1), (0, 0, 0)), (((4, 8), (0, 3), (2, 4)), ((0, 6), (0, 3), (0, 2))), 3.25, (0.75, 0.25)
    )
    place = {} if matrix is None else {"index_to_world": matrix, "is_placed": True}
    near = replace(whole.nearest, predicted_volume=grey(40, channels), true_volume=grey(41, channels))
    known = {"layers": layers, "blame": blame, "slicing": slicing, "nearest": near}
    return _consistent(whole, {**known, **place, **volumes, **changes})
