"""Where the artifacts of a run are, and commands that name the run."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

DEFAULT_RUN = Path("fer-run")
"""The folder of a run, where none is named."""


def calibration_path(codebook: Path) -> Path:
    """Where the calibration of a codebook lies: beside it."""
    return codebook.with_name(f"{codebook.stem}.calibration{codebook.suffix}")


@dataclass(frozen=True)
class RunPaths:
    """Where the artifacts of a run are; all lie in one folder unless named otherwise."""

    voxels: Path
    model: Path
    codebook: Path

    @property
    def calibration(self) -> Path:
        """The calibration of the codebook: beside it."""
        return calibration_path(self.codebook)

    @classmethod
    def in_folder(
        cls, folder: Path, *, voxels: Path | None = None, model: Path | None = None, codebook: Path | None = None
    ) -> "RunPaths":
        """The run in `folder`, with any artifact named explicitly taken from there instead."""
        return cls(
            voxels or folder / "voxels.h5",
            model or folder / "model.h5",
            codebook or folder / "codebook.h5",
        )


def next_command(*words: str, run: Path, files: Mapping[str, Path | None] | None = None) -> str:
    """A command to copy into a shell: `fer`, these words, and the options that name the run; quoted where needed.

    `files` are paths of artifacts outside the run's folder, by the name of their option; those that are None are left
    out.
    """
    options = [] if run == DEFAULT_RUN else ["--run", str(run)]
    for name, path in (files or {}).items():
        options += [] if path is None else [f"--{name}", str(path)]
    return shlex.join(["fer", *words, *options])
