"""What this machine's user lets fer run: a record of callables, by the content of their code.

An artifact names a callable, but never makes fer import it. `fer attach` and `fer allow` write an entry here, because a
user named the callable; a later command imports it only where an entry has the same path, content, name and arguments.
The record is a JSON file in the user's configuration folder.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from fer_cli.errors import InputError, UsageError
from fer_cli.network.attached.forms import source_of
from fer_cli.network.attached.own_code import file_digest
from fer_cli.network.attached.source import Source
from fer_cli.storage.declarations import Json

_MOST_ENTRIES = 1000


@dataclass(frozen=True)
class Recorded:
    """What an artifact says of its network's callable; `digest` is `Source.digest` when it was attached."""

    source: Source
    digest: str

    def to_json(self) -> dict[str, object]:
        """As plain JSON values."""
        return {**vars(self.source), "digest": self.digest}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Recorded":
        """From JSON values. Raises KeyError or TypeError where they do not fit."""
        where, name, digest = (str(value[key]) for key in ("where", "name", "digest"))
        return cls(source_of(where, name, dict(value["kwargs"])), digest)


def record_path() -> Path:
    """Where the permissions are: `fer/allowed.json` in `XDG_CONFIG_HOME`, by default `~/.config`."""
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "fer" / "allowed.json"


def allow(wanted: Recorded, source: Source) -> None:
    """Note that the user lets `source`, with the code that it has now, build what an artifact recorded as `wanted`.

    `source` must have been built, or resolved where it is not to be built. Raises InputError where the record
    cannot be written.
    """
    path = record_path()
    entry = {
        "for": _key(wanted),
        **vars(source),
        "files": {str(file): digest for file, digest in source.files().items()},
    }
    kept = [known for known in _entries(path) if (known["for"], known["where"]) != (entry["for"], entry["where"])]
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    with _writing(path):
        partial.write_text(json.dumps([*kept, entry][-_MOST_ENTRIES:], indent=1), encoding="utf-8")
        partial.chmod(0o600)
        partial.replace(path)


def require_writable() -> None:
    """Raise InputError where `allow` could not write its record."""
    with _writing(record_path()), TemporaryFile(dir=record_path().parent):
        pass


def permitted(wanted: Recorded, artifact: Path) -> Source:
    """The callable that may build the network of an artifact: allowed here, and its code unchanged since.

    Nothing is imported. Raises UsageError that says how to allow it.
    """
    changed = None
    for entry in reversed(_entries(record_path())):
        if entry["for"] != _key(wanted):
            continue
        differing = [path for path, digest in entry["files"].items() if file_digest(Path(path)) != digest]
        if not differing:
            allowed = {Path(path): digest for path, digest in entry["files"].items()}
            return source_of(entry["where"], entry["name"], entry["kwargs"], allowed)
        changed = differing[0]
    if changed is not None:
        raise UsageError(
            f"{changed} is not the code that was allowed for {artifact}: it has changed, or is gone. Read it, then run "
            f"'fer allow {artifact}', or attach again."
        )
    raise UsageError(
        f"{artifact} is of a network that {wanted.source.call} builds, code that was not allowed on this machine. Read "
        f"it; if you trust it with these arguments, run 'fer allow {artifact} --network {wanted.source.label}'."
    )


def require_named(wanted: Recorded, artifact: Path, option: str) -> None:
    """Raise UsageError unless the user once named this callable with these arguments on this machine.

    An artifact's word alone makes nothing run: it may name any callable, with any arguments.
    """
    source = wanted.source
    known = ((e["where"], e["name"], e["kwargs"]) for e in _entries(record_path()))
    if (source.where, source.name, dict(source.kwargs)) not in known:
        raise UsageError(
            f"{artifact} asks for {source.call}, which you have not named on this machine. Read it; if you trust it "
            f"with these arguments, name it: fer allow {artifact} {option} {source.label}"
        )


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        yield
    except OSError as error:
        raise InputError(f"{path}, the record of allowed networks, cannot be written: {error.strerror}.") from error


def _key(wanted: Recorded) -> str:
    """What has to be equal for two artifacts to want the same code: its content, the callable, the arguments."""
    parts = [wanted.digest, wanted.source.name, dict(wanted.source.kwargs)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _entries(path: Path) -> list[Json]:
    """The entries of the record; a file that is missing or damaged allows nothing."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return [entry for entry in entries if set(entry) >= {"for", "where", "name", "kwargs", "files"}]
    except (OSError, ValueError, TypeError):
        return []
