"""`fer train`: the feedforward classifier, then the feedback network on the frozen classifier.

The stage: settings, checks and output. `phases` defines the losses, `loop` the optimisation. The test
split is never read.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from fer_cli.data.augmentation import Augmentation
from fer_cli.data.dataset import VoxelSet, open_voxels, validation_split
from fer_cli.data.places import Kind
from fer_cli.errors import InputError, UsageError
from fer_cli.execution.progress import EpochRecord
from fer_cli.execution.world import ALONE, World
from fer_cli.network.activations import FEEDFORWARD
from fer_cli.network.checkpoint import claim_training
from fer_cli.network.fer_cnn import (
    FERCNN,
    PRESETS,
    NetworkConfig,
    explain_classifier,
    require_resolution,
)
from fer_cli.network.loop import Report, TrainingLoop
from fer_cli.network.phases import FeedforwardPhase, TrainingData, TrainingSettings
from fer_cli.network.receptive import LayerSpec
from fer_cli.network.transfer import GivenEncoder
from fer_cli.network.weights import write_state
from fer_cli.storage.artifact_writer import ArtifactWriter
from fer_cli.storage.history import write_history
from fer_cli.storage.schema import MODEL

_MODELNET10 = 3592
"""Shapes of ModelNet10 to train on. With fewer the feedback network has more epochs, so that as many are shown."""
# What differs between presets. Four times the width wants a third or a quarter of the learning rate: `docs/results.md`.
_PRESET_SETTINGS = {
    "paper": TrainingSettings(
        "paper",
        epochs=15,
        learning_rate=7e-4,
        feedback_epochs=12,
        feedback_shown=12 * _MODELNET10,
        feedback_learning_rate=2e-3,
    ),
    "compact": TrainingSettings("compact", epochs=60, feedback_epochs=24, feedback_shown=24 * _MODELNET10),
    "smoke": TrainingSettings(
        "smoke", 20, 20, batch_size=16, dropout=0.1, augmentation=Augmentation(shift=2, mirror=True)
    ),
    "residual": TrainingSettings("residual", 10, 8, 8 * _MODELNET10, batch_size=16, dropout=0.2),
}


def volume_settings(settings: TrainingSettings, kind: Kind) -> TrainingSettings:
    """The settings of a preset, for volumes of which it is not known that they stand upright and have two like sides.

    They are not mirrored, and turned by less; intensities also vary in contrast and brightness.
    """
    varied = Augmentation(shift=2, rotation=10.0, stretch=0.1)
    if kind == "intensity":
        varied = replace(varied, contrast=0.1, brightness=0.1, edge=True)
    return replace(settings, augmentation=varied, feedback_augmentation=Augmentation())


def preset_settings(preset: str, **given: Any) -> TrainingSettings:
    """The settings of a preset, with those given in their place; a value of None counts as not given.

    Explicit `feedback_epochs` are not scaled to the size of the training set.

    Raises UsageError for an unknown preset or settings that do not fit.
    """
    chosen = {key: value for key, value in given.items() if value is not None}
    if "feedback_epochs" in chosen:
        chosen.setdefault("feedback_shown", 0)
    return replace(_PRESET_SETTINGS.get(preset) or TrainingSettings(preset), **chosen)


@dataclass(frozen=True)
class TrainingSummary:
    """Summary of a training; accuracy and score of reconstructions of the validation samples.

    `score` is None of a classifier alone. `majority` is the accuracy of always guessing their most frequent class.
    `unreduced_layers` keep the resolution, since the volumes are too small for the preset's strides.
    """

    path: Path
    unreduced_layers: tuple[str, ...]
    parameters: int
    training_samples: int
    validation_samples: int
    accuracy: float
    majority: float
    score_name: str
    score: float | None
    seconds: float


def train(
    voxels: Path,
    output: Path,
    settings: TrainingSettings,
    *,
    device: torch.device,
    encoder: Path | None = None,
    pretrained: Path | None = None,
    resume: bool = False,
    force: bool = False,
    vary_by_kind: bool = False,
    report: Report = lambda _: None,
    finish: Callable[[Path], object] = lambda _: None,
    world: World = ALONE,
) -> TrainingSummary:
    """Train both networks on the training split of `voxels` and write them to `output`.

    `finish` is called with `output` when it is written. With `vary_by_kind`, volumes that were stored as they are vary
    as `volume_settings` has it, grids of shapes as the settings say.

    With `encoder`, another model.h5, its classifier is taken over bit for bit and the feedback network alone is
    trained; the preset is then that model's. With `pretrained`, training starts from the layers of that model's
    classifier, and from its output where it tells the same classes apart. Samples of the same voxels that the other
    model held out stay held out. Without feedback epochs `output` holds the classifier alone, which `encoder` takes.

    A checkpoint beside `output` is written after every epoch, every ten minutes and when the run is ended by Ctrl-C
    or SIGTERM, and removed at the end. With `resume` the run goes on from it if there is one, even where `output` was
    written and the run killed before it removed the checkpoint; with `force` it starts afresh.

    Raises InputError where the training split cannot be learnt from; UsageError for settings or an encoder that do not
    fit, an `output` that exists or is read from, or an unfinished run where neither `resume` nor `force` is on;
    ResourceError where memory does not suffice or another process of the world is lost.
    """
    started = time.monotonic()
    _check_given(encoder, pretrained, settings)
    claim = claim_training(output, voxels, encoder, pretrained, resume=resume, force=force, leads=world.leads)
    with claim as checkpoint:
        voxel_set = open_voxels(voxels, in_memory=True)
        _check_learnable(voxel_set, voxels)
        given = _given_encoder(encoder, pretrained, voxel_set, settings)
        kept = given if given and given.is_kept else None
        data = TrainingData(voxel_set, *_samples(voxel_set, given, settings.seed), device, world)
        settings = _settings_for(settings, voxel_set, len(data.training), kept, vary_by_kind=vary_by_kind)
        layers, network_config = _architecture(settings, voxel_set, kept)
        config = {"network": network_config.to_json(), "training": asdict(settings), **voxel_set.made_by}
        parents = {"voxels": voxel_set.id} | ({given.role: given.id} if given else {})
        run = TrainingLoop(data, settings, config, parents, checkpoint, report)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            classifier = FERCNN(network_config, dropout=settings.dropout)
            network = explain_classifier(classifier, alone=not settings.feedback_epochs).to(device)
            if given:
                given.copy_to(classifier)
            history = run.train(network, classifier, kept, resume=resume)
        if world.leads:
            with ArtifactWriter(output, MODEL, config=config, parents=parents, seed=settings.seed) as writer:
                write_state(writer, "encoder", classifier)
                if settings.feedback_epochs:
                    write_state(writer, "feedback", network.feedback)
                writer.write("validation/index", data.validation)
                write_history(writer, history)
            finish(output)
            checkpoint.unlink(missing_ok=True)  # last, so that a run killed before goes on from it to `finish`
        return TrainingSummary(
            path=output,
            unreduced_layers=tuple(
                spec.name for spec, of in zip(network_config.layers, layers, strict=True) if spec.stride != of.stride
            ),
            parameters=sum(parameter.numel() for parameter in network.parameters()),
            training_samples=len(data.training),
            validation_samples=len(data.validation),
            accuracy=_accuracy(history, FeedforwardPhase(data, settings, classifier)),
            majority=float(np.bincount(voxel_set.labels[data.validation]).max() / len(data.validation)),
            score_name=network.signal.score_name,
            score=history[-1].validation_score if settings.feedback_epochs else None,
            seconds=time.monotonic() - started,
        )


def _settings_for(
    settings: TrainingSettings, voxel_set: VoxelSet, samples: int, kept: GivenEncoder | None, *, vary_by_kind: bool
) -> TrainingSettings:
    """The settings for so many training samples, and for the classifier that is kept."""
    if kept:
        settings = replace(settings, preset=kept.preset)
    settings = settings.for_samples(samples)
    stored_as_they_were = not voxel_set.voxelization
    return volume_settings(settings, voxel_set.input.kind) if vary_by_kind and stored_as_they_were else settings


def _architecture(
    settings: TrainingSettings, voxel_set: VoxelSet, kept: GivenEncoder | None
) -> tuple[tuple[LayerSpec, ...], NetworkConfig]:
    """The layers of the preset or of the classifier that is kept, and the network that they make for these samples."""
    layers = kept.classifier.config.layers if kept else PRESETS[settings.preset]
    if voxel_set.voxelization:
        require_resolution(layers, voxel_set.input)
    return layers, NetworkConfig.to_train(layers, voxel_set.classes, voxel_set.input)


def _accuracy(history: Sequence[EpochRecord], phase: FeedforwardPhase) -> float:
    """Validation accuracy of the classifier; measured where it was trained on other samples."""
    trained = [record for record in history if record.phase == FEEDFORWARD]
    return trained[-1].validation_score if trained else phase.validate(phase.module)[1]


def _samples(
    voxel_set: VoxelSet, given: GivenEncoder | None, seed: int
) -> tuple[Int[np.ndarray, " train"], Int[np.ndarray, " validation"]]:
    """Samples to train on, and those held out: the ones that a given classifier was not trained on either."""
    training, held = validation_split(voxel_set, "train", seed)
    if given is None or given.validation is None:
        return training, held
    return np.setdiff1d(voxel_set.indices("train"), given.validation), given.validation


def _check_given(encoder: Path | None, pretrained: Path | None, settings: TrainingSettings) -> None:
    if encoder and pretrained:
        raise UsageError("--encoder keeps a classifier, --pretrained starts from one. Give one of the two.")
    if encoder and not settings.feedback_epochs:
        raise UsageError("--encoder keeps a classifier. Without --feedback-epochs nothing is left to train.")


def _given_encoder(
    encoder: Path | None, pretrained: Path | None, voxel_set: VoxelSet, settings: TrainingSettings
) -> GivenEncoder | None:
    if encoder:
        return GivenEncoder.to_keep(encoder, voxel_set)
    return GivenEncoder.to_start_from(pretrained, voxel_set, settings.preset) if pretrained else None


def _check_learnable(voxel_set: VoxelSet, path: Path) -> None:
    if len(voxel_set.classes) < 2:
        found = ", ".join(voxel_set.classes) or "none"
        raise InputError(f"{path} holds too few classes ({found}); a classifier needs at least two.")
    in_training = np.array(voxel_set.splits) == "train"
    counts = np.bincount(voxel_set.labels[in_training & (voxel_set.labels >= 0)], minlength=len(voxel_set.classes))
    if poor := [name for name, count in zip(voxel_set.classes, counts, strict=True) if count < 2]:
        raise InputError(
            f"{path}: too few training shapes in class {poor[0]!r} ({counts[list(voxel_set.classes).index(poor[0])]}); "
            "at least two are needed, one to train and one to validate."
        )
