"""A GPU that is not there: real tensors of the CPU, each labelled with the device that it would be on.

`pretended()` is a block in which `cuda` can be used. Every operation runs on the CPU, so that results are right, and
fails with PyTorch's words where it would fail on a GPU: tensors of two devices in one operation, `numpy()` of a tensor
on the GPU, a generator of the wrong device. What PyTorch allows is allowed: copies, tensors without axes from the CPU
in operations element by element, and indices from the CPU. Operations for which the host would wait are counted.

A label is an attribute of the storage, which all views share and which lasts as long as the storage does.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
_aten = torch.ops.aten
_COPIES = {_aten.copy_, _aten._to_copy, _aten._copy_from}
_INDEXED = {_aten.index, _aten.index_put, _aten.index_put_, _aten._index_put_impl_, _aten._unsafe_index}
_TAKE_NUMBERS = {_aten.fill_, _aten.fill, _aten.masked_fill, _aten.masked_fill_, _aten.where, _aten.lerp, _aten.lerp_}
_WAITS = {
    _aten._local_scalar_dense,
    _aten.nonzero,
    _aten.masked_select,
    _aten.equal,
    _aten.is_nonzero,
    _aten._unique2,
    _aten.unique_dim,
    _aten.unique_consecutive,
    _aten.bincount,
    _aten.repeat_interleave,
}
_TO_NUMPY = {Tensor.numpy, Tensor.__array__}


class MixedDevicesError(RuntimeError):
    """What a GPU would refuse."""


@dataclass
class Waits:
    """How often the host waited for the device, by what it waited for; and whether it may."""

    counts: Counter[str] = field(default_factory=Counter)

    def add(self, what: str) -> None:
        self.counts[what] += 1

    @property
    def total(self) -> int:
        return self.counts.total()


def device_of(tensor: Tensor) -> torch.device:
    """The device that a tensor pretends to be on."""
    if tensor.device.type != "cpu":
        return tensor.device
    return getattr(tensor.untyped_storage(), "pretended", CPU)


def _label(tensor: Tensor, device: torch.device) -> Tensor:
    if tensor.device.type == "cpu":
        tensor.untyped_storage().pretended = device
    return tensor


def _storage(tensor: Tensor) -> int:
    """What views share."""
    return tensor.untyped_storage()._cdata


def _named(device: Any) -> torch.device:
    found = torch.device(device)
    return CUDA if found.type == "cuda" else found


def _tensors(*values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _is_pinned(tensor: Tensor) -> bool:
    return getattr(tensor.untyped_storage(), "pinned", False)


class Generator(torch.Generator):
    """A generator that pretends to be a device's."""

    def __new__(cls, device: Any = "cpu") -> "Generator":
        made = super().__new__(cls, "cpu")
        made.pretended = _named(device)
        return made

    @property
    def device(self) -> torch.device:
        return self.pretended


class _Functions(TorchFunctionMode):
    """What programs see and ask for: a tensor's device, moves to a device, new tensors on one."""

    def __init__(self, operations: "_Operations", waits: Waits) -> None:
        super().__init__()
        self._operations, self._waits = operations, waits

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        given: dict[str, Any] = dict(kwargs or {})
        own = args[0] if args and isinstance(args[0], Tensor) else None
        if func == Tensor.device.__get__:
            return device_of(own)
        if func == Tensor.is_cuda.__get__:
            return device_of(own).type == "cuda"
        if func is Tensor.cpu:
            return self._moved(own, CPU)
        if func is Tensor.cuda:
            return self._moved(own, CUDA, non_blocking=given.get("non_blocking", False))
        if func is Tensor.to:
            return self._to(own, *args[1:], **given)
        if func is Tensor.pin_memory:
            return self._pinned(own)
        if func is Tensor.is_pinned:
            return _is_pinned(own)
        if func in _TO_NUMPY and device_of(own).type == "cuda":
            raise TypeError(
                "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory "
                "first."
            )
        if func is Tensor.tolist and device_of(own).type == "cuda":
            self._waits.add("tolist")
        return self._called(func, args, given, own)

    def _called(self, func: Callable[..., Any], args: Sequence[Any], given: dict[str, Any], own: Tensor | None) -> Any:
        """Any other function; one with `device=` makes a tensor there."""
        tensors = _tensors(args, given)
        wanted = None
        if given.get("device") is not None and not isinstance(given["device"], int):
            wanted = _named(given["device"])
            if wanted.type == "cuda":
                given["device"] = CPU
        at = wanted or next((device_of(t) for t in tensors if device_of(t).type == "cuda"), CPU)
        self._check_generator(given.get("generator"), at)
        before, self._operations.around = self._operations.around, at
        try:
            result = func(*args, **given)
        finally:
            self._operations.around = before
        if wanted is not None and wanted.type in ("cuda", "cpu"):
            for tensor in _tensors(result):
                if own is None or _storage(tensor) != _storage(own):
                    _label(tensor, wanted)
        elif func in (Tensor.__deepcopy__, Tensor.new_tensor):
            _label(result, device_of(own))
        return result

    def _check_generator(self, generator: Any, at: torch.device) -> None:
        if generator is not None and generator.device.type != at.type:
            raise MixedDevicesError(
                f"Expected a '{at.type}' device type for generator but found '{generator.device.type}'"
            )

    def _to(self, own: Tensor, *args: Any, **given: Any) -> Tensor:
        copy = given.pop("copy", False)
        if args and isinstance(args[0], Tensor):
            device, dtype, non_blocking, layout = device_of(args[0]), args[0].dtype, False, None
        else:
            device, dtype, non_blocking, layout = torch._C._nn._parse_to(*args, **given)
        return self._moved(own, device, dtype, non_blocking, layout, copy)

    def _moved(
        self,
        own: Tensor,
        device: torch.device | None,
        dtype: torch.dtype | None = None,
        non_blocking: bool = False,
        layout: torch.memory_format | None = None,
        copy: bool = False,
    ) -> Tensor:
        here = device_of(own)
        there = here if device is None else _named(device)
        if there.type == "meta" or here.type == "meta":
            return own.to(there, dtype or own.dtype)
        format_of = {} if layout is None else {"memory_format": layout}
        if there == here:
            return own.to(dtype or own.dtype, copy=copy, **format_of)
        self._operations.crossed(own, there, non_blocking)
        return _label(own.to(dtype or own.dtype, copy=True, **format_of), there)

    def _pinned(self, own: Tensor) -> Tensor:
        if device_of(own).type != "cpu":
            raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")
        pinned = own.clone()
        pinned.untyped_storage().pinned = True
        return pinned


