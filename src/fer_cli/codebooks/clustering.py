"""`fer cluster`: k-means at every location of every layer in both paths, and calibration on validation samples.

The codebooks are fitted on the training samples that the network was trained on; the held-out validation
samples stay out, so that their scores are what a new sample's can be held against.

The stage: what it checks, who does the work, and what it writes. How the layers are fitted is in `layer_fitting`.
Layers that are done are kept in a journal, so that a stage that was ended goes on with the others.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from fer_cli import __version__
from fer_cli.codebooks.choice import Candidate, choose_codes
from fer_cli.codebooks.codebook import Codebook
from fer_cli.codebooks.departure import return_errors
from fer_cli.codebooks.fitted_layer import FittedLayers, LayerSummary
from fer_cli.codebooks.layer_fitting import LayerFitting
from fer_cli.codebooks.reading import code_distances, read_samples
from fer_cli.codebooks.reconstruction import read_errors
from fer_cli.errors import ResourceError, UsageError
from fer_cli.execution.executor import WorkExecutor
from fer_cli.execution.progress import CHOOSING, ClusteringProgress
from fer_cli.execution.scheduler import open_scheduler
from fer_cli.execution.workers import open_threads
from fer_cli.network.activations import FEEDFORWARD, PATHS, batches
from fer_cli.network.dataset import VoxelSet, open_voxels
from fer_cli.network.model import OUTPUT, FERNet, NetworkConfig
from fer_cli.network.weights import load_network
from fer_cli.storage.artifact import open_artifact
from fer_cli.storage.artifact_writer import ArtifactWriter
from fer_cli.storage.journal import Journal, journal_path
from fer_cli.storage.outputs import check_output, claim_output
from fer_cli.storage.schema import CODEBOOK, MODEL

DEFAULT_K = (60, 50, 40, 30, 30, 20, 20)
"""Codes of conv1 … fc7, as in the paper; the output has one a class."""


@dataclass(frozen=True)
class ClusteringSummary:
    """What a finished stage has to say.

    `resumed` counts the layers that an earlier run had done; `choice` is what k was chosen from, if it was.
    """

    path: Path
    samples: int
    layers: tuple[LayerSummary, ...]
    resumed: int
    seconds: float
    choice: tuple[Candidate, ...] = ()


def cluster_network(
    voxels: Path,
    model: Path,
    output: Path,
    *,
    k: tuple[int, ...] | None = DEFAULT_K,
    memory: int = 2 * 10**9,
    workers: int | None = None,
    scheduler: str | None = None,
    scratch: Path | None = None,
    seed: int = 0,
    device: torch.device,
    force: bool = False,
    report: Callable[[ClusteringProgress], None] = lambda _: None,
) -> ClusteringSummary:
    """Fit both codebooks of a trained network and write them to `output`, the same whoever does the work.

    `k` is the number of codes of each layer below the output, None to choose it (see `choice`). `memory` bounds the
    features held at once, in bytes; what is more goes to a file without a name in the folder `scratch`, that of
    `output` unless given. `workers` threads (one per core if None) share the work, or the workers of a Dask `scheduler`
    do. A stage that was ended from outside, or for want of resources, goes on where it stopped when it is started
    again.

    Raises UsageError where k and the layers or the samples do not fit, LineageError if `model` is not of `voxels`,
    ResourceError if a file cannot be written, a worker dies, or the scheduler does not answer.
    """
    started = time.monotonic()
    if workers is not None and workers < 1:
        raise UsageError(f"{workers} workers can do nothing; give at least 1.")
    check_output(output, voxels, model)
    with ExitStack() as at_end:
        at_end.enter_context(claim_output(output, force=force, progress=journal_path(output)))
        with open_artifact(model, MODEL) as model_artifact:
            voxel_set = open_voxels(voxels, in_memory=True)
            model_artifact.require_parent("voxels", voxel_set.artifact)
            network = load_network(model_artifact, device=device)
            validation = model_artifact.read("validation/index")
            model_id = model_artifact.id
        samples = np.setdiff1d(voxel_set.indices("train"), validation)
        codes = None if k is None else _codes_per_layer(network.config, k, len(samples))
        parents = {"voxels": voxel_set.id, "model": model_id}
        journal = at_end.enter_context(Journal(output, _run_key([codes or "auto", seed, parents])))
        try:
            opened: AbstractContextManager[WorkExecutor] = (
                open_threads(workers or os.cpu_count() or 1)
                if scheduler is None
                else open_scheduler(scheduler, reads=None)
            )
            executor = at_end.enter_context(opened)
            choice: list[Candidate] = []
            if codes is None:
                choice = choose_codes(
                    network,
                    voxel_set,
                    samples,
                    executor,
                    seed=seed,
                    report=lambda done, total: report(ClusteringProgress(CHOOSING, done, total)),
                )
                chosen = tuple(candidate.k for candidate in choice if candidate.chosen)
                codes = _codes_per_layer(network.config, chosen, len(samples))
            fitting = LayerFitting(
                network,
                voxel_set,
                samples,
                codes,
                memory,
                scratch or output.parent,
                seed,
                FittedLayers(journal),
                executor,
                report,
            )
            resumed = len(journal)
            precision = fitting.fit()
            config = {"k": codes, "seed": seed}
            with ArtifactWriter(output, CODEBOOK, config=config, parents=parents, seed=seed) as writer:
                writer.set_attribute("precision", precision)
                writer.set_attribute("choice", [vars(candidate) for candidate in choice])
                summaries = [layer.write(writer) for layer in fitting.finished(precision)]
                _calibrate(writer, network, fitting.codebook(precision), voxel_set, validation)
        except Exception as error:
            if not isinstance(error, ResourceError):
                journal.remove()
            raise
        journal.remove()
    seconds = time.monotonic() - started
    return ClusteringSummary(output, len(samples), tuple(summaries), resumed, seconds, tuple(choice))


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


def _run_key(decisive: Sequence[Any]) -> str:
    """A hash of whatever decides the codes; equal keys mean that a journal can be gone on with."""
    return hashlib.sha256(json.dumps([__version__, CODEBOOK.version, *decisive]).encode()).hexdigest()


def _calibrate(
    writer: ArtifactWriter,
    network: FERNet,
    codebook: Codebook,
    voxels: VoxelSet,
    validation: Int[np.ndarray, " validation"],
) -> None:
    """Read the validation samples and store what later samples are held against."""
    columns: dict[str, list[np.ndarray]] = {}
    for part in batches(validation):
        grids = voxels.tensor(part)
        reading = read_samples(network, codebook, grids)
        batch = {
            "predicted": reading.predicted,
            "probability": reading.probabilities,
            **{f"score/{name}": values.astype(np.float64) for name, values in reading.confidence_scores().items()},
            **{
                f"error/{name}": values
                for name, values in read_errors(network, codebook, voxels, reading, grids).items()
            },
            **{
                f"evidence/{path}/{layer}": reading.evidence[path][layer]
                for path in PATHS
                for layer in network.config.layer_names[:-1]
            },
            **{f"distance/{layer}": values for layer, values in code_distances(codebook, reading).items()},
            **{
                f"return_error/{layer}": values
                for layer, values in return_errors(network, grids, reading.features[FEEDFORWARD]).items()
            },
        }
        for name, values in batch.items():
            columns.setdefault(name, []).append(values)
    writer.write("calibration/index", validation)
    writer.write("calibration/label", voxels.labels[validation])
    for name, parts in columns.items():
        writer.write(f"calibration/{name}", np.concatenate(parts))
