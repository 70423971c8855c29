import errno
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fer_cli.codebooks import kmeans, layer_fitting
from fer_cli.codebooks.clustering import ClusteringSummary, cluster_network
from fer_cli.codebooks.codebook import open_codebook
from fer_cli.codebooks.fitted_layer import summarise_layer
from fer_cli.codebooks.reading import read_samples
from fer_cli.errors import LineageError, ResourceError, UsageError
from fer_cli.execution.progress import COUNTING, EXTRACTING, FITTING, ClusteringProgress
from fer_cli.network.activations import FEEDBACK, FEEDFORWARD, PATHS, batches, encode_paths, round_to
from fer_cli.run import Run
from fer_cli.storage.artifact import Artifact, open_artifact
from fer_cli.storage.run_paths import RunPaths
from fer_cli.storage.schema import CODEBOOK

CPU = torch.device("cpu")
K = {"conv1": 5, "conv2": 4, "conv3": 4, "fc4": 3, "output": 3}
Rewrite = Callable[[Artifact, Path, Mapping[str, Any]], str]


@pytest.fixture(scope="module")
def codebook(run_paths: RunPaths) -> Artifact:
    return open_artifact(run_paths.codebook, CODEBOOK)


@pytest.fixture
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where `memory` is short, 8 samples are held at least, so that the scratch file is used for these few, too."""
    monkeypatch.setattr("fer_cli.codebooks.features.BATCH", 8)


@pytest.fixture(scope="module")
def samples(run: Run) -> np.ndarray:
    """The samples that were clustered: training split without the validation samples."""
    return np.setdiff1d(run.voxels.indices("train"), run.model.read("validation/index"))


@pytest.fixture(scope="module")
def features(run: Run, samples: np.ndarray) -> dict[tuple[str, str], np.ndarray]:
    """(location, sample, filter) of every path and layer, at the precision that codes are looked up at."""
    found: dict[tuple[str, str], list[torch.Tensor]] = {}
    for part in batches(samples):
        for path, layers in encode_paths(run.network, run.voxels.tensor(part)).items():
            for layer, feature in layers.items():
                found.setdefault((path, layer), []).append(feature)
    return {
        (path, layer): round_to(torch.cat(parts), run.codebook.layer(path, layer).bits)
        .float()
        .flatten(2)
        .permute(2, 0, 1)
        .numpy()
        for (path, layer), parts in found.items()
    }


def test_every_layer_and_location_of_both_paths_has_its_codes(
    codebook: Artifact, run: Run, samples: np.ndarray
) -> None:
    assert codebook.config == {"k": K, "seed": 0}
    assert codebook.parents == {"voxels": run.voxels.id, "model": run.model.id}
    counts = np.bincount(run.voxels.labels[samples], minlength=3)
    for path in PATHS:
        for layer, k in K.items():
            filters, *sides = run.network.spec.level_shape(layer)
            locations = int(np.prod(sides))
            assert codebook.shape(f"{path}/{layer}/centroid") == (locations, k, filters)
            histogram = codebook.read(f"{path}/{layer}/histogram")
            assert histogram.shape == (locations, k, 3)
            np.testing.assert_array_equal(histogram.sum(axis=1), np.tile(counts, (locations, 1)))


def test_training_samples_assigned_again_give_the_histograms(
    codebook: Artifact, run: Run, samples: np.ndarray, features: dict[tuple[str, str], np.ndarray]
) -> None:
    """All of them: in batches of another size only a sample between two centroids, to the last bit, could move."""
    labels = run.voxels.labels[samples]
    for start, stop in ((0, len(samples)), (0, 7)):
        chosen = slice(start, stop)
        reading = read_samples(run.network, run.codebook, run.voxels.tensor(samples[chosen]))
        for path in PATHS:
            for layer, k in K.items():
                stored = features[path, layer]
                book = run.codebook.layer(path, layer)
                distance = np.square(stored[:, :, None].astype(np.float64) - book.centroids[:, None]).sum(axis=3)
                codes = distance.argmin(axis=2).T  # (sample, location)
                np.testing.assert_array_equal(reading.codes[path][layer], codes[chosen])
                if stop == len(samples):
                    histogram = np.zeros_like(book.histogram)
                    for location in range(len(stored)):
                        np.add.at(histogram[location], (codes[:, location], labels), 1)
                    np.testing.assert_array_equal(histogram, book.histogram)
                    assert histogram.shape[1] == k


def test_exemplar_is_the_nearest_sample_that_its_code_holds(
    run: Run, samples: np.ndarray, features: dict[tuple[str, str], np.ndarray]
) -> None:
    for path in PATHS:
        for layer in K:
            book, stored = run.codebook.layer(path, layer), features[path, layer]
            distance = np.square(stored[:, :, None].astype(np.float64) - book.centroids[:, None]).sum(axis=3)
            codes = distance.argmin(axis=2)
            for location, code in np.ndindex(book.exemplar.shape):
                members = np.flatnonzero(codes[location] == code)
                exemplar = int(book.exemplar[location, code])
                if not len(members):
                    assert exemplar == -1
                    continue
                position = int(np.flatnonzero(samples == exemplar)[0])
                assert position in members
                nearest = distance[location, members, code].min()
                assert distance[location, position, code] <= nearest * (1 + 1e-6) + 1e-12  # differences in float32


def test_inertia_and_scatter_are_those_of_the_training_samples(
    codebook: Artifact, run: Run, features: dict[tuple[str, str], np.ndarray]
) -> None:
    for (path, layer), stored in features.items():
        book = run.codebook.layer(path, layer)
        stored64 = stored.astype(np.float64)
        inertia = np.square(stored64[:, :, None] - book.centroids[:, None]).sum(axis=3).min(axis=2).sum(axis=1)
        scatter = np.square(stored64 - stored64.mean(axis=1, keepdims=True)).sum(axis=(1, 2))
        np.testing.assert_allclose(codebook.read(f"{path}/{layer}/inertia"), inertia, rtol=1e-5, atol=1e-9)
        np.testing.assert_allclose(codebook.read(f"{path}/{layer}/scatter"), scatter, rtol=1e-5, atol=1e-9)
        assert (inertia <= scatter * (1 + 1e-9) + 1e-9).all()


def clustered(run_paths: RunPaths, path: Path, **options: Any) -> ClusteringSummary:
    given = {"k": (5, 4, 4, 3), "device": CPU, **options}
    return cluster_network(run_paths.voxels, run_paths.model, path, **given)


@pytest.mark.parametrize(("workers", "memory"), [(2, 2 * 10**9), (1, 10_000), (3, 3_000)])
def test_result_does_not_depend_on_workers_or_memory(
    workers: int, memory: int, run_paths: RunPaths, tmp_path: Path, small_buffers: None
) -> None:
    path = tmp_path / "codebook.h5"
    seen: list[ClusteringProgress] = []
    summary = clustered(run_paths, path, workers=workers, memory=memory, report=seen.append)
    assert path.read_bytes() == run_paths.codebook.read_bytes()
    assert [entry.name for entry in tmp_path.iterdir()] == ["codebook.h5"]
    fitting = [p for p in seen if p.doing == FITTING]
    for each in {(p.path, p.layer) for p in fitting}:
        done = [p for p in fitting if (p.path, p.layer) == each]
        assert [p.done for p in done] == sorted({p.done for p in done})
        assert done[-1].done == done[-1].total
    assert [(s.path, s.layer) for s in summary.layers] == [(path, layer) for path in PATHS for layer in K]
    assert (summary.samples, summary.resumed) == (54, 0)


def test_passes_limited_by_scratch_change_nothing(
    run_paths: RunPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_buffers: None
) -> None:
    monkeypatch.setattr(layer_fitting, "SCRATCH", 9_000)
    seen: list[ClusteringProgress] = []
    clustered(run_paths, tmp_path / "c.h5", memory=4_000, scratch=tmp_path, report=seen.append)
    assert sum(p.doing == EXTRACTING and p.done == p.total for p in seen) > 2
    assert (tmp_path / "c.h5").read_bytes() == run_paths.codebook.read_bytes()


def test_a_layer_that_half_precision_does_not_serve_is_fitted_in_single(
    run_paths: RunPaths, codebook: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    precision = codebook.attribute("precision")
    assert {layer["bits"] for layer in precision[FEEDFORWARD].values()} == {16}
    assert {layer["bits"] for layer in precision[FEEDBACK].values()} == {32}
    for layers in precision.values():
        assert all(0.9 < layer["half_agreement"] <= 1 for layer in layers.values())
    monkeypatch.setattr(layer_fitting, "AGREEMENT", 1.1)
    clustered(run_paths, tmp_path / "c.h5")
    with open_artifact(tmp_path / "c.h5", CODEBOOK) as other:
        assert {layer["bits"] for layer in other.attribute("precision")[FEEDFORWARD].values()} == {32}
        np.testing.assert_array_equal(other.read("feedback/conv1/centroid"), codebook.read("feedback/conv1/centroid"))


@pytest.mark.parametrize("memory", [2 * 10**9, 5_000])
def test_a_set_larger_than_needed_is_fitted_on_some_and_counted_whole(
    memory: int,
    run_paths: RunPaths,
    run: Run,
    samples: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    small_buffers: None,
) -> None:
    monkeypatch.setattr(layer_fitting, "ENOUGH", 4)  # 20 samples
    path = tmp_path / "c.h5"
    seen: list[ClusteringProgress] = []
    given: list[Any] = []

    def calibrate(*read: Any) -> AbstractContextManager[tuple[None, None]]:
        given.extend(read)
        return nullcontext((None, None))

    clustered(run_paths, path, memory=memory, report=seen.append, calibrate=calibrate)
    assert [p.total for p in seen if p.doing == EXTRACTING] == [20, 20]
    assert [p.done for p in seen if p.doing == COUNTING] == [54]
    with open_artifact(path, CODEBOOK) as artifact:
        assert artifact.read("feedforward/conv1/n_distinct").max() <= 20
        book, _ = open_codebook(path, run.model, run.network.spec)
        reading = read_samples(run.network, book, run.voxels.tensor(samples))
        for route in PATHS:
            for layer in K:
                codes = reading.codes[route][layer]
                histogram = np.zeros_like(artifact.read(f"{route}/{layer}/histogram"))
                np.add.at(histogram, (np.arange(codes.shape[1]), codes, run.voxels.labels[samples][:, None]), 1)
                np.testing.assert_array_equal(histogram, artifact.read(f"{route}/{layer}/histogram"))
                held = histogram.sum(axis=2) > 0
                np.testing.assert_array_equal(artifact.read(f"{route}/{layer}/exemplar") >= 0, held)
        known = given[3]
        assert known.layer == run.network.spec.local_layer
        np.testing.assert_array_equal(known.index, samples)
        np.testing.assert_array_equal(known.code, reading.codes[FEEDFORWARD][known.layer])
    again = tmp_path / "again.h5"
    clustered(run_paths, again, memory=10**8, workers=1)
    assert again.read_bytes() == path.read_bytes()


_KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from fer_cli.codebooks import features
from fer_cli.codebooks.clustering import cluster_network
features.BATCH = 8  # so that the scratch file is used
def stop(progress):
    if [progress.doing, progress.path, progress.layer] == sys.argv[4:7]:
        os.kill(os.getpid(), signal.SIGKILL)
cluster_network(*map(Path, sys.argv[1:4]), k=(5, 4, 4, 3), device=torch.device("cpu"), report=stop, memory=3000)
"""


