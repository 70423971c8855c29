import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from fer_cli.errors import ArtifactError, UsageError
from fer_cli.execution.progress import EpochRecord
from fer_cli.network.checkpoint import (
    Position,
    TrainingState,
    checkpoint_path,
    load_checkpoint,
    save_checkpoint,
)
from fer_cli.storage.artifact import open_artifact
from fer_cli.storage.history import read_history
from fer_cli.storage.schema import CHECKPOINT

HISTORY = [
    EpochRecord("feedforward", 1, 2.5, 2.5, None, None, 0.1, 0.75, 12.0),
    EpochRecord("feedback", 1, 1e-300, None, 1 / 3, 2 / 3, 1 / 7, 0.0, 3.5),
]
CONFIG = {"training": {"seed": 1}, "network": {}}
PARENTS = {"voxels": "ab"}
HERE = Position("feedback", 1)


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
    save_checkpoint(path, saved, HERE, config=CONFIG, parents=PARENTS, encoder=encoder, history=HISTORY)
    checkpoint = load_checkpoint(path, config=CONFIG, parents=PARENTS)
    assert (checkpoint.position, checkpoint.history) == (HERE, HISTORY)
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
    save_checkpoint(tmp_path / "c.h5", saved, HERE, config=CONFIG, parents=PARENTS, encoder=None, history=HISTORY)
    restored = state(1, steps=0)
    load_checkpoint(tmp_path / "c.h5", config=CONFIG, parents=PARENTS).restore(restored, steps=9)
    for each in (saved, restored):
        train(each, steps=1)
    assert not torch.equal(saved.module[0].weight, restored.module[0].weight)


def test_position_within_an_epoch_is_kept_with_its_generators(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(5)
    generators = (generator.get_state(), torch.get_rng_state())
    position = Position("feedback", 2, 7, {"voxel": 1 / 3, "feature": 1e-9}, generators)
    path = tmp_path / "c.h5"
    save_checkpoint(path, state(0, 1), position, config={}, parents=PARENTS, encoder=None, history=HISTORY)
    found = load_checkpoint(path, config={}, parents=PARENTS).position
    assert (found.phase, found.epoch, found.step, found.sums) == ("feedback", 2, 7, position.sums)
    assert found.generators is not None
    assert all(torch.equal(a, b) for a, b in zip(found.generators, generators, strict=True))


def test_state_before_the_first_step_is_kept(tmp_path: Path) -> None:
    saved, path = state(0, steps=0), tmp_path / "c.h5"
    save_checkpoint(path, saved, Position("feedforward", 0), config={}, parents=PARENTS, encoder=None, history=[])
    restored = state(1, steps=0)
    load_checkpoint(path, config={}, parents=PARENTS).restore(restored, steps=0)
    for each in (saved, restored):
        train(each, steps=2)
    assert torch.equal(saved.module[0].weight, restored.module[0].weight)


def test_moments_keep_the_layout_of_their_parameters(tmp_path: Path) -> None:
    """Fused AdamW reads both by memory order."""
    saved, restored = state(0, steps=0), state(1, steps=0)
    for each in (saved, restored):
        each.module.to(memory_format=torch.channels_last_3d)
        each.optimizer = torch.optim.AdamW(each.module.parameters(), lr=0.1, fused=True)
    train(saved, 3)
    path = tmp_path / "c.h5"
    save_checkpoint(path, saved, HERE, config={}, parents=PARENTS, encoder=None, history=HISTORY)
    load_checkpoint(path, config={}, parents=PARENTS).restore(restored, steps=3)
    for each in (saved, restored):
        train(each, steps=2)
    assert torch.equal(saved.module[0].weight, restored.module[0].weight)


def test_history_survives(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c.h5", state(0, 1), HERE, config={}, parents=PARENTS, encoder=None, history=HISTORY)
    with open_artifact(tmp_path / "c.h5", CHECKPOINT) as artifact:
        assert read_history(artifact) == HISTORY
        assert not artifact.names("encoder/")


def test_checkpoint_of_another_run_is_refused_with_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "c.h5"
    save_checkpoint(path, state(0, 1), HERE, config=CONFIG, parents=PARENTS, encoder=None, history=HISTORY)
    for config, parents, differing in [
        (CONFIG | {"training": {"seed": 2}}, PARENTS, "training.seed"),
        (CONFIG | {"training": {}, "network": {"a": 1}}, PARENTS, "network.a, training.seed"),
        (CONFIG, {"voxels": "cd"}, "voxels"),
        (CONFIG, PARENTS | {"encoder": "ef"}, "encoder"),
    ]:
        with pytest.raises(UsageError, match=rf"another configuration, which differs in {differing}\."):
            load_checkpoint(path, config=config, parents=parents)


def test_checkpoint_that_does_not_fit_is_called_damaged(tmp_path: Path) -> None:
    path = tmp_path / "c.h5"
    save_checkpoint(path, state(0, 1), HERE, config=CONFIG, parents=PARENTS, encoder=None, history=HISTORY)
    checkpoint = load_checkpoint(path, config=CONFIG, parents=PARENTS)
    other = nn.Linear(2, 2)
    wrong = TrainingState(other, copy.deepcopy(other), torch.optim.AdamW(other.parameters()))
    with pytest.raises(ArtifactError, match=r"c\.h5 is damaged: parameter .* Delete it to train afresh"):
        checkpoint.restore(wrong, steps=1)
    with pytest.raises(ArtifactError, match=r"c\.h5 is damaged: 'encoder'\. Delete it to train afresh"):
        checkpoint.restore_encoder(other)


def test_checkpoint_lies_beside_its_model() -> None:
    assert checkpoint_path(Path("run/model.h5")) == Path("run/model.checkpoint.h5")
