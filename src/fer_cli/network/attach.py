"""`fer attach`: a feedback network for somebody's frozen classifier, trained on volumes as the classifier reads them.

The stage: it looks the classifier over, checks it against the labelled samples, trains the feedback network by the
second phase of `fer train`, and writes model.h5. The test split is not read, unless the user has it fitted on.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import nn

from fer_cli.data.augmentation import Augmentation
from fer_cli.data.dataset import VolumeSet, VoxelSet, open_voxels, validation_split
from fer_cli.data.places import Kind
from fer_cli.errors import ArtifactError, InputError, UsageError
from fer_cli.network.activations import FEEDBACK
from fer_cli.network.attach_overview import Overview, expected_seconds, fit_of
from fer_cli.network.attached.classifier import Attached, attach_backbone, explain_attached
from fer_cli.network.attached.hooks import unwrapped
from fer_cli.network.attached.model_file import (
    Origin,
    is_attached,
    network_config,
    read_scales,
    require_storable,
    write_attached,
)
from fer_cli.network.attached.readout import Activation, require_decision
from fer_cli.network.attached.source import Source
from fer_cli.network.attached.survey import MOST_LOCATIONS, Candidate
from fer_cli.network.checkpoint import claim_training
from fer_cli.network.explained import ExplainedNetwork
from fer_cli.network.feedback import feature_scales
from fer_cli.network.loop import Report, TrainingLoop
from fer_cli.network.phases import ATTACHED, TrainingData, TrainingSettings
from fer_cli.network.weights import load_state_arrays, write_state
from fer_cli.storage.artifact import open_artifact
from fer_cli.storage.artifact_writer import ArtifactWriter
from fer_cli.storage.history import write_history
from fer_cli.storage.schema import MODEL

_LOOKED_AT = 16
_CHECKED = 512
"""Training samples whose labels the classifier's answers are held against."""
_EPOCHS = 6
_RATE = 8e-3
_SAMPLES = 3592
"""Samples for which the default epochs are meant; with fewer the feedback network has more."""


@dataclass(frozen=True)
class AttachSettings:
    """What a user decides of an attachment beside the classifier; see `fer attach --help`.

    Raises UsageError for values that suit no classifier.
    """

    levels: tuple[str, ...] | None = None
    output: str | None = None
    activation: Activation | None = None
    decision: float = 0.5
    outputs: tuple[str, ...] | None = None
    fitted_on: str = "train"
    feedback_epochs: int | None = None
    batch_size: int = 32
    feedback_learning_rate: float | None = None
    feature_weight: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        require_decision(self.decision)
        self.training("occupancy")

    def training(self, kind: Kind) -> TrainingSettings:
        """The settings of the feedback phase, and how `fer evaluate` varies samples; how they were varied is not known.

        Occupancy is varied as in `fer train`, intensities are moved and mirrored.

        Raises UsageError for values that do not fit.
        """
        usual = TrainingSettings().augmentation
        given = self.feedback_epochs
        return TrainingSettings(
            preset=ATTACHED,
            batch_size=self.batch_size,
            feedback_learning_rate=_RATE if self.feedback_learning_rate is None else self.feedback_learning_rate,
            dropout=0.0,
            feature_weight=self.feature_weight,
            seed=self.seed,
            feedback_epochs=_EPOCHS if given is None else given,
            feedback_shown=_EPOCHS * _SAMPLES if given is None else 0,
            augmentation=usual if kind == "occupancy" else Augmentation(shift=2, mirror=True, edge=True),
        )


@dataclass(frozen=True)
class AttachSummary:
    """Summary of an attachment; accuracy and score of the validation samples."""

    path: Path
    overview: Overview
    parameters: int
    accuracy: float
    score_name: str
    score: float
    seconds: float


@dataclass(frozen=True)
class _Prepared:
    backbone: Attached
    network: ExplainedNetwork
    data: TrainingData
    training: TrainingSettings
    overview: Overview


def look_over(
    voxels: Path,
    module: nn.Module,
    settings: AttachSettings,
    *,
    device: torch.device,
    source: Source | None = None,
    previous: Path | None = None,
) -> Overview:
    """What `attach` would do: levels, fit and expected time; nothing is written. Raises what `attach` raises."""
    return _prepare(open_voxels(voxels, in_memory=True), module, settings, device, previous, source).overview


def attach(
    voxels: Path,
    output: Path,
    module: nn.Module,
    settings: AttachSettings,
    origin: Origin,
    *,
    device: torch.device,
    source: Source | None = None,
    resume: bool = False,
    force: bool = False,
    listed: Callable[[Overview], object] = lambda _: None,
    report: Report = lambda _: None,
    finish: Callable[[Path], object] = lambda _: None,
) -> AttachSummary:
    """Train a feedback network on a frozen classifier and write both to `output`.

    `module` reads the volumes of `voxels` as they are; it stays where it is and as it is. `source` built it, if it
    was not in memory, and builds it again for the sanity checks. `listed` is called with what was found before training
    starts, `finish` with `output` when it is written. Where `output` holds a feedback network for the same levels,
    `force` starts from its weights.

    Samples of a split `val` validate; without one a tenth of the fitted split does. Checkpoints are as in `fer train`.

    Raises InputError where there are too few samples; UsageError for a classifier, levels or settings that do not fit,
    or an `output` that exists; FerError for features that are not finite; ResourceError where memory does not suffice.
    """
    started = time.monotonic()
    with claim_training(output, voxels, *origin.read_files(), resume=resume, force=force) as checkpoint:
        voxel_set = open_voxels(voxels, in_memory=True)
        prepared = _prepare(voxel_set, module, settings, device, output if force else None, source)
        listed(prepared.overview)
        data, network = prepared.data, prepared.network
        config = {
            "network": network_config(prepared.backbone, origin, network.feedback.scales),
            "training": {**asdict(prepared.training), "fitted_on": settings.fitted_on},
            **voxel_set.made_by,
        }
        parents = {"voxels": voxel_set.id}
        run = TrainingLoop(data, prepared.training, config, parents, checkpoint, report)
        with torch.random.fork_rng(devices=[]):
            history = run.train(network, None, None, resume=resume)
        with ArtifactWriter(output, MODEL, config=config, parents=parents, seed=settings.seed) as writer:
            write_attached(writer, prepared.backbone)
            write_state(writer, "feedback", network.feedback)
            writer.write("validation/index", data.validation)
            write_history(writer, history)
        finish(output)
        checkpoint.unlink(missing_ok=True)
    last = [record for record in history if record.phase == FEEDBACK][-1]
    right = fit_of(network, voxel_set, data.validation)
    parameters = [*prepared.backbone.module.parameters(), *network.feedback.parameters()]
    return AttachSummary(
        path=output,
        overview=prepared.overview,
        parameters=sum(parameter.numel() for parameter in parameters),
        accuracy=right.accuracy,
        score_name=network.signal.score_name,
        score=last.validation_score,
        seconds=time.monotonic() - started,
    )


