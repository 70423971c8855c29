"""Files written whole or not at all, and what the operating system says when they cannot be, in one line."""

import errno
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fer_cli.errors import ResourceError
from fer_cli.storage.lock import hold, partial_name, remove_partials


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise ResourceError where the block fails to write `path`: no leave, no space, no such folder."""
    try:
        yield
    except OSError as error:
        raise ResourceError(f"cannot write {path}: {_reason(error)}.") from error


def write_whole(path: Path, content: bytes | str) -> None:
    """Atomically replace the file `path` by `content`; its folder is made if need be.

    Text is written as UTF-8; names of files need not be that, so what does not fit is replaced. What a killed process
    left of the file is removed. Raises ResourceError if it cannot be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_partials(path)
        partial = partial_name(path)
        try:
            with hold(partial, wait=True) as file:  # locked, so that nobody takes it for left behind
                left = memoryview(content.encode(errors="replace") if isinstance(content, str) else content)
                while left:
                    left = left[file.write(left) :]
                partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def _reason(error: OSError) -> str:
    # HDF5 raises a bare OSError whose text holds the number.
    found = re.search(r"errno = (\d+)", str(error))
    number = error.errno or (int(found[1]) if found else None)
    if number == errno.EEXIST:  # a file where a folder has to be made
        number = errno.ENOTDIR
    if number in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full"
    return os.strerror(number) if number else str(error).splitlines()[0]


def make_folder(folder: Path) -> Path:
    """Make a folder if need be, and see that files can be written there; for before the work whose result goes there.

    Raises ResourceError where they cannot.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    return folder
