"""Several processes train as one does: layers that share a batch, and whole runs started by `torchrun`."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn

import worlds
from fer_cli.data.voxelize import VoxelSettings, voxelize_source
from fer_cli.errors import ResourceError, UsageError
from fer_cli.execution.interrupts import Interrupts
from fer_cli.execution.progress import EpochRecord
from fer_cli.execution.world import ALONE, SharedBatchNorm3d, SharedDropout, World, join_world
from fer_cli.network import phases
from fer_cli.network.activations import FEEDBACK, FEEDFORWARD
from fer_cli.network.checkpoint import checkpoint_path
from fer_cli.network.phases import TrainingSettings
from fer_cli.network.training import preset_settings, train
from fer_cli.run import Run
from fer_cli.storage.artifact import open_artifact
from fer_cli.storage.history import read_history
from fer_cli.storage.run_paths import RunPaths
from fer_cli.storage.schema import CHECKPOINT, MODEL

CPU = torch.device("cpu")
EPOCHS, FEEDBACK_EPOCHS = 12, 2


# One process


@pytest.mark.parametrize(("count", "size"), [(7, 1), (7, 2), (6, 3), (2, 3)])
def test_rows_deal_a_batch_out(count: int, size: int) -> None:
    shares = [list(range(count))[World(rank, size).rows] for rank in range(size)]
    assert sorted(itertools.chain(*shares)) == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert [World(rank, size).leads for rank in range(size)] == [True] + [False] * (size - 1)


def test_one_process_alone_needs_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    module = nn.Sequential(nn.BatchNorm3d(2))
    with join_world(CPU) as (world, device):
        assert (world, device) == (ALONE, CPU)
        assert not distributed.is_initialized()
        assert world.sum(torch.tensor([2.0])).tolist() == [2]
        assert world.agrees("anything")
        assert world.parallel(module, device) is module
    assert type(module[0]) is nn.BatchNorm3d


def test_others_that_cannot_be_reached_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with (
        pytest.raises(ResourceError, match=r"cannot join the other processes: .*RANK expected[^.]*\.$"),
        join_world(CPU),
    ):
        pass


class _Told(BaseException):
    """What a signal raises."""


@pytest.mark.parametrize("told", [False, True], ids=["lost", "lost, then told to end"])
def test_a_lost_process_is_the_reason_even_where_a_signal_follows(told: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    ended = []
    monkeypatch.setattr(distributed, "init_process_group", lambda backend: None)
    monkeypatch.setattr(distributed, "destroy_process_group", lambda: ended.append(True))
    monkeypatch.setattr(distributed, "get_rank", lambda: 0)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    with pytest.raises(ResourceError, match="another process of the run has gone"), join_world(CPU):  # noqa: PT012
        try:
            raise RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer")
        finally:
            if told:
                raise _Told
    assert ended == [True]
    for error in (_Told(), RuntimeError("another defect"), KeyError("gloo")):
        with pytest.raises(type(error)), join_world(CPU):
            raise error


@pytest.mark.parametrize(("count", "size"), [(9, 1), (9, 2), (8, 2), (7, 3), (1, 2)])
def test_dropout_of_shares_is_that_of_the_whole(count: int, size: int) -> None:
    feature = torch.rand(count, 30, generator=torch.Generator().manual_seed(0)) + 1

    def dropped(world: World) -> tuple[Tensor, Tensor]:
        layer = SharedDropout(0.3).train()
        layer.world = world
        torch.manual_seed(5)
        layer(feature[world.rows])
        return layer(feature[world.rows]), torch.get_rng_state()

    whole, state = dropped(ALONE)
    assert 0 < (whole == 0).sum() < whole.numel()
    for rank in range(size):
        mine, my_state = dropped(World(rank, size))
        assert torch.equal(mine, whole[rank::size])
        assert torch.equal(my_state, state)  # what is drawn later is the same in every process, too


def test_dropout_keeps_the_mean_and_what_it_leaves_is_scaled() -> None:
    layer = SharedDropout(0.4).train()
    torch.manual_seed(0)
    result = layer(torch.ones(400, 500))
    assert result.unique().tolist() == pytest.approx([0, 1 / 0.6])
    assert result.mean().item() == pytest.approx(1, abs=0.01)
    assert result.std(0).min() > 0  # not the same features in every sample
    assert repr(layer) == "SharedDropout(p=0.4)"


def test_dropout_is_nothing_in_evaluation_or_without_a_probability() -> None:
    feature = torch.rand(3, 4)
    state = torch.get_rng_state()
    assert SharedDropout(0.4).eval()(feature) is feature
    assert SharedDropout(0.0).train()(feature) is feature
    assert torch.equal(torch.get_rng_state(), state)


def test_shared_batch_norm_is_the_given_one_in_evaluation() -> None:
    given = worlds.norm()
    given(worlds.whole(4)[0])
    shared = SharedBatchNorm3d.like(given.eval())
    assert not shared.training
    assert {name: id(t) for name, t in shared.named_parameters()} == {
        name: id(t) for name, t in given.named_parameters()
    }
    assert list(shared.state_dict()) == list(given.state_dict())
    feature = worlds.whole(3)[0]
    assert torch.equal(shared(feature), given(feature))


class _Two(World):
    """Two processes by what they say, though there is no other."""

    def agrees(self, value: object) -> bool:
        return value is None


@pytest.mark.usefixtures("tiny_preset")
def test_batches_too_small_to_share_are_refused(run: Run, run_paths: RunPaths, tmp_path: Path) -> None:
    options: dict[str, Any] = {"device": CPU, "world": _Two(0, 2)}
    small = TrainingSettings("tiny", epochs=1, feedback_epochs=1, batch_size=13)
    with pytest.raises(UsageError, match=r"2 processes need batches of 16 .* batches of 13 \(--batch-size 13, 54 "):
        train(run_paths.voxels, tmp_path / "m.h5", small, **options)
    whole = TrainingSettings("tiny", epochs=1, feedback_epochs=1, batch_size=100)
    with pytest.raises(UsageError, match=r"7 processes need batches of 56 .* batches of 54 \(--batch-size 100, 54 "):
        train(run_paths.voxels, tmp_path / "m.h5", whole, device=CPU, world=_Two(0, 7))
    with pytest.raises(UsageError, match=r"do not start from the same options, voxels, encoder and checkpoint"):
        train(run_paths.voxels, tmp_path / "m.h5", whole, **options)
    assert not list(tmp_path.iterdir())


def test_patient_interrupts_take_a_repeated_signal_for_one() -> None:
    noted = []

    def signalled() -> None:
        with Interrupts(patient=True) as interrupts:
            for _ in range(2):
                signal.raise_signal(signal.SIGINT)
                noted.append(interrupts.pending)

    with pytest.raises(KeyboardInterrupt):
        signalled()
    assert noted == [True, True]


# Two processes


@pytest.fixture(scope="module")
def shares(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two spawned processes made of its share of the batches."""
    folder = tmp_path_factory.mktemp("shares")
    multiprocessing.spawn(worlds.share, (2, folder), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def test_sums_and_agreement_are_of_all_processes(shares: list[dict[str, Any]]) -> None:
    for said in shares:
        assert said["sum"].tolist() == [3, 20]
        assert said["agrees"] == (True, False)


@pytest.mark.parametrize("name", worlds.BATCHES)
def test_shared_batch_norm_is_that_of_the_whole_batch(name: str, shares: list[dict[str, Any]]) -> None:
    feature, gradient = worlds.whole(worlds.BATCHES[name])
    feature.requires_grad_()
    norm = worlds.norm()
    result = norm(feature)
    result.backward(gradient)
    for rank, said in enumerate(shares):
        expected = (result[rank::2], feature.grad[rank::2], norm.weight.grad, norm.bias.grad)
        for mine, theirs in zip(said[name], (*expected, norm.running_mean, norm.running_var), strict=True):
            torch.testing.assert_close(mine, theirs.detach(), rtol=1e-4, atol=1e-4)
    assert all(torch.equal(one, two) for one, two in zip(shares[0][name][2:], shares[1][name][2:], strict=True))


def test_gradients_of_a_shared_step_are_those_of_the_whole_batch(shares: list[dict[str, Any]]) -> None:
    expected = worlds.module_step(ALONE)
    assert len(expected) == 5
    for said in shares:
        torch.testing.assert_close(said["module"], expected, rtol=1e-4, atol=1e-5)


# Whole runs


def history(path: Path) -> list[EpochRecord]:
    with open_artifact(path, MODEL) as artifact:
        return read_history(artifact)


def assert_same_curve(mine: list[EpochRecord], theirs: list[EpochRecord], tolerance: float) -> None:
    assert [(r.phase, r.epoch) for r in mine] == [(r.phase, r.epoch) for r in theirs]
    assert {r.phase for r in mine} == {FEEDFORWARD, FEEDBACK}
    for one, other in zip(mine, theirs, strict=True):
        for term in ("training_loss", "class_loss", "voxel_loss", "feature_loss", "validation_loss"):
            expected = getattr(other, term)
            # Each phase has some of the terms.
            assert getattr(one, term) == (expected and pytest.approx(expected, rel=tolerance)), (term, one, other)


def torchrun(*arguments: object, processes: int = 2) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), *map(str, arguments)]
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def ended(process: "subprocess.Popen[str]", seconds: float = 300) -> tuple[str, str]:
    """stdout and stderr of a command that has to end by itself within some seconds."""
    try:
        return process.communicate(timeout=seconds)
    finally:
        process.terminate()  # which ends the processes that it started
        process.wait()


