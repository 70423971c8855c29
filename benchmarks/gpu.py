"""What a GPU does with fer: its tests, then times against the CPU and against the card's own products of matrices.

    python benchmarks/gpu.py --modelnet10 modelnet10-binvox.zip --output gpu-results       # blocks, in 540 seconds
    python benchmarks/gpu.py --modelnet10 modelnet10-binvox.zip --output gpu-results       # again: goes on
    python benchmarks/gpu.py --device cpu --small --output /tmp/try                        # the script, without a card

Blocks run in order, each as a process of its own, and are not run again once they are finished; a whole pipeline goes on
from its last epoch. `--budget` ends the block in hand, so that a card that is lent for a time is given back. After every
block its figures are in OUTPUT/gpu.json and, as tables, in OUTPUT/gpu.md. Sources are what `fer voxelize` reads, or a
voxels.h5. No network is used, nor FAISS, PyVista or Pillow; without FAISS the CPU clusters with PyTorch too.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "src")]

import numpy as np  # noqa: E402
import torch  # noqa: E402

from fer_cli.calibration.calibrate import calibrated, views_of_run  # noqa: E402
from fer_cli.codebooks.batched_fitting import fit_batched  # noqa: E402
from fer_cli.codebooks.clustering import PAPER_K, cluster_network  # noqa: E402
from fer_cli.codebooks.fitting import Counted, fit_locations  # noqa: E402
from fer_cli.codebooks.kmeans import HAS_FAISS  # noqa: E402
from fer_cli.data.occupancy import VoxelSettings  # noqa: E402
from fer_cli.data.synthetic import write_collection  # noqa: E402
from fer_cli.data.voxelize import voxelize_source  # noqa: E402
from fer_cli.network.activations import FEEDBACK, FEEDFORWARD  # noqa: E402
from fer_cli.network.fer_cnn import PRESETS, NetworkConfig, build  # noqa: E402
from fer_cli.network.phases import FeedbackPhase, FeedforwardPhase, TrainingData, TrainingSettings  # noqa: E402
from fer_cli.network.precision import mixed_precision  # noqa: E402
from fer_cli.network.training import preset_settings, train  # noqa: E402
from fer_cli.run import Run  # noqa: E402
from fer_cli.storage.run_paths import RunPaths  # noqa: E402
from machine import cpu_name  # noqa: E402
from scaling import Cost  # noqa: E402
from step import training_step  # noqa: E402
from training import CLASSES, CUBE, Grids  # noqa: E402

CPU = torch.device("cpu")
GRACE = 20.0
"""Seconds that a block has to end in, once it is told to."""
SEEDS, VIEWS = range(5), 24
STEPS = {"cuda": 30, "cpu": 3}
SAMPLES = 3592
"""Shapes of ModelNet10 that codes are fitted on."""

Figures = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """What was asked for, and where results go."""

    device: torch.device
    small: bool
    output: Path
    modelnet10: Path | None
    modelnet40: Path | None

    @property
    def devices(self) -> list[torch.device]:
        """The card, and what it is compared with."""
        return list(dict.fromkeys([self.device, CPU]))

    def run(self, name: str) -> RunPaths:
        """The files of a run, in a folder that is there."""
        folder = self.output / name
        folder.mkdir(parents=True, exist_ok=True)
        return RunPaths.in_folder(folder)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(way: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    wait(device)
    started = time.perf_counter()
    result = way()
    wait(device)
    return time.perf_counter() - started, result


def run_tests(bench: Bench) -> Figures:
    """The tests marked `gpu`, and how many passed."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests/test_devices.py"]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent / "src")}
    done = subprocess.run(command, cwd=HERE.parent, env=environment, capture_output=True, text=True)
    (bench.output / "tests.txt").write_text(done.stdout + done.stderr)
    return {"exit code": done.returncode, "said": done.stdout.strip().splitlines()[-1] if done.stdout else "nothing"}


