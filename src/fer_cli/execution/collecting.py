"""Python's garbage collector, which need not search imported modules for garbage again and again."""

import gc
import sys
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


def _set_aside(phase: Literal["start", "stop"], facts: dict[str, int]) -> None:
    global _modules
    if phase == "start" or facts["generation"] < 2:
        return
    if len(sys.modules) > _modules:
        _modules = len(sys.modules)
        gc.freeze()
    else:
        gc.callbacks.remove(_set_aside)
