"""`fer attach` and `fer allow`: a network of the user's own, and the code that fer may run for it."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fer_cli.cli import endings
from fer_cli.cli.next_step import tell_next
from fer_cli.cli.options import (
    DEFAULT_RUN,
    AsJson,
    Device,
    FeedbackEpochs,
    FeedbackLearningRate,
    Force,
    OutputKind,
    Resume,
    RunDir,
    Seed,
    Split,
    Voxels,
    print_json,
    print_rich,
)

if TYPE_CHECKING:
    import torch

    from fer_cli.network.attach import AttachSettings, AttachSummary
    from fer_cli.network.attach_overview import Overview
    from fer_cli.network.attached.opening import OpenedClassifier

ModelName = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="PATH.py:callable or package.module:callable that returns the torch.nn.Module; a FILE.pt2 of "
        "torch.export; or the folder of a MONAI bundle.",
    ),
]


Weights = Annotated[
    Path | None, typer.Option(help="State dict: file or folder of torch.save or safetensors. Default: what MODEL has.")
]
Kwargs = Annotated[
    str | None, typer.Option(help="Arguments of the callable, or values of the bundle by id: a JSON object.")
]
Output = Annotated[Path | None, typer.Option("-o", "--output-file", help="File to write. Default: RUN/model.h5.")]
Levels = Annotated[
    str | None, typer.Option(help="Activations to tap, as --dry-run lists them. Default: at most eight cuts.")
]
Element = Annotated[
    str | None, typer.Option("--output", help="Key or index of the classes in what the network returns.")
]
Activation = Annotated[OutputKind | None, typer.Option(help="What the output is. Default: found on the values.")]
Classes = Annotated[
    str | None, typer.Option(help="Classes in the order of the network's outputs. Default: that of the voxels.")
]
Decision = Annotated[float, typer.Option(help="Probability from which a network of two classes predicts the second.")]
Transform = Annotated[
    str | None, typer.Option(help="PATH.py:callable that turns a file into the volume the network reads.")
]
FitOn = Annotated[Split, typer.Option("--fit-on", help="Split to fit on, where training samples are not at hand.")]
FeatureWeight = Annotated[
    float, typer.Option(min=0, help="Weight of matching the network's features, beside reconstruction.")
]
BatchSize = Annotated[int, typer.Option(min=2, help="Volumes in each step.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="List levels and costs, and stop.")]


def attach(
    network: ModelName,
    weights: Weights = None,
    kwargs: Kwargs = None,
    voxels: Voxels = None,
    output: Output = None,
    run: RunDir = DEFAULT_RUN,
    levels: Levels = None,
    element: Element = None,
    activation: Activation = None,
    classes: Classes = None,
    decision: Decision = 0.5,
    transform: Transform = None,
    fit_on: FitOn = "train",
    feedback_epochs: FeedbackEpochs = None,
    feedback_learning_rate: FeedbackLearningRate = None,
    feature_weight: FeatureWeight = 0.5,
    batch_size: BatchSize = 32,
    seed: Seed = 0,
    dry_run: DryRun = False,
    resume: Resume = False,
    device: Device = "auto",
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Train a feedback network on a frozen network of your own: voxels.h5 → model.h5.

    Runs the code of MODEL, and lets later commands on this run do so (see fer allow).
    """
    from fer_cli.artifacts import choose_device
    from fer_cli.network.attach import AttachSettings
    from fer_cli.network.attached.opening import open_classifier

    settings = AttachSettings(
        levels=None if levels is None else tuple(levels.split(",")),
        output=element,
        activation=activation,
        decision=decision,
        outputs=None if classes is None else tuple(name.strip() for name in classes.split(",")),
        fitted_on=fit_on,
        feedback_epochs=feedback_epochs,
        feedback_learning_rate=feedback_learning_rate,
        feature_weight=feature_weight,
        batch_size=batch_size,
        seed=seed,
    )
    chosen = choose_device(device)
    opened = open_classifier(network, kwargs=kwargs, weights=weights, transform=transform, device=chosen)
    for note in opened.notes:
        typer.echo(note, err=True)
    source, model = voxels or run / "voxels.h5", output or run / "model.h5"
    if dry_run:
        _look_over(source, model, opened, settings, chosen, as_json=as_json)
        return
    summary = _attached(source, model, opened, settings, chosen, resume=resume, force=force, listed=not as_json)
    _tell(summary, settings, as_json=as_json)
    if not as_json:
        tell_next("cluster", run=run, files={"voxels": voxels, "model": output})