def measure_peak(bench: Bench) -> Figures:
    """TFLOP/s of the fastest product of two large square matrices, by device and precision."""
    found: Figures = {}
    for device in bench.devices:
        with mixed_precision(device):
            mixed = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else torch.float32
        for dtype in dict.fromkeys((torch.float32, mixed)):
            side = 8192 if device.type == "cuda" else 512 if bench.small else 2048
            a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
            fastest = min(timed(lambda a=a, b=b: a @ b, device)[0] for _ in range(6))
            found[f"{device.type} {str(dtype).removeprefix('torch.')}"] = 2 * side**3 / fastest / 1e12
    return found


def measure_training(bench: Bench, preset: str) -> Figures:
    """Milliseconds a shape of both phases by device, and the share of the card's product of matrices reached."""
    config = NetworkConfig.to_train(PRESETS[preset], CLASSES, CUBE)
    cost = Cost(config, TrainingSettings(preset=preset))
    peaks, found = measure_peak(bench), Figures()
    for device in bench.devices:
        for batch in (8,) if bench.small else (32, 128) if device.type == "cuda" else (32,):
            settings = TrainingSettings(preset=preset, batch_size=batch)
            data = TrainingData(Grids(batch), np.arange(batch), np.arange(batch), device)
            torch.manual_seed(0)
            network = build(config, dropout=settings.dropout).to(device)
            network.backbone.train()
            steps = 1 if bench.small else STEPS[device.type]
            best = max(value for name, value in peaks.items() if name.startswith(device.type))
            for name, kind, work in (
                (FEEDFORWARD, FeedforwardPhase, cost.encoder_step),
                (FEEDBACK, FeedbackPhase, cost.feedback_step),
            ):
                if name == FEEDBACK:
                    network.backbone.eval().requires_grad_(False)
                    network.feedback.train()
                    phase = kind(data, settings, network, None)
                else:
                    phase = kind(data, settings, network.backbone)
                step = training_step(phase, settings, repeat(data.training))
                step()
                seconds = timed(lambda step=step, steps=steps: [step() for _ in range(steps)], device)[0] / steps
                key = f"{device.type}, batch {batch}, {name}"
                found[f"{key}: ms a shape"] = 1e3 * seconds / batch
                found[f"{key}: share of peak"] = work * batch / seconds / 1e12 / best
    return found