class _Operations(TorchDispatchMode):
    """Every operation that is computed, in backward passes too: its tensors are on one device, or it fails."""

    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self._waits = waits
        self.around = CPU
        """Where the function that is under way computes, and what it makes on the way is."""

    def crossed(self, source: Tensor, target: torch.device, non_blocking: bool) -> None:
        """Take down a copy from one device to another."""
        if device_of(source).type == "cuda":
            self._waits.add("copy to the host")
        elif target.type == "cuda" and source.dim() and not (non_blocking and _is_pinned(source)):
            self._waits.add("blocking copy to the device")

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        tensors = _tensors(args, given)
        at = self._device(func, args, tensors)
        result = func(*args, **given)
        if at.type == "cuda":
            known = {_storage(tensor) for tensor in tensors if tensor.device.type == "cpu"}
            for tensor in _tensors(result):
                if tensor.device.type == "cpu" and _storage(tensor) not in known:
                    _label(tensor, at)
        return result

    def _device(self, func: Any, args: Sequence[Any], tensors: Sequence[Tensor]) -> torch.device:
        """Where an operation computes. Raises MixedDevicesError where it could not."""
        packet = func.overloadpacket
        if packet in _COPIES:
            if packet is _aten.copy_ and device_of(args[0]) != device_of(args[1]):
                self.crossed(args[1], device_of(args[0]), len(args) > 2 and args[2])
            return device_of(args[0])
        if any(tensor.device.type == "meta" for tensor in tensors):
            return torch.device("meta")
        if not tensors:
            return self.around if self.around.type == "cuda" else CPU
        if packet in _INDEXED:
            indices = _tensors(args[1])
            if device_of(args[0]).type == "cuda" and any(
                device_of(index).type == "cpu" or index.dtype in (torch.bool, torch.uint8) for index in indices
            ):
                self._waits.add(f"{packet.__name__} by a mask or indices of the host")
            tensors = [args[0], *_tensors(args[2:]), *(i for i in indices if device_of(i).type == "cuda")]
        if packet.__name__.startswith("_foreach"):  # row by row where devices differ
            for row in zip(*(arg for arg in args if isinstance(arg, list | tuple)), strict=True):
                if len({device_of(tensor) for tensor in _tensors(row)}) > 1:
                    raise MixedDevicesError(f"{func}: " + ", ".join(str(device_of(t)) for t in _tensors(row)))
            return device_of(tensors[0])
        at = next((device_of(tensor) for tensor in tensors if device_of(tensor).type == "cuda"), CPU)
        numbers = packet in _TAKE_NUMBERS or packet in _INDEXED or torch.Tag.pointwise in func.tags
        for tensor in tensors:
            here = device_of(tensor)
            if here != at and not (here == CPU and tensor.dim() == 0 and numbers):
                raise MixedDevicesError(
                    f"Expected all tensors to be on the same device, but found at least two devices, {at} and {here}, "
                    f"in {func}: " + ", ".join(f"{tuple(t.shape)} on {device_of(t)}" for t in tensors)
                )
        if at.type == "cuda" and packet in _WAITS:
            self._waits.add(packet.__name__)
        return at


def _grouped(lists: Sequence[Sequence[Tensor | None]], with_indices: bool = False) -> Any:
    """`torch.utils._foreach_utils._group_tensors_by_device_and_dtype` by pretended devices."""
    groups: dict[Any, tuple[list[list[Tensor | None]], list[int]]] = {}
    for at, first in enumerate(lists[0]):
        columns, rows = groups.setdefault((device_of(first), first.dtype), ([[] for _ in lists], []))
        for column, each in zip(columns, lists, strict=True):
            if each:
                column.append(each[at])
        rows.append(at)
    return groups


class _Autocast(torch.autocast):
    """Mixed precision of the pretended device is that of the CPU."""

    def __init__(self, device_type: str, *args: Any, **given: Any) -> None:
        super().__init__("cpu" if device_type == "cuda" else device_type, *args, **given)


@contextmanager
def pretended() -> Iterator[Waits]:
    """A block in which there is a GPU."""
    waits = Waits()
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "device_count", lambda: 1)
        patch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
        patch.setattr(torch.cuda, "mem_get_info", lambda *_: (1 << 30, 1 << 31))
        patch.setattr(torch.cuda, "get_rng_state", lambda *_: torch.zeros(16, dtype=torch.uint8))
        patch.setattr(torch.cuda, "set_rng_state", lambda *_: None)
        patch.setattr(torch.cuda, "synchronize", lambda *_: None)
        patch.setattr(torch, "autocast", _Autocast)
        patch.setattr(torch, "Generator", Generator)
        for module in (_foreach_utils, torch.nn.utils.clip_grad):
            patch.setattr(module, "_group_tensors_by_device_and_dtype", _grouped)
        operations = _Operations(waits)
        stack.enter_context(_Functions(operations, waits))
        stack.enter_context(operations)
        yield waits
