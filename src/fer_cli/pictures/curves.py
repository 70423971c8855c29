"""Learning curves as a picture."""

import io
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fer_cli.execution.progress import EpochRecord
from fer_cli.network.activations import FEEDBACK, FEEDFORWARD
from fer_cli.network.signal import signal_of
from fer_cli.network.weights import read_spec
from fer_cli.storage.artifact import open_artifact
from fer_cli.storage.disk import write_whole
from fer_cli.storage.history import read_history
from fer_cli.storage.schema import MODEL

# Okabe and Ito's blue, orange and green, apart for every kind of colour vision.
_TRAINING, _VALIDATION, _SCORE = "#0072B2", "#D55E00", "#009E73"


def curve_path(model: Path) -> Path:
    """Where the learning curve of a model lies: beside it."""
    return model.with_name(f"{model.stem if model.suffix == '.h5' else model.name}.curve.png")


def write_learning_curve(model: Path) -> Path:
    """Draw the history of a model.h5 into a PNG beside it, a panel for each phase, and return its path.

    Raises ArtifactError where the model cannot be read, ResourceError where the picture cannot be written.
    """
    with open_artifact(model, MODEL) as artifact:
        history = read_history(artifact)
        kind = read_spec(artifact).input.kind
    scores = {FEEDFORWARD: "validation accuracy", FEEDBACK: f"validation {signal_of(kind).score_name}"}
    phases = [phase for phase in (FEEDFORWARD, FEEDBACK) if any(record.phase == phase for record in history)]
    figure = Figure(figsize=(5.2 * len(phases), 3.6), dpi=150, layout="constrained")
    for axes, phase in zip(figure.subplots(1, len(phases), squeeze=False)[0], phases, strict=True):
        _draw(axes, phase, scores[phase], [record for record in history if record.phase == phase])
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    path = curve_path(model)
    write_whole(path, picture.getvalue())
    return path


def _draw(axes: Axes, phase: str, score: str, records: list[EpochRecord]) -> None:
    epochs = [record.epoch for record in records]
    marker = "o" if len(records) == 1 else None
    lines = [
        *axes.plot(epochs, [r.training_loss for r in records], color=_TRAINING, marker=marker, label="training loss"),
        *axes.plot(
            epochs,
            [r.validation_loss for r in records],
            color=_VALIDATION,
            linestyle="--",
            marker=marker,
            label="validation loss",
        ),
    ]
    score_axes = axes.twinx()
    lines += score_axes.plot(
        epochs,
        [r.validation_score for r in records],
        color=_SCORE,
        linestyle=":",
        linewidth=2,
        marker=marker,
        label=score,
    )
    axes.set(title=f"{phase}: {score} {records[-1].validation_score:.3f}", xlabel="epoch", ylabel="loss")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    score_axes.set(ylabel=score)
    if all(record.validation_score <= 1 for record in records):
        score_axes.set_ylim(0, 1)
    labels = [str(line.get_label()) for line in lines]
    axes.legend(lines, labels, loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=len(lines), frameon=False)
