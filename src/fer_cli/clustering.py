"""`fer cluster`: k-means at every location of every layer in both paths, and calibration on validation samples.

The codebooks are fitted on the training samples that the network was trained on; the held-out validation
samples stay out, so that their scores are what a new sample's can be held against.
"""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, Int

from fer_cli.activations import PATHS, Slab, batches, class_probabilities, collect, plan_passes
from fer_cli.artifact import open_artifact
from fer_cli.artifact_writer import ArtifactWriter, claim_output
from fer_cli.codebook import Codebook, LayerCodebook
from fer_cli.dataset import VoxelSet, open_voxels
from fer_cli.errors import UsageError
from fer_cli.kmeans import cluster, in_threads
from fer_cli.model import OUTPUT, FERNet, NetworkConfig, load_network
from fer_cli.progress import ClusteringProgress
from fer_cli.reading import read_samples
from fer_cli.reconstruction import read_errors
from fer_cli.schema import CODEBOOK, MODEL

DEFAULT_K = (60, 50, 40, 30, 30, 20, 20)
"""Codes of conv1 … fc7, as in the paper; the output has one a class."""


@dataclass(frozen=True)
class LayerSummary:
    """How well the codes of a layer describe its features.

    `explained` is one less the share of scatter left as inertia; `purity` the mean share of a code's largest
    class, over samples; `used` the mean number of codes of a location that hold a training sample.
    """

    path: str
    layer: str
    locations: int
    k: int
    used: float
    explained: float
    purity: float


@dataclass(frozen=True)
class ClusteringSummary:
    """What a finished stage has to say."""

    path: Path
    samples: int
    layers: tuple[LayerSummary, ...]
    seconds: float


@dataclass(frozen=True)
class _FittedLocation:
    centroids: Float32[np.ndarray, "code filter"]
    histogram: Int[np.ndarray, "code klass"]
    exemplar: Int[np.ndarray, " code"]
    inertia: float
    scatter: float


def cluster_network(
    voxels: Path,
    model: Path,
    output: Path,
    *,
    k: tuple[int, ...] = DEFAULT_K,
    memory: int = 2 * 10**9,
    workers: int | None = None,
    seed: int = 0,
    device: torch.device,
    force: bool = False,
    report: Callable[[ClusteringProgress], None] = lambda _: None,
) -> ClusteringSummary:
    """Fit both codebooks of a trained network and write them to `output`.

    `k` is the number of codes of each layer below the output; `memory` bounds the features held at once, in
    bytes. The result does not depend on `memory` or `workers`.

    Raises UsageError where k and the layers or the samples do not fit, LineageError if `model` is not of `voxels`.
    """
    started = time.monotonic()
    claim_output(output, force=force)
    with open_artifact(model, MODEL) as model_artifact:
        voxel_set = open_voxels(voxels, in_memory=True)
        model_artifact.require_parent("voxels", voxel_set.artifact)
        network = load_network(model_artifact, device=device)
        validation = model_artifact.read("validation/index")
        model_id = model_artifact.id
    samples = np.setdiff1d(voxel_set.indices("train"), validation)
    codes = _codes_per_layer(network.config, k, len(samples))
    fitting = _Fitting(network, voxel_set, samples, codes, memory, workers or os.cpu_count() or 1, seed, report)
    config = {"k": dict(codes), "seed": seed}
    with ArtifactWriter(
        output, CODEBOOK, config=config, parents={"voxels": voxel_set.id, "model": model_id}, seed=seed
    ) as writer:
        summaries = fitting.fit(writer)
        _calibrate(writer, network, fitting.codebook(), voxel_set, validation)
    return ClusteringSummary(output, len(samples), tuple(summaries), time.monotonic() - started)


def _codes_per_layer(config: NetworkConfig, k: tuple[int, ...], samples: int) -> dict[str, int]:
    if len(k) != len(config.layers):
        raise UsageError(
            f"--k names {len(k)} numbers, but the network has {len(config.layers)} layers below the output."
        )
    codes = {**dict(zip(config.layer_names, k, strict=False)), OUTPUT: len(config.classes)}
    for layer, count in codes.items():
        if not 1 <= count <= samples:
            raise UsageError(
                f"{layer} cannot have {count} codes: k-means needs from 1 to as many as there are training samples "
                f"({samples}). Give smaller numbers with --k."
            )
    return codes


