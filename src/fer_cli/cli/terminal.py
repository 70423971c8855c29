"""Live progress of the long stages, on stderr: bars with the time left on a terminal, else lines of a log.

A log has a line for each epoch or layer, and one for how long the work will still take.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from fer_cli.cli.remaining import Remaining
from fer_cli.execution.progress import ClusteringProgress, EpochRecord, TrainingProgress
from fer_cli.reports.tables import printable

if TYPE_CHECKING:
    import torch

console = Console(stderr=True, highlight=False)
_ROOM_FOR_A_BAR = 121
_ROOM_FOR_TERMS = 100
"""Columns from which on there is room for the terms of a loss beside the time left."""


class _RateColumn(ProgressColumn):
    """Steps a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.0f}/s", style="progress.data.speed")


@contextmanager
def progress_bar(*, of_bytes: bool = False) -> Iterator[Progress]:
    """A progress display with rate and time left, that shows nothing where stderr is not a terminal."""
    amount = (DownloadColumn(), TransferSpeedColumn()) if of_bytes else (MofNCompleteColumn(), _RateColumn())
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), *amount, TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
        yield progress


@contextmanager
def training_bar(*, shown: bool = True) -> Iterator[Progress]:
    """As `progress_bar`, for a `TrainingView`, whose words fill 80 columns; a wider terminal has room for a bar."""
    bar = (BarColumn(),) if console.width >= _ROOM_FOR_A_BAR else ()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), *bar, TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not (shown and sys.stderr.isatty())) as progress:
        yield progress


def complain(message: str) -> None:
    """Say in one line what went wrong with a part of the work, and that it goes on without it."""
    console.print(
        "".join(c if c.isprintable() else "�" for c in f"fer: {' '.join(message.split())}"),
        markup=False,
        soft_wrap=True,
    )


def _remaining(progress: Progress) -> Remaining:
    """What tells the time left in a log; nothing where a bar shows it."""

    def say(words: str) -> None:
        if progress.disable:
            console.print(words, markup=False, soft_wrap=True)

    return Remaining(say)


class CountView:
    """A bar over a known number of things, for stages that tell (done, total)."""

    def __init__(self, progress: Progress, description: str) -> None:
        self._progress, self._description = progress, description
        self._task = progress.add_task(description, total=None)
        self._remaining = _remaining(progress)

    def __call__(self, done: int, total: int | None) -> None:
        """Move the bar; `total` is None where it is not known."""
        self._progress.update(self._task, completed=done, total=total)
        self._remaining(self._description, done, total)


class StageView:
    """A progress bar for each phase of a stage that reports (doing, done, total)."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._doing = ""
        self._task: TaskID | None = None
        self._remaining = _remaining(progress)

    def __call__(self, doing: str, done: int, total: int) -> None:
        """Move the bar; that of another phase is hidden."""
        if self._task is None or doing != self._doing:
            if self._task is not None:
                self._progress.update(self._task, visible=False)
            self._doing, self._task = doing, self._progress.add_task(doing)
        self._progress.update(self._task, completed=done, total=total)
        self._remaining(doing, done, total)


class TrainingView:
    """A line for the phase in work: epoch, loss and its terms, last score, rate; one for each finished epoch stays.

    Warns of CPU contention once training on `device` has started.
    """

    def __init__(self, progress: Progress, device: "torch.device") -> None:
        self._progress = progress
        self._device = device
        self._tasks: dict[str, TaskID] = {}
        self._last = ""
        self._remaining = _remaining(progress)

    def __call__(self, state: TrainingProgress) -> None:
        """Show where the run is."""
        if not self._tasks:
            _say_if_crowded(self._device)
        if state.phase not in self._tasks:
            for finished in self._tasks.values():
                self._progress.update(finished, visible=False)
            self._last = ""
            self._tasks[state.phase] = self._progress.add_task(state.phase, total=state.epochs * state.batches)
        loss = f"loss {state.loss:.3f}{_terms(state.terms) if console.width >= _ROOM_FOR_TERMS else ''}"
        done, total = (state.epoch - 1) * state.batches + state.batch, state.epochs * state.batches
        self._remaining(state.phase, done, total)
        self._progress.update(
            self._tasks[state.phase],
            completed=done,
            description=f"{state.phase} {state.epoch}/{state.epochs} {loss}{self._last} "
            f"{state.shapes_per_second:.0f}/s",
        )
        if record := state.record:
            self._last = f" {state.score_name} {record.validation_score:.3f}"
            console.print(_epoch_line(state, record), soft_wrap=True)


def _epoch_line(state: TrainingProgress, record: EpochRecord) -> str:
    """A finished epoch; on a narrow terminal without the terms of the loss."""
    epoch = f"{record.phase} {record.epoch:3d}/{state.epochs}"
    if console.is_terminal and console.width < _ROOM_FOR_A_BAR:
        return (
            f"{epoch}  loss {record.training_loss:.3f}  validation {record.validation_loss:.3f}, "
            f"{state.score_name} {record.validation_score:.3f}  {record.seconds:.1f} s"
        )
    return (
        f"{epoch}  loss {record.training_loss:.4f}{_terms(state.terms)}  validation loss {record.validation_loss:.4f}  "
        f"validation {state.score_name} {record.validation_score:.4f}  {record.seconds:.1f} s"
    )


def _terms(terms: Mapping[str, float]) -> str:
    """The terms of a loss, where it has several."""
    return f" ({', '.join(f'{name} {value:.3f}' for name, value in terms.items())})" if len(terms) > 1 else ""


def _say_if_crowded(device: "torch.device") -> None:
    """Say of a training on the CPU that other programs slow it down, and what helps."""
    from fer_cli.execution.contention import THREADS_VARIABLE, free_cores_if_crowded

    free = free_cores_if_crowded(device)
    if free:
        complain(
            "other programs are at work on these cores, and the threads of a training wait for the slowest of them at "
            f"every step. With {THREADS_VARIABLE}={free} it may be several times as fast."
        )


class ClusteringView:
    """A progress bar: samples encoded, or locations of a layer clustered."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._show = progress, StageView(progress)

    def __call__(self, state: ClusteringProgress) -> None:
        """Show where the stage is."""
        doing = escape(printable(" ".join(filter(None, (state.doing, state.path, state.layer)))))
        self._show(doing, state.done, state.total)
        if state.done == state.total and self._progress.disable:
            what = "locations" if state.layer else "samples"
            console.print(f"{doing}: {state.total} {what}", soft_wrap=True)
