"""Mixed precision where it is both quick and right.

oneDNN computes PyTorch's convolutions on CPUs. In bfloat16 its values, or its gradients of the weights, are wrong
where a map is hardly larger than the kernel, and where a single filter comes out (torch 2.13 with AVX-512 BF16 or AMX;
docs/adr/0027). Such convolutions are computed in float32.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_TRANSPOSED = (torch.conv_transpose3d, functional.conv_transpose3d)
_CONVOLUTIONS = (torch.conv3d, functional.conv3d, *_TRANSPOSED)


@contextmanager
def mixed_precision(device: torch.device) -> Iterator[None]:
    """bfloat16 where the hardware has it; elsewhere, and in convolutions that would come out wrong, float32.

    GPUs older than Ampere only emulate bfloat16, and half precision would want scaled losses.
    """
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        with torch.autocast("cuda", torch.bfloat16):
            yield
    elif device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        with torch.autocast("cpu", torch.bfloat16), _ExactConvolutions():
            yield
    else:
        yield


class _ExactConvolutions(TorchFunctionMode):
    """Computes 3D convolutions in float32 where bfloat16 is not to be trusted."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        given: Mapping[str, Any] = kwargs or {}
        if func not in _CONVOLUTIONS or is_safe(*args, transposed=func in _TRANSPOSED, **given):
            return func(*args, **given)
        with torch.autocast("cpu", enabled=False):
            tensors = [value.float() if isinstance(value, Tensor) else value for value in args]
            named = {name: value.float() if isinstance(value, Tensor) else value for name, value in given.items()}
            return func(*tensors, **named)


def is_safe(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    *others: Any,
    transposed: bool = False,
    **named: Any,
) -> bool:
    """Whether a CPU's bfloat16 convolution was right in every trial; arguments as those of `conv3d`.

    More than one filter comes out, without groups or dilation. Along each axis no stride exceeds the kernel, the map
    holds the kernel (and both paddings, where these or the kernel are large), and more than one location comes out; of
    a transposed convolution the padding holds the output padding.
    """
    if weight.shape[1 if transposed else 0] < 2 or isinstance(padding, str):
        return False
    added = _three(others[0] if transposed and others else named.get("output_padding", 0))
    rest = [*others[transposed:], *(value for name, value in named.items() if name != "output_padding")]
    if any(value != 1 for each in rest for value in _three(each)):
        return False
    axes = zip(input.shape[2:], weight.shape[2:], _three(stride), _three(padding), added, strict=True)
    for extent, kernel, step, pad, more in axes:
        wanted = kernel if kernel <= 5 and 2 * pad < kernel else kernel + 2 * pad
        single = not transposed and extent + 2 * pad - kernel < step
        if step > kernel or extent < wanted or single or more > pad:
            return False
    return True


def _three(value: int | Sequence[int]) -> Sequence[int]:
    """One value for each axis."""
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * 3 if len(values) == 1 else values
