"""What training costs: operations a shape from the layer specifications, and time and memory against the number of shapes.

    python benchmarks/scaling.py                     # the counts, and what they predict; exact, in a second
    python benchmarks/scaling.py --measure           # also runs fer train on 1,000 to 40,000 shapes, and on few at 64³

A product and a sum are two operations. A layer is counted in full, padding included; batch norm, activations, the
optimizer and varying the shapes are left out. Measured shapes are synthetic furniture, repeated; the time is that of the
last epoch of each phase, the peak memory what the operating system says of the finished process. See docs/scaling.md.
"""

import argparse
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fer_cli.network.dataset import VALIDATION_FRACTION
from fer_cli.network.model import PRESETS, FERNet, NetworkConfig
from fer_cli.network.phases import TrainingSettings, entry_shares
from fer_cli.network.training import preset_settings
from fer_cli.shapes.synthetic import CLASSES, write_collection
from fer_cli.shapes.voxelize import VoxelSettings, voxelize_source
from fer_cli.storage.artifact import open_artifact
from fer_cli.storage.artifact_writer import ArtifactWriter
from fer_cli.storage.history import read_history
from fer_cli.storage.schema import MODEL, VOXELS
from machine import cpu_name, run_command

PER_CLASS = 20
BLOCK = 500
GPU_RATE = 50e12
"""Operations a second assumed of a GPU: a sixth of what an A100's data sheet gives for dense bfloat16."""
GPUS = 8
SHAPES = 1_000_000


@dataclass(frozen=True)
class Cost:
    """Operations a shape of one network and input: a forward pass of each level, and training steps of both phases."""

    config: NetworkConfig
    settings: TrainingSettings

    def level(self, index: int) -> int:
        """Operations of a forward pass from the level below to level `index`, or of its mirror."""
        spec = self.config.specs[index]
        filters, *sides = self.config.level_shape(spec.name)
        below = self.config.level_shape(self.config.specs[index - 1].name) if index else (1, *self.config.input_shape)
        if spec.is_dense:
            return 2 * filters * int(np.prod(below))
        return 2 * filters * int(np.prod(sides)) * below[0] * spec.kernel**3

    @property
    def levels(self) -> list[int]:
        """Forward operations of every level, conv1 first; those of its mirror are the same."""
        return [self.level(index) for index in range(len(self.config.specs))]

    @property
    def encoder_step(self) -> int:
        """Forward, and the gradients of weights and of inputs; the voxels want no gradient."""
        return 3 * sum(self.levels) - self.levels[0]

    @property
    def feedback_step(self) -> float:
        """The encoder's forward pass, and each mirror for the shapes that have entered; what enters wants no gradient."""
        entering = entry_shares(self.config, self.settings.class_code_share).tolist()
        held, total = 0.0, float(sum(self.levels))
        for operations, new in zip(reversed(self.levels), entering, strict=True):
            total += operations * (2 * (held + new) + held)
            held += new
        return total

    @property
    def feedback_validation(self) -> int:
        """The encoder, and the mirrors from the local layer down."""
        local = self.config.index(self.config.local_layer)
        return sum(self.levels) + sum(self.levels[: local + 1])

    @property
    def parameters(self) -> tuple[int, int]:
        """Of the encoder and of the feedback network."""
        with torch.device("meta"):
            network = FERNet(self.config)
        encoder, feedback = (sum(p.numel() for p in part.parameters()) for part in (network.encoder, network.feedback))
        return encoder, feedback

    def epoch(self, phase: str) -> float:
        """Operations of one epoch, a shape of the whole set: training on nine tenths, validation on one."""
        step, check = {
            "feedforward": (self.encoder_step, sum(self.levels)),
            "feedback": (self.feedback_step, self.feedback_validation),
        }[phase]
        return (1 - VALIDATION_FRACTION) * step + VALIDATION_FRACTION * check

    def run(self) -> float:
        """Operations of all epochs of both phases, a shape."""
        return self.settings.epochs * self.epoch("feedforward") + self.settings.feedback_epochs * self.epoch("feedback")


def cost(preset: str, resolution: int) -> Cost:
    """The cost of a preset with ten classes."""
    return Cost(NetworkConfig(PRESETS[preset], CLASSES, resolution), preset_settings(preset))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="run fer train, which takes half an hour on two cores")
    parser.add_argument("--preset", default="smoke", help="whose time and memory to measure against the shapes")
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 2500, 10_000, 40_000])
    parser.add_argument("--large", default="paper", help="preset whose rate to measure at 64³")
    parser.add_argument("--large-count", type=int, default=100)
    options = parser.parse_args()
    print_levels()
    print_steps()
    rates = {f"a GPU at an assumed {GPU_RATE / 1e12:.0f} TFLOP/s": GPU_RATE}
    rates[f"{GPUS} such GPUs, traffic not counted"] = GPUS * GPU_RATE
    if options.measure:
        print_measured(options.preset, options.counts)
        measured = measure(options.large, 64, options.large_count)
        rates = {f"this CPU at {measured.rate / 1e9:.0f} GFLOP/s, measured": measured.rate, **rates}
    print_prediction(rates)


def print_levels() -> None:
    """Forward operations of every level at paper width."""
    small, large = (cost("paper", resolution) for resolution in (32, 64))
    print("MFLOP a shape and forward pass, preset paper; the mirror's are the same\n")
    table = [
        [spec.name, f"{a / 1e6:,.1f}", f"{b / 1e6:,.1f}"]
        for spec, a, b in zip(small.config.specs, small.levels, large.levels, strict=True)
    ]
    totals = [f"{sum(each.levels) / 1e6:,.1f}" for each in (small, large)]
    print_table(["level", "32³", "64³"], [*table, ["all", *totals]])


