"""Locks on files that end with the process that holds them, and the partial files that a killed one left behind.

A lock is the kernel's on an open file (flock), so that none is ever stale, however its holder ended. Where the file
system has none, nothing is locked and nothing removed: partial files have names of their own, and become the real one
when they are whole, all the same.
"""

import os
import re
import secrets
import sys
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

if sys.platform != "win32":  # where nothing keeps two runs from one output
    import fcntl


def partial_name(path: Path) -> Path:
    """A new name beside `path` for a file that is to become it."""
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}.partial")


def hold(path: Path, *, wait: bool) -> BinaryIO:
    """Open `path`, made if need be, and lock it for as long as the file is open.

    Raises BlockingIOError if another process has it locked and we do not `wait`; OSError if it cannot be made.
    """
    while True:
        file = path.open("a+b", buffering=0)
        try:
            _lock(file, wait=wait)
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except FileNotFoundError:  # whoever had the lock has removed the file since we opened it: once more
            pass
        except BaseException:
            file.close()
            raise
        file.close()


def is_open_elsewhere(path: Path) -> bool:
    """Whether another program has the file locked for writing, as libhdf5 does with what it may change."""
    if sys.platform == "win32":
        return False
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks, or no file
        return False
    return False


def remove_partials(path: Path) -> None:
    """Remove what killed processes left of `path`: partial files beside it that nobody has locked."""
    pattern = re.compile(re.escape(f".{path.name}.") + r"[0-9a-f]+\.partial")
    for left in [entry for entry in path.parent.iterdir() if pattern.fullmatch(entry.name)]:
        with suppress(OSError), left.open("rb+") as file:  # gone meanwhile, in work, or on a disk without locks
            if sys.platform != "win32":
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                left.unlink()


def _lock(file: BinaryIO, *, wait: bool) -> None:
    if sys.platform != "win32":
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise
        except OSError:  # a file system without locks
            pass
