"""Most tests start a process of their own, because the allocator's settings cannot be taken back."""

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")

FAULTS = """
import resource
import torch
from fer_cli.execution.allocation import keep_freed_memory
print(keep_freed_memory())
def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(64 << 20, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
for _ in range(20):  # until no hole of an earlier block is too small for the next one by its alignment
    pages()
print(sum(pages() for _ in range(10)))
"""


def answers(**variables: str) -> list[str]:
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True, env={**bare, **variables}
    )
    return done.stdout.split()


def test_a_large_block_that_was_freed_is_used_again() -> None:
    kept, pages = answers()
    assert kept == "True"
    assert int(pages) < 16_384  # of 163,840


@pytest.mark.parametrize(
    "variables",
    [{"MALLOC_MMAP_THRESHOLD_": "1048576"}, {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=1048576"}],
    ids=["variable", "tunable"],
)
def test_what_the_user_has_set_stays(variables: dict[str, str]) -> None:
    kept, pages = answers(**variables)
    assert kept == "False"
    assert int(pages) > 0


@pytest.mark.parametrize("library", [object(), OSError("static")], ids=["no mallopt", "no library"])
def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch, library: object) -> None:
    import ctypes

    from fer_cli.execution.allocation import keep_freed_memory

    def opened(_: None) -> object:
        if isinstance(library, Exception):
            raise library
        return library

    for name in [each for each in os.environ if each.startswith(("MALLOC_", "GLIBC_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(ctypes, "CDLL", opened)
    assert keep_freed_memory() is False
