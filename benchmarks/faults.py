"""Kill every stage at random instants and before every change of a file, run two at once, fill the disk, run it twice.

    .venv/bin/python benchmarks/faults.py                     # as `make faults`: prints the tables of docs/reliability.md
    .venv/bin/python benchmarks/faults.py --instants 2 --events 3 --limits 3 --json out.json

Each trial is the command line itself (`fer_cli.cli.app`), in a process group of its own, forked from a process that has
imported what it needs, so that every instant falls into the stage's own work; the group gets SIGKILL. Then what lies
under real names is read through, the command is run again, and all it makes is compared with what an uninterrupted run
made: ids and SHA-256 over the datasets of artifacts, bytes of everything else.

The run is small: boxes of three classes at 8³, a network of three convolutions and a dense layer, and one of somebody
else to attach. POSIX only.
"""

import argparse
import contextlib
import hashlib
import importlib
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a thread pool does not survive a fork

import numpy as np
import torch

# The processes forked from this one need them all.
from fer_cli.cli import app
from fer_cli.codebooks import clustering  # noqa: F401
from fer_cli.data import voxelize  # noqa: F401
from fer_cli.network import attach, training  # noqa: F401
from fer_cli.network.fer_cnn import PRESETS
from fer_cli.network.receptive import LayerSpec
from fer_cli.reports import evaluation_page, evaluation_report, gallery, page  # noqa: F401
from fer_cli.storage.artifact import open_artifact
from fer_cli.studies import evaluate  # noqa: F401
from machine import cpu_name

LAYERS = (
    LayerSpec("conv1", 6, 4, 2, 1),
    LayerSpec("conv2", 8, 3, 2, 1),
    LayerSpec("conv3", 10, 2, 2, 0),
    LayerSpec("fc4", 9),
)
SIDES = {"beam": (8, 2, 2), "plate": (8, 8, 2), "pole": (2, 2, 8)}
BOX = "OFF\n8 6 0\n{}4 0 2 3 1\n4 4 5 7 6\n4 0 1 5 4\n4 2 6 7 3\n4 0 4 6 2\n4 1 3 7 5\n"
NETWORK = """
import torch
from torch import nn


def build():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(1, 6, 3, 2, 1), nn.ReLU(), nn.Conv3d(6, 8, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    )
"""
SAMPLE = "plate_test_00"
ARTIFACTS = ("voxels.h5", "model.h5", "codebook.h5", "codebook.calibration.h5")


@dataclass(frozen=True)
class Stage:
    """A command, what it needs of a run, and what it makes there."""

    command: str
    needs: tuple[str, ...]
    makes: tuple[str, ...]


STAGES = {
    "voxelize": Stage("voxelize boxes --resolution 8 --padding 0 --workers 1 --run run", (), ("voxels.h5",)),
    "train": Stage(
        "train --preset smoke --epochs 3 --feedback-epochs 2 --batch-size 9 --resume --run run",
        ("voxels.h5",),
        ("model.h5", "model.curve.png"),
    ),
    "attach": Stage(
        "attach nets.py:build --feedback-epochs 3 --batch-size 9 --resume --run run -o run/attached.h5",
        ("voxels.h5",),
        ("attached.h5", "attached.curve.png"),
    ),
    "cluster": Stage(
        "cluster --k 5,4,4,3 --memory 20KB --workers 2 --run run",
        ("voxels.h5", "model.h5"),
        ("codebook.h5", "codebook.calibration.h5"),
    ),
    "calibrate": Stage("calibrate --force --run run", ARTIFACTS[:3], ARTIFACTS[3:]),
    "evaluate": Stage("evaluate --run run", ARTIFACTS, ("evaluate",)),
    "explain": Stage(f"explain {SAMPLE} --workers 1 --run run", ARTIFACTS, ("explain",)),
}


@dataclass
class Tally:
    """What the trials of one kind on one stage came to; `faults` are what went wrong, in words."""

    trials: int = 0
    during: int = 0  # kills that came before the command had ended
    went_on: int = 0
    faults: list[str] = field(default_factory=list)


# Processes


def fork_fer(command: str, folder: Path, before: Callable[[], object] = lambda: None) -> int:
    """Start a command of fer in `folder` as a process group of its own; its pid. Its words go to `folder`/said.<pid>."""
    pid = os.fork()
    if pid:
        with contextlib.suppress(OSError):  # the child does the same, whoever comes first
            os.setpgid(pid, pid)
        return pid
    try:
        os.setpgid(0, 0)
        os.chdir(folder)
        said = os.open(f"said.{os.getpid()}", os.O_WRONLY | os.O_CREAT)
        os.dup2(said, 1)
        os.dup2(said, 2)
        sys.stdout, sys.stderr = io.TextIOWrapper(os.fdopen(1, "wb")), os.fdopen(2, "w", buffering=1)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        torch.set_num_threads(1)
        sys.argv = ["fer", *command.split()]
        before()
        app.main()
    except SystemExit as error:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            Path("modules").write_text("\n".join(sys.modules))
        os._exit(error.code if isinstance(error.code, int) else 0)
    except BaseException as error:
        os.write(2, f"escaped: {error!r}\n".encode())
        os._exit(99)
    os._exit(98)


