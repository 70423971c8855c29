import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from fer_cli.artifact import open_artifact
from fer_cli.checkpoint import (
    EpochRecord,
    TrainingState,
    checkpoint_path,
    load_checkpoint,
    read_history,
    save_checkpoint,
)
from fer_cli.errors import ArtifactError, UsageError
from fer_cli.schema import CHECKPOINT

HISTORY = [EpochRecord("feedforward", 1, 2.5, 0.1, 0.75, 12.0), EpochRecord("feedback", 1, 1e-300, 1 / 3, 0.0, 3.5)]
CONFIG = {"training": {"seed": 1}, "network": {}}


def state(seed: int, steps: int) -> TrainingState:
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Conv3d(1, 3, 2), nn.BatchNorm3d(3), nn.Flatten(), nn.Linear(81, 2))
    made = TrainingState(module, copy.deepcopy(module), torch.optim.AdamW(module.parameters(), lr=0.1))
    train(made, steps)
    return made


def train(trained: TrainingState, steps: int) -> None:
    for step in range(steps):
        grids = torch.rand(4, 1, 4, 4, 4, generator=torch.Generator().manual_seed(step))
        trained.optimizer.zero_grad()
        trained.module(grids).square().sum().backward()
        trained.optimizer.step()
        trained.average.load_state_dict(trained.module.state_dict())


def test_restored_state_goes_on_as_the_saved_one(tmp_path: Path) -> None:
    saved = state(0, steps=3)
    path = tmp_path / "c.h5"
    encoder = nn.Linear(3, 2)
    save_checkpoint(path, saved, config=CONFIG, voxels_id="ab", encoder=encoder, history=HISTORY)
    checkpoint = load_checkpoint(path, config=CONFIG, voxels_id="ab")
    assert (checkpoint.phase, checkpoint.epoch, checkpoint.history) == ("feedback", 1, HISTORY)
    restored = state(1, steps=0)
    checkpoint.restore(restored, steps=3)
    for each in (saved, restored):
        train(each, steps=2)
    for part in ("module", "average"):
        expected, found = (getattr(each, part).state_dict() for each in (saved, restored))
        assert all(torch.equal(found[name], expected[name]) for name in expected if "num_batches" not in name)
    other = nn.Linear(3, 2)
    checkpoint.restore_encoder(other)
    assert torch.equal(other.weight, encoder.weight)


def test_steps_are_part_of_the_state(tmp_path: Path) -> None:
    saved = state(0, steps=3)
    save_checkpoint(tmp_path / "c.h5", saved, config=CONFIG, voxels_id="ab", encoder=None, history=HISTORY)
    restored = state(1, steps=0)
    load_checkpoint(tmp_path / "c.h5", config=CONFIG, voxels_id="ab").restore(restored, steps=9)
    for each in (saved, restored):
        train(each, steps=1)
    assert not torch.equal(saved.module[0].weight, restored.module[0].weight)


def test_history_survives(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c.h5", state(0, 1), config={}, voxels_id="ab", encoder=None, history=HISTORY)
    with open_artifact(tmp_path / "c.h5", CHECKPOINT) as artifact:
        assert read_history(artifact) == HISTORY
        assert not artifact.names("encoder/")


def test_checkpoint_of_another_run_is_refused_with_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "c.h5"
    save_checkpoint(path, state(0, 1), config=CONFIG, voxels_id="ab", encoder=None, history=HISTORY)
    for config, voxels_id, differing in [
        (CONFIG | {"training": {"seed": 2}}, "ab", "training"),
        (CONFIG | {"training": {}, "network": {"a": 1}}, "ab", "training, network"),
        (CONFIG, "cd", "voxels"),
    ]:
        with pytest.raises(UsageError, match=rf"c\.h5 was made with another configuration \({differing} differ\)"):
            load_checkpoint(path, config=config, voxels_id=voxels_id)


def test_checkpoint_that_does_not_fit_is_called_damaged(tmp_path: Path) -> None:
    path = tmp_path / "c.h5"
    save_checkpoint(path, state(0, 1), config=CONFIG, voxels_id="ab", encoder=None, history=HISTORY)
    checkpoint = load_checkpoint(path, config=CONFIG, voxels_id="ab")
    other = nn.Linear(2, 2)
    wrong = TrainingState(other, copy.deepcopy(other), torch.optim.AdamW(other.parameters()))
    with pytest.raises(ArtifactError, match=r"c\.h5 is damaged: parameter .* Delete it to train afresh"):
        checkpoint.restore(wrong, steps=1)
    with pytest.raises(ArtifactError, match=r"c\.h5 is damaged: 'encoder'\. Delete it to train afresh"):
        checkpoint.restore_encoder(other)


def test_checkpoint_lies_beside_its_model() -> None:
    assert checkpoint_path(Path("run/model.h5")) == Path("run/model.checkpoint.h5")