def measure_clustering(bench: Bench) -> Figures:
    """Milliseconds a location of k-means with counts, batched on the card and by location on the CPU, on like features."""
    found: Figures = {}
    samples = 300 if bench.small else SAMPLES
    labels = np.arange(samples) % 10
    counted = Counted(np.arange(samples), labels, 10)
    for name, locations, filters, k in (("conv1", 4096, 64, PAPER_K[0]), ("conv2", 512, 196, PAPER_K[1])):
        locations = 8 if bench.small else locations // 4
        generator = torch.Generator().manual_seed(0)
        few = min(8, locations)
        means = torch.randn(few, 1, 30, filters, generator=generator)
        own = torch.randint(30, (few, samples), generator=generator)
        features = means[:, 0].gather(1, own[..., None].expand(-1, -1, filters))
        features = (features + 0.7 * torch.randn(features.shape, generator=generator)).clamp(min=0).half()
        on_card = features.to(bench.device).repeat(-(-locations // few), 1, 1)[:locations]
        seeds = list(range(locations))
        fit_batched(on_card[:few], k, seeds[:few], counted)
        seconds, ours = timed(partial(fit_batched, on_card, k, seeds, counted), bench.device)
        again = fit_batched(on_card, k, seeds, counted)
        engine = fit_locations if HAS_FAISS else fit_batched
        given = features.numpy() if HAS_FAISS else features
        on_host, theirs = timed(partial(engine, given, k, seeds[:few], counted), CPU)
        found |= {
            f"{name}: ms a location, {bench.device.type}": 1e3 * seconds / locations,
            f"{name}: ms a location, one core, {'FAISS' if HAS_FAISS else 'PyTorch'}": 1e3 * on_host / few,
            f"{name}: inertia to the CPU's": float(ours.tally.inertia[:few].sum() / theirs.tally.inertia.sum()),
            f"{name}: same bits again": bool(np.array_equal(ours.centroids, again.centroids)),
        }
    return found


def voxelized(bench: Bench, source: Path | None, paths: RunPaths) -> Path:
    """The voxels of a source; synthetic furniture where there is none."""
    if source is not None and source.suffix == ".h5":
        return source
    if not paths.voxels.exists():
        if source is None:
            source = bench.output / "furniture"
            few = (3, 1) if bench.small else (60, 20)
            write_collection(source, per_class_train=few[0], per_class_test=few[1], seed=0)
        voxelize_source(source, paths.voxels, VoxelSettings(), force=True)
    return paths.voxels


def pipeline(
    bench: Bench, name: str, source: Path | None, *, preset: str, seed: int = 0, views: int | None = None, **given: Any
) -> tuple[Figures, RunPaths]:
    """All stages on the card, each once; seconds of each, where this call did it."""
    own = bench.run(name)
    paths = RunPaths(**{**vars(own), "voxels": voxelized(bench, source, own)})
    found: Figures = {}
    if not paths.model.exists():
        settings = preset_settings(preset, seed=seed, **given)
        summary = train(paths.voxels, paths.model, settings, device=bench.device, resume=True)
        found |= {"train: seconds": summary.seconds, "train: accuracy": summary.accuracy, "train: IoU": summary.score}
    if not paths.codebook.exists():
        fit = partial(calibrated, paths.calibration, views=views_of_run(paths.model, number=views))
        summary = cluster_network(
            paths.voxels, paths.model, paths.codebook, seed=seed, device=bench.device, calibrate=fit
        )
        found |= {"cluster and calibrate: seconds": summary.seconds}
    if bench.device.type == "cuda":
        found["most memory of the card, GB"] = torch.cuda.max_memory_allocated(bench.device) / 1e9
    return found, paths


def evaluated(run: Run, device: torch.device, views: int | None = None) -> Figures:
    seconds, result = timed(partial(run.evaluate, "test", views=views), device)
    detection = result["detection"] or {}
    return {
        "evaluate: seconds": seconds,
        "evaluate: shapes": result["n"],
        "evaluate: accuracy": result["accuracy"],
        "evaluate: AUROC of suspicion": (detection.get("suspicion") or {}).get("auroc"),
    }


def measure_reading(bench: Bench) -> Figures:
    """A short run made on the card, then evaluated and explained on card and CPU."""
    short = {"epochs": 1, "feedback_epochs": 1} if bench.small else {"epochs": 4, "feedback_epochs": 2}
    preset = "smoke" if bench.small else "compact"
    found, paths = pipeline(bench, "short", None if bench.small else bench.modelnet10, preset=preset, **short)
    for device in bench.devices:
        run = Run(paths, device=device, in_memory=True)
        name = run.voxels.names[int(run.voxels.indices("test")[0])]
        run.explain(name)
        seconds, said = timed(partial(run.explain, name), device)
        figures = {**evaluated(run, device), "explain: seconds": seconds, "explain: class": said.predicted}
        found |= {f"{device.type}: {key}": value for key, value in figures.items()}
    return found


def run_modelnet(bench: Bench, source: Path | None, name: str, seed: int = 0, views: int | None = None) -> Figures:
    """The paper's width on a whole data set, every stage on the card."""
    if source is None and not bench.small:
        return {"left out": "no data was given"}
    short = {"epochs": 1, "feedback_epochs": 1} if bench.small else {}
    preset = "smoke" if bench.small else "paper"
    found, paths = pipeline(bench, name, source, preset=preset, seed=seed, views=views, **short)
    return found | evaluated(Run(paths, device=bench.device, in_memory=True), bench.device, views)


def blocks(bench: Bench, *, full: bool) -> dict[str, Callable[[], Figures]]:
    """Everything there is to do, in order."""
    found: dict[str, Callable[[], Figures]] = {
        "gpu tests": partial(run_tests, bench),
        "matrix product, TFLOP/s": partial(measure_peak, bench),
        "training, compact": partial(measure_training, bench, "smoke" if bench.small else "compact"),
        "training, paper": partial(measure_training, bench, "smoke" if bench.small else "paper"),
        "clustering": partial(measure_clustering, bench),
        "evaluation and explanation": partial(measure_reading, bench),
        "ModelNet10, paper": partial(run_modelnet, bench, bench.modelnet10, "modelnet10"),
    }
    if full:
        for seed in SEEDS:
            found[f"ModelNet10, paper, seed {seed}, {VIEWS} views"] = partial(
                run_modelnet, bench, bench.modelnet10, f"modelnet10-{seed}", seed, VIEWS
            )
        found["ModelNet40, paper"] = partial(run_modelnet, bench, bench.modelnet40, "modelnet40")
    return found


def machine(device: torch.device) -> Figures:
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "none"
    return {
        "card": card,
        "processor": f"{cpu_name()}, {torch.get_num_threads()} threads",
        "software": f"torch {torch.__version__}, Python {platform.python_version()}",
    }


def write(bench: Bench, results: Figures) -> None:
    """All figures, as JSON and as a table."""
    (bench.output / "gpu.json").write_text(json.dumps(results, indent=2) + "\n")
    lines = [*(f"{name}: {value}  " for name, value in results["machine"].items()), "", "| block | figure | value |"]
    lines.append("|---|---|---|")
    for name, block in results["blocks"].items():
        for figure, value in block["figures"].items():
            lines.append(f"| {name} | {figure} | {f'{value:.4g}' if isinstance(value, float) else value} |")
    (bench.output / "gpu.md").write_text("\n".join(lines) + "\n")


def run_block(name: str, seconds: float) -> int | None:
    """Run a block as a process of its own; its exit code, None where it took longer and was ended.

    Ctrl-C first, so that a training keeps the epoch that it is in.
    """
    child = subprocess.Popen([sys.executable, *sys.argv, "--block", name], start_new_session=True)
    for wait_for, ended_by in ((max(1.0, seconds - GRACE), signal.SIGINT), (GRACE, signal.SIGKILL)):
        try:
            code = child.wait(wait_for)
            return code if ended_by == signal.SIGINT else None
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, ended_by)
        except KeyboardInterrupt:  # which a process of another session does not get
            os.killpg(child.pid, signal.SIGINT)
            child.wait()
            raise
    child.wait()
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--budget", type=float, default=540.0, help="seconds after which the block in hand is ended")
    parser.add_argument("--output", type=Path, required=True, help="a folder for results and runs; goes on where it is")
    parser.add_argument("--modelnet10", type=Path, help="a source of ModelNet10, or its voxels.h5")
    parser.add_argument("--modelnet40", type=Path, help="the same of ModelNet40")
    parser.add_argument("--full", action="store_true", help=f"also five seeds with {VIEWS} views, and ModelNet40")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to try the script")
    parser.add_argument("--block", help=argparse.SUPPRESS)
    options = parser.parse_args()
    bench = Bench(torch.device(options.device), options.small, options.output, options.modelnet10, options.modelnet40)
    bench.output.mkdir(parents=True, exist_ok=True)
    todo = blocks(bench, full=options.full)
    if options.block:
        try:
            (bench.output / "block.json").write_text(json.dumps(todo[options.block]()))
        except KeyboardInterrupt:  # the process that started this one says why
            sys.exit(130)
        return
    ends = time.monotonic() + options.budget
    stored = bench.output / "gpu.json"
    results = json.loads(stored.read_text()) if stored.exists() else {"machine": machine(bench.device), "blocks": {}}
    for name in todo:
        if name in results["blocks"]:
            continue
        started = time.monotonic()
        print(f"{name} …", flush=True)
        code = run_block(name, ends - started)
        if code is None:
            print("the budget is spent; start the same command again to go on.")
            break
        if code:
            print(f"failed with exit code {code}; the other blocks go on.", flush=True)
            continue
        figures = json.loads((bench.output / "block.json").read_text())
        results["blocks"][name] = {"seconds": time.monotonic() - started, "figures": figures}
        write(bench, results)
        print("  " + ", ".join(f"{key} {value}" for key, value in figures.items()), flush=True)


if __name__ == "__main__":
    main()