def ended(pid: int, folder: Path) -> tuple[int, str]:
    """Exit code and words of a command, once it has ended; of its group nothing is left then."""
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    said = folder / f"said.{pid}"
    words = said.read_text(errors="replace") if said.exists() else ""  # killed before it said anything
    said.unlink(missing_ok=True)
    return code, words


def run_fer(command: str, folder: Path, before: Callable[[], object] = lambda: None) -> tuple[int, str]:
    return ended(fork_fer(command, folder, before), folder)


def made_by(command: str, folder: Path) -> None:
    code, said = run_fer(command, folder)
    if code:
        sys.exit(f"fer {command} failed with exit code {code}: {said}")


# Looking at what is there


def digest(path: Path) -> str:
    """An artifact's id and SHA-256 over its datasets, all of them read; the bytes' SHA-256 of any other file.

    Raises where the file is damaged. Wall times, which no id covers, are left out.
    """
    content = hashlib.sha256()
    if path.suffix != ".h5":
        found = path.read_bytes()
        whole = {
            ".json": lambda: json.loads(found),
            ".png": lambda: found.index(b"IEND"),
            ".html": lambda: found.rindex(b"</html>"),
        }
        whole[path.suffix]()
        return hashlib.sha256(found).hexdigest()
    with open_artifact(path) as artifact:
        for name in artifact.names():
            spec = artifact.form.spec(name)
            assert spec is not None
            array = artifact.read_text(name) if spec.dtype == "text" else artifact.read(name)
            if spec.identifying:
                content.update(name.encode() + (repr(array).encode() if isinstance(array, list) else array.tobytes()))
        return f"{artifact.id} {content.hexdigest()}"


def under_real_names(run: Path) -> dict[str, str]:
    """Digest of every file of a run that has its real name; a checkpoint is read, but differs by its instant."""
    files = (path for path in sorted(run.rglob("*")) if path.is_file() and not path.name.startswith("."))
    found = {str(path.relative_to(run)): digest(path) for path in files}
    return {name: value for name, value in found.items() if "checkpoint" not in name}


def leavings(run: Path) -> list[str]:
    """Partial files, locks, journals, checkpoints and scratch."""
    return sorted(p.name for p in run.rglob("*") if p.is_file() and (p.name.startswith(".") or "checkpoint" in p.name))


# Trials


