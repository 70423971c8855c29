"""`fer cluster`: k-means at every location of every layer in both paths.

The codebooks are fitted on the training samples that the network was trained on. The held-out validation samples stay
out: `calibration` reads them, so that a new sample can be compared with samples that took no part in training or
clustering.

The stage: its checks, its workers and its output. `layer_fitting` fits the layers.
Layers that are done are kept in a journal, so that a stage that was ended goes on with the others.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import nn

from fer_cli import __version__
from fer_cli.codebooks import kmeans
from fer_cli.codebooks.choice import Candidate, choose_codes
from fer_cli.codebooks.codebook import Codebook
from fer_cli.codebooks.fitted_layer import FittedLayers, LayerSummary
from fer_cli.codebooks.fitting import fit_locations
from fer_cli.codebooks.layer_fitting import ENOUGH, LayerFitting, Precision
from fer_cli.codebooks.training_codes import TrainingCodes
from fer_cli.data.dataset import VoxelSet, open_voxels
from fer_cli.errors import UsageError
from fer_cli.execution.executor import WorkExecutor
from fer_cli.execution.interrupts import Interrupts
from fer_cli.execution.progress import CHOOSING, ClusteringProgress
from fer_cli.execution.scheduler import open_scheduler
from fer_cli.execution.workers import open_threads
from fer_cli.network.activations import PATHS
from fer_cli.network.backbone import OUTPUT, NetworkSpec
from fer_cli.network.explained import ExplainedNetwork
from fer_cli.network.weights import load_network, read_spec, split_as_trained
from fer_cli.storage.artifact import open_artifact
from fer_cli.storage.artifact_writer import ArtifactWriter
from fer_cli.storage.journal import Journal, journal_path
from fer_cli.storage.outputs import check_output, claim_output
from fer_cli.storage.schema import CODEBOOK, MODEL

PAPER_K = (60, 50, 40, 30, 30, 20, 20)
"""The paper's number of codes of its seven layers, from the lowest up."""


Calibrate = Callable[
    [ExplainedNetwork, Codebook, VoxelSet, TrainingCodes, Int[np.ndarray, " validation"], Mapping[str, str]],
    AbstractContextManager[tuple[ArtifactWriter | None, Any]],
]
"""A function of a network, its codebook, a voxel set, the codes of the training samples at the local layer, the
validation samples, and the ids of all artifacts that these come from.

Gives the complete calibration, which waits for its name, and what is to be reported of it.
"""


@dataclass(frozen=True)
class ClusteringSummary:
    """Summary of a finished stage.

    `resumed` counts the layers that an earlier run had done; `calibration` is what `calibrate` reports; `choice` is
    what k was chosen from, if it was.
    """

    path: Path
    samples: int
    layers: tuple[LayerSummary, ...]
    resumed: int
    seconds: float
    calibration: Any
    choice: tuple[Candidate, ...] = ()


def cluster_network(
    voxels: Path,
    model: Path,
    output: Path,
    *,
    k: tuple[int, ...] | Literal["auto"] | None = None,
    memory: int = 2 * 10**9,
    workers: int | None = None,
    scheduler: str | None = None,
    scratch: Path | None = None,
    seed: int = 0,
    device: torch.device,
    module: nn.Module | None = None,
    calibrate: Calibrate = lambda *_: nullcontext((None, None)),
    force: bool = False,
    report: Callable[[ClusteringProgress], None] = lambda _: None,
) -> ClusteringSummary:
    """Fit both codebooks of a trained network and write them to `output`; the result does not depend on the workers.

    `k` is the number of codes of each layer below the output: the paper's, spread over the network's depth, and
    at most half of the samples, if None (`default_codes`); chosen by the stability of clusterings if `auto` (see
    `choice`).

    `memory` is the maximum size of features in memory, in bytes; what exceeds it goes to an unnamed file in the folder
    `scratch`, that of `output` unless given. `workers` threads (one per core if None) share the work, or the workers of
    a Dask `scheduler` do.

    On a GPU features stay there and are clustered there, unless there is a `scheduler`.

    `module` is the classifier of an attached network that the caller has in memory.

    `calibrate` makes the calibration of the complete codebook, and both files get their names at one moment, the
    calibration first, so that a codebook always has its calibration. A stage that was interrupted or ran out of
    resources continues when it is started again.

    Raises UsageError where k and the layers or the samples do not fit, LineageError if `model` is not of `voxels`,
    ResourceError if a file cannot be written, a worker dies, or the scheduler does not answer.
    """
    started = time.monotonic()
    if workers is not None and workers < 1:
        raise UsageError(f"{workers} workers can do nothing; give at least 1.")
    check_output(output, voxels, model)
    if k is not None and k != "auto":
        with open_artifact(model, MODEL) as artifact:
            _check_codes(read_spec(artifact), k)
    if scratch is not None and not scratch.is_dir():
        raise UsageError(f"--scratch {scratch} is no folder; make it, or name another.")
    with ExitStack() as at_end:
        at_end.enter_context(claim_output(output, force=force, progress=journal_path(output)))
        inputs = _Inputs.read(voxels, model, device, module)
        codes = None if k == "auto" else _codes_per_layer(inputs.network.spec, k, len(inputs.samples))
        key = _run_key([codes or "auto", seed, kmeans.ITERATIONS, kmeans.ENOUGH_GAIN, inputs.parents])
        journal = at_end.enter_context(Journal(output, key))
        with journal.used(), _executor(workers, scheduler) as executor:
            choice = () if codes is not None else _choice(inputs, executor, seed, report)
            if codes is None:
                chosen = tuple(candidate.k for candidate in choice if candidate.chosen)
                codes = _codes_per_layer(inputs.network.spec, chosen, len(inputs.samples))
            fitting = LayerFitting(
                inputs.network,
                inputs.voxels,
                inputs.samples,
                codes,
                memory,
                scratch or output.parent,
                seed,
                FittedLayers(journal),
                executor,
                report,
                on_device=(device.type != "cpu" or not kmeans.HAS_FAISS) and scheduler is None,
            )
            resumed = len(journal)
            precision = fitting.fit()
            config = {"k": codes, "seed": seed}
            with ArtifactWriter(output, CODEBOOK, config=config, parents=inputs.parents, seed=seed) as writer:
                writer.set_attribute("precision", precision)
                writer.set_attribute("choice", [vars(candidate) for candidate in choice])
                summaries, calibration = _write(writer, fitting, precision, inputs, calibrate)
    seconds = time.monotonic() - started
    return ClusteringSummary(output, len(inputs.samples), tuple(summaries), resumed, seconds, calibration, choice)


