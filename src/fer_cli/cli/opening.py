"""A run, opened for the commands that read one: its artifacts, and where they lie."""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from fer_cli.cli import endings
from fer_cli.errors import ArtifactError
from fer_cli.storage.run_paths import RunPaths

if TYPE_CHECKING:
    from fer_cli.artifacts import RunArtifacts
    from fer_cli.execution.contention import Usage


def expect_run(folder: Path, voxels: Path | None, model: Path | None, codebook: Path | None) -> RunPaths:
    """Have the artifacts of a run vetted while the libraries are imported, and say where they are."""
    from fer_cli.storage.artifact import expect

    paths = RunPaths.in_folder(folder, voxels=voxels, model=model, codebook=codebook)
    expect((paths.voxels, paths.model, paths.codebook))
    return paths


def holds_shapes(voxels: Path) -> bool:
    """Whether samples are shapes, which other processes draw; True where the file cannot be read, which shows later."""
    from fer_cli.storage.artifact import open_artifact

    with suppress(ArtifactError):
        return "occupancy" in open_artifact(voxels)
    return True


def leave_soon(run: "RunArtifacts") -> None:
    """Let the command end at once when it has succeeded, unless the run's network is code of the user's."""
    from fer_cli.network.attached.model_file import is_attached

    if not is_attached(run.model.config):
        endings.leave_at_once()


def open_run(
    folder: Path,
    voxels: Path | None,
    model: Path | None,
    codebook: Path | None,
    device: str,
    *,
    in_memory: bool = False,
    began: "Usage | None" = None,
) -> "RunArtifacts":
    """The run in a folder, with any artifact named taken from there instead.

    PyTorch then computes with as many threads as other programs have left cores free since the command `began`, or
    since now.
    """
    from fer_cli.execution.contention import Usage, fit_threads

    began = began or Usage.now()
    from fer_cli.artifacts import RunArtifacts, choose_device
    from fer_cli.cli.terminal import complain
    from fer_cli.network.weights import stale_weights

    paths = RunPaths.in_folder(folder, voxels=voxels, model=model, codebook=codebook)
    chosen = choose_device(device)
    fit_threads(chosen, began)
    run = RunArtifacts(paths, device=chosen, in_memory=in_memory)
    if changed := stale_weights(run.model):
        complain(
            f"{changed} has changed since {paths.model} was attached; the run explains the former weights. Run "
            "'fer attach' with --force for the new ones."
        )
    return run
