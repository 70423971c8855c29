import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fer_cli.calibration.calibrate import calibrate, calibrated, check_calibration, views_of_run
from fer_cli.calibration.confidence import SOFTMAX, VIEWS, load_calibration
from fer_cli.calibration.outliers import InputOutliers
from fer_cli.codebooks.clustering import cluster_network
from fer_cli.codebooks.reading import code_distances, read_samples
from fer_cli.codebooks.reconstruction import ERRORS, read_errors
from fer_cli.data.augmentation import Augmentation
from fer_cli.errors import ArtifactError, LineageError, UsageError
from fer_cli.network.activations import PATHS
from fer_cli.network.views import Views
from fer_cli.run import Run
from fer_cli.storage.artifact import Artifact, open_artifact
from fer_cli.storage.artifact_writer import ArtifactWriter
from fer_cli.storage.run_paths import RunPaths
from fer_cli.storage.schema import CALIBRATION

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def calibration(run_paths: RunPaths) -> Artifact:
    return open_artifact(run_paths.calibration, CALIBRATION)


def copied(run_paths: RunPaths, folder: Path) -> RunPaths:
    """The run's artifacts in another folder, without the calibration."""
    for path in (run_paths.voxels, run_paths.model, run_paths.codebook):
        shutil.copy(path, folder)
    return RunPaths.in_folder(folder)


def test_calibration_is_the_validation_samples_read(calibration: Artifact, run: Run) -> None:
    held = run.model.read("validation/index")
    reading = read_samples(run.network, run.codebook, run.voxels.tensor(held))
    np.testing.assert_array_equal(calibration.read("calibration/index"), held)
    np.testing.assert_array_equal(calibration.read("calibration/label"), run.voxels.labels[held])
    np.testing.assert_array_equal(calibration.read("calibration/predicted"), reading.predicted)
    loaded = load_calibration(calibration)
    scores = reading.confidence_scores()
    assert run.views is not None
    seen = run.views.probabilities(run.network, run.voxels.tensor(held))
    scores[VIEWS] = seen[np.arange(len(held)), reading.predicted]
    assert set(loaded.scores) == set(scores)
    for name, values in scores.items():
        np.testing.assert_allclose(loaded.scores[name], values, rtol=1e-6)
    np.testing.assert_array_equal(loaded.correct, reading.predicted == run.voxels.labels[held])
    errors = read_errors(run.network, run.codebook, run.voxels, reading, run.voxels.tensor(held))
    assert {name.rpartition("/")[2] for name in calibration.names("calibration/error/")} == set(errors) == set(ERRORS)
    for name, values in errors.items():
        np.testing.assert_allclose(calibration.read(f"calibration/error/{name}"), values, rtol=1e-6)
    np.testing.assert_allclose(calibration.read("calibration/probability"), reading.probabilities, rtol=1e-6)
    layers = run.network.spec.layer_names[:-1]
    for path in PATHS:
        for layer in layers:
            stored = calibration.read(f"calibration/evidence/{path}/{layer}")
            np.testing.assert_allclose(stored, reading.evidence[path][layer], rtol=1e-6)
    distances = code_distances(run.codebook, reading)
    assert list(distances) == list(layers)
    for layer, values in distances.items():
        np.testing.assert_allclose(calibration.read(f"calibration/distance/{layer}"), values, rtol=1e-6)


def test_the_training_samples_distances_to_each_other_are_stored(calibration: Artifact, run: Run) -> None:
    assert run.outliers is not None
    stored = calibration.read("training/outlyingness")
    np.testing.assert_array_equal(run.outliers.reference, stored)
    anew = InputOutliers(run.outliers.names, calibration.read("training/statistic"))
    np.testing.assert_allclose(anew.reference, stored, rtol=1e-12)
    assert stored.any()


def test_calibrating_again_gives_the_same_file_without_clustering(run_paths: RunPaths, tmp_path: Path) -> None:
    paths = copied(run_paths, tmp_path)
    codebook = paths.codebook.read_bytes()
    summary = calibrate(paths, device=CPU)
    assert paths.calibration.read_bytes() == run_paths.calibration.read_bytes()
    assert paths.codebook.read_bytes() == codebook
    assert (summary.path, summary.samples) == (tmp_path / "codebook.calibration.h5", 6)
    with pytest.raises(UsageError, match="exists already"):
        calibrate(paths, device=CPU)
    calibrate(paths, device=CPU, force=True)
    assert paths.calibration.read_bytes() == run_paths.calibration.read_bytes()


