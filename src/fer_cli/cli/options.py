"""What the commands share: options of the same name and meaning, and how an answer is printed."""

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from fer_cli.arguments import scheduler_address
from fer_cli.storage import run_paths

_answers: int | None = None
"""Descriptor that answers as JSON go to, where stdout is left to nobody else."""


def _alone(wanted: bool) -> bool:
    """Keep stdout for the answer: whatever a user's own code or its processes print goes to stderr."""
    global _answers
    if wanted and _answers is None:
        try:
            own, other = sys.stdout.fileno(), sys.stderr.fileno()
        except (OSError, ValueError):  # no terminal's stream, as in tests
            return wanted
        sys.stdout.flush()
        _answers = os.dup(own)
        os.dup2(other, own)
    return wanted


RunDir = Annotated[
    Path, typer.Option("--run", envvar="FER_RUN", help="The run: the folder of voxels.h5, model.h5 and codebook.h5.")
]
Voxels = Annotated[Path | None, typer.Option(help="Voxels to use instead of the run's voxels.h5.")]
Model = Annotated[Path | None, typer.Option(help="Model to use instead of the run's model.h5.")]
CodebookFile = Annotated[Path | None, typer.Option(help="Codebook to use instead of the run's codebook.h5.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the output if it exists.")]
Device = Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda, cuda:1, …")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result on stdout as one JSON object.", callback=_alone)]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, metavar="<int>", help="Seed of everything random.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Number of parallel workers. Default: one for each core.")]
Scheduler = Annotated[
    str | None,
    typer.Option(
        callback=scheduler_address, help="Dask scheduler whose workers do the work, such as tcp://127.0.0.1:8786."
    ),
]
# A panel of their own: in a table with wider options, Rich truncates the longer name at 80 columns.
FEEDBACK = "Feedback network"
FeedbackEpochs = Annotated[
    int | None, typer.Option(min=1, rich_help_panel=FEEDBACK, help="Epochs of the feedback network.")
]
FeedbackLearningRate = Annotated[
    float | None, typer.Option(rich_help_panel=FEEDBACK, help="Peak learning rate of the feedback network.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint, if there is one.")]
SampleName = Annotated[
    str,
    typer.Argument(
        metavar="SAMPLE", help="A file that holds a shape or a volume, or the name of a sample in the voxels."
    ),
]
ViewsAsked = Annotated[
    int | None, typer.Option("--views", help="Number of varied views whose mean predicts too, such as 24.")
]
DEFAULT_RUN = run_paths.DEFAULT_RUN
FORMER_NAMES = {"feedback-rate": "feedback-learning-rate"}
"""Former names of options, which still work."""
# Values of options; help and completion show them.
Preset = Literal["paper", "compact", "smoke", "residual"]
Fill = Literal["surface", "solid"]
Bounds = Literal["used", "all"]
Axis = Literal["x", "y", "z"]
VolumeKind = Literal["occupancy", "intensity"]
Filling = Literal["feature", "centroid"]
Split = Literal["train", "val", "test"]
OutputKind = Literal["logits", "softmax", "log_softmax", "sigmoid"]
CauseName = Literal["label", "overlap", "gap", "pose", "input", "part", "layer", "none"]
Up = Annotated[Axis | None, typer.Option(help="Axis of a shape's file that points up. Default: as the run's shapes.")]


def print_json(answer: Any) -> None:
    """Print an answer as JSON on stdout, whatever its encoding; dataclasses as their fields, paths as text."""
    text = json.dumps(answer, indent=2, ensure_ascii=False, allow_nan=False, default=_plain)
    text = text.encode(errors="replace").decode()  # names of files need not be UTF-8, but JSON is
    if not sys.stdout.encoding.lower().startswith("utf"):
        text = json.dumps(json.loads(text), indent=2)  # which escapes what the encoding may not have
    if _answers is None:
        print(text)
        return
    content = f"{text}\n".encode(sys.stdout.encoding)
    while content:
        content = content[os.write(_answers, content) :]


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else vars(value)


def print_line(text: str, *, indent: int = 0, err: bool = False) -> None:
    """Print a sentence; on a terminal folded between words to its width, with further lines indented."""
    stream = sys.stderr if err else sys.stdout
    if stream.isatty():
        width = shutil.get_terminal_size().columns
        lines = textwrap.wrap(
            text, width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
        )
        text = "\n".join(lines)
    typer.echo(text, err=err)


def print_rich(renderable: Any) -> None:
    """Print what rich can show on stdout. Names are shown as they are, without what a terminal would obey."""
    from rich.console import Console

    Console(highlight=False, markup=False).print(_Printable(renderable))


class _Printable:
    """What rich can show, without control characters of its texts."""

    def __init__(self, renderable: Any) -> None:
        self._renderable = renderable

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        from fer_cli.reports.tables import printable

        for segment in console.render(self._renderable, options):
            if segment.control or segment.text == "\n":
                yield segment
            else:
                text = "\n".join(map(printable, segment.text.split("\n")))
                yield type(segment)(text, segment.style)
