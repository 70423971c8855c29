"""What a machine has: processor, memory, and folders that can be written to. Of Linux more is known than of others."""

import os
import platform
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


@dataclass(frozen=True)
class Cpu:
    """The processor; `features` holds for each of CPU_FLAGS whether it is there, and is empty where that is unknown.

    `usable_cores` are those this process may run on; `bfloat16` is whether training uses it, None where PyTorch does
    not work.
    """

    model: str
    cores: int
    usable_cores: int
    features: dict[str, bool]
    bfloat16: bool | None


@dataclass(frozen=True)
class Memory:
    """Bytes of main memory; None where the system does not tell, and for a limit of a container where there is none."""

    total: int | None
    available: int | None
    limit: int | None


@dataclass(frozen=True)
class Disk:
    """A folder that fer writes to, and the bytes free there; `problem` is None where a file can be written."""

    use: str
    folder: str
    free: int | None
    problem: str | None


def read_cpu(bfloat16: bool | None) -> Cpu:
    """The processor; `bfloat16` as PyTorch says."""
    flags = _cpu_flags()
    return Cpu(
        model=_cpu_model(),
        cores=os.cpu_count() or 1,
        usable_cores=_usable_cores(),
        features={flag: flag in flags for flag in CPU_FLAGS} if flags else {},
        bfloat16=bfloat16,
    )


def read_disk(use: str, folder: Path) -> Disk:
    """The folder, or the nearest above it that exists, where it would be made."""
    there = next((path for path in (folder, *folder.absolute().parents) if path.is_dir()), Path("/"))
    try:
        free = shutil.disk_usage(there).free
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"\0")
    except OSError as error:
        return Disk(use, str(folder), None, f"files cannot be written to {there}: {error.strerror or error}.")
    return Disk(use, str(folder), free, None)


def temporary_folder() -> Path:
    """Where temporary files go, whether or not that works."""
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError:  # no folder for temporary files can be written to
        return Path(os.environ.get("TMPDIR", "/tmp"))


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _text(file: str) -> str:
    """What a file of the system says; nothing where there is none."""
    try:
        return Path(file).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _cpu_flags() -> set[str]:
    found = re.search(r"^flags\s*:(.*)$", _text("/proc/cpuinfo"), re.MULTILINE)
    return set(found[1].split()) if found else set()


def _cpu_model() -> str:
    found = re.search(r"^model name\s*:(.*)$", _text("/proc/cpuinfo"), re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def read_memory() -> Memory:
    """Main memory, and the limit of the container."""
    said = dict(re.findall(r"^(MemTotal|MemAvailable):\s*(\d+) kB$", _text("/proc/meminfo"), re.MULTILINE))
    kilobytes = {name: int(number) * 1024 for name, number in said.items()}
    limit = _text("/sys/fs/cgroup/memory.max").strip()
    return Memory(kilobytes.get("MemTotal"), kilobytes.get("MemAvailable"), int(limit) if limit.isdigit() else None)