@pytest.mark.parametrize(
    ("moment", "resumed"),
    [
        ((EXTRACTING, FEEDFORWARD, ""), 0),
        ((FITTING, FEEDFORWARD, "conv2"), 1),
        ((FITTING, FEEDBACK, "conv1"), 5),
    ],
)
def test_killed_stage_goes_on_where_it_was(
    moment: tuple[str, str, str], resumed: int, run_paths: RunPaths, tmp_path: Path
) -> None:
    path = tmp_path / "c.h5"
    command = [sys.executable, "-c", _KILLED, str(run_paths.voxels), str(run_paths.model), str(path), *moment]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert not path.exists()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".c.h5.journal", ".c.h5.lock"]
    summary = clustered(run_paths, path)
    assert summary.resumed == resumed
    assert path.read_bytes() == run_paths.codebook.read_bytes()
    assert [entry.name for entry in tmp_path.iterdir()] == ["c.h5"]


def test_journal_of_other_options_is_not_gone_on_with(run_paths: RunPaths, tmp_path: Path) -> None:
    def stop(progress: ClusteringProgress) -> None:
        if progress.layer == "conv2":
            raise KeyboardInterrupt

    for seed in (0, 1):
        with pytest.raises(KeyboardInterrupt):
            clustered(run_paths, tmp_path / "c.h5", report=stop, seed=seed)
    assert clustered(run_paths, tmp_path / "c.h5").resumed == 0