def _prepare(
    voxels: VoxelSet,
    module: nn.Module,
    settings: AttachSettings,
    device: torch.device,
    previous: Path | None,
    source: Source | None = None,
) -> _Prepared:
    training, validation = _samples(voxels, settings.fitted_on, settings.seed)
    looked_at = training[np.linspace(0, len(training) - 1, min(_LOOKED_AT, len(training))).astype(np.int64)]
    require_storable(unwrapped(module))
    backbone, candidates = attach_backbone(
        module,
        voxels.tensor(np.unique(looked_at)),
        voxels.input,
        voxels.classes,
        levels=settings.levels,
        output=settings.output,
        activation=settings.activation,
        decision=settings.decision,
        outputs=settings.outputs,
        source=source,
    )
    with torch.no_grad():
        scales = feature_scales(backbone.features(voxels.tensor(np.unique(looked_at)), backbone.spec.layer_names[:-1]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = explain_attached(backbone, scales)
    resumed = previous is not None and _start_from(network, previous)
    data = TrainingData(voxels.as_attached(settings.fitted_on, validation), training, validation, device)
    chosen = settings.training(voxels.input.kind).for_samples(len(training))
    checked = training[np.linspace(0, len(training) - 1, min(_CHECKED, len(training))).astype(np.int64)]
    seconds, shares = expected_seconds(network, data, chosen)
    overview = Overview(
        spec=backbone.spec,
        fields=backbone.wiring.fields,
        candidates=candidates,
        readout=_described(backbone),
        fit=fit_of(network, voxels, np.unique(checked)),
        training_samples=len(training),
        validation_samples=len(validation),
        epochs=chosen.feedback_epochs,
        seconds=seconds,
        level_seconds={name: seconds * share for name, share in shares.items()},
        resumed_feedback=resumed,
        unnameable=tuple(c.name for c in candidates if not c.is_nameable) if settings.levels is None else (),
        above=_with_last_cut(backbone, candidates) if settings.levels is None else None,
    )
    return _Prepared(backbone, network, data, chosen, overview)


def _samples(
    voxels: VolumeSet, fitted_on: str, seed: int
) -> tuple[Int[np.ndarray, " train"], Int[np.ndarray, " validation"]]:
    """Samples that the feedback network and the codebooks are fitted on, and those that validate."""
    if fitted_on not in voxels.splits:
        found = ", ".join(sorted(set(voxels.splits)))
        raise UsageError(
            f"{voxels.source} has no sample in the split {fitted_on!r} (splits: {found}). Where the training samples "
            "are not at hand, name another with --fit-on: codes then stand for samples the network never learnt from, "
            "and that split can no longer be evaluated."
        )
    fitted = voxels.indices(fitted_on)
    counts = np.bincount(voxels.labels[fitted], minlength=len(voxels.classes))
    if counts.min() < 2:
        poor = voxels.classes[int(counts.argmin())]
        raise InputError(
            f"{voxels.source}: too few samples of class {poor!r} in the split {fitted_on!r} ({counts.min()}); at least "
            "two are needed, one to fit and one to validate."
        )
    return validation_split(voxels, fitted_on, seed)


def _start_from(network: ExplainedNetwork, previous: Path) -> bool:
    """Take the feedback network's weights from a model.h5 of the same levels; whether there was one."""
    if not previous.is_file():
        return False
    try:
        with open_artifact(previous, MODEL) as artifact:
            if not is_attached(artifact.config):
                return False
            with artifact.interpreted():
                scales = read_scales(artifact)
            names = {name.partition("/")[2]: name for name in artifact.names("feedback/")}
            load_state_arrays(network.feedback, {key: artifact.read(name) for key, name in names.items()})
            network.feedback.scales = scales
    except (ArtifactError, ValueError):  # damaged, or of other levels
        return False
    return True


def _with_last_cut(backbone: Attached, candidates: Sequence[Candidate]) -> tuple[str, ...] | None:
    """Names of the levels and of the last cut, where that is another activation; None if it is one of them."""
    names = backbone.spec.layer_names[:-1]
    cuts = [c for c in candidates if c.is_cut and c.is_nameable and c.locations <= MOST_LOCATIONS]
    return (*names, cuts[-1].name) if cuts and cuts[-1].name not in names else None


def _described(backbone: Attached) -> str:
    readout = backbone.wiring.readout
    element = "" if readout.output is None else f"element {readout.output!r}, "
    decision = "" if readout.decision == 0.5 else f", decision at {readout.decision:g}"
    return f"{element}{readout.activation}{decision}"
