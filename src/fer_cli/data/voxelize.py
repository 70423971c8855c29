"""The stage `fer voxelize`: a source of shapes → voxels.h5.

Shapes are voxelized in batches, whose results a journal keeps beside the output, in the listing's order. Only
when all are there is the artifact written from it: duplicates are known by then, and memory holds a batch at a time.
"""

import functools
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path

from fer_cli.data.batches import Outcome, decode, voxelize_batch
from fer_cli.data.duplicates import DuplicateCounts
from fer_cli.data.entries import Entry, Listing, Skipped
from fer_cli.data.occupancy import VoxelSettings
from fer_cli.data.samples import Samples, collect_samples, write_samples
from fer_cli.data.source import close_archives, list_entries, run_key
from fer_cli.errors import InputError, UsageError
from fer_cli.execution.executor import WorkExecutor, results_in_order
from fer_cli.execution.scheduler import open_scheduler
from fer_cli.execution.workers import open_executor
from fer_cli.storage.artifact_writer import ArtifactWriter
from fer_cli.storage.journal import Journal, journal_path
from fer_cli.storage.outputs import check_output, claim_output
from fer_cli.storage.schema import VOXELS

_BATCH = 16
_FEW = 64
"""Fewer shapes than this are voxelized sooner than processes are started."""


@dataclass(frozen=True)
class VoxelizeSummary:
    """Summary of a run: classes, samples per class (or `unlabelled`) and split, skipped shapes with reasons.

    `duplicates` are those found, before `n_dropped` of them were dropped; `n_resumed` shapes had been done by an
    earlier run that was ended. `enclosing_nothing` names the samples that the fill `solid` left as they were;
    `warnings` are of samples whose files are odd, as `record/warnings` has them, `remarks` what is odd about the shapes
    (see `oddities`).
    """

    path: Path
    classes: tuple[str, ...]
    counts: dict[str, dict[str, int]]
    skipped: tuple[Skipped, ...]
    duplicates: DuplicateCounts
    enclosing_nothing: tuple[str, ...]
    warnings: tuple[Skipped, ...]
    remarks: list[dict[str, str]]
    n_dropped: int
    n_resumed: int
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
    listing: Listing | None = None,
    per_class: int | None = None,
    test_fraction: float | None = None,
    seed: int = 0,
    drop_duplicates: bool = False,
    workers: int | None = None,
    scheduler: str | None = None,
    strict: bool = False,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> VoxelizeSummary:
    """Voxelize the shapes of a folder, .zip or file into the artifact `output`, whatever the workers.

    A shape that cannot be used is left out and recorded with the reason, unless `strict`. `listing` names the shapes of
    the source where they are listed already; else `per_class` limits the shapes of each class and split, and
    `test_fraction` draws a test split by `seed` where the source has none.
    `drop_duplicates` leaves out training samples identical to a test sample or to an earlier training sample.
    `workers` processes (one per core if None) share the work where there is enough of it, or those of a Dask
    `scheduler` do. `progress` is told (shapes done, shapes in all). A run that was interrupted
    or ran out of resources continues when it is started again; a run that fails otherwise leaves nothing behind.

    Raises InputError if the source, or with `strict` one of its shapes, cannot be used, or none of them can;
    UsageError if `output` exists and `force` is off; ResourceError if it cannot be written, a worker dies, or the
    scheduler does not answer.
    """
    started = time.perf_counter()
    workers = (os.cpu_count() or 1) if workers is None else workers
    if workers < 1:
        raise UsageError(f"{workers} workers can do nothing; give at least 1.")
    check_output(output, source)
    with ExitStack() as at_end:
        at_end.enter_context(claim_output(output, force=force, progress=journal_path(output)))
        at_end.callback(close_archives)
        if listing is None:
            listing = list_entries(source, per_class=per_class, test_fraction=test_fraction, seed=seed)
        listing.require_whole(strict=strict)
        place = source.absolute()  # workers of a cluster have a working folder of their own
        key = run_key(place, listing, settings.to_json(), batch=_BATCH)
        journal = at_end.enter_context(Journal(output, key))
        with journal.used():
            batches = _Batches(listing, journal, strict=strict)
            n_resumed = batches.n_done
            batches.voxelize(place, settings, key, workers=workers, scheduler=scheduler, progress=progress)
            samples = collect_samples(source, listing, batches, drop_duplicates=drop_duplicates)
            config = {
                "voxelization": _recorded(settings, samples),
                "source": source.resolve()
                .name.encode(errors="replace")
                .decode(),  # a name need not be UTF-8, but JSON is
                "per_class": per_class,
                "test_fraction": test_fraction,
                "drop_duplicates": drop_duplicates,
            }
            recorded_seed = None if test_fraction is None else seed
            with ArtifactWriter(output, VOXELS, config=config, parents={}, seed=recorded_seed) as writer:
                write_samples(writer, samples, batches, settings.resolution)
    return VoxelizeSummary(
        path=output,
        classes=samples.classes,
        counts=samples.counts(),
        skipped=samples.skipped,
        duplicates=samples.duplicates,
        enclosing_nothing=tuple(sample.entry.name for sample in samples.kept if sample.facts.enclosed == 0),
        warnings=tuple(Skipped(s.entry.path, text) for s in samples.kept for text in s.facts.warnings),
        remarks=samples.remarks(settings),
        n_dropped=len(samples.dropped),
        n_resumed=n_resumed,
        seconds=time.perf_counter() - started,
    )


