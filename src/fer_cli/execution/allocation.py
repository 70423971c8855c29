"""Settings of the C library's allocator, so that large blocks of memory are reused.

PyTorch allocates memory for the output of every layer. By default glibc gets each block of 32 MiB or more from the
system and gives it back when it is freed. The kernel then fills every new page with zeros. Source: mallopt(3).
"""

import os

_KEPT = {"M_MMAP_THRESHOLD": (-3, 1 << 28), "M_TRIM_THRESHOLD": (-1, 1 << 30), "M_TOP_PAD": (-2, 1 << 26)}
"""Numbers and values, in bytes, of three parameters of `mallopt`: from which size on a block comes from the system; how
much free memory stays at the end of the heap; how much the heap grows beyond what is needed."""


def keep_freed_memory() -> bool:
    """Make this process reuse the memory that it freed. Returns whether the settings were accepted.

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
