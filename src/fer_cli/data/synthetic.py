"""A collection of synthetic furniture in ModelNet's layout, for the demo and the tests. Not from the paper."""

from pathlib import Path

import numpy as np

from fer_cli.data.formats.off import write_off
from fer_cli.data.furniture import CLASSES, furniture


def write_collection(folder: Path, *, per_class_train: int, per_class_test: int, seed: int) -> None:
    """Write a collection of all classes in ModelNet layout, `<class>/<train|test>/<class>_0001.off`.

    As in ModelNet, the numbers of the test shapes follow on from those of the training shapes. A shape depends
    only on the seed, its class, its split and its place in the split, not on how many others are written.

    Raises ResourceError if the folder cannot be written.
    """
    class_seeds = np.random.SeedSequence(seed).spawn(len(CLASSES))
    for class_name, class_seed in zip(CLASSES, class_seeds, strict=True):
        splits = [("train", 1, per_class_train), ("test", per_class_train + 1, per_class_test)]
        for (split, first, count), split_seed in zip(splits, class_seed.spawn(len(splits)), strict=True):
            for number, shape_seed in enumerate(split_seed.spawn(count), start=first):
                vertices, faces = furniture(class_name, np.random.default_rng(shape_seed))
                write_off(folder / class_name / split / f"{class_name}_{number:04d}.off", vertices, faces)
