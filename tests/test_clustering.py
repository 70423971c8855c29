from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fer_cli.activations import FEEDFORWARD, PATHS, Slab, class_probabilities, collect
from fer_cli.artifact import Artifact, open_artifact
from fer_cli.clustering import cluster_network, summarise_layer
from fer_cli.errors import LineageError, UsageError
from fer_cli.progress import ClusteringProgress
from fer_cli.reading import load_calibration, read_samples
from fer_cli.reconstruction import ERRORS, read_errors
from fer_cli.run import Run, RunPaths
from fer_cli.schema import CODEBOOK

CPU = torch.device("cpu")
K = {"conv1": 5, "conv2": 4, "conv3": 4, "fc4": 3, "output": 3}
Rewrite = Callable[[Artifact, Path, Mapping[str, Any]], str]


@pytest.fixture(scope="module")
def codebook(run_paths: RunPaths) -> Artifact:
    return open_artifact(run_paths.codebook, CODEBOOK)


@pytest.fixture(scope="module")
def samples(run: Run) -> np.ndarray:
    """The samples that were clustered: training split without the validation samples."""
    return np.setdiff1d(run.voxels.indices("train"), run.model.read("validation/index"))


@pytest.fixture(scope="module")
def features(run: Run, samples: np.ndarray) -> dict[tuple[str, str], np.ndarray]:
    """(location, sample, filter) of every path and layer."""
    config = run.network.config
    slabs = [Slab(layer, 0, int(np.prod(config.level_shape(layer)[1:]))) for layer in config.layer_names]
    probabilities = class_probabilities(run.network, run.voxels, samples)
    return {
        (path, slab.layer): array
        for path in PATHS
        for slab, array in collect(
            run.network, run.voxels, samples, path=path, slabs=slabs, probabilities=probabilities
        ).items()
    }


def test_every_layer_and_location_of_both_paths_has_its_codes(
    codebook: Artifact, run: Run, samples: np.ndarray
) -> None:
    assert codebook.config == {"k": K, "seed": 0}
    assert codebook.parents == {"voxels": run.voxels.id, "model": run.model.id}
    counts = np.bincount(run.voxels.labels[samples], minlength=3)
    for path in PATHS:
        for layer, k in K.items():
            filters, *sides = run.network.config.level_shape(layer)
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


def test_calibration_is_the_validation_samples_read(codebook: Artifact, run: Run) -> None:
    held = run.model.read("validation/index")
    reading = read_samples(run.network, run.codebook, run.voxels.tensor(held))
    np.testing.assert_array_equal(codebook.read("calibration/index"), held)
    np.testing.assert_array_equal(codebook.read("calibration/label"), run.voxels.labels[held])
    np.testing.assert_array_equal(codebook.read("calibration/predicted"), reading.predicted)
    calibration = load_calibration(codebook)
    scores = reading.confidence_scores()
    assert set(calibration.scores) == set(scores)
    for name, values in scores.items():
        np.testing.assert_allclose(calibration.scores[name], values, rtol=1e-6)
    np.testing.assert_array_equal(calibration.correct, reading.predicted == run.voxels.labels[held])
    errors = read_errors(run.network, run.codebook, run.voxels, reading, run.voxels.tensor(held))
    assert {name.rpartition("/")[2] for name in codebook.names("calibration/error/")} == set(errors) == set(ERRORS)
    for name, values in errors.items():
        np.testing.assert_allclose(codebook.read(f"calibration/error/{name}"), values, rtol=1e-6)


@pytest.mark.parametrize(("workers", "memory"), [(2, 2 * 10**9), (1, 10_000), (3, 3_000)])
def test_result_does_not_depend_on_workers_or_memory(
    workers: int, memory: int, run_paths: RunPaths, codebook: Artifact, tmp_path: Path
) -> None:
    path = tmp_path / "codebook.h5"
    seen: list[ClusteringProgress] = []
    summary = cluster_network(
        run_paths.voxels,
        run_paths.model,
        path,
        k=(5, 4, 4, 3),
        workers=workers,
        memory=memory,
        device=CPU,
        report=seen.append,
    )
    assert path.read_bytes() == run_paths.codebook.read_bytes()
    for each in {(p.path, p.layer) for p in seen}:
        done = [p for p in seen if (p.path, p.layer) == each]
        assert [p.done for p in done] == list(range(1, done[0].locations + 1))
    assert [(s.path, s.layer) for s in summary.layers] == [(path, layer) for path in PATHS for layer in K]
    assert summary.samples == 54


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
        ((0, 4, 4, 3), "conv1 cannot have 0 codes"),
    ],
)
def test_k_that_does_not_fit_is_refused(k: tuple[int, ...], message: str, run_paths: RunPaths, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        cluster_network(run_paths.voxels, run_paths.model, tmp_path / "c.h5", k=k, device=CPU)
    assert not list(tmp_path.iterdir())


def test_memory_too_small_for_one_location_is_refused(run_paths: RunPaths, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"one location of conv2 needs .* for 54 samples, more than --memory allows"):
        cluster_network(
            run_paths.voxels, run_paths.model, tmp_path / "c.h5", k=(5, 4, 4, 3), memory=54 * 4 * 7, device=CPU
        )
    assert not list(tmp_path.iterdir())


def test_model_of_other_voxels_is_refused(run: Run, run_paths: RunPaths, tmp_path: Path, rewrite: Rewrite) -> None:
    other = rewrite(run.voxels.artifact, tmp_path / "v.h5", {"label": np.roll(run.voxels.labels, 1)})
    message = rf"was made from voxels {run.voxels.id[:12]}, but .*v\.h5 is {other[:12]}\. Run 'fer train' again"
    with pytest.raises(LineageError, match=message):
        cluster_network(tmp_path / "v.h5", run_paths.model, tmp_path / "c.h5", k=(5, 4, 4, 3), device=CPU)


def test_interrupted_stage_leaves_the_older_codebook(run_paths: RunPaths, tmp_path: Path) -> None:
    path = tmp_path / "c.h5"
    path.write_text("precious")

    def stop(progress: ClusteringProgress) -> None:
        if progress.layer == "conv2":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cluster_network(
            run_paths.voxels, run_paths.model, path, k=(5, 4, 4, 3), workers=2, device=CPU, force=True, report=stop
        )
    assert [entry.name for entry in tmp_path.iterdir()] == ["c.h5"]
    assert path.read_text() == "precious"


def test_summary_by_hand() -> None:
    histogram = np.array([[[3, 1], [0, 0]], [[2, 0], [1, 1]]])
    summary = summarise_layer("feedback", "conv1", histogram, np.array([1.0, 2.0]), np.array([4.0, 8.0]))
    assert (summary.locations, summary.k, summary.used) == (2, 2, 1.5)
    assert (summary.explained, summary.purity) == (0.75, (3 + 2 + 1) / 8)
    assert summarise_layer("feedback", "fc7", histogram, np.zeros(2), np.zeros(2)).explained == 1
