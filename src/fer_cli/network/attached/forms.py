"""What can stand for a network's code: a callable, a program of `torch.export`, a MONAI bundle."""

import os.path
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fer_cli.network.attached.bundle import Bundle
from fer_cli.network.attached.exported import SUFFIX, ExportedProgram
from fer_cli.network.attached.source import Source


def parse_network(given: str, kwargs: str | None = None) -> Source:
    """What a user gave for MODEL and `--kwargs`. Raises UsageError or InputError where that is none of the forms."""
    if given.lower().endswith(SUFFIX):
        return ExportedProgram.parse(given, kwargs)
    if any(os.path.isdir(os.path.expanduser(folder)) for folder in (given, given.rpartition(":")[0])):  # noqa: PTH111, PTH112
        return Bundle.parse(given, kwargs)
    return Source.parse(given, kwargs)


def source_of(where: str, name: str, kwargs: Mapping[str, Any], allowed: Mapping[Path, str] | None = None) -> Source:
    """The code that a record names, in the form that its place tells: it is neither looked for nor run."""
    if where.lower().endswith(SUFFIX):
        return ExportedProgram(where, name, kwargs, allowed)
    if not where.endswith(".py") and Path(where).is_absolute():
        return Bundle(where, name, kwargs, allowed)
    return Source(where, name, kwargs, allowed)
