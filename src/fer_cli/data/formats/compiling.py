"""Numba's compiler, with its cache on disk where there is a place for it.

Numba keeps compiled code beside the source, or in the user's cache folder. An installation that cannot be written, of
a user without a home, has neither: then every process compiles anew, which takes a few seconds.
"""

from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function with Numba at its first call; it then runs without the interpreter's lock."""
    return numba.njit(cache=has_cache(function), nogil=True)(function)


def has_cache(function: Callable[..., Any]) -> bool:
    """Whether Numba has a folder in which it can keep the compiled function."""
    try:
        numba.njit(cache=True)(function)
    except RuntimeError:  # "no locator available for file"
        return False
    return True
