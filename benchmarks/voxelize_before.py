"""Speed of voxelization: this code against an older checkout of it, in turn, in one run.

    git worktree add ../before 30eb515
    python benchmarks/voxelize_before.py ../before [--data FOLDER] [--rounds 5]

FOLDER (default: FER_SHARED_DATA) holds modelnet10-off.zip and psb12-off.zip. 30eb515 is the commit before concave
polygons, unused vertices and thin walls (ADR 33). Each round runs each code in a process of its own, one after the
other; which one goes first alternates. For each mesh the least processor time of all rounds counts, since other
programs may use the machine. Compilation is not counted. Prints a table in Markdown.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from machine import cpu_name

THIS = Path(__file__).parents[1]
SETS = {
    "ModelNet10, 79 bathtubs": ("modelnet10-off.zip", "/bathtub/"),
    "ModelNet10, 3 chairs, 2 beds, 1 toilet": ("modelnet10-off.zip", "/(?!bathtub/)"),
    "PSB, 527 meshes of 12 classes": ("psb12-off.zip", ""),
}
WORKER = """
import json, sys, time
from pathlib import Path
from fer_cli.data.formats.registry import read_shape
from fer_cli.data.occupancy import VoxelSettings, voxelize_shape
settings = VoxelSettings(32, 1)
contents = [(path, Path(path).read_bytes()) for path in json.load(sys.stdin)]
for path, content in contents[:2]:
    voxelize_shape(read_shape(content, path), settings)
taken = []
for path, content in contents:
    before = time.process_time()
    shape = read_shape(content, path)
    between = time.process_time()
    voxelize_shape(shape, settings)
    taken.append((between - before, time.process_time() - between))
print(json.dumps(taken))
"""

Times = list[tuple[float, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="checkout of the older code")
    parser.add_argument("--data", type=Path, default=os.environ.get("FER_SHARED_DATA"))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if options.data is None or not options.data.is_dir():
        parser.error("give --data, the folder of the archives")
    print("\n".join(against(options.before, options.data, options.rounds)))


def against(before: Path, data: Path, rounds: int) -> list[str]:
    """Lines of Markdown: the machine, and a table of both codes."""
    codes = {"before": before, "now": THIS}
    lines = [
        f"{cpu_name()}, load average {os.getloadavg()[0]:.1f} when it began; for each mesh the fastest of {rounds} rounds,",
        f"the codes in turn; before: {commit_of(before)}.",
        "",
        "| meshes | code | reading, median | voxelizing, median | both, median | both, slowest | both, all meshes |",
        "|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as temporary:
        for name, (archive, pattern) in SETS.items():
            meshes = unpacked(data / archive, pattern, Path(temporary))
            fastest = {code: [(float("inf"), float("inf"))] * len(meshes) for code in codes}
            for number in range(rounds):
                for code in list(codes)[:: 1 if number % 2 else -1]:
                    fastest[code] = least(fastest[code], timed(codes[code], meshes))
            lines += [f"| {name} | {code} | {' | '.join(row(times))} |" for code, times in fastest.items()]
            ratios = [sum(now) / sum(then) for now, then in zip(fastest["now"], fastest["before"], strict=True)]
            quarters = ", ".join(f"{value:.2f}" for value in statistics.quantiles(ratios))
            lines.append(f"| {name} | now / before, quartiles | – | – | {quarters} | most {max(ratios):.2f} | – |")
    return lines


def commit_of(checkout: Path) -> str:
    command = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def unpacked(archive: Path, pattern: str, folder: Path) -> list[str]:
    """Paths of the meshes of an archive that match."""
    with zipfile.ZipFile(archive) as opened:
        meshes = [name for name in opened.namelist() if name.endswith(".off")]
        names = sorted(name for name in meshes if re.match(f"[^/]+{pattern}", name))
        for name in names:
            opened.extract(name, folder)
    return [str(folder / name) for name in names]


def timed(checkout: Path, meshes: list[str]) -> Times:
    """Processor seconds of reading and of voxelizing each mesh, in a process that runs this checkout."""
    environment = os.environ | {"PYTHONPATH": str(checkout.absolute() / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WORKER]
    done = subprocess.run(
        command, env=environment, input=json.dumps(meshes), stdout=subprocess.PIPE, text=True, check=True
    )
    return [(reading, voxelizing) for reading, voxelizing in json.loads(done.stdout)]


def least(one: Times, other: Times) -> Times:
    return [(min(a[0], b[0]), min(a[1], b[1])) for a, b in zip(one, other, strict=True)]


def row(times: Times) -> list[str]:
    both = [sum(each) for each in times]
    medians = [statistics.median(column) for column in (*zip(*times, strict=True), both)]
    return [*(f"{1000 * value:.2f} ms" for value in (*medians, max(both))), f"{sum(both):.2f} s"]


if __name__ == "__main__":
    main()
