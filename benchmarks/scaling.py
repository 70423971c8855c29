"""What training costs: operations a shape from the layer specifications, and time and memory against the number of shapes.

    python benchmarks/scaling.py                     # the counts, and what they predict; exact, in a second
    python benchmarks/scaling.py --steps 150         # also times steps of training on 1,000 to 40,000 shapes, in turns
    python benchmarks/scaling.py --measure           # also runs fer train on as many, and on few at 64³

A product and a sum are two operations. A layer is counted in full, padding included; batch norm, activations, the
optimizer and varying the shapes are left out. Measured shapes are synthetic furniture, repeated. The numbers of shapes
take turns, step by step or run by run, so that a machine's slow hours meet all of them. Times are medians, of steps or of
each phase's epochs, without a run's first epoch of a phase where there are more; the peak memory is the most that the
operating system says of a finished process. See docs/scaling.md.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count as numbers
from pathlib import Path

import numpy as np
import torch

from fer_cli.data.dataset import VALIDATION_FRACTION, VoxelSet, open_voxels
from fer_cli.data.furniture import CLASSES
from fer_cli.data.synthetic import write_collection
from fer_cli.data.volumes import InputSpec
from fer_cli.data.voxelize import VoxelSettings, voxelize_source
from fer_cli.network.activations import FEEDFORWARD, PATHS
from fer_cli.network.fer_cnn import FERCNN, PRESETS, NetworkConfig, build, explain_classifier
from fer_cli.network.phases import FeedbackPhase, FeedforwardPhase, TrainingData, TrainingSettings, entry_shares
from fer_cli.network.receptive import UNIT_KERNEL
from fer_cli.network.training import preset_settings
from fer_cli.storage.artifact import open_artifact
from fer_cli.storage.artifact_writer import ArtifactWriter
from fer_cli.storage.history import read_history
from fer_cli.storage.schema import MODEL, VOXELS
from machine import cpu_name, run_command
from step import training_step

PER_CLASS = 20
BLOCK = 500
GPU_RATE = 50e12
"""Operations a second assumed of a GPU: a sixth of what an A100's data sheet gives for dense bfloat16."""
GPUS = 8
RATES = {
    f"a GPU at an assumed {GPU_RATE / 1e12:.0f} TFLOP/s": GPU_RATE,
    f"{GPUS} such GPUs, traffic not counted": GPUS * GPU_RATE,
}
SHAPES = 1_000_000
WARM_UP = 5
ENOUGH = 20_000
"""Shapes that a run trains on in each phase, over all of its epochs, unless that takes more than MOST_EPOCHS."""
MOST_EPOCHS = 8