@dataclass(frozen=True)
class _Fitting:
    network: FERNet
    voxels: VoxelSet
    samples: Int[np.ndarray, " sample"]
    k: Mapping[str, int]
    memory: int
    workers: int
    seed: int
    report: Callable[[ClusteringProgress], None]

    @cached_property
    def books(self) -> dict[tuple[str, str], LayerCodebook]:
        """Codebooks fitted so far, by path and layer."""
        return {}

    def codebook(self) -> Codebook:
        """The codebook of what is fitted."""
        counts = np.bincount(self.voxels.labels[self.samples], minlength=len(self.voxels.classes))
        return Codebook(self.network.config, counts / counts.sum(), lambda path, layer: self.books[path, layer])

    def fit(self, writer: ArtifactWriter) -> list[LayerSummary]:
        """Fit and write both paths, layer by layer."""
        probabilities = class_probabilities(self.network, self.voxels, self.samples)
        passes = plan_passes(self.network.config, len(self.samples), self.memory)
        fitted: dict[tuple[str, str], list[_FittedLocation]] = {}
        for path in PATHS:
            for slabs in passes:
                features = collect(
                    self.network, self.voxels, self.samples, path=path, slabs=slabs, probabilities=probabilities
                )
                for slab in slabs:
                    # A slab's features are freed before the next slab's are clustered.
                    locations = self._fit_slab(path, slab, features.pop(slab))
                    fitted.setdefault((path, slab.layer), []).extend(locations)
        return [self._write_layer(writer, path, layer, locations) for (path, layer), locations in fitted.items()]

    def _fit_slab(
        self, path: str, slab: Slab, features: Float32[np.ndarray, "location sample filter"]
    ) -> list[_FittedLocation]:
        layer_index = self.network.config.index(slab.layer)
        locations = int(np.prod(self.network.config.level_shape(slab.layer)[1:]))

        def fit(offset: int) -> _FittedLocation:
            # At the output both paths hold the class probabilities, and so share their codes too.
            path_index = 0 if slab.layer == OUTPUT else PATHS.index(path)
            key = [self.seed, path_index, layer_index, slab.start + offset]
            return self._fit_location(features[offset], self.k[slab.layer], seed=_faiss_seed(key))

        fitted = []
        for result in in_threads(fit, range(len(features)), workers=self.workers):
            fitted.append(result)
            self.report(ClusteringProgress(path, slab.layer, slab.start + len(fitted), locations))
        return fitted

    def _fit_location(self, vectors: Float32[np.ndarray, "sample filter"], k: int, *, seed: int) -> _FittedLocation:
        clustering = cluster(vectors, k, seed=seed)
        classes = len(self.voxels.classes)
        pairs = clustering.codes * classes + self.voxels.labels[self.samples]
        # By code, nearest first: the first of each code is its exemplar.
        order = np.lexsort((clustering.distances, clustering.codes))
        used, first = np.unique(clustering.codes[order], return_index=True)
        exemplar = np.full(k, -1, dtype=np.int64)
        exemplar[used] = self.samples[order[first]]
        return _FittedLocation(
            centroids=clustering.centroids,
            histogram=np.bincount(pairs, minlength=k * classes).reshape(k, classes),
            exemplar=exemplar,
            inertia=float(clustering.distances.sum()),
            scatter=float(np.square(vectors - vectors.mean(axis=0, dtype=np.float64)).sum()),
        )

    def _write_layer(
        self, writer: ArtifactWriter, path: str, layer: str, locations: list[_FittedLocation]
    ) -> LayerSummary:
        book = LayerCodebook(
            centroids=np.stack([fitted.centroids for fitted in locations]),
            histogram=np.stack([fitted.histogram for fitted in locations]).astype(np.int32),
            exemplar=np.stack([fitted.exemplar for fitted in locations]).astype(np.int32),
        )
        self.books[path, layer] = book
        inertia = np.array([fitted.inertia for fitted in locations])
        scatter = np.array([fitted.scatter for fitted in locations])
        writer.write(f"{path}/{layer}/centroid", book.centroids)
        writer.write(f"{path}/{layer}/histogram", book.histogram)
        writer.write(f"{path}/{layer}/exemplar", book.exemplar)
        writer.write(f"{path}/{layer}/inertia", inertia)
        writer.write(f"{path}/{layer}/scatter", scatter)
        return summarise_layer(path, layer, book.histogram, inertia, scatter)


def summarise_layer(
    path: str,
    layer: str,
    histogram: Int[np.ndarray, "location code klass"],
    inertia: Float[np.ndarray, " location"],
    scatter: Float[np.ndarray, " location"],
) -> LayerSummary:
    """The figures of a layer that `fer cluster` and `fer info` show."""
    locations, k, _ = histogram.shape
    return LayerSummary(
        path=path,
        layer=layer,
        locations=locations,
        k=k,
        used=float((histogram.sum(axis=2) > 0).sum(axis=1).mean()),
        explained=float(1 - inertia.sum() / scatter.sum()) if scatter.sum() > 0 else 1.0,
        purity=float(histogram.max(axis=2).sum() / histogram.sum()),
    )


def _faiss_seed(key: list[int]) -> int:
    """A seed of a location's own, so that no location depends on the order in which others are fitted."""
    return int(np.random.SeedSequence(key).generate_state(1)[0]) & 0x7FFFFFFF


def _calibrate(
    writer: ArtifactWriter,
    network: FERNet,
    codebook: Codebook,
    voxels: VoxelSet,
    validation: Int[np.ndarray, " validation"],
) -> None:
    """Read the validation samples and store the scores and errors that later samples are held against."""
    predicted: list[np.ndarray] = []
    scores: dict[str, list[np.ndarray]] = {}
    errors: dict[str, list[np.ndarray]] = {}
    for part in batches(validation):
        grids = voxels.tensor(part)
        reading = read_samples(network, codebook, grids)
        predicted.append(reading.predicted)
        for name, values in reading.confidence_scores().items():
            scores.setdefault(name, []).append(values)
        for name, values in read_errors(network, codebook, voxels, reading, grids).items():
            errors.setdefault(name, []).append(values)
    writer.write("calibration/index", validation)
    writer.write("calibration/label", voxels.labels[validation])
    writer.write("calibration/predicted", np.concatenate(predicted))
    for name, parts in scores.items():
        writer.write(f"calibration/score/{name}", np.concatenate(parts).astype(np.float64))
    for name, parts in errors.items():
        writer.write(f"calibration/error/{name}", np.concatenate(parts).astype(np.float64))
