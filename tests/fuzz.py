"""`make fuzz`: every reader against hostile files by the hundred thousand, each under limits of time and memory.

    python tests/fuzz.py --inputs 100000 --output fuzz-findings --readers off,ply

A child process reads the hostile files of one reader, one after another. One that takes more than 5 seconds of
processor time ends the child by a signal, wherever the time goes, and so does one that crashes it; the next child goes
on behind it. The operating system refuses more than 1 GB of memory beyond what the child has at the start. Python's
audit hook tells of every file opened for writing, made, renamed or removed outside the child's own folder, and of every
process and connection.

Artifacts are read in the child as `artifact` reads them once they are through `vetting`; those that end the child are
then read again with `vetting`, and count as `apart` if it finds them out.

Findings are kept in a folder for each reader: the file, and what became of it. `atheris_fuzz.py` looks for files by
coverage.
"""

import argparse
import collections
import collections.abc
import hashlib
import mmap
import os
import resource
import signal
import struct
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from types import FrameType

import hostile
from fer_cli.storage import arrays, artifact

SECONDS = 5
MEMORY = 1 << 30
_SCRATCH = "/dev/shm" if Path("/dev/shm").is_dir() else None
_TOUCHING = (
    "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.system",
    "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect", "pickle.find_class", "ctypes.dlopen",
)  # fmt: skip
_COLUMNS = ("inputs", "read", "refused", "apart", "faults", "hangs", "crashes", "memory, MB", "slowest, s", "CPU, s")
# Next number, files read, files refused, faults, peak bytes; seconds of the slowest file and of all.
_PROGRESS = struct.Struct("<5q2d")


def main() -> None:
    """Fuzz the readers asked for, and print a table."""
    parser = argparse.ArgumentParser(description="Fuzz the readers of fer.")
    parser.add_argument("--inputs", type=int, default=100_000, help="hostile files a reader")
    parser.add_argument("--first", type=int, default=0, help="number of the first file")
    parser.add_argument("--output", type=Path, default=Path("fuzz-findings"), help="folder of the findings")
    parser.add_argument("--readers", default=",".join(hostile.READERS), help="readers, with commas between them")
    options = parser.parse_args()
    print(f"| reader | {' | '.join(_COLUMNS)} |\n|{'---|' * (len(_COLUMNS) + 1)}", flush=True)
    n_findings = 0
    for reader in options.readers.split(","):
        counts, peak, slowest, seconds = fuzz(reader, options.first, options.inputs, options.output / reader)
        kinds = (hostile.READ, hostile.REFUSED, "apart", "fault", "hang", "crash")
        n_findings += sum(counts[kind] for kind in kinds[3:])
        row = (
            reader,
            counts.total(),
            *(counts[kind] for kind in kinds),
            peak >> 20,
            f"{slowest:.2f}",
            f"{seconds:.0f}",
        )
        print(f"| {' | '.join(map(str, row))} |", flush=True)
    sys.exit(1 if n_findings else 0)


def fuzz(reader: str, first: int, inputs: int, findings: Path) -> tuple[collections.Counter[str], int, float, float]:
    """Outcomes by kind, peak bytes beyond the start, processor seconds of the slowest file, and of all."""
    counts: collections.Counter[str] = collections.Counter()
    shared = mmap.mmap(-1, _PROGRESS.size)
    peak, slowest, seconds, number = 0, 0.0, 0.0, first
    while number < first + inputs:
        _PROGRESS.pack_into(shared, 0, number, 0, 0, 0, 0, 0.0, 0.0)
        with tempfile.TemporaryDirectory(dir=_SCRATCH) as folder:
            status = _in_child(partial(_read_all, reader, number, first + inputs, Path(folder), findings, shared))
        number, read, refused, faults, its_peak, its_slowest, its_seconds = _PROGRESS.unpack_from(shared)
        counts.update({hostile.READ: read, hostile.REFUSED: refused, "fault": faults})
        peak, slowest, seconds = max(peak, its_peak), max(slowest, its_slowest), seconds + its_seconds
        if os.WIFSIGNALED(status):
            kind = _kind(reader, number, status)
            counts[kind] += 1
            content = hostile.hostile_file(reader, number)
            _keep(findings, reader, number, content, f"{kind}: {signal.Signals(os.WTERMSIG(status)).name}")
            number += 1
        elif status:
            raise SystemExit(f"the child of {reader} ended with {status} at {number}")
    return counts, peak, slowest, seconds


