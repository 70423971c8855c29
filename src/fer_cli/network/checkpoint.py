"""The state of a training run at one step, in one HDF5 file that each saving replaces.

At the start of an epoch all randomness is drawn from generators seeded by (seed, phase, epoch); within one the
generators' states are kept too. With weights, averages and AdamW's moments that is all there is: a resumed run goes on
bit for bit.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fer_cli.errors import ArtifactError, FerError, UsageError
from fer_cli.execution.progress import EpochRecord
from fer_cli.network.weights import as_array, load_state_arrays, write_state
from fer_cli.storage.artifact import open_artifact
from fer_cli.storage.artifact_writer import ArtifactWriter
from fer_cli.storage.history import read_history, write_history
from fer_cli.storage.outputs import check_output, claim_output
from fer_cli.storage.schema import CHECKPOINT, MODEL


@dataclass
class TrainingState:
    """The network in training, its moving average, and its optimizer."""

    module: nn.Module
    average: nn.Module
    optimizer: torch.optim.AdamW


@dataclass(frozen=True)
class Position:
    """Where a run stands: epochs done of a phase, and steps done of the next with the losses summed so far.

    `generators` are the states of the epoch's own generator and of PyTorch's global one; None at an epoch's start.
    """

    phase: str
    epoch: int
    step: int = 0
    sums: Mapping[str, float] = field(default_factory=dict)
    generators: tuple[Tensor, Tensor] | None = None


def checkpoint_path(output: Path) -> Path:
    """Where the checkpoint of the model `output` lies: beside it."""
    return output.parent / f"{output.stem}.checkpoint{output.suffix}"


def save_checkpoint(
    path: Path,
    state: TrainingState,
    position: Position,
    *,
    config: Mapping[str, object],
    parents: Mapping[str, str],
    encoder: nn.Module | None,
    history: list[EpochRecord],
) -> None:
    """Replace the checkpoint by the present state."""
    where = {
        "phase": position.phase,
        "epoch": position.epoch,
        "step": position.step,
        "sums": dict(position.sums),
    }
    with ArtifactWriter(path, CHECKPOINT, config=config, parents=parents, attributes={"position": where}) as writer:
        for part, module in (("weights", state.module), ("average", state.average), ("encoder", encoder)):
            if module is not None:
                write_state(writer, part, module)
        for part, key in (("moment1", "exp_avg"), ("moment2", "exp_avg_sq")):
            for name, parameter in state.module.named_parameters():
                if parameter in state.optimizer.state:  # none before the first step
                    writer.write(f"{part}/{name}", as_array(state.optimizer.state[parameter][key]))
        for name, generator in zip(("epoch", "global"), position.generators or (), strict=False):
            writer.write(f"generator/{name}", generator.numpy())
        write_history(writer, history)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint read back: where the run stood, its history, and arrays by part and name."""

    path: Path
    position: Position
    history: list[EpochRecord]
    parts: dict[str, dict[str, np.ndarray]]

    def restore(self, state: TrainingState, *, steps: int) -> None:
        """Put weights, average and moments back into `state`, as after `steps` optimizer steps."""
        try:
            load_state_arrays(state.module, self.parts["weights"])
            load_state_arrays(state.average, self.parts["average"])
            for name, parameter in state.module.named_parameters():
                if steps:
                    state.optimizer.state[parameter] = {
                        "step": torch.tensor(float(steps), device=parameter.device),  # as fused optimizers want it
                        "exp_avg": _in_place_of(parameter, self.parts["moment1"][name]),
                        "exp_avg_sq": _in_place_of(parameter, self.parts["moment2"][name]),
                    }
        except (KeyError, ValueError, RuntimeError) as error:
            raise ArtifactError(f"{self.path} is damaged: {error}. Delete it to train afresh.") from error

    def restore_encoder(self, encoder: nn.Module) -> None:
        """Put the finished feedforward network back."""
        try:
            load_state_arrays(encoder, self.parts["encoder"])
        except (KeyError, ValueError) as error:
            raise ArtifactError(f"{self.path} is damaged: {error}. Delete it to train afresh.") from error


