"""A program of `torch.export` (.pt2) as a network: its modules have the names that they had, and take hooks.

Loading one unpickles its example inputs and evaluates its expressions, so that it is code, trusted like a .py file.
"""

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule

from fer_cli.data.formats.volume import reading
from fer_cli.errors import InputError, UsageError
from fer_cli.network.attached.own_code import Root, file_digest, note
from fer_cli.network.attached.source import Source

SUFFIX = ".pt2"
_TRAINING = {"train", "training", "is_training"}
_EXPORT = "torch.export.export(model.eval(), (volumes,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))"


class ExportedProgram(Source):
    """A .pt2 file: `where` is its resolved path, `name` is empty and `kwargs` too."""

    @classmethod
    def parse(cls, given: str, kwargs: str | None = None) -> "ExportedProgram":
        """What a user gave for MODEL. Raises UsageError for arguments, InputError for a file that is not there."""
        if kwargs:
            raise UsageError(f"{given} is an exported program, which takes no --kwargs.")
        path = Path(given).expanduser()
        if not path.is_file():
            raise InputError(f"{given[:300]}: there is no such file.")
        return cls(str(path.resolve()), "", {})

    @property
    def exists(self) -> bool:
        """See `Source.exists`."""
        return Path(self.where).is_file()

    @property
    def call(self) -> str:
        """See `Source.call`."""
        return str(self)

    @property
    def label(self) -> str:
        """See `Source.label`."""
        return f"PATH/{Path(self.where).name}"

    def __str__(self) -> str:
        return self.where

    def resolve(self) -> Any:
        """See `Source.resolve`; there is nothing to import."""
        return self.build

    def build(self) -> nn.Module:
        """The program's modules. Runs code of the file.

        Raises InputError for a file that cannot be read or is damaged, UsageError for a program that was exported in
        training mode, for one number of samples alone, or with several inputs.
        """
        path = Path(self.where)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}.") from error
        note(self._root, path, hashlib.sha256(content).hexdigest(), self.allowed)
        with self.importing(), reading(str(path), "torch.export", "torch.export"):
            program = torch.export.load(io.BytesIO(content))
            _require_usable(program, path)
            module: nn.Module = torch.export.unflatten(program)
        return module

    def files(self) -> dict[Path, str]:
        """See `Source.files`: the program itself."""
        return {Path(self.where): file_digest(Path(self.where))}

    @property
    def _root(self) -> Root:
        return self.where  # a text, and not the path: no module is looked for in its folder


def _require_usable(program: torch.export.ExportedProgram, path: Path) -> None:
    """Raise UsageError for a program that cannot be tapped as a frozen classifier of any number of volumes."""
    for graph in [part for part in program.graph_module.modules() if isinstance(part, GraphModule)]:
        for node in graph.graph.nodes:
            if node.op == "call_function" and _trains(node.target, node.args, node.kwargs):
                raise UsageError(
                    f"{path} was exported in training mode: its {node.target} draws or learns in every pass. Export it "
                    f"again after model.eval(): {_EXPORT}."
                )
    wanted = set(program.graph_signature.user_inputs)
    inputs = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in wanted]
    if len(inputs) != 1 or not isinstance(inputs[0], torch.Tensor):
        raise UsageError(f"{path} takes {len(inputs)} inputs; a network of one tensor of volumes is needed.")
    count = inputs[0].shape[0] if inputs[0].ndim else 0
    if isinstance(count, int):
        raise UsageError(
            f"{path} was exported for batches of {count} alone, and fer reads batches of other sizes. Export it again "
            f"for any number: {_EXPORT}."
        )


def _trains(target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether an operation is called in its training mode."""
    schema = getattr(target, "_schema", None)
    if schema is None:
        return False
    given = dict(zip((argument.name for argument in schema.arguments), args, strict=False)) | dict(kwargs)
    return any(given.get(name) is True for name in _TRAINING)