def _kind(reader: str, number: int, status: int) -> str:
    """What to call a file that ended the child."""
    if reader in hostile.VETTED:
        with tempfile.TemporaryDirectory(dir=_SCRATCH) as folder:

            def read() -> None:
                result = hostile.outcome(reader, hostile.hostile_file(reader, number), Path(folder))
                os._exit(0 if result == hostile.REFUSED else 1)

            if _in_child(read) == 0:
                return "apart"
    return "hang" if os.WTERMSIG(status) in (signal.SIGPROF, signal.SIGALRM) else "crash"


def _in_child(call: "collections.abc.Callable[[], None]") -> int:
    """How a child process that makes the call ended."""
    child = os.fork()
    if not child:
        try:
            call()
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    return os.waitpid(child, 0)[1]


def _read_all(reader: str, number: int, end: int, folder: Path, findings: Path, shared: mmap.mmap) -> None:
    """Read file after file; the shared memory tells how far."""
    artifact.vet = arrays.vet = lambda *_: None  # this is the process apart
    for seed in hostile.seeds(reader):  # which imports and compiles what is needed, so that it does not count
        hostile.outcome(reader, seed, folder)
    limit = _size("VmSize") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    touched = _watched(folder)
    counts = {hostile.READ: 0, hostile.REFUSED: 0, "fault": 0}
    resident, peak, slowest, began = _size("VmHWM"), 0, 0.0, time.process_time()
    for each in range(number, end + 1):
        if each % 64 == 0 or each == end:
            peak = max(0, _size("VmHWM") - resident)
        _PROGRESS.pack_into(shared, 0, each, *counts.values(), peak, slowest, time.process_time() - began)
        if each == end:
            return
        content = hostile.hostile_file(reader, each)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.setitimer(signal.ITIMER_REAL, 60 * SECONDS)
        touched.clear()
        before = time.process_time()
        result = hostile.outcome(reader, content, folder)
        slowest = max(slowest, time.process_time() - before)
        if touched:
            result = f"touched: {touched}"
        signal.setitimer(signal.ITIMER_PROF, 0)
        if result not in counts:
            _keep(findings, reader, each, content, result)
            result = "fault"
        counts[result] += 1


def _watched(folder: Path) -> list[str]:
    """The list to which everything goes that is touched outside the folder from now on."""
    touched: list[str] = []

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            outside = isinstance(path, str | bytes) and not Path(os.fsdecode(path)).is_relative_to(folder)
            if outside and writes and not _is_numba():
                touched.append(f"{event} {arguments}")
        elif event in _TOUCHING and not _is_numba():
            touched.append(f"{event} {arguments}")

    sys.addaudithook(watch)
    return touched


def _is_numba() -> bool:
    """Whether it is Numba that does it, whose cache of compiled code is fer's own."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and "/numba/" not in frame.f_code.co_filename:
        frame = frame.f_back
    return frame is not None


def _size(key: str) -> int:
    """A size of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(key))


def _keep(findings: Path, reader: str, number: int, content: bytes, result: str) -> None:
    """Keep a file for each place in the code that went wrong, and the number of every file."""
    places = [line for line in result.splitlines() if line.startswith("  File")] or [result[:40]]
    place = hashlib.sha256("\n".join(places).encode(errors="replace")).hexdigest()[:8]
    findings.mkdir(parents=True, exist_ok=True)
    with (findings / "numbers.txt").open("a", errors="backslashreplace") as log:
        log.write(f"{number} {place} {result.strip().splitlines()[-1][:200]}\n")
    if not (findings / f"{place}.txt").exists():
        (findings / f"{place}.{reader}").write_bytes(content)
        (findings / f"{place}.txt").write_text(f"{reader} {number}\n{result}", errors="backslashreplace")


if __name__ == "__main__":
    main()
