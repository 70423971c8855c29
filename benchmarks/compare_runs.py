"""Compare a run before and after a change of the program, dataset by dataset and answer by answer.

`record` asks a run's questions (evaluate, explain every mistake, probe every layer) with one version of the program and
keeps the answers as JSON and .npy in RUN/answers. `compare` holds two run folders against each other: every dataset of
every artifact, and every number and word of the answers. It prints what differs, and ends with 1 if anything differs by
more than the tolerance.

    git worktree add /tmp/before HEAD~5
    python benchmarks/compare_runs.py record before-run --source /tmp/before/src --evaluate --studies
    python benchmarks/compare_runs.py record after-run --evaluate --studies
    python benchmarks/compare_runs.py compare before-run after-run

Both folders hold the same voxels.h5 and model.h5; `fer cluster` of each version makes the codebook.
"""

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

IGNORED = {"report", "gallery", "run", "seconds", "images", "reconstruction_file", "path", "id", "parents", "model"}
"""Keys of answers that name files, times or ids."""
LAYERS = "feedforward/"


def ask(run: Path, source: Path | None, *words: str) -> dict[str, Any]:
    """The JSON answer of a `fer` command about a run."""
    environment = dict(os.environ)
    if source:
        environment["PYTHONPATH"] = str(source)
    command = [sys.executable, "-m", "fer_cli", *words, "--run", str(run), "--json"]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def record(run: Path, source: Path | None, *, evaluate: bool, studies: bool) -> None:
    """Ask everything about a run, and keep the answers."""
    answers = run / "answers"
    answers.mkdir(exist_ok=True)

    def keep(name: str, answer: dict[str, Any]) -> None:
        (answers / f"{name}.json").write_text(json.dumps(answer, indent=1) + "\n")

    mistakes = ask(run, source, "explain", "--errors", "--no-images")
    keep("explain", mistakes)
    name = mistakes["samples"][0]["sample"]
    for layer, shape in layers_of(run / "codebook.h5").items():
        side = round(shape ** (1 / 3))
        location = ",".join([str(side // 2)] * 3)
        for by in ("feature", "centroid"):
            words = ("probe", name, "--layer", layer, "--location", location, "--by", by)
            found = ask(run, source, *words, "-o", str(answers / f"probe-{layer}-{by}"))
            found.pop("reconstruction")
            keep(f"probe-{layer}-{by}", found)
    if evaluate:
        options = ("--repair", "--planted", "--sanity") if studies else ()
        keep("evaluate", ask(run, source, "evaluate", "--votes", "4", *options))


def layers_of(codebook: Path) -> dict[str, int]:
    """Layers of a codebook below the output, and how many locations each has."""
    with h5py.File(codebook, "r") as file:
        return {name: len(group["n_codes"]) for name, group in file["feedforward"].items() if name != "output"}


def content(run: Path) -> Iterator[tuple[str, np.ndarray | Any]]:
    """Every dataset, array and leaf of an answer, by a name that no version of the program changes."""
    for path in sorted(run.glob("*.h5")):
        with h5py.File(path, "r") as file:
            found: list[tuple[str, np.ndarray]] = []
            file.visititems(lambda name, item: found.append((name, item[()])) if hasattr(item, "dtype") else None)  # noqa: B023
        for name, array in found:
            # Calibration was part of the codebook once.
            yield name if name.startswith("calibration/") else f"{path.stem}:{name}", array
    for path in sorted(run.glob("answers/**/*.npy")):
        volume = np.load(path)
        # Volumes of one channel had no axis for it once.
        yield str(path.relative_to(run)), volume[0] if volume.ndim == 4 and len(volume) == 1 else volume
    for path in sorted(run.glob("answers/*.json")):
        yield from leaves(path.stem, json.loads(path.read_text()))


def leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The leaves of a JSON value by the path of keys that leads to each."""
    if isinstance(value, dict):
        for key, each in value.items():
            if key not in IGNORED:
                yield from leaves(f"{name}.{key}", each)
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from leaves(f"{name}[{number}]", each)
    else:
        yield name, value


def difference(one: Any, other: Any) -> float:
    """The largest absolute difference; infinite between words, or between arrays of two shapes."""
    a, b = np.asarray(one), np.asarray(other)
    if a.shape != b.shape:
        return math.inf
    if a.dtype.kind in "OSU" or b.dtype.kind in "OSU":
        return 0.0 if np.array_equal(a, b) else math.inf
    if a.dtype.kind not in "fc" and b.dtype.kind not in "fc":
        return float(np.abs(a.astype(np.int64) - b.astype(np.int64)).max(initial=0))
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    return float(np.abs(np.where(same, 0, a.astype(np.float64) - b)).max(initial=0))


def compare(before: Path, after: Path, tolerance: float) -> int:
    """Print what differs between two run folders; how many datasets and leaves differ by more than the tolerance."""
    old, new = dict(content(before)), dict(content(after))
    beyond = 0
    for name in [*old, *(name for name in new if name not in old)]:
        if name not in old or name not in new:
            print(f"only {'after' if name not in old else 'before'}: {name}")
            continue
        found = difference(old[name], new[name])
        if found == 0:
            continue
        scale = np.abs(np.nan_to_num(np.asarray(old[name], dtype=np.float64))).max(initial=0) if found < math.inf else 1
        if found > tolerance * max(1.0, float(scale)):
            beyond += 1
            print(f"DIFFERS: {name}: by {found:.3g}", *([old[name], new[name]] if np.ndim(old[name]) == 0 else []))
        else:
            print(f"rounding: {name}: by {found:.3g}")
    same = sum(name in new and difference(old[name], new[name]) == 0 for name in old)
    print(f"{len(old)} datasets and leaves before, {len(new)} after; {same} identical, {beyond} differ")
    return beyond


def main() -> None:
    """Parse the words of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    asking = commands.add_parser("record", help="keep a run's answers")
    asking.add_argument("run", type=Path)
    asking.add_argument("--source", type=Path, help="src folder of the version to ask; the installed one by default")
    asking.add_argument("--evaluate", action="store_true", help="with fer evaluate")
    asking.add_argument("--studies", action="store_true", help="with repair, planted faults and sanity checks too")
    comparing = commands.add_parser("compare", help="hold two runs against each other")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    comparing.add_argument("--tolerance", type=float, default=1e-6, help="of a difference, as a share of the largest")
    given = parser.parse_args()
    if given.command == "record":
        record(given.run, given.source, evaluate=given.evaluate or given.studies, studies=given.studies)
    else:
        sys.exit(compare(given.before, given.after, given.tolerance) > 0)


if __name__ == "__main__":
    main()
