import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fer_cli.artifacts import choose_device
from fer_cli.errors import ArtifactError, InputError, LineageError, UsageError
from fer_cli.run import Run
from fer_cli.storage.artifact import Artifact
from fer_cli.storage.run_paths import RunPaths
from tiny import write_box

CPU = torch.device("cpu")
Rewrite = Callable[[Artifact, Path, Mapping[str, Any]], str]


def test_artifacts_lie_in_the_folder_unless_named() -> None:
    folder = Path("somewhere")
    assert RunPaths.in_folder(folder) == RunPaths(folder / "voxels.h5", folder / "model.h5", folder / "codebook.h5")
    named = RunPaths.in_folder(folder, model=Path("other.h5"))
    assert named == RunPaths(folder / "voxels.h5", Path("other.h5"), folder / "codebook.h5")


def test_run_opens_its_own_artifacts(run: Run) -> None:
    assert run.network.spec.classes == run.voxels.classes == ("beam", "plate", "pole")
    assert run.model.parents == {"voxels": run.voxels.id}
    assert not run.network.training
    assert not any(parameter.requires_grad for parameter in run.network.parameters())
    assert set(run.calibration.scores) >= {"max_softmax", "softmax_margin", "evidence_feedback_conv1"}


def test_nothing_is_opened_before_it_is_needed(tmp_path: Path) -> None:
    empty = Run(RunPaths.in_folder(tmp_path), device=CPU)
    for name in ("model", "network", "codebook", "calibration", "voxels"):
        with pytest.raises(ArtifactError, match=r"does not exist\. Run 'fer (train|voxelize)' to make it"):
            getattr(empty, name)


def test_file_of_a_known_format_is_explained_without_the_voxel_set(
    run: Run, run_paths: RunPaths, tmp_path: Path
) -> None:
    alone = Run(RunPaths(tmp_path / "none.h5", run_paths.model, run_paths.codebook), device=CPU)
    grid = run.voxels.grids([4])[0]
    np.save(tmp_path / "shape.npy", grid)
    sample = alone.sample(str(tmp_path / "shape.npy"), label="pole")
    np.testing.assert_array_equal(sample.volume, grid[None])
    assert (sample.name, sample.label, sample.index) == ("shape", 2, None)
    with pytest.raises(ArtifactError, match=r"none\.h5 does not exist"):
        alone.sample("beam_train_00")


def test_sample_of_the_run_has_its_class(run: Run) -> None:
    sample = run.sample("plate_test_02")
    assert (sample.name, sample.label) == ("plate_test_02", 1)
    assert sample.index == run.voxels.names.index("plate_test_02")
    with pytest.raises(InputError, match=r"no file and no sample called 'plate_test_0'\. Near: plate_test_0"):
        run.sample("plate_test_0")


def test_mixed_lineage_names_both_ids_and_the_command(
    run: Run, run_paths: RunPaths, tmp_path: Path, rewrite: Rewrite
) -> None:
    bias = "encoder/blocks.output.2.bias"
    other = rewrite(run.model, tmp_path / "model.h5", {bias: run.model.read(bias) + 1})
    mixed = Run(RunPaths(run_paths.voxels, tmp_path / "model.h5", run_paths.codebook), device=CPU)
    message = rf"was made from model {run.model.id[:12]}, but .*model\.h5 is {other[:12]}\. Run 'fer cluster --force'"
    with pytest.raises(LineageError, match=message):
        _ = mixed.codebook
    other = rewrite(run.voxels.artifact, tmp_path / "voxels.h5", {"label": np.roll(run.voxels.labels, 1)})
    mixed = Run(RunPaths(tmp_path / "voxels.h5", run_paths.model, run_paths.codebook), device=CPU)
    message = rf"was made from voxels {run.voxels.id[:12]}, but .*voxels\.h5 is {other[:12]}\. Run 'fer train --force'"
    with pytest.raises(LineageError, match=message):
        _ = mixed.voxels


def test_moved_run_is_the_same_run(run_paths: RunPaths, tmp_path: Path) -> None:
    for path in (run_paths.voxels, run_paths.model, run_paths.codebook):
        shutil.copy(path, tmp_path)
    moved = Run(RunPaths.in_folder(tmp_path), device=CPU)
    assert moved.voxels.id
    assert moved.codebook.prior.sum() == pytest.approx(1, abs=1e-15)


def test_device_is_chosen_or_refused() -> None:
    assert choose_device("cpu") == CPU
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(UsageError, match="device 'toaster' cannot be used here"):
        choose_device("toaster")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="device 'cuda' cannot be used here"):
            choose_device("cuda")


def test_a_shape_stored_on_its_side_is_read_as_the_upright_one(run: Run, tmp_path: Path) -> None:
    write_box(tmp_path / "upright.off", np.array([8.0, 4.0, 2.0]))
    write_box(tmp_path / "lying.off", np.array([8.0, 2.0, 4.0]))
    upright, lying = run.sample(tmp_path / "upright.off"), run.sample(tmp_path / "lying.off", up="y")
    assert (upright.turned_from, lying.turned_from) == ("z", "y")
    np.testing.assert_array_equal(lying.volume, upright.volume)
    assert not np.array_equal(run.sample(tmp_path / "lying.off").volume, upright.volume)
    assert run.explain(tmp_path / "lying.off", up="y").probabilities == run.explain(upright.source).probabilities
    for sample, why in ((run.voxels.names[0], "is no file"), (upright.volume, "an array is read as it is")):
        with pytest.raises(UsageError, match=f"--up is for the file of a shape, but .*{why}"):
            run.sample(sample, up="y")