def test_calibration_of_another_codebook_is_refused_with_the_command_to_run(
    run_paths: RunPaths, tmp_path: Path
) -> None:
    paths = copied(run_paths, tmp_path)
    with pytest.raises(ArtifactError, match=r"codebook\.calibration\.h5 does not exist\. Run 'fer calibrate'"):
        _ = Run(paths, device=CPU).calibration
    shutil.copy(run_paths.calibration, tmp_path)
    cluster_network(paths.voxels, paths.model, paths.codebook, k=(3, 3, 3, 3), device=CPU, force=True)
    run = Run(paths, device=CPU)
    with pytest.raises(LineageError, match=r"made from codebook .* Run 'fer calibrate --force'"):
        _ = run.temperatures
    calibrate(paths, device=CPU, force=True)
    assert Run(paths, device=CPU).temperatures.probability > 0


def test_progress_counts_the_volumes_that_are_read(run_paths: RunPaths, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    calibrate(copied(run_paths, tmp_path), device=CPU, report=lambda done, total: seen.append((done, total)))
    total = 54 + 54 + 24 * 6  # clustered samples, for their codes and for their figures, and each view of the others
    assert {of for _, of in seen} == {total}
    done = [done for done, _ in seen]
    assert done == sorted(set(done))
    assert {54, 108, total} <= set(done)


def test_clustering_replaces_a_calibration_but_no_other_file(run_paths: RunPaths, tmp_path: Path) -> None:
    paths = copied(run_paths, tmp_path)
    check_calibration(paths, force=False)
    shutil.copy(run_paths.calibration, paths.calibration)
    check_calibration(paths, force=False)
    paths.calibration.write_text("notes")
    with pytest.raises(UsageError, match=r"codebook\.calibration\.h5.*--force"):
        check_calibration(paths, force=False)
    check_calibration(paths, force=True)
    read = RunPaths.in_folder(tmp_path, model=tmp_path / "other.calibration.h5", codebook=tmp_path / "other.h5")
    assert read.calibration == read.model
    shutil.copy(run_paths.model, read.model)
    with pytest.raises(UsageError, match="a file that the run reads"):
        check_calibration(read, force=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_between_the_two_names_waits_for_the_second(
    number: signal.Signals, run_paths: RunPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = copied(run_paths, tmp_path)
    shutil.copy(run_paths.calibration, tmp_path)
    rename, renamed = ArtifactWriter.rename, []

    def interrupted(writer: ArtifactWriter) -> None:
        rename(writer)
        renamed.append(writer.path)
        signal.raise_signal(number)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ArtifactWriter, "rename", interrupted)
    before = signal.signal(signal.SIGTERM, stop)
    try:
        with pytest.raises(KeyboardInterrupt):
            cluster_network(
                paths.voxels,
                paths.model,
                paths.codebook,
                k=(3, 3, 3, 3),
                device=CPU,
                force=True,
                calibrate=partial(calibrated, paths.calibration, views=views_of_run(paths.model)),
            )
    finally:
        signal.signal(signal.SIGTERM, before)
    assert renamed == [paths.calibration, paths.codebook]
    assert Run(paths, device=CPU).temperatures.probability > 0


def test_a_calibration_that_fails_leaves_both_files_as_they_were(run_paths: RunPaths, tmp_path: Path) -> None:
    paths = copied(run_paths, tmp_path)
    shutil.copy(run_paths.calibration, tmp_path)
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}

    @contextmanager
    def failing(*read: Any) -> Iterator[Any]:
        with calibrated(paths.calibration, *read, views=views_of_run(paths.model)):
            raise RuntimeError("no")
        yield

    with pytest.raises(RuntimeError, match="no"):
        cluster_network(
            paths.voxels, paths.model, paths.codebook, k=(3, 3, 3, 3), device=CPU, force=True, calibrate=failing
        )
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_views_are_those_of_the_training_unless_others_are_asked_for(run_paths: RunPaths, tmp_path: Path) -> None:
    paths = copied(run_paths, tmp_path)
    default = Run(run_paths, device=CPU)
    trained = default.model.config["training"]["augmentation"]
    assert default.views == Views(24, Augmentation(**trained))
    calibrate(paths, device=CPU, views=3, vary="mirror=z,shift=1")
    asked = Run(paths, device=CPU)
    assert asked.views == Views(3, Augmentation(mirror="z", shift=1))
    held = asked.model.read("validation/index")
    seen = asked.views.probabilities(asked.network, asked.voxels.tensor(held))
    predicted = asked.calibration.predicted.predicted
    np.testing.assert_array_equal(asked.calibration.scores[VIEWS], seen[np.arange(len(held)), predicted])
    assert asked.calibration.alarm == VIEWS
    calibrate(paths, device=CPU, vary="none", force=True)
    unvaried = Run(paths, device=CPU)
    assert unvaried.views is None
    assert (unvaried.calibration.alarm, VIEWS in unvaried.calibration.scores) == (SOFTMAX, False)
    with pytest.raises(UsageError, match="--vary takes none, shift, mirror"):
        calibrate(paths, device=CPU, vary="twist", force=True)
    with pytest.raises(UsageError, match="0 views cannot be taken"):
        calibrate(paths, device=CPU, views=0, force=True)