class Campaign:
    """All trials, on copies of one run that was never interrupted."""

    def __init__(self, place: Path, generator: random.Random) -> None:
        self.place = place
        self.generator = generator
        self.base = place / "base"
        self.seconds: dict[str, float] = {}
        write_boxes(place / "boxes")
        (place / "nets.py").write_text(NETWORK)
        os.environ["XDG_CONFIG_HOME"] = str(place / "config")  # where fer notes which code may run
        (self.base / "run").mkdir(parents=True)
        self._link_inputs(self.base)
        for stage in STAGES.values():
            made_by(stage.command, self.base)
            for module in (self.base / "modules").read_text().split():
                with contextlib.suppress(Exception):  # what it imports late, later trials need not import again
                    importlib.import_module(module)
        self.whole = under_real_names(self.base / "run")
        with self.trial(*STAGES) as folder:
            for name, stage in STAGES.items():
                started = time.monotonic()
                made_by(stage.command, folder)
                self.seconds[name] = time.monotonic() - started
                print(f"fer {name}: {self.seconds[name]:.2f} s", file=sys.stderr, flush=True)
            again = under_real_names(folder / "run")
        self.differing = sorted(name for name in {*again, *self.whole} if again.get(name) != self.whole.get(name))

    @contextlib.contextmanager
    def trial(self, *stages: str) -> Iterator[Path]:
        """A folder with a run that lacks what these stages make."""
        folder = Path(tempfile.mkdtemp(dir=self.place))
        (folder / "run").mkdir()
        self._link_inputs(folder)
        made = {name for stage in stages for name in STAGES[stage].makes}
        for name in {name for stage in stages for name in STAGES[stage].needs} - made:
            shutil.copy2(self.base / "run" / name, folder / "run" / name)
        yield folder
        shutil.rmtree(folder)

    def _link_inputs(self, folder: Path) -> None:
        for name in ("boxes", "nets.py"):
            (folder / name).symlink_to(self.place / name)

    def expected(self, run: Path) -> list[str]:
        """What of a run is not as in the uninterrupted one."""
        try:
            return [name for name, value in under_real_names(run).items() if self.whole.get(name) != value]
        except Exception as error:
            return [f"damaged: {error!r}"]

    def finish(self, name: str, folder: Path, tally: Tally, where: str) -> None:
        """Run a stage again after a fault, and compare."""
        stage, run = STAGES[name], folder / "run"
        if wrong := self.expected(run):
            tally.faults.append(f"{where}: before the next run: {wrong}")
        journal = any(name.endswith(".journal") or "checkpoint" in name for name in leavings(run))
        there = (run / stage.makes[0]).is_file()
        code, said = run_fer(stage.command, folder)
        if code and not (code == 2 and there and "exists already" in said):
            tally.faults.append(f"{where}: the next run ended with {code}: {said[-300:]}")
            return
        tally.went_on += journal and not there
        if wrong := self.expected(run):
            tally.faults.append(f"{where}: after the next run: {wrong}")
        if missing := [made for made in stage.makes if not (run / made).exists()]:
            tally.faults.append(f"{where}: missing after the next run: {missing}")
        if left := leavings(run):
            tally.faults.append(f"{where}: left behind: {left}")

    def kill_at_instants(self, name: str, count: int) -> Tally:
        """SIGKILL to the whole group, once in each of `count` equal parts of the stage's duration."""
        tally = Tally()
        for part in range(count):
            after = (part + self.generator.random()) / count * self.seconds[name]
            with self.trial(name) as folder:
                pid = fork_fer(STAGES[name].command, folder)
                time.sleep(after)
                os.killpg(pid, signal.SIGKILL)
                code, _ = ended(pid, folder)
                tally.trials += 1
                tally.during += code == -signal.SIGKILL
                self.finish(name, folder, tally, f"killed after {after:.3f} s")
        return tally

    def kill_before_events(self, name: str, count: int | None) -> Tally:
        """SIGKILL right before the stage opens for writing, renames, removes or locks a file: the last `count`, or all."""
        with self.trial(name) as folder:
            log = folder / "events"
            run_fer(STAGES[name].command, folder, lambda: watch(lambda number: log.write_text(str(number))))
            events = int(log.read_text())
        tally = Tally()
        for number in range(1 if count is None else max(1, events - count + 1), events + 1):
            with self.trial(name) as folder:

                def die(at: int, number: int = number) -> None:
                    if at == number:
                        os.killpg(0, signal.SIGKILL)

                code, _ = run_fer(STAGES[name].command, folder, lambda die=die: watch(die))
                tally.trials += 1
                tally.during += code == -signal.SIGKILL
                self.finish(name, folder, tally, f"killed before event {number} of {events}")
        return tally

    def run_two(self, name: str, count: int) -> Tally:
        """Two of the same stage, the second after a random part of the first's duration."""
        tally = Tally()
        for _ in range(count):
            with self.trial(name) as folder:
                first = fork_fer(STAGES[name].command, folder)
                time.sleep(self.generator.random() * 0.7 * self.seconds[name])
                second = fork_fer(STAGES[name].command, folder)
                outcomes = [ended(pid, folder) for pid in (first, second)]
                tally.trials += 1
                refused = [said for code, said in outcomes if code]
                tally.during += bool(refused)
                for code, said in outcomes:
                    clear = (code == 5 and "another run is at work on" in said and "process " in said) or (
                        code == 2 and "exists already" in said
                    )
                    if code and not clear:
                        tally.faults.append(f"one of two ended with {code}: {said[-300:]}")
                if len(refused) == 2:
                    tally.faults.append(f"both were refused: {refused}")
                self.finish(name, folder, tally, "after two at once")
        return tally

    def fill_disk(self, name: str, count: int) -> Tally:
        """No file may grow beyond a limit (RLIMIT_FSIZE), for limits up to the largest that the stage makes."""
        tally = Tally()
        sizes = [
            p.stat().st_size
            for made in STAGES[name].makes
            for p in [self.base / "run" / made, *(self.base / "run" / made).glob("**/*")]
            if p.is_file()
        ]
        for part in range(count):
            limit = int((part + self.generator.random()) / count * max(sizes))
            with self.trial(name) as folder:
                code, said = run_fer(STAGES[name].command, folder, lambda limit=limit: limit_files(limit))
                tally.trials += 1
                tally.during += code == 5
                lines = [line for line in said.splitlines() if line.startswith("fer: ")]
                if code not in (0, 5) or (code == 5 and not (lines and "cannot write" in lines[-1])):
                    tally.faults.append(f"files of at most {limit} bytes: ended with {code}: {said[-400:]}")
                if left := [each for each in leavings(folder / "run") if each.endswith((".partial", ".lock"))]:
                    tally.faults.append(f"files of at most {limit} bytes: left behind: {left}")
                self.finish(name, folder, tally, f"files of at most {limit} bytes")
        return tally


