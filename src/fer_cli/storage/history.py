"""A training history as the CSV that a model or checkpoint keeps, and back."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, fields

import numpy as np

from fer_cli.errors import ArtifactError
from fer_cli.execution.progress import EpochRecord
from fer_cli.storage.artifact import Artifact
from fer_cli.storage.artifact_writer import ArtifactWriter

_COLUMNS = [field.name for field in fields(EpochRecord) if field.name != "seconds"]


def write_history(writer: ArtifactWriter, history: Sequence[EpochRecord]) -> None:
    """Write the history as CSV, one line an epoch; the wall times go apart, since they are no part of the result."""
    text = io.StringIO()
    table = csv.DictWriter(text, _COLUMNS, extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    table.writerows(asdict(record) for record in history)
    writer.write("history", text.getvalue().splitlines())
    writer.write("seconds", np.array([record.seconds for record in history], dtype=np.float64))


def read_history(artifact: Artifact) -> list[EpochRecord]:
    """The history of a model or checkpoint. Raises ArtifactError where it is no such table."""
    try:
        rows = list(csv.DictReader(artifact.read_text("history")))
        seconds = artifact.read("seconds").tolist()
        return [_record(row, duration) for row, duration in zip(rows, seconds, strict=True)]
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise ArtifactError(
            f"{artifact.path} is damaged: its history cannot be read ({error}). Run 'fer train' again."
        ) from error


def _record(row: dict[str, str], seconds: float) -> EpochRecord:
    numbers = {name: float(row[name]) if row[name] else None for name in _COLUMNS[2:]}
    if strange := [name for name, number in numbers.items() if number is not None and not math.isfinite(number)]:
        raise ValueError(f"{strange[0]} is {numbers[strange[0]]}")
    return EpochRecord(phase=row["phase"], epoch=int(row["epoch"]), **numbers, seconds=seconds)  # type: ignore[arg-type]
