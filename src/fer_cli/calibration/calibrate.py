"""`fer calibrate`: read the validation samples through network and codebook, for later samples to be compared with.

Validation samples took no part in training or clustering. The artifact holds what was read of them. Temperatures,
p-values, typicality and the usual course are computed from that when they are asked for. Calibrating again does not
cluster again.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import nn

from fer_cli.calibration.confidence import VIEWS
from fer_cli.calibration.departure import SIGNIFICANT, return_errors
from fer_cli.calibration.outliers import InputOutliers
from fer_cli.calibration.surroundings import neighbourhood
from fer_cli.codebooks.codebook import Codebook, open_codebook
from fer_cli.codebooks.reading import code_distances, read_samples
from fer_cli.codebooks.reconstruction import read_errors
from fer_cli.codebooks.training_codes import TrainingCodes, read_training_codes
from fer_cli.data.dataset import VolumeSet, open_voxels
from fer_cli.data.statistics import input_statistics, statistic_names
from fer_cli.data.volumes import InputSpec
from fer_cli.errors import ArtifactError, UsageError
from fer_cli.network.activations import FEEDFORWARD, PATHS, Columns, batches
from fer_cli.network.explained import ExplainedNetwork
from fer_cli.network.views import Views, check_views, views_of
from fer_cli.network.weights import load_network, split_as_trained
from fer_cli.storage.artifact import open_artifact
from fer_cli.storage.artifact_writer import ArtifactWriter
from fer_cli.storage.outputs import check_output, claim_output
from fer_cli.storage.run_paths import RunPaths
from fer_cli.storage.schema import CALIBRATION, MODEL


@dataclass(frozen=True)
class CalibrationSummary:
    """What a stage reports: validation samples, how many of them are classified correctly, and their views in words."""

    path: Path
    samples: int
    correct: int
    seconds: float
    views: str = ""

    @property
    def enough(self) -> bool:
        """Whether p-values can reach the conventional 5 %."""
        return 1 / (self.correct + 1) <= SIGNIFICANT


def calibrate(
    paths: RunPaths,
    *,
    device: torch.device,
    module: nn.Module | None = None,
    views: int | None = None,
    vary: str | None = None,
    force: bool = False,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> CalibrationSummary:
    """Read a run's validation samples and write `paths.calibration`; `module` is an attached classifier in memory.

    `views` and `vary` are those of `network.views.views_of`.

    Raises UsageError for them, or if that exists and `force` is off, ArtifactError or LineageError where the run's
    artifacts are missing, damaged or not of one another, ResourceError where the file cannot be written.
    """
    check_views(views, vary)
    check_output(paths.calibration, paths.voxels, paths.model, paths.codebook)
    if paths.calibration.exists() and not force:
        raise UsageError(f"{paths.calibration} exists already. Give --force to replace it.")
    with open_artifact(paths.model, MODEL) as model:
        voxels = open_voxels(paths.voxels)
        model.require_parent("voxels", voxels.artifact)
        voxels = split_as_trained(voxels, model)
        network = load_network(model, device=device, module=module)
        codebook, artifact = open_codebook(paths.codebook, model, network.spec)
        parents = {"voxels": voxels.id, "model": model.id, "codebook": artifact.id}
        validation = model.read("validation/index")
        training = np.setdiff1d(voxels.indices("train"), validation)
        seen = views_of(model.config, network.spec.input, number=views, vary=vary)
        total = 2 * len(training) + seen.passes * len(validation)  # training samples: for codes, for figures
        known = read_training_codes(network, codebook, voxels, training, report=lambda done: report(done, total))
        with calibrated(
            paths.calibration,
            network,
            codebook,
            voxels,
            known,
            validation,
            parents,
            views=lambda _: seen,
            report=lambda done, _: report(len(training) + done, total),
        ) as (_, summary):
            return summary


def views_of_run(model: Path, *, number: int | None = None, vary: str | None = None) -> Callable[[InputSpec], Views]:
    """A function that gives the views of a model's samples (`network.views.views_of`), once its input is known.

    Raises UsageError for a number or a `vary` of no network, ArtifactError where the model is missing or damaged.
    """
    check_views(number, vary)
    with open_artifact(model, MODEL) as artifact:
        return partial(views_of, artifact.config, number=number, vary=vary)


def check_calibration(paths: RunPaths, *, force: bool) -> None:
    """Raise UsageError if `fer cluster` may not write `paths.calibration`.

    An earlier calibration goes with the codebook that it was made from; any other file is only replaced with `force`.
    """
    check_output(paths.calibration, paths.voxels, paths.model)
    if force or not paths.calibration.exists():
        return
    try:
        open_artifact(paths.calibration, CALIBRATION).close()
    except ArtifactError as error:
        raise UsageError(
            f"{paths.calibration}, where the calibration goes, holds something else. "
            "Name another output, or give --force to replace it."
        ) from error


@contextmanager
def calibrated(
    output: Path,
    network: ExplainedNetwork,
    codebook: Codebook,
    voxels: VolumeSet,
    known: TrainingCodes,
    validation: Int[np.ndarray, " validation"],
    parents: Mapping[str, str],
    *,
    views: Callable[[InputSpec], Views],
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[tuple[ArtifactWriter, CalibrationSummary]]:
    """Read the validation samples through network and codebook, and write the calibration under a temporary name.

    The calibration also holds the codes of the training samples at the local layer (`known`), and plain statistics of
    these samples. `views` is a function of the network's input.

    It replaces `output` at the end of the block, or when the block calls the writer's `rename`.

    Raises ResourceError where another run is at work on `output`, or it cannot be written.
    """
    started = time.monotonic()
    with claim_output(output, force=True):
        seen = views(network.spec.input)
        n_known, statistics = len(known.index), Columns(len(known.index))
        total = n_known + seen.passes * len(validation)
        for part in batches(known.index):
            statistics.add({"statistic": input_statistics(voxels.tensor(part), network.spec.input.kind)})
            report(statistics.filled, total)
        figures = statistics.arrays["statistic"]
        outliers = InputOutliers(statistic_names(network.spec.input.kind), figures)
        columns = read_validation(
            network,
            codebook,
            voxels,
            validation,
            seen,
            known,
            report=lambda done, _: report(n_known + seen.passes * done, total),
        )
        config = {"local_layer": known.layer, **({"views": seen.to_json()} if seen.vary else {})}
        with ArtifactWriter(output, CALIBRATION, config=config, parents=parents) as writer:
            for name, values in columns.items():
                writer.write(f"calibration/{name}", values)
            writer.write("training/index", known.index)
            writer.write("training/code", known.code)
            writer.write("training/statistic", figures)
            writer.write("training/outlyingness", outliers.reference)
            writer.complete()
            correct = int((columns["label"] == columns["predicted"]).sum())
            seconds = time.monotonic() - started
            yield writer, CalibrationSummary(output, len(validation), correct, seconds, seen.words)


def read_validation(
    network: ExplainedNetwork,
    codebook: Codebook,
    voxels: VolumeSet,
    validation: Int[np.ndarray, " validation"],
    views: Views,
    known: TrainingCodes,
    *,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, np.ndarray]:
    """What is kept of the validation samples, by the names that the schema gives behind `calibration/`.

    `known` are the training samples among which their neighbours are looked for.
    """
    labels, classes = voxels.labels[known.index], len(network.spec.classes)
    columns = Columns(len(validation))
    for part in batches(validation):
        volumes = voxels.tensor(part)
        reading = read_samples(network, codebook, volumes)
        scores = reading.confidence_scores()
        if views.vary:
            seen = views.probabilities(network, volumes)
            scores[VIEWS] = seen[np.arange(len(part)), reading.predicted]
        around = neighbourhood(known, codebook, reading.features[FEEDFORWARD][known.layer], labels, classes)
        batch = {
            **({"view_probability": seen.astype(np.float32)} if views.vary else {}),
            "neighbour_distance": around.distance.astype(np.float32),
            "neighbour_vote": around.vote.astype(np.float32),
            "predicted": reading.predicted,
            "probability": reading.probabilities,
            **{f"score/{name}": values.astype(np.float64) for name, values in scores.items()},
            **{
                f"error/{name}": values
                for name, values in read_errors(network, codebook, voxels, reading, volumes).items()
            },
            **{
                f"evidence/{path}/{layer}": reading.evidence[path][layer]
                for path in PATHS
                for layer in network.spec.layer_names[:-1]
            },
            **{f"distance/{layer}": values for layer, values in code_distances(codebook, reading).items()},
            **{
                f"return_error/{layer}": values
                for layer, values in return_errors(network, volumes, reading.features[FEEDFORWARD]).items()
            },
        }
        columns.add(batch)
        report(columns.filled, len(validation))
    return {"index": validation, "label": voxels.labels[validation], **columns.arrays}
