"""The C library's allocator, which would return each large block to the system as soon as it is freed.

PyTorch takes a feature's memory from it at every layer. By default each block of 32 MiB and more is mapped anew, and
the kernel fills it with zeros, page by page, when it is first written. Source: mallopt(3).
"""

import os

_KEPT = {"M_MMAP_THRESHOLD": (-3, 1 << 28), "M_TRIM_THRESHOLD": (-1, 1 << 30), "M_TOP_PAD": (-2, 1 << 26)}
"""Parameters of `mallopt`, with their numbers and values in bytes: blocks so large are mapped anew; so much free memory
at the heap's end is kept; and by so much more than needed the heap grows."""


def keep_freed_memory() -> bool:
    """Let this process reuse what it freed; whether it does.

    Only glibc has this setting. What the user has set (`MALLOC_…_`, `GLIBC_TUNABLES`) stays as it is.
    """
    if any(name.startswith("MALLOC_") for name in os.environ) or "malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    import ctypes

    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return False
    return all(mallopt(number, value) for number, value in _KEPT.values())
