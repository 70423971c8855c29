"""`fer voxelize` for volumes: scans, arrays and masks of a SOURCE → voxels.h5, prepared as a network reads them.

One volume after the other, so that memory is that of a few. Where volumes are resampled, which takes long, a journal
keeps what is done.
"""

import json
import struct
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from fer_cli.data.collections import Collection
from fer_cli.data.entries import Entry, Listing, Skipped
from fer_cli.data.formats.registry import GreyError
from fer_cli.data.formats.volume import Scan
from fer_cli.data.preparation import PreparationSettings, orientation_of, prepare
from fer_cli.data.source import close_archives, read_volume, run_key
from fer_cli.data.volume_file import Volume, WrittenVolumes, rounded_spacing, write_volumes
from fer_cli.errors import InputError
from fer_cli.storage.journal import Journal, journal_path
from fer_cli.storage.outputs import check_output, claim_output

_LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class StoredSummary:
    """Summary of stored volumes: what was written, which files were skipped and why, and notes for the user.

    `n_resumed` files had been done by an earlier run that was ended.
    """

    path: Path
    written: WrittenVolumes
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]
    n_resumed: int
    seconds: float


@dataclass
class _Volumes:
    """The volumes of a listing or a collection, prepared as they are asked for, with what was met on the way."""

    source: Path
    entries: Sequence[Entry]
    collection: Collection | None
    classes: tuple[str, ...]
    settings: PreparationSettings
    strict: bool
    journal: Journal | None
    skipped: list[Skipped] = field(default_factory=list)
    orientations: dict[str, str] = field(default_factory=dict)
    spacings: set[tuple[float, ...]] = field(default_factory=set)
    empty: int = 0
    progress: Callable[[int, int], None] | None = None

    def __iter__(self) -> Iterator[Volume]:
        label = {name: index for index, name in enumerate(self.classes)}
        first = ""
        for done, (entry, scan) in enumerate(self._scans()):
            if self.progress:
                self.progress(done, len(self.entries))
            prepared = self._outcome(done, entry, scan)
            if isinstance(prepared, str):
                self.skipped.append(Skipped(entry.path, prepared))
                continue
            if prepared.has_spacing:
                self._note_place(prepared, entry)
            sides = "×".join(map(str, prepared.values.shape[1:]))
            first = first or sides
            if sides != first:
                raise InputError(
                    f"{entry.path} has {sides} voxels, but the first volume {first}. Give --shape X,Y,Z to crop or pad "
                    "all around the centre, after --spacing where voxels differ in size."
                )
            self.empty += not prepared.values.any()
            class_index = label.get(entry.class_name or "", -1)
            matrix = prepared.index_to_world
            yield Volume(
                prepared.values,
                entry.name,
                class_index,
                entry.split,
                matrix,
                entry.path,
                group=entry.group,
                columns=entry.columns,
                is_placed=prepared.is_placed,
                is_measured=prepared.is_measured,
            )
        if self.progress:
            self.progress(len(self.entries), len(self.entries))

    def _outcome(self, number: int, entry: Entry, scan: Scan | Callable[[], Scan]) -> Scan | str:
        """A prepared volume, or the reason why there is none; from the journal if it is there."""
        if self.journal is not None and number < len(self.journal):
            return _decoded(self.journal[number])
        outcome: Scan | str
        try:
            outcome = prepare(scan if isinstance(scan, Scan) else scan(), self.settings, entry.path)
        except GreyError:
            raise  # what becomes of such grids, the user has to say
        except InputError as error:
            if self.strict:
                raise
            outcome = str(error).removeprefix(f"{entry.path}: ")
        if self.journal is not None:
            self.journal.append(_encoded(outcome))
        return outcome

    def _scans(self) -> Iterator[tuple[Entry, Scan | Callable[[], Scan]]]:
        if self.collection is not None:
            yield from self.collection.scans(self.entries)
            return
        for entry in self.entries:
            yield entry, partial(read_volume, self.source, entry)

    def _note_place(self, scan: Scan, entry: Entry) -> None:
        self.spacings.add(rounded_spacing(scan.index_to_world))
        if not scan.is_placed:
            return
        found = orientation_of(scan.index_to_world)
        self.orientations.setdefault(found, entry.path)
        if len(self.orientations) > 1:
            (one, first), (other, second) = list(self.orientations.items())[:2]
            raise InputError(
                f"{first} is stored as {one}, but {second} as {other}: their axes point to other sides. Give "
                "--orientation RAS to turn all the same way."
            )

    def notes(self) -> tuple[str, ...]:
        """What a user should know of the files as a whole."""
        notes = []
        if len(self.spacings) > 1:
            steps = [step for spacing in self.spacings for step in spacing]
            notes.append(f"voxels measure {min(steps):g} to {max(steps):g}; --spacing makes them equal")
        if self.empty:
            notes.append(f"{self.empty} volumes are empty: every voxel is 0")
        return tuple(notes)