def watch(tell: Callable[[int], object]) -> None:
    """Call `tell` with 1, 2, … before each change of a file in the folder run that Python makes, here or in forks."""
    seen, busy = 0, False

    def heard(event: str, arguments: Sequence[object]) -> None:
        nonlocal seen, busy
        if busy:
            return
        match event:
            case "open":
                path, mode, _ = arguments
                touches = (
                    isinstance(path, str | bytes | Path)
                    and str(path).startswith("run/")
                    and mode not in (None, "r", "rb")
                )
            case "os.rename" | "os.remove":
                touches = str(arguments[0]).startswith("run/")
            case "fcntl.flock":
                touches = True
            case _:
                touches = False
        if touches:
            seen, busy = seen + 1, True
            tell(seen)
            busy = False

    sys.addaudithook(heard)


def limit_files(size: int) -> None:
    """Let no file grow beyond `size`; writing says that, as Python ignores the signal."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def write_boxes(folder: Path) -> None:
    """Boxes in ModelNet's layout: 24 a class to train with, 6 to test with, of which one lies in another's folder."""
    generator = np.random.default_rng(5)
    for label, name in enumerate(SIDES):
        for split, count in (("train", 24), ("test", 6)):
            for number in range(count):
                shape = list(SIDES)[(label + 1) % 3] if split == "test" and number == 0 else name
                sides = np.array(SIDES[shape]) * generator.uniform(0.6, 1.6, 3)
                corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)]) * sides
                path = folder / name / split / f"{name}_{split}_{number:02}.off"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(BOX.format("".join(f"{x:.4f} {y:.4f} {z:.4f}\n" for x, y, z in corners)))


def table(kinds: Mapping[str, Mapping[str, Tally]], heads: Mapping[str, str]) -> str:
    lines = []
    for kind, head in heads.items():
        lines += ["", f"| {head}", "|---|---|---|---|---|"]
        lines += [
            f"| `{n}` | {t.trials} | {t.during} | {t.went_on} | {len(t.faults)} |" for n, t in kinds[kind].items()
        ]
    return "\n".join(lines)


HEADS = {
    "instants": "killed at random instants | trials | before its end | went on from kept work | faults |",
    "events": "killed before a change of a file | trials | before its end | went on from kept work | faults |",
    "two": "two at once | trials | one was refused | went on from kept work | faults |",
    "full": "files of limited size | trials | ended with code 5 | went on from kept work | faults |",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instants", type=int, default=30, help="random instants a stage")
    parser.add_argument("--events", type=int, help="kill before the last so many changes of files only")
    parser.add_argument("--limits", type=int, default=10, help="limits on file sizes a stage")
    parser.add_argument("--pairs", type=int, default=5, help="pairs of the same stage at once")
    parser.add_argument("--stages", default=",".join(STAGES), help="stages to try")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write what was found here too")
    arguments = parser.parse_args()
    PRESETS["smoke"] = LAYERS  # a tiny network under a name that the option takes
    with tempfile.TemporaryDirectory(prefix="fer-faults-") as place:
        campaign = Campaign(Path(place), random.Random(arguments.seed))
        trials: dict[str, Callable[[str], Tally]] = {
            "instants": lambda name: campaign.kill_at_instants(name, arguments.instants),
            "events": lambda name: campaign.kill_before_events(name, arguments.events),
            "full": lambda name: campaign.fill_disk(name, arguments.limits),
            "two": lambda name: campaign.run_two(name, arguments.pairs),
        }
        kinds: dict[str, dict[str, Tally]] = {kind: {} for kind in trials}
        for kind, trial in trials.items():
            for name in arguments.stages.split(","):
                kinds[kind][name] = trial(name)
                print(f"{kind}, {name}: {kinds[kind][name]}", file=sys.stderr, flush=True)
    faults = [
        f"{kind}, {name}: {fault}" for kind, of in kinds.items() for name, tally in of.items() for fault in tally.faults
    ]
    faults += [f"a second run differs in {name}" for name in campaign.differing]
    found = {
        "kinds": {kind: {name: asdict(tally) for name, tally in of.items()} for kind, of in kinds.items()},
        "differing": campaign.differing,
        "compared": campaign.whole,
        "seconds": campaign.seconds,
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")
    print(
        f"seed {arguments.seed}, {cpu_name()}; seconds of an uninterrupted stage: "
        + ", ".join(f"{n} {s:.2f}" for n, s in campaign.seconds.items())
    )
    print(table(kinds, HEADS))
    print(f"\n{len(campaign.whole)} files compared after a second run of everything, {len(campaign.differing)} differ.")
    for fault in faults:
        print(f"FAULT {fault}")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
