"""`fer train`: the feedforward classifier, then the feedback network on the frozen classifier.

Both phases run through one loop: AdamW, a one-cycle learning rate, an exponential moving average of the
weights, which is what validation measures and what is kept. Training with the encoder frozen follows the
method page: each step draws an entry level for the local chain, runs the class-code chain beside it, and
opens skip gates at random. The test split is never read. Multi-process training is not here.
"""

import copy
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fer_cli.activations import FEEDBACK, FEEDFORWARD, PATHS
from fer_cli.artifact import ArtifactWriter, claim_output
from fer_cli.checkpoint import (
    Checkpoint,
    TrainingState,
    checkpoint_path,
    load_checkpoint,
    save_checkpoint,
    write_history,
)
from fer_cli.dataset import VALIDATION_FRACTION, VoxelSet, hold_out, open_voxels
from fer_cli.errors import FerError, InputError
from fer_cli.model import PRESETS, FERNet, NetworkConfig, state_arrays
from fer_cli.phases import FeedbackPhase, FeedforwardPhase, Phase, TrainingData, TrainingSettings
from fer_cli.progress import EpochRecord, TrainingProgress
from fer_cli.schema import MODEL

# What differs between presets.
_PRESET_SETTINGS: dict[str, dict[str, Any]] = {
    "paper": {"epochs": 30, "feedback_epochs": 16},
    "compact": {"epochs": 30, "feedback_epochs": 16},
    "smoke": {"epochs": 20, "feedback_epochs": 20, "batch_size": 16, "dropout": 0.1},
}


def preset_settings(preset: str, **given: Any) -> TrainingSettings:
    """The settings of a preset, with those given in their place; a value of None counts as not given.

    Raises UsageError for an unknown preset or settings that do not fit.
    """
    chosen = {key: value for key, value in given.items() if value is not None}
    return TrainingSettings(**{"preset": preset, **_PRESET_SETTINGS.get(preset, {}), **chosen})


@dataclass(frozen=True)
class TrainingSummary:
    """What a finished run has to say; accuracies are of the validation samples."""

    path: Path
    parameters: int
    training_samples: int
    validation_samples: int
    accuracy: float
    voxel_iou: float
    seconds: float


Report = Callable[[TrainingProgress], None]


def train(
    voxels: Path,
    output: Path,
    settings: TrainingSettings,
    *,
    device: torch.device,
    resume: bool = False,
    force: bool = False,
    report: Report = lambda _: None,
) -> TrainingSummary:
    """Train both networks on the training split of `voxels` and write them to `output`.

    A checkpoint beside `output` is replaced after every epoch and removed at the end; with `resume` the run
    goes on from it if there is one.

    Raises InputError where the training split cannot be learnt from, UsageError for settings that do not fit.
    """
    started = time.monotonic()
    claim_output(output, force=force)
    voxel_set = open_voxels(voxels, in_memory=True)
    _check_learnable(voxel_set, voxels)
    network_config = NetworkConfig(PRESETS[settings.preset], voxel_set.classes, voxel_set.resolution)
    config = {
        "network": network_config.to_json(),
        "training": asdict(settings),
        "voxelization": voxel_set.voxelization,
    }
    training_split = voxel_set.indices("train")
    kept, held = hold_out(voxel_set.labels[training_split], VALIDATION_FRACTION, settings.seed)
    data = TrainingData(voxel_set, training_split[kept], training_split[held], device)
    run = _Run(data, settings, config, checkpoint_path(output), report)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = FERNet(network_config, dropout=settings.dropout).to(device)
        history = run.train(network, resume=resume)
    with ArtifactWriter(output, MODEL, config=config, parents={"voxels": voxel_set.id}, seed=settings.seed) as writer:
        for part in ("encoder", "feedback"):
            for name, array in state_arrays(getattr(network, part)).items():
                writer.write(f"{part}/{name}", array)
        writer.write("validation/index", data.validation)
        write_history(writer, history)
    run.checkpoint.unlink(missing_ok=True)
    last = {record.phase: record for record in history}
    return TrainingSummary(
        path=output,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        training_samples=len(data.training),
        validation_samples=len(data.validation),
        accuracy=last[FEEDFORWARD].validation_score,
        voxel_iou=last[FEEDBACK].validation_score,
        seconds=time.monotonic() - started,
    )


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


