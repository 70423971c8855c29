"""Both paths of FER-CNN at the paper's width, with fewer multiplications in some of their layers (`fer_cli.network.winograd`).

Run: python benchmarks/winograd.py [--batch 24] [--repeats 9]

It times two networks of random weights, in float32 and without gradients: the classifier up to its logits, and the feedback
network from the class probabilities down to conv1. Each is timed with PyTorch's convolutions everywhere, with ours in conv2, in
conv3, and in both (in the feedback network, in their mirrors), in turn. It prints a Markdown table of the medians. A second table
gives each layer's error against float64: the root mean square, in standard deviations of the output. See docs/adr/0039.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from fer_cli.data.volumes import InputSpec
from fer_cli.network.backbone import OUTPUT
from fer_cli.network.fer_cnn import PRESETS, NetworkConfig, build
from fer_cli.network.winograd import WinogradConv3d, WinogradConvTranspose3d
from machine import cpu_name


@torch.inference_mode()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    torch.manual_seed(0)
    with torch.inference_mode(mode=False):
        config = NetworkConfig.to_train(PRESETS["paper"], tuple("0123456789"), InputSpec(1, (32, 32, 32)))
        network = build(config).eval()
    volumes = (torch.rand(options.batch, 1, 32, 32, 32) < 0.1).float()
    code = network.backbone.features(volumes, [OUTPUT])[OUTPUT]
    paths: dict[str, tuple[type[nn.Module], Callable[[], object]]] = {
        "feedforward": (WinogradConv3d, lambda: network.backbone.logits(volumes)),
        "feedback": (WinogradConvTranspose3d, lambda: network.feedback.features_below(code, OUTPUT)),
    }
    print(f"{cpu_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}, batch {options.batch}")
    print(f"median of {options.repeats}, milliseconds a sample\n")
    print("| path | ours in | ms | times |\n|---|---|---|---|")
    for path, (kind, run) in paths.items():
        layers = {_level(name): layer for name, layer in network.named_modules() if isinstance(layer, kind)}
        choices = [(), *((name,) for name in sorted(layers)), tuple(sorted(layers))]
        measured = _measure(run, layers, kind, choices, options.repeats)
        for choice in choices:
            each = 1000 * measured[choice] / options.batch
            print(f"| {path} | {', '.join(choice) or '–'} | {each:.2f} | {measured[()] / measured[choice]:.2f} |")
    print("\n| layer | error, PyTorch's | error, ours |\n|---|---|---|")
    for path, (kind, run) in paths.items():
        for name, layer in network.named_modules():
            if isinstance(layer, kind):
                own, usual = _errors(layer, run)
                print(f"| {path} {_level(name)} | {usual:.1e} | {own:.1e} |")


def _level(name: str) -> str:
    """The level of a module of either network."""
    return name.split(".")[2]


def _measure(
    run: Callable[[], object],
    layers: dict[str, nn.Module],
    kind: type[nn.Module],
    choices: Iterable[tuple[str, ...]],
    repeats: int,
) -> dict[tuple[str, ...], float]:
    """Median seconds with our form in the chosen layers; one run of each beforehand is not counted."""
    seconds: dict[tuple[str, ...], list[float]] = {choice: [] for choice in choices}
    for _ in range(repeats):
        for choice, taken in seconds.items():
            for name, layer in layers.items():
                layer.__class__ = kind if name in choice else kind.__bases__[-1]
            run()
            started = time.perf_counter()
            run()
            taken.append(time.perf_counter() - started)
    for layer in layers.values():
        layer.__class__ = kind
    return {choice: statistics.median(taken) for choice, taken in seconds.items()}


def _errors(layer: nn.Module, run: Callable[[], object]) -> tuple[float, float]:
    """Error of our form and of PyTorch's, on what the layer reads in a run of its network."""
    read: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    run()
    hook.remove()
    [feature] = read
    found = layer(feature)
    kind, layer.__class__ = layer.__class__, type(layer).__bases__[-1]
    usual = layer(feature)
    exact = layer.double()(feature.double())
    layer.float()
    layer.__class__ = kind
    own, theirs = (float((each - exact).square().mean().sqrt() / exact.std()) for each in (found, usual))
    return own, theirs


if __name__ == "__main__":
    main()
