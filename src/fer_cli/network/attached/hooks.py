"""Run somebody's module with its activations captured or replaced, and leave it as it was.

A tap is one call of one module in a forward pass, by the module's name and the call's number. Forward hooks read and
replace outputs, so that no graph of the model is needed. Source: activation patching as in Meng et al., "Locating and
Editing Factual Associations in GPT", 2022.
"""

import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fer_cli.data.places import Location
from fer_cli.errors import UsageError
from fer_cli.network.attached.undisturbed import called


@dataclass(frozen=True, order=True)
class Tap:
    """The output of the call `call`, counted from 0, of the module called `module` in one forward pass."""

    module: str
    call: int = 0

    @property
    def name(self) -> str:
        """The name of the level: the module's, with `#call` from the second call on."""
        return f"{self.module}#{self.call}" if self.call else self.module

    @classmethod
    def parse(cls, name: str) -> "Tap":
        """The tap of a name that `name` gave."""
        module, _, call = name.partition("#")
        return cls(module, int(call) if call.isdigit() else 0)


@dataclass
class Pass:
    """What a forward pass gave: the model's own return value, and the tapped activations."""

    returned: Any
    features: dict[Tap, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Call:
    """One call of a module, in order of completion.

    `tensor` is its output where that is one tensor, `read` the input of a Linear.
    """

    tap: Tap
    module: nn.Module
    tensor: Tensor | None
    read: Tensor | None


def unwrapped(module: Any) -> nn.Module:
    """The module inside DataParallel, DistributedDataParallel and torch.compile.

    Hooks on a compiled module never fire after its first call, and DataParallel copies modules without them.

    Raises UsageError for what is no module, lazy parameters without a shape, and modules that cannot be tapped.
    """
    if not isinstance(module, nn.Module):
        given = "a class; give an instance" if isinstance(module, type) else f"a {type(module).__name__}"
        raise UsageError(f"a torch.nn.Module is needed, not {given}.")
    lazy = [name for name, each in (*module.named_parameters(), *module.named_buffers()) if is_lazy(each)]
    if lazy:
        raise UsageError(f"{lazy[0]} has no shape yet. Run the network once on a volume before you give it.")
    for part in module.modules():
        if isinstance(part, torch.jit.ScriptModule):
            raise UsageError("modules of TorchScript take no hooks. Give the PyTorch module that it was made from.")
        if ".quantized" in type(part).__module__:
            raise UsageError("quantised modules cannot be tapped. Give the network as it was before, in float32.")
    while True:
        inside = getattr(module, "_orig_mod", None)  # torch.compile
        if inside is None and isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inside = module.module
        if not isinstance(inside, nn.Module):
            return module
        module = inside


def run_tapped(module: nn.Module, volumes: Tensor, wanted: frozenset[Tap], patch: Mapping[Tap, Tensor] = {}) -> Pass:
    """One forward pass: the activations `wanted`, and those of `patch` in the place of the model's own.

    Activations are captured as float32 copies, since a later in-place operation overwrites the original; gradients
    pass. The module must be in evaluation mode. Hooks are removed at the end, also after an error.
    """
    names = {tap.module for tap in (*wanted, *patch)}
    calls = dict.fromkeys(names, 0)
    found: dict[Tap, Tensor] = {}

    def hook_of(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> Any:
            tap = Tap(name, calls[name])
            calls[name] += 1
            replaced = patch.get(tap)
            if replaced is not None:
                output = shaped_as(replaced, output)
            if tap in wanted:
                found[tap] = replaced if replaced is not None else output.clone().float()
            return output if replaced is not None else None

        return hook

    with ExitStack() as stack:
        for name in names:
            # Last of all hooks: what the user's own hooks make of the output is what the model goes on with.
            stack.callback(module.get_submodule(name).register_forward_hook(hook_of(name)).remove)
        returned = called(module, volumes)
    return Pass(returned, found)


def as_map(output: Tensor, shape: Location) -> Tensor:
    """A module's output as a feature (sample, filter, x, y, z).

    Tokens (sample, token, filter) fill the map in order, z fastest; those before them, such as a class token, are left.
    """
    if output.ndim == 3:
        output = output[:, output.shape[1] - math.prod(shape) :].transpose(1, 2)
    return output.reshape(len(output), -1, *shape)


def shaped_as(feature: Tensor, output: Tensor) -> Tensor:
    """A feature (sample, filter, x, y, z) as a copy in the shape, precision and memory format of a module's output.

    Of tokens, those that are not of the map stay the output's own.
    """
    if output.ndim == 3 and feature.ndim == 5:
        tokens = feature.to(output.dtype).flatten(2).transpose(1, 2)
        return torch.cat([output[:, : output.shape[1] - tokens.shape[1]], tokens], dim=1)
    replaced = feature.to(output.dtype).reshape(output.shape)
    if output.ndim == 5 and output.is_contiguous(memory_format=torch.channels_last_3d):
        return replaced.contiguous(memory_format=torch.channels_last_3d).clone(memory_format=torch.preserve_format)
    return replaced.clone(memory_format=torch.contiguous_format)


def record_calls(module: nn.Module, volumes: Tensor) -> tuple[list[Call], Any]:
    """Every call of every submodule in one forward pass, in order of completion; and what the model returned."""
    calls: list[Call] = []
    counts: dict[str, int] = {}

    def hook_of(name: str) -> Any:
        def hook(part: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            tap = Tap(name, counts.get(name, 0))
            counts[name] = tap.call + 1
            tensor = output.detach().clone() if isinstance(output, Tensor) else None
            read = inputs[0].detach().clone() if isinstance(part, nn.Linear) and inputs else None
            calls.append(Call(tap, part, tensor, read))

        return hook

    with ExitStack() as stack:
        for name, part in module.named_modules():
            if name:
                stack.callback(part.register_forward_hook(hook_of(name)).remove)
        with torch.no_grad():
            returned = called(module, volumes)
    return calls, returned