@dataclass(frozen=True)
class Cost:
    """Operations a shape of one network and input: a forward pass of each level, and training steps of both phases."""

    config: NetworkConfig
    settings: TrainingSettings

    def layer(self, index: int) -> int:
        """Operations of a forward pass of the convolution or dense layer of level `index`, or of its mirror."""
        spec = self.config.layers_and_output[index]
        filters, *sides = self.config.spec.level_shape(spec.name)
        below = self.config.spec.level_shape(self.config.layers[index - 1].name) if index else self.config.input.volume
        if spec.is_dense:
            return 2 * filters * int(np.prod(below))
        return 2 * filters * int(np.prod(sides)) * below[0] * spec.kernel**3

    def units(self, index: int) -> int:
        """Operations of a forward pass of the residual units of level `index`, which have no mirror."""
        spec = self.config.layers_and_output[index]
        filters, *sides = self.config.spec.level_shape(spec.name)
        return 2 * spec.units * 2 * filters * int(np.prod(sides)) * filters * UNIT_KERNEL**3

    @property
    def layers(self) -> list[int]:
        """Forward operations of every level's first layer."""
        return [self.layer(index) for index in range(len(self.config.layers_and_output))]

    @property
    def levels(self) -> list[int]:
        """Forward operations of every level, conv1 first."""
        return [layer + self.units(index) for index, layer in enumerate(self.layers)]

    @property
    def last_taps(self) -> int:
        """Products of the last feedback step for each of its inputs and filters: the sub-pixel form counts zeros."""
        spec = self.config.layers[0]
        return ((2 * -(-spec.padding // spec.stride) + 1) * spec.stride) ** 3

    @property
    def head(self) -> int:
        """Forward operations that hidden filters add to the mirror of the lowest level."""
        spec, filters = self.config.layers[0], self.config.head_filters
        width, *sides = self.config.spec.level_shape(spec.name)
        return 2 * filters * int(np.prod(sides)) * (27 * width + self.last_taps)

    @property
    def mirrors(self) -> list[int]:
        """Forward operations of every level's mirror, conv1's first."""
        lowest = self.layers[0] // self.config.layers[0].kernel ** 3 * self.last_taps
        return [lowest + self.head, *self.layers[1:]]

    @property
    def encoder_step(self) -> int:
        """Forward, and the gradients of weights and of inputs; the voxels want no gradient."""
        return 3 * sum(self.levels) - self.layers[0]

    @property
    def feedback_step(self) -> float:
        """The encoder's forward pass, and each mirror for the shapes that have entered; what enters wants no gradient."""
        entering = entry_shares(self.config.spec, self.settings.class_code_share).tolist()
        held, total = 0.0, float(sum(self.levels))
        for operations, new in zip(reversed(self.mirrors), entering, strict=True):
            total += operations * (2 * (held + new) + held)
            held += new
        return total

    @property
    def feedback_validation(self) -> int:
        """The encoder, and the mirrors from the local layer down."""
        local = self.config.spec.index(self.config.spec.local_layer)
        return sum(self.levels) + sum(self.mirrors[: local + 1])

    @property
    def parameters(self) -> tuple[int, int]:
        """Of the encoder and of the feedback network."""
        with torch.device("meta"):
            network = build(self.config)
        encoder, feedback = (sum(p.numel() for p in part.parameters()) for part in (network.backbone, network.feedback))
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
    return Cost(
        NetworkConfig.to_train(PRESETS[preset], CLASSES, InputSpec(1, (resolution, resolution, resolution))),
        preset_settings(preset),
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="run fer train, which takes half an hour on two cores")
    parser.add_argument("--steps", type=int, default=0, help="steps of training to time for each number of shapes")
    parser.add_argument("--rounds", type=int, default=3, help="how often each number of shapes has its turn")
    parser.add_argument("--preset", default="smoke", help="whose time and memory to measure against the shapes")
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 2500, 10_000, 40_000])
    parser.add_argument("--large", default="paper", help="preset whose rate to measure at 64³")
    parser.add_argument("--large-count", type=int, default=100)
    options = parser.parse_args()
    print_levels()
    print_steps()
    rates = RATES
    if options.steps:
        print_turns(options.preset, options.counts, options.steps)
    if options.measure:
        print_measured(options.preset, options.counts, options.rounds)
        measured = measure(options.large, 64, options.large_count, epochs=2)
        rates = {f"this CPU at {measured.rate / 1e9:.0f} GFLOP/s, measured": measured.rate, **RATES}
    print_prediction(rates)


def print_levels() -> None:
    """Forward operations of every level at paper width."""
    small, large = (cost("paper", resolution) for resolution in (32, 64))
    more = " and ".join(f"{each.head / 1e6:,.1f}" for each in (small, large))
    print(f"MFLOP a shape and forward pass, preset paper; the mirror's are the same, the lowest's {more} more\n")
    table = [
        [spec.name, f"{a / 1e6:,.1f}", f"{b / 1e6:,.1f}"]
        for spec, a, b in zip(small.config.layers_and_output, small.levels, large.levels, strict=True)
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
    hours = {name: one.run() * SHAPES / rate / 3600 for name, rate in rates.items()}
    rows = [[name, f"{taken:,.{0 if taken >= 10 else 1}f} hours"] for name, taken in hours.items()]
    epochs = f"{one.settings.epochs} + {one.settings.feedback_epochs} epochs"
    print(f"{SHAPES:,} shapes at 64³, preset paper, {epochs}: {one.run() * SHAPES:.2e} FLOP\n")
    print_table(["on", "takes"], rows)


def print_turns(preset: str, counts: list[int], steps: int) -> None:
    """Time a shape of a step of each phase against the number of shapes, and how much more it is than with the fewest.

    Each number of shapes has a network of its own. One step of each is a turn; the ratio is the median over turns, its
    interval a bootstrap over them.
    """
    settings = preset_settings(preset)
    rows = [[f"{count:,}"] for count in counts]
    with tempfile.TemporaryDirectory() as name:
        sets = [furniture(Path(name) / str(count), 32, count) for count in counts]
        for phase in PATHS:
            calls = [first_steps(preset, phase, open_voxels(path, in_memory=True)) for path in sets]
            times = np.array([[timed(call) for call in calls] for _ in range(WARM_UP + steps)])[WARM_UP:]
            for row, own in zip(rows, times.T, strict=True):
                low, high = bootstrap(own / times[:, 0])
                row += [
                    f"{1e3 * np.median(own) / settings.batch_size:.2f} ms",
                    f"{np.median(own / times[:, 0]):.3f} ({low:.3f} – {high:.3f})",
                ]
    print(f"{machine()}\n\nPreset {preset}, 32³, {steps} steps of {settings.batch_size} shapes in turns:\n")
    heads = [head for phase in PATHS for head in (f"{phase}, a shape", f"times that of {counts[0]:,}")]
    print_table(["shapes", *heads], rows)


def first_steps(preset: str, phase: str, voxels: VoxelSet) -> Callable[[], None]:
    """A call that makes the next step of a phase, on shapes drawn from the whole set."""
    settings = preset_settings(preset)
    torch.manual_seed(0)
    classifier = FERCNN(NetworkConfig.to_train(PRESETS[preset], voxels.classes, voxels.input), dropout=settings.dropout)
    network = explain_classifier(classifier)
    training = voxels.indices("train")
    data = TrainingData(voxels, training, training[:1], torch.device("cpu"))
    generator = np.random.default_rng(0)
    drawn = (generator.choice(training, settings.batch_size) for _ in numbers())
    if phase == FEEDFORWARD:
        classifier.train()
        return training_step(FeedforwardPhase(data, settings, classifier), settings, drawn)
    classifier.eval().requires_grad_(False)
    network.feedback.train()
    return training_step(FeedbackPhase(data, settings, network, None), settings, drawn)


def timed(call: Callable[[], None]) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def bootstrap(values: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of a median."""
    drawn = np.random.default_rng(0).choice(values, (2000, len(values)))
    low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975])
    return float(low), float(high)


def machine() -> str:
    """What a table of times is headed by."""
    load = os.getloadavg()[0]
    return f"{cpu_name()}, {os.cpu_count()} cores; torch {torch.__version__}; load average {load:.1f} at the end"


@dataclass(frozen=True)
class Measured:
    """Finished runs of `fer train` on so many shapes: seconds of each phase's epochs, and the peak memory in bytes."""

    cost: Cost
    count: int
    epochs: dict[str, list[float]]
    peak: int

    @property
    def seconds(self) -> dict[str, float]:
        """Of each phase the median epoch."""
        return {phase: float(np.median(times)) for phase, times in self.epochs.items()}

    @property
    def packed(self) -> int:
        """Bytes of the packed occupancy."""
        return self.count * self.cost.config.input.shape[0] ** 3 // 8

    @property
    def rate(self) -> float:
        """Operations a second over the median epochs of both phases."""
        done = sum(self.cost.epoch(phase) for phase in self.seconds)
        return done * self.count / sum(self.seconds.values())


def measure(preset: str, resolution: int, count: int, epochs: int) -> Measured:
    """Run `fer train` on `count` shapes in a process of its own, for so many epochs of each phase."""
    with tempfile.TemporaryDirectory() as name:
        folder = furniture(Path(name) / "run", resolution, count).parent
        given = ["--epochs", str(epochs), "--feedback-epochs", str(epochs)]
        words = ["--run", str(folder), "--preset", preset, *given, "--json"]
        done = run_command([sys.executable, "-m", "fer_cli", "train", *words])
        with open_artifact(folder / "model.h5", MODEL) as artifact:
            records = read_history(artifact)
    epochs_of = {phase: [record.seconds for record in records if record.phase == phase] for phase in PATHS}
    warm = {phase: times[1:] or times for phase, times in epochs_of.items()}
    return Measured(cost(preset, resolution), count, warm, done.peak_bytes)


def furniture(folder: Path, resolution: int, count: int) -> Path:
    """Make the voxels.h5 of so many synthetic training shapes in `folder`."""
    write_collection(folder / "meshes", per_class_train=PER_CLASS, per_class_test=1, seed=0)
    voxelize_source(folder / "meshes", folder / "few.h5", VoxelSettings(resolution))
    repeat(folder / "few.h5", folder / "voxels.h5", count)
    return folder / "voxels.h5"


def together(runs: list[Measured]) -> Measured:
    """Runs of the same as one: all of their epochs, and the most memory."""
    first = runs[0]
    epochs = {phase: [seconds for run in runs for seconds in run.epochs[phase]] for phase in first.epochs}
    return Measured(first.cost, first.count, epochs, max(run.peak for run in runs))


def repeat(source: Path, target: Path, count: int) -> None:
    """Write voxels with the training shapes of others over and over, each with a name of its own.

    If fewer are wanted than there are, they are taken at even distances, so that every class has some.
    """
    with open_artifact(source, VOXELS) as few:
        training = np.flatnonzero(np.array(few.read_text("split")) == "train")
        distinct = min(count, len(training))
        training = training[np.arange(distinct) * len(training) // distinct]
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


def print_measured(preset: str, counts: list[int], rounds: int) -> None:
    """Time a shape and peak memory against the number of shapes, and how far they spread."""
    epochs = [min(MOST_EPOCHS, -(-ENOUGH // count)) for count in counts]
    turns = [[measure(preset, 32, *each) for each in zip(counts, epochs, strict=True)] for _ in range(rounds)]
    runs = [together(list(of_count)) for of_count in zip(*turns, strict=True)]
    print(f"{machine()}\n")
    rows = []
    for run in runs:
        each = [of_epochs(run, phase) for phase in PATHS]
        megabytes = [f"{n / 1e6:.0f} MB" for n in (run.peak, run.packed, run.peak - run.packed)]
        rows.append([f"{run.count:,}", *each, *megabytes])
    heads = ["shapes", "feedforward, a shape", "feedback, a shape", "peak memory", "packed occupancy", "the rest"]
    print(f"Preset {preset}, 32³:\n")
    print_table(heads, rows)
    for phase in PATHS:
        times = [run.seconds[phase] / run.count for run in runs]
        print(f"time a shape, {phase}: slowest {100 * (max(times) / min(times) - 1):.0f} % over fastest; wanted 10 %")
    rests = [run.peak - run.packed for run in runs]
    print(f"memory beyond the packed occupancy: from {min(rests) / 1e6:.0f} to {max(rests) / 1e6:.0f} MB\n")


def of_epochs(run: Measured, phase: str) -> str:
    """The time a shape of a phase's median epoch, and from the fastest to the slowest."""
    median, low, high = (1e3 * at(run.epochs[phase]) / run.count for at in (np.median, min, max))
    return f"{median:.2f} ms ({low:.2f} – {high:.2f})"


def print_table(heads: list[str], rows: list[list[str]]) -> None:
    """Print a Markdown table."""
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    print()


if __name__ == "__main__":
    main()
