"""Training throughput: a plain float32 eager loop of the same network, and the steps that `fer train` takes.

Run: python benchmarks/training.py [--preset paper] [--batch 32] [--steps 6]

Both loops train on the same random grids, in turn, so that both meet the same load: the encoder alone as a classifier, and
the feedback network on the frozen encoder (the loop's: one chain from the class probabilities and one from conv3). The
plain loop is what PyTorch gives: `nn.Conv3d` and `nn.ConvTranspose3d` in contiguous float32, unfused AdamW. Both keep the
memory that they freed, as commands of `fer` do; a plain loop alone would be slower. Prints a
Markdown table of the fastest step of each, with the share of this machine's measured matrix product that its arithmetic
reaches. With one thread (`OMP_NUM_THREADS=1`) times are the processor's, which other programs change little.
"""

import argparse
import copy
import time
from collections.abc import Callable
from itertools import repeat
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from fer_cli.data.dataset import Indices, VolumeSet
from fer_cli.data.volumes import InputSpec
from fer_cli.execution.allocation import keep_freed_memory
from fer_cli.network.backbone import OUTPUT
from fer_cli.network.explained import ExplainedNetwork
from fer_cli.network.fer_cnn import PRESETS, NetworkConfig, build
from fer_cli.network.patches import PatchConv3d, PatchConvTranspose3d
from fer_cli.network.phases import FeedbackPhase, FeedforwardPhase, TrainingData, TrainingSettings
from fer_cli.network.precision import mixed_precision
from fer_cli.network.subpixel import SubpixelTransposedConv3d
from machine import cpu_name
from scaling import Cost
from step import training_step

CLASSES = tuple("abcdefghij")


CUBE = InputSpec(1, (32, 32, 32))


class Grids(VolumeSet):
    """Random grids of ModelNet's density, without a file."""

    id = "random"
    source = Path("random")

    def __init__(self, count: int) -> None:
        generator = np.random.default_rng(0)
        grids = (generator.random((count, 1, *CUBE.shape)) < 0.085).astype(np.float32)
        labels = generator.integers(0, len(CLASSES), count)
        super().__init__([str(i) for i in range(count)], labels, ["train"] * count, CLASSES, CUBE)
        object.__setattr__(self, "_grids", grids)  # a volume set is frozen

    def volumes(self, indices: Indices) -> np.ndarray:
        """As `VolumeSet.volumes`."""
        return self._grids[indices]

    def repeats_training(self, indices: np.ndarray) -> np.ndarray:
        """None does."""
        return np.zeros(len(indices), bool)


def clock() -> float:
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="paper", choices=PRESETS)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=6)
    options = parser.parse_args()
    keep_freed_memory()
    config = NetworkConfig.to_train(PRESETS[options.preset], CLASSES, CUBE)
    settings = TrainingSettings(preset=options.preset, batch_size=options.batch)
    voxels = Grids(options.batch)
    data = TrainingData(voxels, np.arange(options.batch), np.arange(options.batch), torch.device("cpu"))
    torch.manual_seed(0)
    network = build(config, dropout=settings.dropout)
    plain = plain_copy(network)
    for net in (network, plain):
        net.backbone.train()
    cost = Cost(config, settings)
    print(
        f"{cpu_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}, preset {options.preset}, ", end=""
    )
    print(f"batch {options.batch}, fastest of {options.steps} steps")
    with mixed_precision(data.device):
        mixed = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
    # bfloat16 only where fer trains in it: elsewhere PyTorch takes minutes for one such product.
    peaks = {dtype: matrix_product(dtype) for dtype in dict.fromkeys((torch.float32, mixed))}
    told = ", ".join(f"{peak:.0f} GFLOP/s in {str(dtype).removeprefix('torch.')}" for dtype, peak in peaks.items())
    print(f"Matrix product: {told}; fer train computes in {str(mixed).removeprefix('torch.')}.\n")
    print("| phase | loop | ms a sample | GFLOP a sample | share of the matrix product | times faster |")
    print("|---|---|---|---|---|---|")
    ours = training_step(FeedforwardPhase(data, settings, network.backbone), settings, repeat(data.training))
    theirs = plain_classifier(plain, voxels.tensor(data.training), torch.from_numpy(voxels.labels))
    report(
        "feedforward",
        measure([theirs, ours], options),
        [cost.encoder_step] * 2,
        (peaks[torch.float32], peaks[mixed]),
        options.batch,
    )
    for net in (network, plain):
        net.backbone.eval().requires_grad_(False)
        net.feedback.train()
    ours = training_step(FeedbackPhase(data, settings, network, None), settings, repeat(data.training))
    theirs = plain_feedback(plain, voxels.tensor(data.training))
    # The plain loop's chain from the class probabilities passes all levels, the one from conv3 the last three; what
    # enters wants no gradient.
    local = sum(cost.mirrors[:3])
    two_chains = sum(cost.levels) + 3 * (sum(cost.mirrors) + local) - cost.levels[-1] - cost.levels[2]
    report(
        "feedback",
        measure([theirs, ours], options),
        [two_chains, cost.feedback_step],
        (peaks[torch.float32], peaks[mixed]),
        options.batch,
    )


