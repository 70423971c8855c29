"""The command that comes next, as a user can copy it: each stage ends by printing it."""

import shlex
from collections.abc import Mapping
from pathlib import Path

import typer

from fer_cli.cli.options import DEFAULT_RUN


def tell_next(*words: str, run: Path, files: Mapping[str, Path | None] | None = None) -> None:
    """Print `fer` with these words, the user's own --run, and the artifacts in `files` that lie outside it."""
    from fer_cli.reports.tables import printable

    typer.echo(printable(f"Next: {next_command(*words, run=run, files=files)}"))


def next_command(*words: str, run: Path, files: Mapping[str, Path | None] | None = None) -> str:
    """The same command as a shell takes it; `files` are by the name of the option, None where it was not given."""
    options = [] if run == DEFAULT_RUN else ["--run", str(run)]
    for name, path in (files or {}).items():
        options += [] if path is None else [f"--{name}", str(path)]
    return shlex.join(["fer", *words, *options])
