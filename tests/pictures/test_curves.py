import shutil
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image

from fer_cli.errors import ArtifactError, ResourceError
from fer_cli.execution.progress import EpochRecord
from fer_cli.network.activations import FEEDBACK
from fer_cli.pictures.curves import _draw, curve_path, write_learning_curve
from fer_cli.storage.run_paths import RunPaths


def test_curve_is_a_picture_beside_the_model_with_a_panel_for_each_phase(run_paths: RunPaths, tmp_path: Path) -> None:
    shutil.copy(run_paths.model, tmp_path / "model.h5")
    path = write_learning_curve(tmp_path / "model.h5")
    assert path == tmp_path / "model.curve.png"
    with Image.open(path) as picture:
        assert picture.width > 2 * picture.height
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 20)}
    # Both losses and the score are drawn, in colours apart for every kind of colour vision.
    assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00), (0x00, 0x9E, 0x73)} <= colours


def test_models_of_one_folder_have_curves_of_their_own() -> None:
    names = [curve_path(Path("runs") / name).name for name in ("a.h5", "lr0.001", "lr0.002", "a.hdf5")]
    assert names == ["a.curve.png", "lr0.001.curve.png", "lr0.002.curve.png", "a.hdf5.curve.png"]


def test_what_is_no_model_or_cannot_be_written_is_said_so(run_paths: RunPaths, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"voxels\.h5"):
        write_learning_curve(run_paths.voxels)
    shutil.copy(run_paths.model, tmp_path / "model.h5")
    (tmp_path / "model.curve.png").mkdir()
    with pytest.raises(ResourceError, match=r"cannot write .*model\.curve\.png: Is a directory"):
        write_learning_curve(tmp_path / "model.h5")


@pytest.mark.parametrize("epochs", [1, 2, 7])
def test_epochs_are_marked_as_whole_numbers(epochs: int) -> None:
    figure = Figure()
    axes = figure.subplots()
    records = [EpochRecord(FEEDBACK, n, 1.0, None, 0.5, 0.5, 1.0, 0.5, 1.0) for n in range(1, epochs + 1)]
    _draw(axes, FEEDBACK, "validation voxel IoU", records)
    low, high = axes.get_xlim()
    marks = [mark for mark in axes.get_xticks() if low <= mark <= high]
    assert marks
    assert all(mark == round(mark) for mark in marks)
