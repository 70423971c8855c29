"""Run somebody's module, and leave it and the process as they were.

Kept are modes, buffers, gradients, the set of parameters and buffers, the generators of random numbers and whether
gradients are computed. A module that writes to its parameters is refused: keeping a copy of all would be too dear.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

import torch
from torch import Tensor, nn

from fer_cli.errors import FerError, ResourceError, UsageError, is_out_of_memory, one_line
from fer_cli.execution.generators import unmoved_generators
from fer_cli.execution.interrupts import Interrupts


def home(module: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Device and precision of the first floating-point parameter or buffer: what the module reads."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            return tensor.device, tensor.dtype
    return torch.device("cpu"), torch.float32


def called(module: nn.Module, volumes: Tensor) -> Any:
    """What the module returns for a copy of the volumes, which it may write to.

    Raises ResourceError where memory does not suffice, UsageError that names the module's own error.
    """
    try:
        return module(volumes.clone())
    except FerError:
        raise
    except (Exception, SystemExit) as error:
        count = len(volumes)
        if is_out_of_memory(error):
            raise ResourceError(
                f"out of memory in the model with {count} volumes at once. Try --batch-size {max(2, count // 2)}, or "
                "another --device."
            ) from error
        said = one_line(str(error))[:300]
        sides = "×".join(map(str, volumes.shape[1:]))
        raise UsageError(
            f"the model does not read {count} volumes of {sides}: {type(error).__name__}: {said or 'no message'}"
        ) from error


Importing = Callable[[], AbstractContextManager[None]]
"""Gives a block in which the module's code may import its own; `Source.importing`."""


@contextmanager
def undisturbed(module: nn.Module, *, compared: bool = False, importing: Importing = nullcontext) -> Iterator[None]:
    """A block in which the module may run: in evaluation mode, its parameters without gradients, without autocast.

    `compared` looks for changed parameters by their values, which costs a copy of them. `importing` is for modules
    that import within `forward`.

    Raises UsageError for a module that writes to its parameters.
    """
    kept = _Kept(module, compared)
    with unmoved_generators(home(module)[0]):
        try:
            if any(part.training for part in module.modules()):
                module.eval()
            for parameter in kept.learnt:
                parameter.requires_grad_(False)
            with importing(), torch.autocast(home(module)[0].type, enabled=False):
                yield
        finally:
            with Interrupts(patient=True):
                written = kept.restore()
    if written:
        raise UsageError(
            f"the model writes to its parameter {written} in evaluation mode, so that passes change it. Do that "
            "before, such as by model.eval(), or keep what changes in a buffer."
        )


class _Kept:
    """What a module was like."""

    def __init__(self, module: nn.Module, compared: bool) -> None:
        self._gradients = torch.is_grad_enabled()
        self._parts = [
            (part, part.training, [dict(getattr(part, name)) for name in _TABLES]) for part in module.modules()
        ]
        self._buffers = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
        self._parameters = dict(module.named_parameters())
        self.learnt = [p for p in self._parameters.values() if p.requires_grad and not p.is_inference()]
        self._stored = {name: (p.data, _version(p), p.grad) for name, p in self._parameters.items()}
        self._copies = {name: p.detach().clone() for name, p in self._parameters.items()} if compared else {}

    def restore(self) -> str | None:
        """Put everything back; the name of a parameter that was written to, None if none was."""
        written = self._written()
        torch.set_grad_enabled(self._gradients)
        for part, training, tables in self._parts:
            if training and type(part).train is not nn.Module.train:
                with suppress(Exception):  # one that merges weights in evaluation mode takes them apart again
                    part.train()
            for name, table in zip(_TABLES, tables, strict=True):
                now = getattr(part, name)
                if list(map(id, now.values())) != list(map(id, table.values())) or list(now) != list(table):
                    now.clear()
                    now.update(table)
        for part, training, _ in self._parts:
            vars(part)["training"] = training  # some modules forbid to set attributes
        for buffer, content in self._buffers:
            if not is_same(buffer, content):
                _refill(buffer, content)
        for name, parameter in self._parameters.items():
            data, _, gradient = self._stored[name]
            if parameter.data_ptr() != data.data_ptr():
                parameter.data = data
            if name in self._copies and not is_same(parameter, self._copies[name]):
                _refill(parameter, self._copies[name])
            if parameter.grad is not gradient:
                parameter.grad = gradient
        for parameter in self.learnt:
            parameter.requires_grad_()
        return written

    def _written(self) -> str | None:
        for name, parameter in self._parameters.items():
            data, version, _ = self._stored[name]
            copied = name not in self._copies or is_same(parameter, self._copies[name])
            if parameter.data_ptr() != data.data_ptr() or _version(parameter) != version or not copied:
                return name
        return None


_TABLES = ("_parameters", "_buffers", "_modules")


def is_same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same bytes; true of sparse ones and others that have none."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    try:
        return torch.equal(_bytes(one), _bytes(other))
    except (RuntimeError, NotImplementedError):
        return True


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().reshape(-1).contiguous().view(torch.uint8)


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version


@torch.inference_mode()
def _refill(tensor: Tensor, content: Tensor) -> None:
    if tensor.shape != content.shape:
        tensor.resize_(content.shape)
    tensor.copy_(content)