def _named(config: Mapping[str, object]) -> dict[str, object]:
    """The values of a configuration by name, those of its parts as `part.name`."""
    named: dict[str, object] = {}
    for key, value in config.items():
        named |= {f"{key}.{name}": each for name, each in value.items()} if isinstance(value, dict) else {key: value}
    return named


def load_checkpoint(path: Path, *, config: Mapping[str, object], parents: Mapping[str, str]) -> Checkpoint:
    """Read a checkpoint. Raises UsageError unless it was made with this configuration from these artifacts."""
    try:
        opened = open_artifact(path, CHECKPOINT)
    except ArtifactError as error:
        raise ArtifactError(f"{str(error).partition(' Run ')[0]} Delete it to train afresh.") from error
    with opened as artifact:
        try:
            position = _position(**artifact.attribute("position"))
        except (TypeError, ValueError, AttributeError) as error:
            raise ArtifactError(f"{path} is damaged: {str(error)[:200]}. Delete it to train afresh.") from error
        given, saved = _named({**config, **parents}), _named({**artifact.config, **artifact.parents})
        if differing := [key for key in {**given, **saved} if given.get(key) != saved.get(key)]:
            raise UsageError(
                f"{path} was made with another configuration, which differs in {', '.join(differing)}. "
                "Give the same options to resume, or delete it to train afresh."
            )
        parts: dict[str, dict[str, np.ndarray]] = {}
        for name in artifact.names():
            part, _, key = name.partition("/")
            if key:
                parts.setdefault(part, {})[key] = artifact.read(name)
        return Checkpoint(path, _with_generators(position, parts.pop("generator", {})), read_history(artifact), parts)


@contextmanager
def claim_training(output: Path, *inputs: Path | None, resume: bool, force: bool, leads: bool = True) -> Iterator[Path]:
    """Take `output` for a training within the block, as `claim_output` does; gives the path of its checkpoint.

    Raises UsageError too where `output` is one of the `inputs`, or an unfinished run is neither resumed nor replaced.
    """
    check_output(output, *inputs)
    checkpoint = checkpoint_path(output)
    replaces = force or (resume and has_led_to(checkpoint, output))
    if resume and not replaces and output.exists() and checkpoint.exists():
        raise UsageError(
            f"{output} exists already, and {checkpoint} beside it holds an unfinished run. Give --force --resume to go "
            "on from that and replace the model."
        )
    with claim_output(output, force=replaces, progress=checkpoint, is_outlived=has_led_to, leads=leads):
        if checkpoint.exists() and not (resume or force):
            raise UsageError(
                f"{checkpoint} holds an unfinished run. Give --resume to go on from it, or --force to start afresh."
            )
        yield checkpoint


def has_led_to(path: Path, model: Path) -> bool:
    """Whether the run of the checkpoint at `path` wrote this model, and was killed before it removed the checkpoint."""
    try:
        with open_artifact(path, CHECKPOINT) as saved, open_artifact(model, MODEL) as written:
            same = (saved.config, saved.parents) == (written.config, written.parents)
            return same and read_history(saved) == read_history(written)
    except FerError:  # one of them is missing or damaged, or the model is another file
        return False


def _position(phase: Any, epoch: Any, step: Any, sums: Any) -> Position:
    """The resume position that the attribute holds. Raises TypeError, ValueError or AttributeError."""
    if not isinstance(phase, str) or type(epoch) is not int or type(step) is not int or min(epoch, step) < 0:
        raise TypeError("invalid resume position")
    return Position(phase, epoch, step, {str(term): float(value) for term, value in sums.items()})


def _with_generators(position: Position, states: Mapping[str, np.ndarray]) -> Position:
    if not states:
        return position
    generators = (torch.from_numpy(states["epoch"]), torch.from_numpy(states["global"]))
    return Position(position.phase, position.epoch, position.step, position.sums, generators)


def _in_place_of(parameter: Tensor, array: np.ndarray) -> Tensor:
    """The array on the parameter's device and with its memory layout, which fused optimizers rely on."""
    return torch.empty_like(parameter, requires_grad=False).copy_(torch.from_numpy(array))
