"""The `fer` command: each subcommand parses, calls one function, and prints.

Results go to stdout, progress and errors to stderr; how a command ends is in `endings`. A stage is imported inside its
command, so that help and usage errors are quick.
"""

from pathlib import Path
from typing import Annotated, NoReturn

import typer

from fer_cli import __version__
from fer_cli.arguments import file_name
from fer_cli.cli import attachments, comparing, describing, endings, explaining, readings, stages, voxelizing
from fer_cli.cli.options import (
    DEFAULT_RUN,
    FORMER_NAMES,
    AsJson,
    Device,
    Force,
    RunDir,
    Seed,
    print_json,
    print_line,
    print_rich,
)
from fer_cli.errors import ResourceError, UsageError
from fer_cli.execution.allocation import keep_freed_memory
from fer_cli.execution.collecting import set_imports_aside
from fer_cli.execution.deferring import allow_deferring

app = typer.Typer(
    name="fer",
    help="Explains how a 3D convolutional network recognises a shape, and why it fails.",
    epilog="A run: fer voxelize ModelNet10.zip → fer train → fer cluster → fer evaluate → fer explain chair_0891",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": lambda name: FORMER_NAMES.get(name, name),
    },
)

for _command, _example in (
    (stages.download, "fer download modelnet10 -o archives"),
    (voxelizing.voxelize, "fer voxelize modelnet10-binvox.zip --run my-run"),
    (stages.train, "fer train --preset compact --run my-run"),
    (attachments.attach, "fer attach nets.py:build --weights best.pt --run my-run"),
    (attachments.allow, "fer allow my-run/model.h5"),
    (stages.cluster, "fer cluster --k 60,50,40,30,30,20,20 --memory 2GB --run my-run"),
    (stages.calibrate, "fer calibrate --force --run my-run"),
    (readings.probe, "fer probe chair_0891 --layer conv3 --location 2,2,2 --run my-run"),
    (explaining.explain, "fer explain broken_chair.off --label chair --run my-run"),
    (readings.evaluate, "fer evaluate --split test --json --run my-run"),
    (comparing.compare, "fer compare my-run better-run"),
    (readings.figures, "fer figures --run my-run"),
    (describing.info, "fer info my-run/voxels.h5 --sheet shapes.html"),
):
    app.command(epilog=f"Example: {_example}")(_command)


@app.command(epilog="Example: fer doctor --run my-run")
def doctor(
    run: RunDir = DEFAULT_RUN,
    as_json: AsJson = False,
) -> None:
    """Try what fer needs on this machine, and say what is missing."""
    from fer_cli.cli.doctor import examination_lines, examine

    examination = examine(run)
    if as_json:
        print_json(examination)
    else:
        for line in examination_lines(examination):
            print_line(line, indent=10)
    if count := len(examination.problems):
        raise ResourceError(
            f"{count} thing{'s' if count > 1 else ''} that fer needs {'do' if count > 1 else 'does'} "
            "not work; see the problems above."
        )


@app.command(epilog="Example: fer demo --run fer-demo")
def demo(
    run: RunDir = Path("fer-demo"),
    seed: Seed = 0,
    device: Device = "auto",
    force: Force = False,
) -> None:
    """Run the whole pipeline on synthetic furniture and explain one mistake."""
    from fer_cli.artifacts import choose_device
    from fer_cli.cli.demo import run_demo
    from fer_cli.cli.terminal import TrainingView, console, training_bar
    from fer_cli.reports.page import write_report
    from fer_cli.reports.report import terminal_report

    chosen = choose_device(device)
    with training_bar() as bar:
        result = run_demo(
            run,
            seed=seed,
            device=chosen,
            force=force,
            announce=lambda stage: console.print(f"[bold]{stage}[/bold]", soft_wrap=True),
            training_report=TrainingView(bar, chosen),
        )
    report = write_report(result.diagnosis, run / "explain" / file_name(result.diagnosis.sample))
    print_rich(terminal_report(result.diagnosis))
    print_line(
        f"accuracy on {result.evaluation['n']} test shapes {result.evaluation['accuracy']:.3f}, "
        f"{result.evaluation['n_errors']} mistakes"
    )
    print_line(f"{result.diagnosis.label} taken for {result.diagnosis.predicted}; report: {report.resolve()}")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fer {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Explains how a 3D convolutional network recognises a shape, and why it fails."""


def main() -> NoReturn:
    """Run the command line; every error ends as one line on stderr and an exit code."""
    keep_freed_memory()
    set_imports_aside()
    allow_deferring()
    endings.run(_invoke)


def _invoke() -> object:
    """The exit code that typer gives, if any; its own errors become those of fer."""
    try:
        return app(standalone_mode=False)
    except typer.TyperException as error:  # unknown command or option, value that does not parse
        message = getattr(error, "format_message", error.__str__)().replace(": Value error, ", ": ")
        if not message:  # `fer` alone, which has shown the help
            return UsageError.exit_code
        end = "" if message.endswith((".", "?")) else "."
        command = f"fer {name} --help" if (name := _command_of(error)) else "fer --help"
        raise UsageError(f"{message}{end} Try '{command}'.") from error
    except typer.Abort as error:
        raise KeyboardInterrupt from error


def _command_of(error: typer.TyperException) -> str | None:
    """The command whose words were wrong, or None where it is none of fer's."""
    context = getattr(error, "ctx", None)
    return context.info_name if context and context.parent else None
