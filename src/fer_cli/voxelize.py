"""The stage `fer voxelize`: a source of shapes → voxels.h5."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64, UInt8

from fer_cli.artifact import ArtifactWriter, claim_output
from fer_cli.errors import InputError, ResourceError, UsageError
from fer_cli.formats import read_shape
from fer_cli.occupancy import VoxelSettings, voxelize_shape
from fer_cli.schema import VOXELS
from fer_cli.source import Entry, Listing, Skipped, close_archives, list_entries, read_entry
from fer_cli.workers import is_stopping, open_executor

_BATCH = 16
_FEW = 64
"""Fewer shapes than this are voxelized sooner than processes are started."""


@dataclass(frozen=True)
class VoxelizeSummary:
    """What a run made: its classes, samples per class (or `unlabelled`) and split; what it left out, and why."""

    path: Path
    classes: tuple[str, ...]
    counts: dict[str, dict[str, int]]
    skipped: tuple[Skipped, ...]
    seconds: float

    @property
    def n_classes(self) -> int:
        """Number of classes; shapes without one are in none."""
        return len(self.classes)

    @property
    def n_samples(self) -> int:
        """Number of samples written."""
        return sum(sum(of_split.values()) for of_split in self.counts.values())


def voxelize_source(
    source: Path,
    output: Path,
    settings: VoxelSettings,
    *,
    per_class: int | None = None,
    workers: int | None = None,
    strict: bool = False,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> VoxelizeSummary:
    """Voxelize the shapes of a folder, .zip or file into the artifact `output`, which is the same for any `workers`.

    A shape that cannot be used is left out and recorded with the reason, unless `strict`. `per_class` keeps at
    most so many of each class and split. `workers` processes (one per core if None) share the work where there is
    enough of it. `progress` is told (shapes done, shapes in all). Nothing is left behind by a run that fails.

    Raises InputError if the source, or with `strict` one of its shapes, cannot be used, or none of them can;
    UsageError if `output` exists and `force` is off; ResourceError if it cannot be written or a worker dies.
    """
    started = time.perf_counter()
    workers = (os.cpu_count() or 1) if workers is None else workers
    if workers < 1:
        raise UsageError(f"{workers} workers can do nothing; give at least 1.")
    claim_output(output, force=force)
    listing = list_entries(source, per_class=per_class)
    if strict and listing.skipped:
        raise InputError(f"{listing.skipped[0].path}: {listing.skipped[0].reason}.")
    config = {"voxelization": settings.to_json(), "source": source.resolve().name, "per_class": per_class}
    used: list[Entry] = []
    skipped = list(listing.skipped)
    n_batches = -(-len(listing.entries) // _BATCH)
    processes = 1 if len(listing.entries) < _FEW else min(workers, n_batches)
    with (
        ExitStack() as at_end,
        open_executor(processes, preload=__name__) as executor,
        ArtifactWriter(output, VOXELS, config=config, parents={}) as writer,
    ):
        at_end.callback(close_archives)
        for batch, outcomes in _voxelized(executor, workers, source, listing, settings):
            grids = []
            for entry, outcome in zip(batch, outcomes, strict=True):
                if isinstance(outcome, _PackedGrid):
                    used.append(entry)
                    grids.append(outcome)
                elif strict:
                    raise InputError(f"{entry.path}: {outcome}")
                else:
                    skipped.append(Skipped(entry.path, outcome))
            if grids:
                writer.append("occupancy", np.stack([grid.unpacked(settings.resolution) for grid in grids]))
                writer.append("index_to_world", np.stack([grid.index_to_world for grid in grids]))
            if progress:
                progress(len(used) + len(skipped) - len(listing.skipped), len(listing.entries))
        if not used:
            first = skipped[len(listing.skipped)]
            raise InputError(
                f"{source}: none of {len(listing.entries)} shapes can be used; {first.path}: {first.reason}"
            )
        classes = sorted({entry.class_name for entry in used if entry.class_name is not None})
        writer.set_attribute("classes", classes)
        _write_samples(writer, used, classes, skipped)
    counts: dict[str, dict[str, int]] = {}
    for entry in used:
        of_split = counts.setdefault(entry.class_name or "unlabelled", {})
        of_split[entry.split] = of_split.get(entry.split, 0) + 1
    return VoxelizeSummary(output, tuple(classes), counts, tuple(skipped), time.perf_counter() - started)


def _write_samples(writer: ArtifactWriter, used: list[Entry], classes: list[str], skipped: list[Skipped]) -> None:
    label = {name: index for index, name in enumerate(classes)}
    writer.write("name", [entry.name for entry in used])
    writer.write("label", np.array([label.get(entry.class_name or "", -1) for entry in used], dtype=np.int64))
    writer.write("split", [entry.split for entry in used])
    writer.write("source", [_utf8(entry.path) for entry in used])
    writer.write("skipped/source", [_utf8(item.path) for item in skipped])
    writer.write("skipped/reason", [_utf8(item.reason) for item in skipped])


def _utf8(path: str) -> str:
    return path.encode(errors="replace").decode()


@dataclass(frozen=True)
class _PackedGrid:
    """A grid on its way between processes, one bit a voxel."""

    bits: UInt8[np.ndarray, " byte"]
    index_to_world: Float64[np.ndarray, "4 4"]

    def unpacked(self, resolution: int) -> UInt8[np.ndarray, "x y z"]:
        return np.unpackbits(self.bits, count=resolution**3).reshape((resolution,) * 3)


def _voxelize_entries(source: Path, entries: Sequence[Entry], settings: VoxelSettings) -> list[_PackedGrid | str]:
    """The work of a worker: a grid for every entry, or the reason why there is none."""
    outcomes: list[_PackedGrid | str] = []
    for entry in entries:
        if is_stopping():
            break
        try:
            grid = voxelize_shape(read_shape(read_entry(source, entry), entry.path), settings)
            outcomes.append(_PackedGrid(np.packbits(grid.occupancy), grid.index_to_world))
        except InputError as error:
            outcomes.append(str(error).removeprefix(f"{entry.path}: "))
        except MemoryError:
            outcomes.append("needs more memory than there is.")
    return outcomes


def _voxelized(
    executor: Executor, workers: int, source: Path, listing: Listing, settings: VoxelSettings
) -> Iterator[tuple[Sequence[Entry], list[_PackedGrid | str]]]:
    """Batches of entries with their outcomes, in the listing's order; few are under way at any time."""
    pending: deque[tuple[Sequence[Entry], Future[list[_PackedGrid | str]]]] = deque()
    try:
        for start in range(0, len(listing.entries), _BATCH):
            batch = listing.entries[start : start + _BATCH]
            pending.append((batch, executor.submit(_voxelize_entries, source, batch, settings)))
            if len(pending) > 2 * workers:
                oldest, outcomes = pending.popleft()
                yield oldest, outcomes.result()
        for oldest, outcomes in pending:
            yield oldest, outcomes.result()
    except BrokenProcessPool as error:
        raise ResourceError(
            f"a worker process died, most likely for want of memory; try fewer than {workers}."
        ) from error
