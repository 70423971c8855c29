"""Open files that C code reads in a separate process first, with limits on CPU time and memory.

libhdf5 trusts the file: a damaged one can make it loop for ever or crash the process. Python cannot stop either. The
separate process starts with the first file, serves all files, and ends with this process. If it can read a file, this
process can too. See `docs/adr/0017`.
"""

import atexit
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from fer_cli.errors import ArtifactError, ResourceError

SECONDS = 5
"""Processor time that opening a file may take, and as much again for each `_SLOW_BYTES` of it."""
MEMORY = 1 << 30
"""Bytes that it may take."""
_SLOW_BYTES = 1 << 29
_THROUGH, _TOO_LARGE = b"through\n", b"too large\n"

_lock = threading.Lock()
_vetter: "subprocess.Popen[bytes] | None" = None
_owner = 0
_known: set[tuple[int, ...]] = set()


def vet(path: Path, examiner: str) -> None:
    """Call `examiner`, a function `module:name` of a path, in the separate process, and wait for its return.

    Exceptions of the examiner are ignored here, because this process will raise them too. An unchanged file is examined
    only once.

    Raises ArtifactError if the examiner takes too much time or memory, or crashes, ResourceError if there is no process
    for it, OSError if there is no file.
    """
    status = path.stat()
    stamp = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    if stamp in _known:
        return
    with _lock:
        if stamp in _known:  # since a moment ago
            return
        vetter = _running()
        assert vetter.stdin is not None
        assert vetter.stdout is not None
        seconds = SECONDS * (1 + status.st_size // _SLOW_BYTES)
        try:
            request = f"{seconds} {examiner} ".encode() + os.fsencode(path.absolute()).hex().encode()
            vetter.stdin.write(request + b"\n")
            vetter.stdin.flush()
            answer = vetter.stdout.readline()
        except BrokenPipeError:
            answer = b""
        except BaseException:  # Ctrl-C: the answer that is still to come must not be taken for that of another file
            _end()
            raise
        if answer not in (_THROUGH, _TOO_LARGE):
            _end()
        if answer == _THROUGH:
            _known.add(stamp)
    if answer == _TOO_LARGE:
        raise ArtifactError(f"{path} is damaged: opening it takes more than {MEMORY >> 20} MB of memory.")
    if answer != _THROUGH:
        raise ArtifactError(f"{path} is damaged: opening it crashes, or takes more than {seconds} s.")


def vet_ahead(paths: Iterable[Path], examiner: str) -> None:
    """Have files vetted while this process does something else, such as importing.

    Nothing is raised: whatever is wrong with one shows when `vet` is called for it.
    """

    def vet_all() -> None:
        for path in paths:
            with suppress(Exception):
                vet(path, examiner)

    threading.Thread(target=vet_all, name="vetting", daemon=True).start()


def _running() -> "subprocess.Popen[bytes]":
    """The process apart, of this process and alive."""
    global _vetter, _owner
    if _vetter is not None and _owner == os.getpid() and _vetter.poll() is not None:  # someone ended it
        _end()
    if _vetter is None or _owner != os.getpid():
        command = [sys.executable, "-P", "-c", "from fer_cli.storage.vetting import serve; serve()"]
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # which reserves memory for each
        try:
            _vetter = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
            )
        except OSError as error:
            raise ResourceError(f"no process can be started to open files in: {error.strerror or error}.") from error
        if not _owner:
            atexit.register(_end)
        _owner = os.getpid()
    return _vetter


def _end() -> None:
    global _vetter
    vetter, _vetter = _vetter, None
    if vetter is not None and _owner == os.getpid():
        vetter.kill()
        vetter.communicate()


def _forget_lock() -> None:
    """In a forked process nobody would release a lock that was held elsewhere."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_lock)


def serve() -> None:
    """The process apart: a line for each request, until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the other process, which ends this one
    examiners: dict[str, Callable[[Path], object]] = {}
    is_limited = False
    for request in sys.stdin.buffer:
        seconds, examiner, name = request.split()
        if examiner.decode() not in examiners:
            module, _, function = examiner.decode().partition(":")
            __import__(module)
            examiners[examiner.decode()] = getattr(sys.modules[module], function)
        if not is_limited:
            _limit_memory()
            is_limited = True
        _limit_seconds(int(seconds))
        answer = _THROUGH
        try:
            examiners[examiner.decode()](Path(os.fsdecode(bytes.fromhex(name.decode()))))
        except MemoryError:
            answer = _TOO_LARGE
        except Exception:
            pass
        _limit_seconds(0)
        sys.stdout.buffer.write(answer)
        sys.stdout.buffer.flush()


def _limit_seconds(seconds: int) -> None:
    """End this process, C code or not, after so much processor time; 0 means never."""
    if sys.platform != "win32":
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _limit_memory() -> None:
    """Limit this process to `MEMORY` bytes beyond its present size."""
    if sys.platform == "linux":
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
