"""The state of a training run at the end of an epoch, in one HDF5 file that each epoch replaces.

All randomness of an epoch is drawn from generators seeded by (seed, phase, epoch), so weights, averages
and AdamW's moments are all there is to keep: a resumed run goes on bit for bit.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fer_cli.artifact import Artifact, ArtifactWriter, open_artifact
from fer_cli.errors import ArtifactError, UsageError
from fer_cli.model import load_state_arrays, state_arrays
from fer_cli.progress import EpochRecord
from fer_cli.schema import CHECKPOINT

_HISTORY_TYPES = {"phase": "text", "epoch": "int64"}


def write_history(writer: ArtifactWriter, history: list[EpochRecord]) -> None:
    """Write the history as one dataset a column."""
    for field in fields(EpochRecord):
        column = [asdict(record)[field.name] for record in history]
        kind = _HISTORY_TYPES.get(field.name, "float64")
        writer.write(f"history/{field.name}", column if kind == "text" else np.array(column, dtype=kind))


def read_history(artifact: Artifact) -> list[EpochRecord]:
    """The history of a model or checkpoint."""
    phases = artifact.read_text("history/phase")
    columns = [artifact.read(f"history/{field.name}").tolist() for field in fields(EpochRecord)[1:]]
    return [EpochRecord(phase, *values) for phase, *values in zip(phases, *columns, strict=True)]


@dataclass
class TrainingState:
    """The network in training, its moving average, and its optimizer."""

    module: nn.Module
    average: nn.Module
    optimizer: torch.optim.AdamW


def checkpoint_path(output: Path) -> Path:
    """Where the checkpoint of the model `output` lies: beside it."""
    return output.with_name(f"{output.stem}.checkpoint{output.suffix}")


def save_checkpoint(
    path: Path,
    state: TrainingState,
    *,
    config: dict[str, Any],
    voxels_id: str,
    encoder: nn.Module | None,
    history: list[EpochRecord],
) -> None:
    """Replace the checkpoint by the present state; the last record of `history` tells phase and epoch."""
    with ArtifactWriter(path, CHECKPOINT, config=config, parents={"voxels": voxels_id}) as writer:
        parts: dict[str, Mapping[str, np.ndarray]] = {
            "weights": state_arrays(state.module),
            "average": state_arrays(state.average),
            "moment1": _moments(state, "exp_avg"),
            "moment2": _moments(state, "exp_avg_sq"),
            "encoder": {} if encoder is None else state_arrays(encoder),
        }
        for part, arrays in parts.items():
            for name, array in arrays.items():
                writer.write(f"{part}/{name}", array)
        write_history(writer, history)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint read back: its history, and arrays by part and name."""

    path: Path
    history: list[EpochRecord]
    parts: dict[str, dict[str, np.ndarray]]

    @property
    def phase(self) -> str:
        """The phase that the run was in."""
        return self.history[-1].phase

    @property
    def epoch(self) -> int:
        """Epochs of that phase that were done."""
        return self.history[-1].epoch

    def restore(self, state: TrainingState, *, steps: int) -> None:
        """Put weights, average and moments back into `state`, as after `steps` optimizer steps."""
        try:
            load_state_arrays(state.module, self.parts["weights"])
            load_state_arrays(state.average, self.parts["average"])
            for name, parameter in state.module.named_parameters():
                state.optimizer.state[parameter] = {
                    "step": torch.tensor(float(steps)),
                    "exp_avg": torch.from_numpy(self.parts["moment1"][name]).to(parameter.device),
                    "exp_avg_sq": torch.from_numpy(self.parts["moment2"][name]).to(parameter.device),
                }
        except (KeyError, ValueError) as error:
            raise ArtifactError(f"{self.path} is damaged: {error}. Delete it to train afresh.") from error

    def restore_encoder(self, encoder: nn.Module) -> None:
        """Put the finished feedforward network back."""
        try:
            load_state_arrays(encoder, self.parts["encoder"])
        except (KeyError, ValueError) as error:
            raise ArtifactError(f"{self.path} is damaged: {error}. Delete it to train afresh.") from error


def load_checkpoint(path: Path, *, config: dict[str, Any], voxels_id: str) -> Checkpoint:
    """Read a checkpoint. Raises UsageError unless it was made with this configuration on these voxels."""
    with open_artifact(path, CHECKPOINT) as artifact:
        if artifact.config != config or artifact.parents["voxels"] != voxels_id:
            differing = [key for key in config if artifact.config.get(key) != config[key]] or ["voxels"]
            raise UsageError(
                f"{path} was made with another configuration ({', '.join(differing)} differ). "
                "Give the same options to resume, or delete it to train afresh."
            )
        parts: dict[str, dict[str, np.ndarray]] = {}
        for name in artifact.names():
            part, _, key = name.partition("/")
            if part != "history":
                parts.setdefault(part, {})[key] = artifact.read(name)
        return Checkpoint(path, read_history(artifact), parts)


def _moments(state: TrainingState, key: str) -> dict[str, np.ndarray]:
    return {
        name: state.optimizer.state[parameter][key].detach().cpu().contiguous().numpy()
        for name, parameter in state.module.named_parameters()
    }
