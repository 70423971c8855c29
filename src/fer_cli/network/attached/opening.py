"""What the user named → a module with its weights, ready to attach; and the permissions that go with it."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import nn

from fer_cli.errors import FerError, UsageError, is_out_of_memory
from fer_cli.network.attached.forms import parse_network
from fer_cli.network.attached.hooks import unwrapped
from fer_cli.network.attached.model_file import Origin, is_attached, read_origin, read_spec
from fer_cli.network.attached.permission import Recorded, allow, require_named
from fer_cli.network.attached.source import Source
from fer_cli.network.attached.undisturbed import called, home, undisturbed
from fer_cli.network.attached.weights_file import fit_state, read_state, weights_digest
from fer_cli.storage.artifact import open_artifact
from fer_cli.storage.schema import MODEL


@dataclass(frozen=True)
class OpenedClassifier:
    """A classifier as the user named it; `allow` lets later commands build it again, `notes` are worth saying."""

    module: nn.Module
    origin: Origin
    source: Source
    allow: Callable[[], None]
    notes: tuple[str, ...]


def open_classifier(
    network: str, *, kwargs: str | None, weights: Path | None, transform: str | None, device: torch.device
) -> OpenedClassifier:
    """Build the network that `network` names, with the weights of a file, on the device and in evaluation mode.

    Runs the user's code. Raises UsageError and InputError for names, arguments and weights that do not fit.
    """
    _refuse_files(network)
    source = parse_network(network, kwargs)
    prepare = None if transform is None else Source.parse(transform)
    weights = weights or source.weights
    state = None if weights is None else read_state(weights)
    module = unwrapped(source.build())
    notes = []
    if state is not None and weights is not None:
        prefix = fit_state(module, state, weights)
        if prefix:
            notes.append(f"{weights}: names fit without the prefix {prefix!r}")
    try:
        module = module.to(device).eval().requires_grad_(False)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise UsageError(f"the network does not fit in the memory of {device}. Give --device cpu.") from error
    recorded = Recorded(source, source.digest())
    used = [(recorded, source)]
    origin = Origin(
        recorded, None if weights is None else weights.resolve(), "" if weights is None else weights_digest(weights)
    )
    if prepare is not None:
        prepare.resolve()
        recorded_transform = Recorded(prepare, prepare.digest())
        used.append((recorded_transform, prepare))
        origin = replace(origin, transform=recorded_transform)

    def allow_all() -> None:
        for wanted, by in used:
            allow(wanted, by)

    return OpenedClassifier(module, origin, source, allow_all, tuple(notes))


class Allowed(TypedDict):
    """A callable that was allowed, and the files of its code."""

    where: str
    name: str
    kwargs: Mapping[str, Any]
    files: list[str]


def allow_artifact(path: Path, *, network: str | None, transform: str | None) -> list[Allowed]:
    """Allow the code that a model.h5 names to run in its present version; returns what was allowed.

    `network` and `transform` name the callables; without them, those that this user named before on this machine are
    meant. Builds the network with the arguments of the artifact and runs it once, to see what it imports.

    Raises UsageError where the artifact is of no attached network, or names code that is not here or was never named.
    """
    with open_artifact(path, MODEL) as artifact, artifact.interpreted():
        if not is_attached(artifact.config):
            raise UsageError(f"{path} holds its own classifier and needs no code.")
        origin = read_origin(artifact)
    allowed: list[Allowed] = []
    for wanted, option, named in (
        (origin.recorded, "--network", network),
        (origin.transform, "--transform", transform),
    ):
        if wanted is None:
            if named is not None:
                raise UsageError(f"{path} records no such code; it needs none.")
            continue
        if named is None:
            require_named(wanted, path, option)
        source = wanted.source if named is None else replace(parse_network(named), kwargs=wanted.source.kwargs)
        if not source.exists:
            raise UsageError(f"{source.where} is not here. Say where it is: {option} {source.label}.")
        if wanted is origin.recorded:
            _run_once(source, path)
        else:
            source.resolve()
        allow(wanted, source)
        allowed.append(
            {
                "where": source.where,
                "name": source.name,
                "kwargs": dict(source.kwargs),
                "files": [str(file) for file in source.files()],
            }
        )
    if not allowed:
        raise UsageError(
            f"{path} was attached from Python to a network in memory; it names no code. Open it by fer_cli.load_run."
        )
    return allowed


def _run_once(source: Source, path: Path) -> None:
    """Build the network of a model.h5 and give it noise, so that it imports what it imports; it may answer anything."""
    module = unwrapped(source.build())
    with open_artifact(path, MODEL) as artifact, artifact.interpreted():
        volume = read_spec(artifact).input.volume
    with suppress(FerError), undisturbed(module, importing=source.importing), torch.no_grad():
        called(module, torch.rand(2, *volume).to(*home(module)))


def _refuse_files(network: str) -> None:
    """Raise UsageError with the way out for a file that is no code."""
    suffix = Path(network).suffix.lower()
    ways = {
        ".onnx": "an ONNX graph has no modules to tap; give the PyTorch code it was exported from",
        ".pt": "a checkpoint holds weights, not the network; give PATH.py:callable and this file by --weights",
        ".pth": "a checkpoint holds weights, not the network; give PATH.py:callable and this file by --weights",
        ".ckpt": "a checkpoint holds weights, not the network; give PATH.py:callable and this file by --weights",
        ".safetensors": "a checkpoint holds weights, not the network; give PATH.py:callable and this file by --weights",
    }
    if suffix in ways:
        raise UsageError(f"{network}: {ways[suffix]}.")
