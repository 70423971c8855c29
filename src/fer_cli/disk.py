"""What the operating system says when a file cannot be written, in one line for the user."""

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fer_cli.errors import ResourceError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise ResourceError where the block fails to write `path`: no leave, no space, no such folder."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise ResourceError(
            f"cannot write {path}: {'the disk is full' if full else error.strerror or error}."
        ) from error


def make_folder(folder: Path) -> Path:
    """Make a folder if need be, and see that files can be written there; for before the work whose result goes there.

    Raises ResourceError where they cannot.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    return folder
