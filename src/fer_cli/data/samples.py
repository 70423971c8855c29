"""Finished batches → the samples of voxels.h5: usable shapes, duplicates, skipped shapes.

Facts of all samples are held in memory; their grids are not, but read from the batches again when they are written.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64

from fer_cli.data.batches import Outcome, VoxelizedShape
from fer_cli.data.duplicates import DuplicateCounts, count_duplicates, find_duplicates, redundant_samples
from fer_cli.data.entries import Entry, Listing, Skipped, described
from fer_cli.data.occupancy import VoxelSettings
from fer_cli.data.oddities import Measured, find_oddities, remarks_of
from fer_cli.errors import InputError
from fer_cli.storage.artifact_writer import ArtifactWriter


@runtime_checkable
class Batches(Protocol):
    """Shapes with their outcomes, batch by batch."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> list[tuple[Entry, Outcome]]: ...


@dataclass(frozen=True)
class Sample:
    """A shape that can be used, its facts without the grid, and where the grid is."""

    entry: Entry
    facts: VoxelizedShape
    batch: int
    position: int


@dataclass(frozen=True)
class Samples:
    """What goes into the artifact.

    `duplicates` counts what was found before anything was dropped; `dropped` pairs the path of a shape with the
    index of the sample that stays for it.
    """

    kept: list[Sample]
    duplicate_of: Int64[np.ndarray, " sample"]
    duplicates: DuplicateCounts
    dropped: list[tuple[str, int]]
    skipped: tuple[Skipped, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, sorted."""
        return tuple(sorted({sample.entry.class_name for sample in self.kept if sample.entry.class_name is not None}))

    def counts(self) -> dict[str, dict[str, int]]:
        """Samples of each class (or `unlabelled`) and split."""
        counts: dict[str, dict[str, int]] = {}
        for sample in self.kept:
            of_split = counts.setdefault(sample.entry.class_name or "unlabelled", {})
            of_split[sample.entry.split] = of_split.get(sample.entry.split, 0) + 1
        return counts

    def remarks(self, settings: VoxelSettings) -> list[dict[str, str]]:
        """What is odd about samples: `sample`, `kind` and `remark`, kind by kind."""
        facts = [sample.facts for sample in self.kept]
        measured = Measured(
            n_occupied=np.array([each.n_occupied for each in facts]),
            extent=np.array([each.extent for each in facts]),
            n_stray=np.array([each.n_stray for each in facts]),
            edge=np.array([np.linalg.norm(each.index_to_world[:3, 0]) for each in facts]),
            inner=settings.inner,
        )
        return remarks_of(
            find_oddities(measured, [sample.entry.class_name for sample in self.kept]),
            [sample.entry.name for sample in self.kept],
        )


def collect_samples(source: Path, listing: Listing, batches: Batches, *, drop_duplicates: bool) -> Samples:
    """Go through all batches of the listing once. Raises InputError if none of its shapes can be used."""
    found: list[Sample] = []
    digests: list[bytes] = []
    skipped: list[Skipped] = []
    for batch in range(len(batches)):
        outcomes = batches[batch]
        for position, (entry, outcome) in enumerate(outcomes):
            if isinstance(outcome, str):
                skipped.append(Skipped(entry.path, outcome))
            else:
                found.append(Sample(entry, replace(outcome, bits=b""), batch, position))
                digests.append(hashlib.sha256(outcome.bits).digest())
    if not found:
        first = skipped[0]
        raise InputError(f"{source}: none of {len(skipped)} shapes can be used; {first.path}: {first.reason}")
    splits = [sample.entry.split for sample in found]
    duplicate_of = find_duplicates(digests, lambda index: _bits(found[index], batches))
    duplicates = count_duplicates(duplicate_of, splits, [sample.entry.class_name for sample in found])
    redundant = redundant_samples(duplicate_of, splits) if drop_duplicates else {}
    kept = [sample for index, sample in enumerate(found) if index not in redundant]
    place = {index: i for i, index in enumerate(index for index in range(len(found)) if index not in redundant)}
    if redundant:
        digests = [digests[index] for index in place]
        duplicate_of = find_duplicates(digests, lambda index: _bits(kept[index], batches))
    return Samples(
        kept=kept,
        duplicate_of=duplicate_of,
        duplicates=duplicates,
        dropped=[(found[index].entry.path, place[stays]) for index, stays in sorted(redundant.items())],
        skipped=(*listing.skipped, *skipped),
    )


def write_samples(writer: ArtifactWriter, samples: Samples, batches: Batches, resolution: int) -> None:
    """Write every dataset and attribute of voxels.h5, the grids batch by batch."""
    kept, classes = samples.kept, samples.classes
    for batch, group in groupby(kept, key=lambda sample: sample.batch):
        outcomes = batches[batch]
        shapes = [outcomes[sample.position][1] for sample in group]
        writer.append("occupancy", np.stack([s.occupancy(resolution) for s in shapes if isinstance(s, VoxelizedShape)]))
    writer.set_attribute("classes", list(classes))
    label = {name: index for index, name in enumerate(classes)}
    integers: dict[str, Sequence[int]] = {
        "label": [label.get(sample.entry.class_name or "", -1) for sample in kept],
        "record/n_faces": [sample.facts.n_faces for sample in kept],
        "record/n_open_edges": [sample.facts.n_open_edges for sample in kept],
        "record/n_occupied": [sample.facts.n_occupied for sample in kept],
        "record/n_stray": [sample.facts.n_stray for sample in kept],
        "dropped/duplicate_of": [stays for _, stays in samples.dropped],
    }
    texts: dict[str, Sequence[str]] = {
        "name": [sample.entry.name for sample in kept],
        "split": [sample.entry.split for sample in kept],
        "source": [sample.entry.path for sample in kept],
        "record/warnings": ["; ".join(sample.facts.warnings) for sample in kept],
        "dropped/source": [path for path, _ in samples.dropped],
        "skipped/source": [item.path for item in samples.skipped],
        "skipped/reason": [item.reason for item in samples.skipped],
    }
    texts |= described([(sample.entry.group, sample.entry.columns) for sample in kept])
    for name, numbers in integers.items():
        writer.write(name, np.array(numbers, dtype=np.int64))
    for name, words in texts.items():
        # File names need not be UTF-8, but what HDF5 holds is.
        writer.write(name, [text.encode(errors="replace").decode() for text in words])
    writer.write("record/enclosed", np.array([sample.facts.enclosed for sample in kept], dtype=np.int8))
    writer.write("record/extent", np.array([sample.facts.extent for sample in kept], dtype=np.int64))
    writer.write("record/duplicate_of", samples.duplicate_of)
    writer.write("index_to_world", np.stack([sample.facts.index_to_world for sample in kept]))


def _bits(sample: Sample, batches: Batches) -> bytes:
    _, outcome = batches[sample.batch][sample.position]
    return outcome.bits if isinstance(outcome, VoxelizedShape) else b""
