"""Processor seconds a sample and peak memory of every stage, against the number of training samples.

    python benchmarks/scale.py modelnet10-binvox.zip --work FOLDER [--counts 3162 10000 31623 100000] [--network small]

ModelNet10's training shapes are repeated in a zip of binvox files. The first of each shape is as it was; others are turned
and mirrored about the vertical in one of eight ways, and lose 2 % of their occupied voxels at random, so that no two
are alike. Every third test shape is there, as it was. Each stage is a process of its own with one worker and one thread:
`fer voxelize`; one epoch of the classifier and one of the feedback network, by `fer train` for a preset, and for the network
`small` at 16³, which is attached, by `attach_small.py` and `fer attach`; `fer cluster`; `fer evaluate`. Seconds are the
processor's, user and system; memory is the peak of the largest process of a stage.

`--scheduler ADDRESS` sends voxelize and cluster to a Dask scheduler, and tells only the stages' own process;
`--stages` names those that run. One line of JSON a stage goes to FOLDER/scale.jsonl, what is there is not run again, and at
the end the tables are printed.
"""

import argparse
import json
import os
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fer_cli.data.dataset import VALIDATION_FRACTION, open_voxels
from fer_cli.data.entries import Entry
from fer_cli.data.formats.registry import Grid
from fer_cli.data.source import list_entries, read_shape_of
from machine import cpu_name, run_command
from scaling import GPU_RATE, GPUS, SHAPES, cost

LOST = 0.02
"""Each repeated shape loses this share of its occupied voxels at random, so that no two are alike."""
TEST_STEP = 3
"""Every third test shape is used. The number of test shapes is the same for all sizes of the training set."""
K = {"small": "20,20", "smoke": "20,20,15,15,10,10,10", "residual": "20,20,15,15"}
"""Codes of each layer, by network. k-means fits 20 codes to at most 256 × 20 = 5,120 samples; others are looked up alone."""
TRAINING_RATE, READING_RATE = GPU_RATE, 20e12
"""Operations a second assumed of a GPU in bfloat16, and in float32 without TF32."""
COMPARED = 1024 + 1000
"""So many samples, 1,024 validation and 1,000 test samples, does an evaluation compare with each training sample."""
SMALL = Path(__file__).with_name("attach_small.py")
STAGES = ("voxelize", "train", "attach", "cluster", "evaluate")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--counts", type=int, nargs="+", default=[3162, 10_000, 31_623, 100_000])
    parser.add_argument("--network", default="small", choices=K)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--scheduler")
    parser.add_argument("--predict", action="store_true", help="a million samples at paper width, by the network small")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    done = options.work / "scale.jsonl"
    for count in options.counts:
        source = options.work / f"{count}.zip"
        if not source.exists():
            write_repeated(options.source, source, count)
        run = options.work / f"{count}-{options.network}"
        for stage in options.stages:
            key = {"count": count, "network": options.network, "stage": stage}
            key["scheduler"] = bool(options.scheduler)
            if (stage == "attach" and options.network != "small") or any(
                key.items() <= record.items() for record in records(done)
            ):
                continue
            measured = run_stage(stage, source, run, options)
            with done.open("a") as file:
                file.write(json.dumps({**key, **measured}) + "\n")
            print(json.dumps({**key, **measured}), flush=True)
    print_tables(records(done))
    if options.predict:
        print_prediction(records(done))


