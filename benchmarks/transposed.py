"""Both forms of the feedback network's last transposed convolution: direct, and sub-pixel (`fer_cli.network.subpixel`).

Run: python benchmarks/transposed.py [--filters 16] [--batch 32] [--repeats 9]

Measures one layer, conv1's mirror (6³ kernel, stride 2, padding 2, 16³ → 32³), forward and forward with backward, in
float32 and bfloat16, the two forms in turn so that both meet the same load. Prints a Markdown table of the fastest
of the repeats, and how far the two forms' results lie apart. See docs/adr/0006.
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import nn

from fer_cli.network.fer_cnn import PRESETS
from fer_cli.network.subpixel import SubpixelTransposedConv3d
from machine import cpu_name

SIDE = 16


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--filters", type=int, default=PRESETS["compact"][0].filters)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    spec = PRESETS["compact"][0]
    torch.manual_seed(0)
    shape = (spec.kernel, spec.stride, spec.padding)
    forms: dict[str, nn.Module] = {
        "direct": nn.ConvTranspose3d(options.filters, 1, *shape),
        "sub-pixel": SubpixelTransposedConv3d(options.filters, 1, *shape),
    }
    forms["sub-pixel"].load_state_dict(forms["direct"].state_dict())
    feature = torch.randn(options.batch, options.filters, SIDE, SIDE, SIDE, requires_grad=True)
    apart = (forms["direct"](feature) - forms["sub-pixel"](feature)).abs().max().item()

    print(f"{cpu_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}, seed 0")
    print(f"{options.filters} filters, batch {options.batch}, fastest of {options.repeats}, milliseconds a batch\n")
    print("| precision | pass | direct | sub-pixel | ratio |\n|---|---|---|---|---|")
    for precision in (torch.float32, torch.bfloat16):
        for backward in (False, True):
            fastest = measure(forms, feature, precision, backward=backward, repeats=options.repeats)
            direct, subpixel = (1000 * fastest[form] for form in forms)
            name, part = str(precision).removeprefix("torch."), "forward and backward" if backward else "forward"
            print(f"| {name} | {part} | {direct:.1f} | {subpixel:.1f} | {direct / subpixel:.1f} |")
    print(f"\nlargest difference of the outputs in float32: {apart:.1e}")


def measure(
    forms: dict[str, nn.Module], feature: torch.Tensor, precision: torch.dtype, *, backward: bool, repeats: int
) -> dict[str, float]:
    """Seconds of the fastest repeat of each form; one run of each beforehand is not counted."""
    fastest = dict.fromkeys(forms, float("inf"))
    for repeat in range(repeats + 1):
        for name, form in forms.items():
            seconds = timed(lambda form=form: run(form, feature, precision, backward=backward))
            if repeat:
                fastest[name] = min(fastest[name], seconds)
    return fastest


def run(form: nn.Module, feature: torch.Tensor, precision: torch.dtype, *, backward: bool) -> None:
    """One pass of one form."""
    with (
        torch.set_grad_enabled(backward),
        torch.autocast("cpu", torch.bfloat16, enabled=precision is torch.bfloat16),
    ):
        result = form(feature)
    if backward:
        form.zero_grad(set_to_none=True)
        feature.grad = None
        result.float().square().mean().backward()


def timed(work: Callable[[], None]) -> float:
    """Seconds that `work` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