def _look_over(
    source: Path,
    model: Path,
    opened: "OpenedClassifier",
    settings: "AttachSettings",
    device: "torch.device",
    *,
    as_json: bool,
) -> None:
    """Print what would be attached."""
    from fer_cli.network.attach import look_over
    from fer_cli.reports.attachment import overview_json

    overview = look_over(source, opened.module, settings, device=device, source=opened.source, previous=model)
    _show(overview, settings, listed=not as_json)
    if as_json:
        print_json(overview_json(overview, settings))


def _attached(
    source: Path,
    model: Path,
    opened: "OpenedClassifier",
    settings: "AttachSettings",
    device: "torch.device",
    *,
    resume: bool,
    force: bool,
    listed: bool,
) -> "AttachSummary":
    """Attach, and show how it goes; the code of the network is allowed once model.h5 is written."""
    from fer_cli.cli.terminal import TrainingView, training_bar
    from fer_cli.network.attach import attach as attach_network
    from fer_cli.network.attached.permission import require_writable
    from fer_cli.network.checkpoint import checkpoint_path
    from fer_cli.pictures.curves import write_learning_curve

    require_writable()

    endings.goes_on(
        "what was done is kept: run the same command with --resume to go on from there.", where=checkpoint_path(model)
    )

    def finish(written: Path) -> None:
        opened.allow()
        write_learning_curve(written)

    with training_bar() as bar:
        return attach_network(
            source,
            model,
            opened.module,
            settings,
            opened.origin,
            device=device,
            source=opened.source,
            resume=resume,
            force=force,
            listed=partial(_show, settings=settings, listed=listed),
            report=TrainingView(bar, device),
            finish=finish,
        )


def _show(overview: "Overview", settings: "AttachSettings", *, listed: bool) -> None:
    """Print what was found in the network, and what a user should know of it."""
    from fer_cli.network.attach_overview import warnings
    from fer_cli.reports.attachment import overview_table
    from fer_cli.reports.tables import printable

    if listed:
        print_rich(overview_table(overview, settings))
    for sentence in warnings(overview, settings.fitted_on):
        typer.echo(printable(f"fer: {sentence}"), err=True)


def _tell(summary: "AttachSummary", settings: "AttachSettings", *, as_json: bool) -> None:
    """Print what a finished attachment has to say."""
    from fer_cli.pictures.curves import curve_path
    from fer_cli.reports.attachment import overview_json

    if as_json:
        print_json(
            {
                "path": str(summary.path),
                "curve": str(curve_path(summary.path)),
                "parameters": summary.parameters,
                "accuracy": summary.accuracy,
                "score": {"name": summary.score_name, "value": summary.score},
                **overview_json(summary.overview, settings),
                "seconds": summary.seconds,
            }
        )
        return
    typer.echo(
        f"{summary.path}: {summary.parameters / 1e6:.1f} M parameters, validation accuracy {summary.accuracy:.4f}, "
        f"{summary.score_name} {summary.score:.3f} on {summary.overview.validation_samples} samples, "
        f"{summary.seconds:.0f} s"
    )
    typer.echo(f"learning curve: {curve_path(summary.path)}")


Model = Annotated[Path, typer.Argument(help="The model.h5 of an attached network.")]
Network = Annotated[
    str | None, typer.Option("--network", help="MODEL of fer attach that builds it. Default: as once named here.")
]
AllowTransform = Annotated[
    str | None, typer.Option("--transform", help="PATH.py:callable of the transform. Default: as once named here.")
]


def allow(
    model: Model,
    network: Network = None,
    transform: AllowTransform = None,
    as_json: AsJson = False,
) -> None:
    """Let fer run the code that a model.h5 names, as it is now on this machine. Builds the network.

    A model.h5 never makes fer run code by itself. Read the code first.
    """
    from fer_cli.network.attached.forms import source_of
    from fer_cli.network.attached.opening import allow_artifact
    from fer_cli.reports.tables import printable

    allowed = allow_artifact(model, network=network, transform=transform)
    if as_json:
        print_json({"model": str(model), "allowed": allowed})
        return
    for each in allowed:
        typer.echo(printable(f"allowed for {model}: {source_of(each['where'], each['name'], each['kwargs']).call}"))
        for file in each["files"]:
            typer.echo(printable(f"  {file}"))