def records(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def run_stage(stage: str, source: Path, run: Path, options: argparse.Namespace) -> dict[str, object]:
    """Run one stage; what it took, and of its result what explains it."""
    small = options.network == "small"
    workers = ["--scheduler", options.scheduler] if options.scheduler else ["--workers", "1"]
    fer = [sys.executable, "-m", "fer_cli", stage, "--json", "--run", run]
    epochs = ["--feedback-epochs", "1", "--force"]
    commands = {
        "voxelize": [*fer, source, "--force", "--resolution", "16" if small else "32", *workers],
        "train": [sys.executable, SMALL, run]
        if small
        else [*fer, "--preset", options.network, "--epochs", "1", *epochs],
        "attach": [*fer, f"{SMALL}:Small", "--weights", run / "small.pt", *epochs],
        "cluster": [*fer, "--force", "--k", K[options.network], *workers],
        "evaluate": fer,
    }
    os.environ["OMP_NUM_THREADS"] = "1"
    done = run_command(commands[stage])
    told = json.loads(done.output or "{}")
    kept = {name: told[name] for name in ("n", "n_errors", "accuracy") if name in told}
    samples = len(open_voxels(run / "voxels.h5"))
    return {"samples": samples, "cpu": done.cpu_seconds, "wall": done.seconds, "peak": done.peak_bytes, **kept}


def write_repeated(source: Path, target: Path, count: int) -> None:
    """Write a zip of binvox files: the test shapes of `source`, and `count` training shapes made of its own."""
    listing = list_entries(source)
    training = [entry for entry in listing.entries if entry.split == "train"]
    distinct = min(count, len(training))
    chosen = [training[i * len(training) // distinct] for i in range(distinct)]
    generator = np.random.default_rng(0)
    written = target.with_suffix(".part")
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for entry in [entry for entry in listing.entries if entry.split == "test"][::TEST_STEP]:
            put(archive, entry, entry.name, occupancy(source, entry))
        grids = [occupancy(source, entry) for entry in chosen]
        for place in range(count):
            times, which = divmod(place, distinct)
            entry, grid = chosen[which], grids[which]
            put(archive, entry, f"{entry.name}_{times}", varied(grid, times, generator) if times else grid)
    written.rename(target)


def occupancy(source: Path, entry: Entry) -> np.ndarray:
    shape = read_shape_of(source, entry)
    assert isinstance(shape, Grid)
    return shape.occupancy.astype(bool)


def varied(grid: np.ndarray, times: int, generator: np.random.Generator) -> np.ndarray:
    """One of the eight symmetries about the vertical, less a random share of the occupied voxels."""
    turned = np.rot90(grid if times % 2 else grid[::-1], times // 2 % 4, axes=(0, 1))
    return turned & (generator.random(turned.shape) >= LOST)


def put(archive: zipfile.ZipFile, entry: Entry, name: str, grid: np.ndarray) -> None:
    archive.writestr(f"shapes/{entry.class_name}/{entry.split}/{name}.binvox", b"".join(binvox(grid)))


def binvox(grid: np.ndarray) -> Iterator[bytes]:
    """The pieces of a binvox file of a cube: runs of equal voxels, y fastest and then z."""
    yield f"#binvox 1\ndim {grid.shape[0]} {grid.shape[2]} {grid.shape[1]}\ntranslate 0 0 0\nscale 1\ndata\n".encode()
    voxels = grid.transpose(0, 2, 1).ravel()
    ends = np.append(np.flatnonzero(np.diff(voxels)) + 1, len(voxels))
    for value, length in zip(voxels[ends - 1].tolist(), np.diff(ends, prepend=0).tolist(), strict=True):
        whole, rest = divmod(length, 255)
        yield bytes([value, 255]) * whole + (bytes([value, rest]) if rest else b"")


def print_tables(found: list[dict]) -> None:
    """Of every network the milliseconds of the processor a sample, from one count to the next too, and peak memory."""
    print(f"\n{cpu_name()}, one thread\n")
    for network in dict.fromkeys(record["network"] for record in found):
        own = [record for record in found if record["network"] == network]
        counts = sorted({record["count"] for record in own})
        for what, cell in (("seconds", seconds), ("ms a further sample", further), ("peak MB", peak)):
            print(
                f"| {network}: {what} | {' | '.join(f'{count:,}' for count in counts)} |\n|{'---|' * (1 + len(counts))}"
            )
            for stage, scheduler in dict.fromkeys((record["stage"], record["scheduler"]) for record in own):
                row = [r for r in own if (r["stage"], r["scheduler"]) == (stage, scheduler)]
                row.sort(key=lambda record: record["count"])
                cells = {after["count"]: cell(before, after) for before, after in zip([None, *row], row, strict=False)}
                named = f"{stage}{', Dask' * scheduler}"
                print(f"| {named} | {' | '.join(cells.get(count, '–') for count in counts)} |")
            print()


def print_prediction(found: list[dict]) -> None:
    """Hours for a million samples of 32³ at paper width: what fer does on the host, measured, and arithmetic, counted."""
    paper = cost("paper", 32)
    forward, mirrors = sum(paper.levels), sum(paper.mirrors)
    rows: list[tuple[str, list[str], float, float]] = [
        ("voxelize", ["voxelize"], 0.0, 0.0),
        (
            "train, an epoch of each phase",
            ["train", "attach"],
            paper.epoch("feedforward") + paper.epoch("feedback"),
            TRAINING_RATE,
        ),
        ("cluster", ["cluster"], (1 + VALIDATION_FRACTION) * (forward + mirrors), READING_RATE),
        ("evaluate, 1,000 test samples", ["evaluate"], forward + COMPARED * 2 * 32**3, READING_RATE),
    ]
    print("| stage | host, one core | arithmetic of one GPU | one GPU | eight GPUs |\n|---|---|---|---|---|")
    for named, stages, operations, rate in rows:
        host = 0.0
        for stage in stages:
            own = [r for r in found if (r["network"], r["stage"], r["scheduler"]) == ("small", stage, False)]
            first, last = (pick(own, key=lambda record: record["count"]) for pick in (min, max))
            host += (last["cpu"] - first["cpu"]) / (last["samples"] - first["samples"]) * SHAPES / 3600
        device = operations * SHAPES / rate / 3600 if rate else 0.0
        shared = 1 if stages[0] in ("cluster", "evaluate") else GPUS  # one process makes the features
        cells = [host, device, max(host, device), max(host, device) / shared]
        print(f"| {named} | {' | '.join(f'{hours:.2f} h' for hours in cells)} |")


def seconds(_: dict | None, record: dict) -> str:
    return f"{record['cpu']:.1f}"


def further(before: dict | None, record: dict) -> str:
    if before is None:
        return "–"
    return f"{1e3 * (record['cpu'] - before['cpu']) / (record['samples'] - before['samples']):.2f}"


def peak(_: dict | None, record: dict) -> str:
    return f"{record['peak'] / 1e6:.0f}"


if __name__ == "__main__":
    main()