@dataclass
class _Run:
    data: TrainingData
    settings: TrainingSettings
    config: dict[str, Any]
    checkpoint: Path
    report: Report

    def train(self, network: FERNet, *, resume: bool) -> list[EpochRecord]:
        """Both phases, one after the other; the encoder is frozen before the second."""
        saved = None
        if resume and self.checkpoint.exists():
            saved = load_checkpoint(self.checkpoint, config=self.config, voxels_id=self.data.voxels.id)
        history = list(saved.history) if saved else []
        if saved and saved.phase == FEEDBACK:
            saved.restore_encoder(network.encoder)
        else:
            self._run_phase(FeedforwardPhase(self.data, self.settings, network.encoder), history, saved)
            saved = None
        network.encoder.eval().requires_grad_(False)
        self._run_phase(FeedbackPhase(self.data, self.settings, network), history, saved)
        network.eval()
        return history

    def _run_phase(self, phase: Phase, history: list[EpochRecord], saved: Checkpoint | None) -> None:
        """Train one phase to its end and leave the averaged weights in its module."""
        settings = self.settings
        steps = max(1, len(self.data.training) // settings.batch_size)
        decayed, plain = _by_decay(phase.module)
        state = TrainingState(
            module=phase.module,
            average=copy.deepcopy(phase.module).requires_grad_(False),
            optimizer=torch.optim.AdamW(
                [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}],
                lr=phase.learning_rate,
            ),
        )
        first = 0
        if saved:
            saved.restore(state, steps=saved.epoch * steps)
            first = saved.epoch
        for epoch in range(first, phase.epochs):
            started = time.monotonic()
            loss = self._run_epoch(phase, state, epoch, steps)
            validation_loss, score = phase.validate(state.average)
            record = EpochRecord(phase.name, epoch + 1, loss, validation_loss, score, time.monotonic() - started)
            history.append(record)
            save_checkpoint(
                self.checkpoint,
                state,
                config=self.config,
                voxels_id=self.data.voxels.id,
                encoder=phase.frozen_encoder,
                history=history,
            )
            self.report(TrainingProgress(phase.name, epoch + 1, phase.epochs, steps, steps, loss, record))
        phase.module.load_state_dict(state.average.state_dict())

    def _run_epoch(self, phase: Phase, state: TrainingState, epoch: int, steps: int) -> float:
        seeds = np.random.SeedSequence([self.settings.seed, PATHS.index(phase.name), epoch]).generate_state(2)
        generator = torch.Generator().manual_seed(int(seeds[0]))
        torch.manual_seed(int(seeds[1]))  # dropout draws from the global generator
        order = self.data.training[torch.randperm(len(self.data.training), generator=generator).numpy()]
        state.module.train()
        total = 0.0
        for step, indices in enumerate(np.array_split(order, steps)):
            done = epoch * steps + step
            for group in state.optimizer.param_groups:
                group["lr"] = phase.learning_rate * _one_cycle((done + 0.5) / (phase.epochs * steps))
            loss = phase.loss(indices, generator)
            value = float(loss.detach())
            if not np.isfinite(value):
                names = ", ".join(self.data.voxels.names[i] for i in indices[:3])
                raise FerError(f"the {phase.name} loss is {value} in epoch {epoch + 1}, batch {step + 1} ({names}, …).")
            state.optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(state.module.parameters(), 5.0)
            state.optimizer.step()
            _update_average(state, min(self.settings.average_decay, (1 + done) / (10 + done)))
            total += value * len(indices)
            self.report(TrainingProgress(phase.name, epoch + 1, phase.epochs, step + 1, steps, value))
        return total / len(order)


def _by_decay(module: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Parameters that weight decay applies to (kernels, matrices), and those it does not (biases, norms)."""
    parameters = list(module.parameters())
    return [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim <= 1]


def _one_cycle(done: float, warm_up: float = 0.1) -> float:
    """Share of the peak learning rate: a linear rise, then a half cosine to zero. Source: arXiv:1708.07120."""
    if done < warm_up:
        return done / warm_up
    return 0.5 * (1 + float(np.cos(np.pi * (done - warm_up) / (1 - warm_up))))


@torch.no_grad()
def _update_average(state: TrainingState, decay: float) -> None:
    averages = [t for t in state.average.state_dict().values() if t.is_floating_point()]
    currents = [t.detach() for t in state.module.state_dict().values() if t.is_floating_point()]
    torch._foreach_lerp_(averages, currents, 1 - decay)