def plain_classifier(network: ExplainedNetwork, grids: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    """A step of the loop that everybody writes."""
    optimizer = torch.optim.AdamW(network.backbone.parameters(), lr=1e-3)

    def step() -> None:
        loss = functional.cross_entropy(network.backbone(grids), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def plain_feedback(network: ExplainedNetwork, grids: torch.Tensor) -> Callable[[], None]:
    """The same for the feedback network: both chains of the method, one after the other."""
    optimizer = torch.optim.AdamW(network.feedback.parameters(), lr=1e-3)

    def step() -> None:
        with torch.no_grad():
            features = network.backbone.features(grids)
        loss = torch.zeros(())
        for entry in (OUTPUT, "conv3"):
            decoding = network.decode(features[entry], entry)
            loss = loss + functional.binary_cross_entropy_with_logits(decoding.raw, grids)
            for level, feature in decoding.features.items():
                loss = loss + (feature - features[level]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def plain_copy(network: ExplainedNetwork) -> ExplainedNetwork:
    """The same network of PyTorch's own layers, in contiguous memory."""
    plain = copy.deepcopy(network)
    kinds = {
        PatchConv3d: nn.Conv3d,
        PatchConvTranspose3d: nn.ConvTranspose3d,
        SubpixelTransposedConv3d: nn.ConvTranspose3d,
    }
    for module in plain.modules():
        if type(module) in kinds:
            module.__class__ = kinds[type(module)]
    return plain.to(memory_format=torch.contiguous_format)


def measure(loops: list[Callable[[], None]], options: argparse.Namespace) -> list[float]:
    """Seconds of the fastest step of each loop; the first of each is not counted."""
    fastest = [float("inf")] * len(loops)
    for number in range(options.steps + 1):
        for index, step in enumerate(loops):
            started = clock()
            step()
            if number:
                fastest[index] = min(fastest[index], clock() - started)
    return fastest


def report(phase: str, seconds: list[float], work: list[float], peaks: tuple[float, float], batch: int) -> None:
    names = ("plain float32", "fer train")
    for name, each, operations, peak in zip(names, seconds, work, peaks, strict=True):
        share = operations * batch / each / 1e9 / peak
        print(
            f"| {phase} | {name} | {1000 * each / batch:.1f} | {operations / 1e9:.2f} | {share:.2f} | "
            f"{seconds[0] / each:.2f} |"
        )


def matrix_product(dtype: torch.dtype, side: int = 4096, repeats: int = 4) -> float:
    """GFLOP/s of the fastest product of two large square matrices."""
    a, b = torch.randn(side, side).to(dtype), torch.randn(side, side).to(dtype)
    fastest = float("inf")
    for _ in range(repeats):
        started = clock()
        a @ b
        fastest = min(fastest, clock() - started)
    return 2 * side**3 / fastest / 1e9


if __name__ == "__main__":
    main()
