"""Random 3D convolutions in bfloat16 against float32: how often this CPU's are wrong, and how often those `fer` trusts.

Run: [ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16] .venv/bin/python benchmarks/bfloat16.py [--seconds 60] [--seed 0] [--trusted]

Each trial draws a convolution or a transposed one (kernel 1 to 7, stride 1 to 3, padding 0 to 3, maps of 1 to 30), and
compares its values and both gradients. Wrong is a difference of more than a tenth of the largest value; rounding alone is
below a hundredth. With `--trusted`, only those that `precision.is_safe` computes in bfloat16. Without it, faults of oneDNN
may write over memory and end the process: that is a finding too.
"""

import argparse
import random
import sys
import time
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fer_cli.network.precision import is_safe
from machine import cpu_name

FILTERS = (1, 2, 3, 6, 8, 16, 24, 32, 64)
EXTENTS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 20, 30)
KERNELS = (1, 2, 3, 4, 5, 7)
MOST_PRODUCTS = 2e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trusted", action="store_true")
    options = parser.parse_args()
    random.seed(options.seed)
    torch.manual_seed(options.seed)
    trials, wrong, end = 0, {"values": 0, "gradient of the volumes": 0, "gradient of the weights": 0}, time.monotonic()
    end += options.seconds
    while time.monotonic() < end:
        volumes, weight, arguments, transposed = draw()
        if options.trusted and not is_safe(volumes, weight, None, *arguments, transposed=transposed):
            continue
        try:
            right = passed(volumes, weight, arguments, transposed, torch.float32)
        except RuntimeError:  # nothing comes out of such a map
            continue
        if not right[0].numel():
            continue
        found = passed(volumes, weight, arguments, transposed, torch.bfloat16)
        trials += 1
        for name, value, other in zip(wrong, found, right, strict=True):
            wrong[name] += not (value - other).abs().max() <= 0.1 * other.abs().max() + 1e-6
        if trials % 100 == 0:
            print(trials, wrong, file=sys.stderr, flush=True)  # before a fault may end the process
    print(f"{cpu_name()}, torch {torch.__version__}: {trials} trials; wrong: {wrong}")


def draw() -> tuple[Tensor, Tensor, tuple[Any, ...], bool]:
    """Volumes, a kernel, stride, padding and output padding of a convolution, and whether it is transposed."""
    while True:
        transposed = random.random() < 0.4
        kernel = [random.choice(KERNELS)] * 3 if random.random() < 0.5 else random.choices(KERNELS, k=3)
        extents, stride, padding = random.choices(EXTENTS, k=3), random.choice((1, 2, 3)), random.choice((0, 1, 2, 3))
        below, above, count = random.choice(FILTERS), random.choice(FILTERS), random.choice((1, 2, 4, 9, 16))
        volumes = torch.randn(count, below, *extents)
        weight = torch.randn(*((below, above) if transposed else (above, below)), *kernel) / 10
        if padding < min(kernel) and volumes.numel() * weight[0].numel() < MOST_PRODUCTS:
            break
    if random.random() < 0.7:
        volumes, weight = (value.contiguous(memory_format=torch.channels_last_3d) for value in (volumes, weight))
    more = (random.choice((0, 1)) if stride > 1 else 0,) if transposed else ()
    return volumes, weight, (stride, padding, *more), transposed


def passed(
    volumes: Tensor, weight: Tensor, arguments: tuple[Any, ...], transposed: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Output of a convolution, and the gradients of a weighted sum of it by input and by weight."""
    convolve = functional.conv_transpose3d if transposed else functional.conv3d
    ours = volumes.to(dtype).detach().clone().requires_grad_()
    kernel = weight.to(dtype).detach().clone().requires_grad_()
    values = convolve(ours, kernel, None, *arguments)
    values.backward(torch.linspace(-1, 1, values.numel()).view(values.shape).to(dtype))
    assert ours.grad is not None
    assert kernel.grad is not None
    return values.detach().float(), ours.grad.float(), kernel.grad.float()


if __name__ == "__main__":
    main()
