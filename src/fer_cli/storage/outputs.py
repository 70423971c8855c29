"""An output taken for one run: writable, nobody else at work on it, and rid of what killed runs left."""

import errno
import os
import shlex
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from fer_cli.errors import ResourceError, UsageError
from fer_cli.storage.disk import writing
from fer_cli.storage.lock import hold, remove_partials


@contextmanager
def claim_output(
    path: Path,
    *,
    force: bool,
    progress: Path | None = None,
    is_outlived: Callable[[Path, Path], bool] | None = None,
    leads: bool = True,
) -> Iterator[None]:
    """Take `path` for the run within the block, before any work is done for it; its folder is made if need be.

    Folders that were made for it go again where the block raises and nothing was put there.

    `progress` is where an unfinished run keeps what it has done; where the run is refused it goes if `is_outlived` says
    of it and `path` that it led to that artifact (by default, if it is older). Of several processes that share a run,
    the one that `leads` holds the claim.

    Raises UsageError if the file exists and `force` is off; ResourceError if it cannot be written, or another run has
    claimed it.
    """
    with writing(path):
        taken = path.exists() and not force
        missing = [folder for folder in path.parents if not folder.exists()]
    with ExitStack() as at_end:

        def clear_up(kind: type[BaseException] | None, *_: object) -> None:
            for folder in missing if kind else ():
                with suppress(OSError):
                    folder.rmdir()

        at_end.push(clear_up)
        try:
            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                if path.is_dir():
                    raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
            if leads:
                at_end.enter_context(held(path))
        except ResourceError:
            if not taken:
                raise
        else:
            taken = path.exists() and not force  # another run may have finished meanwhile
            for each in (path, progress) if leads else ():
                if each:
                    remove_partials(each)
            if taken and progress and (is_outlived or _is_older)(progress, path):
                progress.unlink(missing_ok=True)
        if taken:
            raise UsageError(f"{path} exists already. Name another output, or give --force to replace it.")
        yield


def check_output(path: Path, *inputs: Path | None) -> None:
    """Raise UsageError if `path` names no file, or is one of the files that the run reads."""
    if not path.name:
        raise UsageError(f"{str(path)!r} names no file. Name one to write.")
    with suppress(OSError):
        if any(given and given.exists() and path.samefile(given) for given in inputs):
            raise UsageError(f"{path} is a file that the run reads. Name another output.")


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the file or folder `path` alone within the block, by a lock on `.<name>.lock` beside it, made if need be.

    The file tells who holds it, and goes at the end; left by a killed process, it means nothing.

    Raises ResourceError that names the process that has it, or if the file cannot be made.
    """
    lock = path.with_name(f".{path.name}.lock")
    with ExitStack() as at_end:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                file = at_end.enter_context(hold(lock, wait=False))
            except BlockingIOError as error:
                raise ResourceError(
                    f"another run is at work on {path}: {_holder(lock)}. Wait for it, or name another output."
                ) from error
            at_end.callback(_remove, lock)  # while it is locked, or it might be another's by then
            file.truncate(0)
            file.write(_myself().encode(errors="replace"))
        yield


def _is_older(progress: Path, path: Path) -> bool:
    """Whether the artifact is newer than its progress: its run was killed before it removed that."""
    try:
        return progress.stat().st_mtime_ns <= path.stat().st_mtime_ns
    except OSError:
        return False


def _remove(lock: Path) -> None:
    with suppress(OSError):
        lock.unlink(missing_ok=True)


def _myself() -> str:
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    command = shlex.join(["fer", *sys.argv[1:]])
    return f"process {os.getpid()} on {socket.gethostname()} since {started} ({command[:200]})"


def _holder(lock: Path) -> str:
    with suppress(OSError):
        if text := lock.read_text(errors="replace"):
            return text
    return "a process that has just started"
