"""`fer attach` and `fer allow`: a network of the user's own, and the code that fer may run for it."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from fer_cli.cli import endings
from fer_cli.cli.options import (
    DEFAULT_RUN,
    AsJson,
    Device,
    Force,
    OutputKind,
    RunDir,
    Seed,
    Split,
    Voxels,
    print_json,
    print_rich,
)

ModelName = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="PATH.py:callable or package.module:callable that returns the torch.nn.Module."
    ),
]


def attach(
    network: ModelName,
    weights: Annotated[
        Path | None, typer.Option(help="State dict: torch.save or safetensors. Default: what the callable gives.")
    ] = None,
    kwargs: Annotated[str | None, typer.Option(help="Arguments of the callable, a JSON object.")] = None,
    voxels: Voxels = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output-file", help="File to write. Default: RUN/model.h5.")
    ] = None,
    run: RunDir = DEFAULT_RUN,
    levels: Annotated[
        str | None, typer.Option(help="Activations to tap, as --dry-run lists them. Default: at most eight cuts.")
    ] = None,
    element: Annotated[
        str | None, typer.Option("--output", help="Key or index of the classes in what the network returns.")
    ] = None,
    activation: Annotated[
        OutputKind | None, typer.Option(help="What the output is. Default: found on the values.")
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="Classes in the order of the network's outputs. Default: that of the voxels.")
    ] = None,
    decision: Annotated[
        float, typer.Option(help="Probability from which a network of two classes predicts the second.")
    ] = 0.5,
    transform: Annotated[
        str | None, typer.Option(help="PATH.py:callable that turns a file into the volume the network reads.")
    ] = None,
    fit_on: Annotated[
        Split, typer.Option("--fit-on", help="Split to fit on, where training samples are not at hand.")
    ] = "train",
    feedback_epochs: Annotated[int | None, typer.Option(min=1, help="Epochs of the feedback network.")] = None,
    feedback_learning_rate: Annotated[
        float | None, typer.Option("--feedback-rate", help="Peak learning rate of the feedback network.")
    ] = None,
    feature_weight: Annotated[
        float, typer.Option(min=0, help="Weight of matching the network's features, beside reconstruction.")
    ] = 0.5,
    batch_size: Annotated[int, typer.Option(min=2, help="Volumes in each step.")] = 32,
    seed: Seed = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List levels and costs, and stop.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint, if there is one.")] = False,
    device: Device = "auto",
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Train a feedback network on a frozen network of your own: voxels.h5 → model.h5.

    Runs the code of MODEL, and lets later commands on this run do so (see fer allow).
    """
    from fer_cli.artifacts import choose_device
    from fer_cli.cli.terminal import TrainingView, training_bar
    from fer_cli.network.attach import AttachSettings, Overview, look_over, warnings
    from fer_cli.network.attach import attach as attach_network
    from fer_cli.network.attached.opening import open_classifier
    from fer_cli.network.checkpoint import checkpoint_path
    from fer_cli.pictures.curves import curve_path, write_learning_curve
    from fer_cli.reports.attachment import overview_json, overview_table

    chosen = choose_device(device)
    model = output or run / "model.h5"
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
    opened = open_classifier(network, kwargs=kwargs, weights=weights, transform=transform, device=chosen)
    for note in opened.notes:
        typer.echo(note, err=True)

    def show(overview: Overview) -> None:
        if not as_json:
            print_rich(overview_table(overview, settings))
        for sentence in warnings(overview, fit_on):
            typer.echo(f"fer: {sentence}", err=True)

    source = voxels or run / "voxels.h5"
    if dry_run:
        overview = look_over(source, opened.module, settings, device=chosen, previous=model)
        show(overview)
        if as_json:
            print_json(overview_json(overview, settings))
        return
    endings.goes_on(
        "what was done is kept: run the same command with --resume to go on from there.", where=checkpoint_path(model)
    )
    with training_bar() as bar:
        summary = attach_network(
            source,
            model,
            opened.module,
            settings,
            opened.origin,
            device=chosen,
            make=opened.make,
            resume=resume,
            force=force,
            listed=show,
            report=TrainingView(bar, chosen),
            finish=_then(opened.allow, write_learning_curve),
        )
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
    typer.echo(f"Next: fer cluster{'' if run == DEFAULT_RUN else f' --run {run}'}")


def _then(first: Callable[[], object], second: Callable[[Path], object]) -> Callable[[Path], object]:
    def both(path: Path) -> None:
        first()
        second(path)

    return both


def allow(
    model: Annotated[Path, typer.Argument(help="The model.h5 of an attached network.")],
    network: Annotated[
        str | None, typer.Option("--network", help="PATH.py:callable, where it lies elsewhere than recorded.")
    ] = None,
    transform: Annotated[
        str | None, typer.Option("--transform", help="PATH.py:callable of the transform, where it lies elsewhere.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Let fer run the code that a model.h5 names, as it is now on this machine.

    A model.h5 never makes fer run code by itself. Read the code first.
    """
    from fer_cli.network.attached.opening import allow_artifact

    allowed: list[dict[str, Any]] = allow_artifact(model, network=network, transform=transform)
    if as_json:
        print_json({"model": str(model), "allowed": allowed})
        return
    for each in allowed:
        typer.echo(f"allowed for {model}: {each['where']}:{each['name']}")
