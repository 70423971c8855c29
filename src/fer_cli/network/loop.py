"""The loop of training: both phases, step by step, saved so that it can go on from any step.

AdamW, a one-cycle learning rate, an exponential moving average of the weights, which validation measures and
the model keeps. Several processes may share every batch; see `world`.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from fer_cli.errors import FerError, ResourceError, UsageError, is_out_of_memory
from fer_cli.execution.interrupts import Interrupts
from fer_cli.execution.progress import EpochRecord, TrainingProgress
from fer_cli.network.activations import FEEDBACK, PATHS
from fer_cli.network.checkpoint import Checkpoint, Position, TrainingState, load_checkpoint, save_checkpoint
from fer_cli.network.explained import ExplainedNetwork
from fer_cli.network.phases import ATTACHED, FeedbackPhase, FeedforwardPhase, Phase, TrainingData, TrainingSettings
from fer_cli.network.transfer import GivenEncoder

_SAVE_EVERY = 600.0
"""Seconds after which a checkpoint is due within an epoch; at the end of one it always is."""
_FEWEST_SHARED = 8
"""Samples of a batch that each of several processes needs, so that some enter at the feedback network's top: gradients
are waited for of every parameter in every process."""

_UNREAD = 32
"""Steps after which their losses are read from a GPU, which computes while the host prepares the next step."""

Report = Callable[[TrainingProgress], None]


@dataclass
class _Epoch:
    """An epoch in work: its batches' order, its generator, steps done and losses summed.

    `unread` are the latest steps, whose values are still on the device: losses by term, and the gradient's norm.
    """

    order: Int[np.ndarray, " train"]
    generator: torch.Generator
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    unread: list[tuple[Int[np.ndarray, " batch"], Tensor]] = field(default_factory=list)


@dataclass
class TrainingLoop:
    """Both phases on one network, with checkpoints that hold `config` and `parents`."""

    data: TrainingData
    settings: TrainingSettings
    config: Mapping[str, object]
    parents: Mapping[str, str]
    checkpoint: Path
    report: Report
    history: list[EpochRecord] = field(default_factory=list)
    interrupts: Interrupts = field(default_factory=Interrupts)

    def train(
        self, network: ExplainedNetwork, classifier: nn.Module | None, given: GivenEncoder | None, *, resume: bool
    ) -> list[EpochRecord]:
        """Both phases, one after the other; `classifier`, the backbone's module, is frozen before the second.

        Without one, the backbone is somebody's, and the second phase is the only one. Without feedback epochs there is
        no second phase.
        """
        saved = None
        if resume and self.checkpoint.exists():
            saved = load_checkpoint(self.checkpoint, config=self.config, parents=self.parents)
        self._check_shared(saved)
        with Interrupts(patient=self.data.world.size > 1) as self.interrupts:
            self.history = list(saved.history if saved else given.history if given else [])
            if classifier is not None:
                if saved and saved.position.phase == FEEDBACK:
                    saved.restore_encoder(classifier)
                elif given is None:
                    self.run_phase(FeedforwardPhase(self.data, self.settings, classifier), saved)
                    saved = None
                classifier.eval().requires_grad_(False)
            if self.settings.feedback_epochs:
                self.run_phase(FeedbackPhase(self.data, self.settings, network, classifier), saved)
        network.eval()
        return self.history

    def _check_shared(self, saved: Checkpoint | None) -> None:
        """Raise UsageError unless every process of the world has enough to do, and starts where the others do."""
        world, count = self.data.world, len(self.data.training)
        smallest = count // max(1, count // self.settings.batch_size)
        if world.size > 1 and smallest < _FEWEST_SHARED * world.size:
            raise UsageError(
                f"{world.size} processes need batches of {_FEWEST_SHARED * world.size} shapes or more, but there are "
                f"batches of {smallest} (--batch-size {self.settings.batch_size}, {count} training shapes). Give a "
                "larger --batch-size, or start fewer processes."
            )
        position = saved and (saved.position.phase, saved.position.epoch, saved.position.step)
        if not world.agrees((self.config, self.parents, position)):
            raise UsageError(
                "the processes of the run do not start from the same options, voxels, encoder and checkpoint. All "
                "machines have to read the same files."
            )

    def run_phase(self, phase: Phase, saved: Checkpoint | None) -> None:
        """Train one phase to its end and leave the averaged weights in its module."""
        settings, world = self.settings, self.data.world
        steps = max(1, len(self.data.training) // settings.batch_size)
        state = TrainingState(
            module=phase.module,
            average=copy.deepcopy(phase.module).requires_grad_(False),
            optimizer=torch.optim.AdamW(_groups(phase, settings.weight_decay), lr=phase.learning_rate, fused=True),
        )
        position = saved.position if saved else Position(phase.name, 0)
        if saved:
            saved.restore(state, steps=position.epoch * steps + position.step)
        module = world.parallel(phase.module, self.data.device)
        for number in range(position.epoch, phase.epochs):
            started = time.monotonic()
            epoch = self._epoch(phase, number, position if number == position.epoch else None)
            self._run_epoch(phase, module, state, number, epoch, steps)
            count = len(self.data.training)
            terms = {name: total / count for name, total in epoch.sums.items()}
            validation_loss, score = phase.validate(state.average)
            if not np.isfinite(validation_loss):
                said = f"the {phase.name} validation loss is {validation_loss} after epoch {number + 1}."
                raise FerError(f"{said} {_diverged(phase)}")
            record = EpochRecord(
                phase.name,
                number + 1,
                sum(terms.values()),
                terms.get("class"),
                terms.get("voxel"),
                terms.get("feature"),
                validation_loss,
                score,
                time.monotonic() - started,
            )
            self.history.append(record)
            self._save(phase, state, Position(phase.name, number + 1))
            rate = count / record.seconds
            self.report(
                TrainingProgress(
                    phase.name, number + 1, phase.epochs, steps, steps, rate, terms, phase.score_name, record
                )
            )
            if self._ended():
                self.interrupts.deliver()
        phase.module.load_state_dict(state.average.state_dict())

    def _epoch(self, phase: Phase, number: int, position: Position | None) -> _Epoch:
        """An epoch at its start, or where `position` says that it was left."""
        seeds = np.random.SeedSequence([self.settings.seed, PATHS.index(phase.name), number]).generate_state(2)
        generator = torch.Generator().manual_seed(int(seeds[0]))
        torch.manual_seed(int(seeds[1]))  # dropout draws from the global generator
        order = self.data.training[torch.randperm(len(self.data.training), generator=generator).numpy()]
        if position is None or position.generators is None:
            return _Epoch(order, generator)
        generator.set_state(position.generators[0])
        torch.set_rng_state(position.generators[1])
        return _Epoch(order, generator, position.step, dict(position.sums))

    def _run_epoch(
        self, phase: Phase, module: nn.Module, state: TrainingState, number: int, epoch: _Epoch, steps: int
    ) -> None:
        phase.module.train()
        module.train()
        parts = np.array_split(epoch.order, steps)
        averaged = _averaged(state)
        most = 1 if self.data.device.type == "cpu" else _UNREAD
        saved_at = started = time.monotonic()
        seen = 0
        while epoch.step < steps:
            indices = parts[epoch.step]
            done = number * steps + epoch.step
            for group in state.optimizer.param_groups:
                group["lr"] = group["share"] * phase.learning_rate * _one_cycle((done + 0.5) / (phase.epochs * steps))
            with self._explained(phase, indices):
                terms = phase.terms(module, indices, epoch.generator)
                losses = self.data.world.sum(torch.stack([term.detach() for term in terms.values()]))
                state.optimizer.zero_grad(set_to_none=True)
                # Gradients are averaged over processes, losses are shares of a sum.
                torch.autograd.backward(torch.stack(list(terms.values())).sum() * self.data.world.size)
                norm = nn.utils.clip_grad_norm_(phase.module.parameters(), 5.0)
                state.optimizer.step()
            with torch.no_grad():
                torch._foreach_lerp_(*averaged, 1 - min(self.settings.average_decay, (1 + done) / (10 + done)))
            epoch.unread.append((indices, torch.cat([losses, norm.detach()[None]])))
            epoch.step += 1
            seen += len(indices)
            if epoch.step == steps or len(epoch.unread) == most:
                latest = self._read_losses(phase, list(terms), number, epoch)
                rate = seen / (time.monotonic() - started)
                self.report(
                    TrainingProgress(
                        phase.name, number + 1, phase.epochs, epoch.step, steps, rate, latest, phase.score_name
                    )
                )
            ended = self._ended()
            if epoch.step < steps and (ended or time.monotonic() - saved_at > _SAVE_EVERY):
                self._read_losses(phase, list(terms), number, epoch)
                generators = (epoch.generator.get_state(), torch.get_rng_state())
                self._save(phase, state, Position(phase.name, number, epoch.step, epoch.sums, generators))
                saved_at = time.monotonic()
                if ended:
                    self.interrupts.deliver()

    def _ended(self) -> bool:
        """Whether any process of the world received a signal."""
        return float(self.data.world.sum(torch.tensor(float(self.interrupts.pending)))) > 0

    def _read_losses(self, phase: Phase, names: Sequence[str], number: int, epoch: _Epoch) -> dict[str, float]:
        """Add up the losses of the unread steps; those of the last step. Raises FerError where one is not finite."""
        losses: dict[str, float] = {}
        first = epoch.step - len(epoch.unread)
        rows = torch.stack([values for _, values in epoch.unread]).tolist() if epoch.unread else []
        for step, ((indices, _), (*values, norm)) in enumerate(zip(epoch.unread, rows, strict=True), start=first):
            losses = dict(zip(names, values, strict=True))
            found = {"loss": sum(values), "gradient's norm": norm}
            self._check_finite(phase, found, number, step, indices)
            for name, loss in losses.items():
                epoch.sums[name] = epoch.sums.get(name, 0.0) + loss * len(indices)
        epoch.unread.clear()
        return losses

    def _check_finite(
        self, phase: Phase, values: Mapping[str, float], number: int, step: int, indices: Int[np.ndarray, " batch"]
    ) -> None:
        """Raise FerError that names the batch unless all of `values`, by name, are finite."""
        if strange := [f"{name} is {value}" for name, value in values.items() if not np.isfinite(value)]:
            names = ", ".join(self.data.voxels.names[i] for i in indices[:3])
            raise FerError(
                f"the {phase.name} {strange[0]} in epoch {number + 1}, batch {step + 1} "
                f"({len(indices)} shapes: {names}, …). Look at these shapes. {_diverged(phase)}"
            )

    @contextmanager
    def _explained(self, phase: Phase, indices: Int[np.ndarray, " batch"]) -> Iterator[None]:
        """Convert out-of-memory errors into ResourceError with the batch size to try."""
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            smaller = min(self.settings.batch_size, len(indices)) // 2
            tried = f"--batch-size {smaller}, or " if smaller >= phase.fewest else ""
            less = "fewer --levels" if self.settings.preset == ATTACHED else "a smaller preset"
            raise ResourceError(
                f"out of memory with batches of {max(len(indices), phase.fewest)} shapes. Try {tried}{less}."
            ) from error

    def _save(self, phase: Phase, state: TrainingState, position: Position) -> None:
        """Replace the checkpoint. Raises FerError, and keeps the one before, where a weight is not finite."""
        if not all(bool(weight.isfinite().all()) for weight in state.module.parameters()):
            raise FerError(f"the {phase.name} network's weights are not finite any more. {_diverged(phase)}")
        if self.data.world.leads:
            save_checkpoint(
                self.checkpoint,
                state,
                position,
                config=self.config,
                parents=self.parents,
                encoder=phase.frozen_encoder,
                history=self.history,
            )


def _diverged(phase: Phase) -> str:
    return f"Give a lower {phase.rate_option}, or another --batch-size or --seed, and --force to start afresh."


def _groups(phase: Phase, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters by what the optimizer does to them: decay of kernels and matrices, not of biases and norms.

    `share` is that of the learning rate, less than 1 only where the phase has a `widest`. AdamW changes every weight by
    about the learning rate, so that an output changes by that times its number of inputs.

    Source: Yang et al., "Tensor Programs V", 2022 (arXiv:2203.03466), Table 3.
    """
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {(True, 1.0): [], (False, 1.0): []}
    for module in phase.module.modules():
        for parameter in module.parameters(recurse=False):
            decays = parameter.ndim > 1
            share = min(1.0, phase.widest / _inputs(module, parameter)) if decays and phase.widest else 1.0
            groups.setdefault((decays, share), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": weight_decay if decays else 0.0, "share": share}
        for (decays, share), parameters in groups.items()
    ]


def _inputs(module: nn.Module, weight: nn.Parameter) -> float:
    """How many inputs each output of a convolution or a dense layer is the weighted sum of."""
    if isinstance(module, nn.ConvTranspose3d):
        return weight[:, 0].numel() / math.prod(module.stride)
    return float(weight[0].numel())


def _one_cycle(done: float, warm_up: float = 0.1) -> float:
    """Share of the peak learning rate: a linear rise, then a half cosine to zero. Source: arXiv:1708.07120."""
    if done < warm_up:
        return done / warm_up
    return 0.5 * (1 + float(np.cos(np.pi * (done - warm_up) / (1 - warm_up))))


def _averaged(state: TrainingState) -> tuple[list[Tensor], list[Tensor]]:
    """Weights and statistics of the moving average, and those that it follows."""
    averages, currents = (
        [tensor.detach() for tensor in module.state_dict().values() if tensor.is_floating_point()]
        for module in (state.average, state.module)
    )
    return averages, currents