def test_journal_of_another_k_means_is_not_gone_on_with(
    run_paths: RunPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(progress: ClusteringProgress) -> None:
        if progress.layer == "conv2":
            raise KeyboardInterrupt

    monkeypatch.setattr(kmeans, "ENOUGH_GAIN", 5e-3)
    with pytest.raises(KeyboardInterrupt):
        clustered(run_paths, tmp_path / "c.h5", report=stop)
    monkeypatch.undo()
    assert clustered(run_paths, tmp_path / "c.h5").resumed == 0
    assert (tmp_path / "c.h5").read_bytes() == run_paths.codebook.read_bytes()


def test_two_stages_at_one_output_do_not_mix(run_paths: RunPaths, tmp_path: Path) -> None:
    refused: list[str] = []

    def begin(progress: ClusteringProgress) -> None:
        if not refused:
            with pytest.raises(ResourceError, match="another run is at work") as error:
                clustered(run_paths, tmp_path / "c.h5")
            refused.append(str(error.value))

    clustered(run_paths, tmp_path / "c.h5", report=begin)
    assert refused
    assert (tmp_path / "c.h5").read_bytes() == run_paths.codebook.read_bytes()


def test_another_seed_is_another_codebook(run_paths: RunPaths, codebook: Artifact, tmp_path: Path) -> None:
    cluster_network(run_paths.voxels, run_paths.model, tmp_path / "c.h5", k=(5, 4, 4, 3), seed=1, device=CPU)
    with open_artifact(tmp_path / "c.h5") as other:
        assert other.id != codebook.id
        assert not np.array_equal(other.read("feedforward/conv1/centroid"), run_centroids(codebook))


def run_centroids(codebook: Artifact) -> np.ndarray:
    return codebook.read(f"{FEEDFORWARD}/conv1/centroid")


@pytest.mark.parametrize(
    ("k", "message"),
    [
        ((5, 4, 4), "--k names 3 numbers, but the network has 4 layers below the output"),
        ((5, 55, 4, 3), r"conv2 cannot have 55 codes: .* as many as there are training samples \(54\)"),
        ((0, 4, 4, 3), "--k 0,4,4,3: a layer has at least one code"),
    ],
)
def test_k_that_does_not_fit_is_refused(k: tuple[int, ...], message: str, run_paths: RunPaths, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        cluster_network(run_paths.voxels, run_paths.model, tmp_path / "c.h5", k=k, device=CPU)
    assert not list(tmp_path.iterdir())


def test_memory_too_small_for_one_location_is_refused(run_paths: RunPaths, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"one location of conv2 needs .* for 54 samples, more than --memory allows"):
        clustered(run_paths, tmp_path / "c.h5", memory=54 * 4 * 7)
    assert not list(tmp_path.iterdir())


def test_full_disk_leaves_what_is_done(
    run_paths: RunPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_buffers: None
) -> None:
    def full(descriptor: int, start: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    clustered_layers = []

    def fill(progress: ClusteringProgress) -> None:
        clustered_layers.append(progress.layer)
        if progress.layer == "output":
            monkeypatch.setattr("os.posix_fallocate", full)

    with pytest.raises(ResourceError, match="the disk is full"):
        clustered(run_paths, tmp_path / "c.h5", memory=3000, report=fill)
    assert [entry.name for entry in tmp_path.iterdir()] == [".c.h5.journal"]
    monkeypatch.undo()
    assert clustered(run_paths, tmp_path / "c.h5").resumed == 5  # with buffers that hold all samples
    assert (tmp_path / "c.h5").read_bytes() == run_paths.codebook.read_bytes()


def test_no_workers_are_refused(run_paths: RunPaths, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="0 workers can do nothing"):
        clustered(run_paths, tmp_path / "c.h5", workers=0)


def test_model_of_other_voxels_is_refused(run: Run, run_paths: RunPaths, tmp_path: Path, rewrite: Rewrite) -> None:
    other = rewrite(run.voxels.artifact, tmp_path / "v.h5", {"label": np.roll(run.voxels.labels, 1)})
    message = rf"was made from voxels {run.voxels.id[:12]}, but .*v\.h5 is {other[:12]}\. Run 'fer train --force'"
    with pytest.raises(LineageError, match=message):
        cluster_network(tmp_path / "v.h5", run_paths.model, tmp_path / "c.h5", k=(5, 4, 4, 3), device=CPU)


def test_interrupted_stage_leaves_the_older_codebook(run_paths: RunPaths, tmp_path: Path) -> None:
    path = tmp_path / "c.h5"
    path.write_text("precious")

    def stop(progress: ClusteringProgress) -> None:
        if progress.layer == "conv2":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        clustered(run_paths, path, workers=2, force=True, report=stop)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".c.h5.journal", "c.h5"]
    assert path.read_text() == "precious"


def test_summary_by_hand() -> None:
    histogram = np.array([[[3, 1], [0, 0]], [[2, 0], [1, 1]]])
    figures = {"histogram": histogram, "n_distinct": np.array([1, 2]), "n_dead": np.array([4, 2])}
    summary = summarise_layer(
        "feedback", "conv1", filters=4, bits=16, inertia=np.array([1.0, 2.0]), scatter=np.array([4.0, 8.0]), **figures
    )
    assert (summary.locations, summary.k, summary.used, summary.bits) == (2, 2, 1.5, 16)
    assert (summary.explained, summary.purity) == (0.75, (3 + 2 + 1) / 8)
    assert (summary.scarce, summary.silent, summary.dead) == (1, 1, 0.75)
    still = summarise_layer("feedback", "fc7", filters=4, bits=16, inertia=np.zeros(2), scatter=np.zeros(2), **figures)
    assert still.explained == 1