def _recorded(settings: VoxelSettings, samples: Samples) -> dict[str, object]:
    """The settings as the artifact records them: without bounds where no sample is a mesh, and an axis up that is z.

    Neither was recorded at first, and the same voxels have to keep their id.
    """
    recorded = settings.to_json()
    if all(sample.facts.n_faces < 0 for sample in samples.kept):
        del recorded["bounds"]
    if settings.up == "z":
        del recorded["up"]
    return recorded


class _Batches:
    """The listing cut into batches, and the results that the journal holds of them, in order; a sequence of results."""

    def __init__(self, listing: Listing, journal: Journal, *, strict: bool) -> None:
        self._n_shapes = len(listing.entries)
        self._journal = journal
        self._strict = strict
        entries = listing.entries
        self._batches = [entries[start : start + _BATCH] for start in range(0, len(entries), _BATCH)]
        self._recent = functools.lru_cache(maxsize=8)(self._decoded)
        for index in range(len(journal)):
            self._check(index)

    @property
    def n_done(self) -> int:
        """Shapes in the batches that are done."""
        return min(len(self._journal) * _BATCH, self._n_shapes)

    def voxelize(
        self,
        source: Path,
        settings: VoxelSettings,
        run: str,
        *,
        workers: int,
        scheduler: str | None,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        """Voxelize the batches that are not in the journal."""
        todo = self._batches[len(self._journal) :]
        if not todo:
            return
        few = len(todo) * _BATCH < _FEW
        opened: AbstractContextManager[WorkExecutor] = (
            open_executor(1 if few else min(workers, len(todo)), preload="fer_cli.data.batches")
            if scheduler is None
            else open_scheduler(scheduler, reads=source)
        )
        with opened as executor:
            if progress:
                progress(self.n_done, self._n_shapes)
            calls = [(source, batch, settings, run) for batch in todo]
            for content in results_in_order(executor, voxelize_batch, calls):
                self._journal.append(content)
                self._check(len(self._journal) - 1)
                if progress:
                    progress(self.n_done, self._n_shapes)

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> list[tuple[Entry, Outcome]]:
        """The shapes of a batch with their outcomes."""
        return self._recent(index)

    def _decoded(self, index: int) -> list[tuple[Entry, Outcome]]:
        return list(zip(self._batches[index], decode(self._journal[index]), strict=True))

    def _check(self, index: int) -> None:
        """Raise InputError if a shape of the batch cannot be used and the run is strict."""
        if self._strict:
            for entry, outcome in self[index]:
                if isinstance(outcome, str):
                    raise InputError(f"{entry.path}: {outcome}")
