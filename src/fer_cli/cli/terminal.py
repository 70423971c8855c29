"""Live progress of the long stages, on stderr: bars on a terminal, one line an epoch or a layer in a log."""

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

from fer_cli.execution.progress import ClusteringProgress, TrainingProgress
from fer_cli.reports.tables import printable

if TYPE_CHECKING:
    import torch

console = Console(stderr=True, highlight=False)
_ROOM_FOR_A_BAR = 121


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


class CountView:
    """A bar over a known number of things, for stages that tell (done, total)."""

    def __init__(self, progress: Progress, description: str) -> None:
        self._progress = progress
        self._task = progress.add_task(description, total=None)

    def __call__(self, done: int, total: int | None) -> None:
        """Move the bar; `total` is None where it is not known."""
        self._progress.update(self._task, completed=done, total=total)


class StageView:
    """A progress bar for each phase of a stage that reports (doing, done, total)."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._doing = ""
        self._task: TaskID | None = None

    def __call__(self, doing: str, done: int, total: int) -> None:
        """Move the bar; that of another phase is hidden."""
        if self._task is None or doing != self._doing:
            if self._task is not None:
                self._progress.update(self._task, visible=False)
            self._doing, self._task = doing, self._progress.add_task(doing)
        self._progress.update(self._task, completed=done, total=total)


class TrainingView:
    """A line for the phase in work: epoch, loss and its terms, last score, rate; one for each finished epoch stays.

    Warns of CPU contention once training on `device` has started.
    """

    def __init__(self, progress: Progress, device: "torch.device") -> None:
        self._progress = progress
        self._device = device
        self._tasks: dict[str, TaskID] = {}
        self._last = ""

    def __call__(self, state: TrainingProgress) -> None:
        """Show where the run is."""
        if not self._tasks:
            _say_if_crowded(self._device)
        if state.phase not in self._tasks:
            for finished in self._tasks.values():
                self._progress.update(finished, visible=False)
            self._last = ""
            self._tasks[state.phase] = self._progress.add_task(state.phase, total=state.epochs * state.batches)
        loss = f"loss {state.loss:.3f}{_terms(state.terms)}"
        self._progress.update(
            self._tasks[state.phase],
            completed=(state.epoch - 1) * state.batches + state.batch,
            description=f"{state.phase} {state.epoch}/{state.epochs} {loss}{self._last} "
            f"{state.shapes_per_second:.0f}/s",
        )
        if record := state.record:
            score = f"{state.score_name} {record.validation_score:.4f}"
            self._last = f" {state.score_name} {record.validation_score:.3f}"
            console.print(
                f"{record.phase} {record.epoch:3d}/{state.epochs}  loss {record.training_loss:.4f}"
                f"{_terms(state.terms)}  validation loss {record.validation_loss:.4f}  validation {score}  "
                f"{record.seconds:.1f} s",
                soft_wrap=True,
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