def store_volumes(
    source: Path,
    output: Path,
    listing: Listing,
    collection: Collection | None,
    settings: PreparationSettings,
    *,
    test_fraction: float | None = None,
    seed: int = 0,
    strict: bool = False,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> StoredSummary:
    """Store the volumes of a listing, or of the collection it was made of, in `output`.

    A file that cannot be used is left out and recorded with the reason, unless `strict`. A run that resamples and is
    interrupted goes on when it is started again; other runs start anew. Raises InputError for volumes of several
    shapes or orientations, and where it is not clear whether they are occupancy; UsageError if `output` exists and
    `force` is off.
    """
    started = time.perf_counter()
    check_output(output, source)
    with ExitStack() as at_end:
        at_end.enter_context(claim_output(output, force=force, progress=journal_path(output)))
        at_end.callback(close_archives)
        listing.require_whole(strict=strict)
        journal = None
        if settings.spacing is None:
            journal_path(output).unlink(missing_ok=True)  # of another command, that wanted the same output
        else:
            key = run_key(source.absolute(), listing, {**settings.to_json(), "strict": strict}, batch=1)
            journal = at_end.enter_context(Journal(output, key))
            at_end.enter_context(journal.used())
        n_resumed = 0 if journal is None else len(journal)
        volumes = _Volumes(
            source, listing.entries, collection, listing.classes, settings, strict, journal, list(listing.skipped)
        )
        volumes.progress = progress
        written = write_volumes(
            output,
            iter(volumes),
            listing.classes,
            kind=settings.kind or "occupancy",
            recorded={
                "preparation": settings.to_json(),
                "source": source.resolve().name.encode(errors="replace").decode(),
                "test_fraction": test_fraction,
            },
            seed=None if test_fraction is None else seed,
            skipped=volumes.skipped,
        )
    skipped = tuple(sorted(volumes.skipped, key=lambda item: item.path))
    return StoredSummary(output, written, skipped, volumes.notes(), n_resumed, time.perf_counter() - started)


def _encoded(outcome: Scan | str) -> bytes:
    """A record of the journal: compressed, a length, a JSON object, and the values."""
    head: dict[str, object]
    if isinstance(outcome, str):
        head, values = {"reason": outcome}, b""
    else:
        head = {
            "type": outcome.values.dtype.str,
            "shape": outcome.values.shape,
            "index_to_world": outcome.index_to_world.tolist(),
            "is_placed": outcome.is_placed,
            "is_measured": outcome.is_measured,
        }
        values = outcome.values.tobytes()
    text = json.dumps(head).encode()
    return zlib.compress(_LENGTH.pack(len(text)) + text + values, level=1)


def _decoded(content: bytes) -> Scan | str:
    """The outcome that `_encoded` made a record of."""
    content = zlib.decompress(content)
    (length,) = _LENGTH.unpack_from(content)
    start = _LENGTH.size + length
    head = json.loads(content[_LENGTH.size : start])
    if "reason" in head:
        return str(head["reason"])
    values = np.frombuffer(content, head["type"], offset=start).reshape(head["shape"])
    return Scan(values, np.array(head["index_to_world"]), head["is_placed"], head["is_measured"])