def print_steps() -> None:
    """Operations of training steps, parameters and traffic, of every preset."""
    rows = []
    for preset in PRESETS:
        for resolution in (32, 64):
            one = cost(preset, resolution)
            encoder, feedback = one.parameters
            rows.append(
                [
                    f"{preset}, {resolution}³",
                    *(f"{n / 1e9:,.3f}" for n in (sum(one.levels), one.encoder_step, one.feedback_step)),
                    *(f"{n / 1e6:,.2f}" for n in (encoder, feedback)),
                    *(f"{4 * n / 1e6:,.1f}" for n in (encoder, feedback)),
                ]
            )
    print("GFLOP a shape; millions of parameters; MB of float32 gradients a step\n")
    heads = ["", "encoder forward", "feedforward step", "feedback step", "parameters of the encoder", "of the feedback"]
    print_table([*heads, "gradients, feedforward", "gradients, feedback"], rows)


def print_prediction(rates: dict[str, float]) -> None:
    """Time of a whole run at paper width on many shapes at 64³."""
    one = cost("paper", 64)
    rows = [[name, f"{one.run() * SHAPES / rate / 3600:,.0f} hours"] for name, rate in rates.items()]
    epochs = f"{one.settings.epochs} + {one.settings.feedback_epochs} epochs"
    print(f"{SHAPES:,} shapes at 64³, preset paper, {epochs}: {one.run() * SHAPES:.2e} FLOP\n")
    print_table(["on", "takes"], rows)


@dataclass(frozen=True)
class Measured:
    """A finished run of `fer train`: seconds of each phase's last epoch, and its peak memory in bytes."""

    cost: Cost
    count: int
    seconds: dict[str, float]
    peak: int

    @property
    def packed(self) -> int:
        """Bytes of the packed occupancy."""
        return self.count * self.cost.config.resolution**3 // 8

    @property
    def rate(self) -> float:
        """Operations a second over the last epoch of both phases."""
        done = sum(self.cost.epoch(phase) for phase in self.seconds)
        return done * self.count / sum(self.seconds.values())


def measure(preset: str, resolution: int, count: int) -> Measured:
    """Run `fer train` for two epochs of each phase on `count` shapes, in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_collection(folder / "meshes", per_class_train=PER_CLASS, per_class_test=1, seed=0)
        voxelize_source(folder / "meshes", folder / "few.h5", VoxelSettings(resolution))
        repeat(folder / "few.h5", folder / "voxels.h5", count)
        words = ["--run", name, "--preset", preset, "--epochs", "2", "--feedback-epochs", "2", "--json"]
        done = run_command([sys.executable, "-m", "fer_cli", "train", *words])
        with open_artifact(folder / "model.h5", MODEL) as artifact:
            seconds = {record.phase: record.seconds for record in read_history(artifact)}
    return Measured(cost(preset, resolution), count, seconds, done.peak_bytes)


def repeat(source: Path, target: Path, count: int) -> None:
    """Write voxels with the training shapes of others over and over, each with a name of its own."""
    with open_artifact(source, VOXELS) as few:
        training = np.flatnonzero(np.array(few.read_text("split")) == "train")
        attributes = {"classes": few.attribute("classes")}
        content = {
            name: few.read_text(name) if few.form.spec(name).dtype == "text" else few.read(name) for name in few.names()
        }
        with ArtifactWriter(
            target, VOXELS, config=few.config, parents=few.parents, seed=few.seed, attributes=attributes
        ) as writer:
            for name in [name for name in content if name.startswith(("dropped/", "skipped/"))]:
                writer.write(name, content.pop(name))
            for start in range(0, count, BLOCK):
                places = np.arange(start, min(start + BLOCK, count))
                chosen = training[places % len(training)]
                for name, values in content.items():
                    rows: np.ndarray | list[str]
                    if name == "name":
                        rows = [f"{values[i]}_{place}" for i, place in zip(chosen, places, strict=True)]
                    elif name == "record/duplicate_of":
                        rows = np.where(places < len(training), -1, places % len(training))
                    else:
                        rows = [values[i] for i in chosen] if isinstance(values, list) else values[chosen]
                    writer.append(name, rows)


def print_measured(preset: str, counts: list[int]) -> None:
    """Time a shape and peak memory against the number of shapes, and how far they spread."""
    runs = [measure(preset, 32, count) for count in counts]
    load = os.getloadavg()[0]
    print(f"{cpu_name()}, {os.cpu_count()} cores; torch {torch.__version__}; load average {load:.1f} at the end\n")
    rows = []
    for run in runs:
        each = [f"{1e3 * run.seconds[phase] / run.count:.2f} ms" for phase in ("feedforward", "feedback")]
        megabytes = [f"{n / 1e6:.0f} MB" for n in (run.peak, run.packed, run.peak - run.packed)]
        rows.append([f"{run.count:,}", *each, *megabytes])
    heads = ["shapes", "feedforward, a shape", "feedback, a shape", "peak memory", "packed occupancy", "the rest"]
    print(f"Preset {preset}, 32³:\n")
    print_table(heads, rows)
    for phase in ("feedforward", "feedback"):
        times = [run.seconds[phase] / run.count for run in runs]
        print(f"time a shape, {phase}: slowest {100 * (max(times) / min(times) - 1):.0f} % over fastest; wanted 10 %")
    rests = [run.peak - run.packed for run in runs]
    print(f"memory beyond the packed occupancy: from {min(rests) / 1e6:.0f} to {max(rests) / 1e6:.0f} MB\n")


def print_table(heads: list[str], rows: list[list[str]]) -> None:
    """Print a Markdown table."""
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    print()


if __name__ == "__main__":
    main()