@dataclass(frozen=True)
class _Inputs:
    """A trained network, what it was trained on, its clustered and its validation samples."""

    network: ExplainedNetwork
    voxels: VoxelSet
    samples: Int[np.ndarray, " sample"]
    validation: Int[np.ndarray, " validation"]
    parents: dict[str, str]

    @staticmethod
    def read(voxels: Path, model: Path, device: torch.device, module: nn.Module | None) -> "_Inputs":
        with open_artifact(model, MODEL) as artifact:
            voxel_set = open_voxels(voxels, in_memory=True)
            artifact.require_parent("voxels", voxel_set.artifact)
            network = load_network(artifact, device=device, module=module)
            network.feedback.eval()  # raises UsageError of a classifier alone, before anything is computed
            validation = artifact.read("validation/index")
            parents = {"voxels": voxel_set.id, "model": artifact.id}
            as_trained = split_as_trained(voxel_set, artifact)
        samples = np.setdiff1d(as_trained.indices("train"), validation)
        return _Inputs(network, as_trained, samples, validation, parents)


def _choice(
    inputs: _Inputs, executor: WorkExecutor, seed: int, report: Callable[[ClusteringProgress], None]
) -> tuple[Candidate, ...]:
    def tell(done: int, total: int) -> None:
        report(ClusteringProgress(CHOOSING, done, total))

    return tuple(choose_codes(inputs.network, inputs.voxels, inputs.samples, executor, seed=seed, report=tell))


def _executor(workers: int | None, scheduler: str | None) -> AbstractContextManager[WorkExecutor]:
    return open_threads(workers or os.cpu_count() or 1) if scheduler is None else open_scheduler(scheduler, reads=None)


def _write(
    writer: ArtifactWriter, fitting: LayerFitting, precision: Precision, inputs: _Inputs, calibrate: Calibrate
) -> tuple[list[LayerSummary], Any]:
    """Write the codebook, calibrate it, and give both files their names."""
    summaries = [layer.write(writer) for layer in fitting.finished(precision)]
    writer.complete()
    parents = {**inputs.parents, "codebook": writer.id}
    codebook = fitting.codebook(precision)
    with (
        calibrate(
            inputs.network, codebook, inputs.voxels, fitting.training_codes(precision), inputs.validation, parents
        ) as (artifact, calibration),
        Interrupts(patient=True),
    ):
        if artifact is not None:
            artifact.rename()
        writer.rename()
    return summaries, calibration


def default_codes(levels: int, samples: int | None = None) -> tuple[int, ...]:
    """Number of codes of each level, lowest first: the paper's list, interpolated over the network's depth.

    With `samples`, at most half of them.
    """
    most = PAPER_K[0] if samples is None else max(1, samples // 2)
    depth = np.linspace(0, len(PAPER_K) - 1, levels) if levels > 1 else [len(PAPER_K) // 2]
    return tuple(min(most, round(float(k))) for k in np.interp(depth, range(len(PAPER_K)), PAPER_K))


@cache
def expected_seconds(filters: int, locations: int, k: int, samples: int) -> float:
    """Time of k-means at one level in both paths, with a worker for each core; from one location of random features."""
    fitted_on = min(samples, ENOUGH * max(PAPER_K))
    features = np.random.default_rng(0).standard_normal((1, fitted_on, filters)).clip(min=0).astype(np.float16)
    started = time.monotonic()
    fit_locations(features, min(k, fitted_on), [0], None)
    return (time.monotonic() - started) * locations * len(PATHS) / (os.cpu_count() or 1)


def _check_codes(spec: NetworkSpec, k: tuple[int, ...]) -> None:
    """Raise UsageError for what suits no number of samples."""
    if len(k) != len(spec.levels):
        raise UsageError(f"--k names {len(k)} numbers, but the network has {len(spec.levels)} layers below the output.")
    if min(k) < 1:
        raise UsageError(f"--k {','.join(map(str, k))}: a layer has at least one code.")


def _codes_per_layer(spec: NetworkSpec, k: tuple[int, ...] | None, samples: int) -> dict[str, int]:
    k = k or default_codes(len(spec.levels), samples)
    _check_codes(spec, k)
    codes = {**dict(zip(spec.layer_names, k, strict=False)), OUTPUT: len(spec.classes)}
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