def workers(process: "subprocess.Popen[str]") -> dict[int, int]:
    """Process ids of a `torchrun`'s workers, by rank."""
    found = {}
    for folder in Path("/proc").iterdir():
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1]) if folder.name.isdigit() else 0
            if parent == process.pid:
                variables = (folder / "environ").read_text().split("\0")
                found |= {int(v.removeprefix("RANK=")): int(folder.name) for v in variables if v.startswith("RANK=")}
        except OSError:
            continue
    return found


@pytest.fixture(scope="module")
def voxels(box_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The boxes at 32³, for the presets."""
    path = tmp_path_factory.mktemp("voxels") / "voxels.h5"
    voxelize_source(box_source, path, VoxelSettings(32, 1), workers=1)
    return path


@pytest.fixture(scope="module")
def alone(voxels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process makes of them."""
    path = tmp_path_factory.mktemp("alone") / "model.h5"
    chosen = preset_settings("smoke", epochs=EPOCHS, feedback_epochs=FEEDBACK_EPOCHS, batch_size=27)
    train(voxels, path, chosen, device=CPU)
    return path


def training_command(voxels: Path, output: Path) -> list[object]:
    options = ["--preset", "smoke", "--epochs", EPOCHS, "--feedback-epochs", FEEDBACK_EPOCHS, "--batch-size", 27]
    return ["-m", "--", "fer_cli", "train", "--run", voxels.parent, "-o", output, *options, "--json"]


@pytest.mark.end_to_end
def test_two_processes_train_as_one_does_in_float32(
    run_paths: RunPaths, tiny_preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of 18, 18 and 18: the same curve but for the order of sums."""
    two, one = tmp_path / "two.h5", tmp_path / "one.h5"
    process = torchrun(worlds.__file__, run_paths.voxels, two)
    monkeypatch.setattr(phases, "mixed_precision", worlds.float32)
    train(run_paths.voxels, one, worlds.settings(), device=CPU)
    _, stderr = ended(process)
    assert process.returncode == 0, stderr
    assert_same_curve(history(two), history(one), 1e-5)


def until_checkpoint(process: "subprocess.Popen[str]", path: Path) -> dict[int, int]:
    """Workers by rank, once there is a checkpoint."""
    deadline = time.monotonic() + 240
    while not path.exists():
        assert process.poll() is None, ended(process)[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return workers(process)


@pytest.mark.end_to_end
def test_run_of_two_processes_ended_by_ctrl_c_goes_on_and_ends_as_that_of_one(
    voxels: Path, alone: Path, tmp_path: Path
) -> None:
    output = tmp_path / "model.h5"
    process = torchrun(*training_command(voxels, output))
    pids = until_checkpoint(process, checkpoint_path(output))
    os.killpg(process.pid, signal.SIGINT)
    for pid in pids.values():  # torchrun hands the signal on, so that each gets it twice
        os.kill(pid, signal.SIGINT)
    stdout, stderr = ended(process, 60)
    assert process.returncode != 0
    assert stdout == ""
    mine = {line for line in stderr.splitlines() if line.startswith("fer:")}
    assert mine == {"fer: interrupted; what was done is kept: run the same command with --resume to go on from there."}
    with open_artifact(checkpoint_path(output), CHECKPOINT) as artifact:
        assert artifact.attribute("position")["phase"] == FEEDFORWARD

    process = torchrun(*training_command(voxels, output), "--resume")
    stdout, stderr = ended(process)
    assert process.returncode == 0, stderr
    assert json.loads(stdout)["path"] == str(output)
    # Each epoch is told once, by one process, and nothing else is said by fer or PyTorch.
    said = [line for line in stderr.splitlines() if "OMP_NUM_THREADS" not in line and line.strip("* ")]
    assert len(said) == len({tuple(line.split()[:2]) for line in said}) <= EPOCHS + FEEDBACK_EPOCHS
    assert all(line.startswith(("feedforward", "feedback")) for line in said), stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.curve.png", "model.h5"]
    # As far apart as runs with one and two threads are, 0.02: a ReLU at its threshold makes much of a rounding.
    assert_same_curve(history(output), history(alone), 0.05)


@pytest.mark.end_to_end
@pytest.mark.parametrize("rank", [0, 1], ids=["leader", "other"])
def test_killed_process_ends_the_run_and_one_process_goes_on(
    rank: int, voxels: Path, alone: Path, tmp_path: Path
) -> None:
    output = tmp_path / "model.h5"
    process = torchrun(*training_command(voxels, output))
    os.kill(until_checkpoint(process, checkpoint_path(output))[rank], signal.SIGKILL)
    stdout, stderr = ended(process, 60)
    assert process.returncode != 0
    assert stdout == ""
    own = stderr.partition("torch/distributed/elastic")[0]
    assert "Traceback" not in own
    # torchrun ends the others: on a slow machine before they miss the one that has gone.
    [line] = [line for line in stderr.splitlines() if line.startswith("fer:")]
    assert line in (
        "fer: another process of the run has gone. What was done up to the last checkpoint is kept: "
        "start the same command again with --resume.",
        "fer: terminated; what was done is kept: run the same command with --resume to go on from there.",
    )
    chosen = preset_settings("smoke", epochs=EPOCHS, feedback_epochs=FEEDBACK_EPOCHS, batch_size=27)
    seen: list[int] = []
    train(voxels, output, chosen, device=CPU, resume=True, report=lambda progress: seen.append(progress.epoch))
    assert len(seen) < (EPOCHS + FEEDBACK_EPOCHS) * 3  # two batches and a record an epoch
    assert_same_curve(history(output), history(alone), 0.05)
