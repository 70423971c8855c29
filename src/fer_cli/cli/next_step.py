"""The command that comes next, as a user can copy it: each stage ends by printing it."""

from collections.abc import Mapping
from pathlib import Path

import typer

from fer_cli.storage.run_paths import next_command


def tell_next(*words: str, run: Path, files: Mapping[str, Path | None] | None = None) -> None:
    """Print `fer` with these words, the user's own --run, and the artifacts in `files` that lie outside it."""
    from fer_cli.reports.tables import printable

    typer.echo(printable(f"Next: {next_command(*words, run=run, files=files)}"))
