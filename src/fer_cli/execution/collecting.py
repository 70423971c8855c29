"""Python's garbage collector, which need not search imported modules for garbage again and again."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

_modules = 0
"""Number of modules at the last full collection."""


def set_imports_aside() -> None:
    """Search what one full collection leaves no more, until a full collection finds no module imported since the last.

    Modules live to the end of the process. PyTorch's are half a million objects, and a fifth of the CPU time of a short
    command went into searching them. What is made later is searched as usual.
    """
    global _modules
    _modules = 0
    if _set_aside not in gc.callbacks:
        gc.callbacks.append(_set_aside)


@contextmanager
def imports_unsearched() -> Iterator[None]:
    """Collect no garbage within the block, which imports modules, and never search what exists at its end.

    Does nothing unless imports are set aside in this process (`set_imports_aside`).
    """
    if _set_aside not in gc.callbacks or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _set_aside(phase: Literal["start", "stop"], facts: dict[str, int]) -> None:
    global _modules
    if phase == "start" or facts["generation"] < 2:
        return
    if len(sys.modules) > _modules:
        _modules = len(sys.modules)
        gc.freeze()
    else:
        gc.callbacks.remove(_set_aside)
