"""Tests of `contention`: when a training is told that it would wait for other programs."""

import os
import subprocess
import sys
import time

import psutil
import pytest
import torch

from fer_cli.cli.terminal import TrainingView, training_bar
from fer_cli.execution import contention
from fer_cli.execution.contention import (
    THREADS_VARIABLE,
    Usage,
    busy_cores,
    fit_threads,
    free_cores_if_crowded,
    usable_cores,
    wait_passively,
)
from fer_cli.execution.progress import TrainingProgress

CPU = torch.device("cpu")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Four cores, none at work, as many threads, and nobody has decided on another number."""
    monkeypatch.delenv(THREADS_VARIABLE, raising=False)
    monkeypatch.setattr(contention, "usable_cores", lambda: [0, 1, 2, 3])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    at_work(monkeypatch, 0, 0, 0, 0)
    return monkeypatch


def at_work(monkeypatch: pytest.MonkeyPatch, *percent: float) -> None:
    monkeypatch.setattr(psutil, "cpu_percent", lambda seconds, percpu: list(percent))


@pytest.mark.parametrize(
    ("percent", "free"),
    [
        ((0, 0, 0, 0), None),
        ((12, 12, 12, 12), None),  # what a desktop does
        ((90, 0, 0, 0), 3),
        ((60, 60, 60, 60), 2),
        ((100, 100, 100, 100), 1),
        ((0, 0, 0, 0, 100, 100), None),  # cores that this process may not run on
        ((100,), 3),  # others are offline
    ],
)
def test_each_thread_wants_a_core(machine: pytest.MonkeyPatch, percent: tuple[float, ...], free: int | None) -> None:
    at_work(machine, *percent)
    assert free_cores_if_crowded(CPU) == free


def test_nothing_is_said_of_few_threads_or_another_device_or_where_somebody_has_decided(
    machine: pytest.MonkeyPatch,
) -> None:
    at_work(machine, 100, 100, 0, 0)
    assert free_cores_if_crowded(torch.device("cuda")) is None
    with machine.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: 2)
        assert free_cores_if_crowded(CPU) is None
    machine.setenv(THREADS_VARIABLE, "4")
    assert free_cores_if_crowded(CPU) is None


@pytest.mark.parametrize(("others", "threads"), [(0.0, 4), (0.4, 4), (0.6, 3), (2.0, 2), (3.4, 1), (4.0, 1), (9.0, 1)])
def test_threads_are_as_many_as_cores_that_others_leave(
    machine: pytest.MonkeyPatch, others: float, threads: int
) -> None:
    chosen = [4]
    machine.setattr(torch, "get_num_threads", lambda: chosen[-1])
    machine.setattr(torch, "set_num_threads", chosen.append)
    machine.setattr(Usage, "others_since", lambda self: others)
    assert fit_threads(CPU, Usage.now()) == threads
    assert len(chosen) == 1 + (threads < 4)
    machine.setenv(THREADS_VARIABLE, "4")
    decided = list(chosen)
    assert fit_threads(CPU, Usage.now()) == chosen[-1]
    machine.delenv(THREADS_VARIABLE)
    fit_threads(torch.device("cuda"), Usage.now())
    assert chosen == decided


def test_what_this_process_and_its_children_do_is_not_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are counted by the system like all, so that only what is left is the others'."""
    began = Usage.now()
    busy = "import time\nwhile time.process_time() < 0.5: pass\nprint(1, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", busy], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        end = time.process_time() + 0.3
        while time.process_time() < end:
            pass
        now = Usage.now()
        child.communicate(b"\n")
    assert now.own - began.own >= 0.75  # 0.5 and 0.3, in ticks of a hundredth
    assert now.everyone - began.everyone >= now.own - began.own - 0.1
    monkeypatch.setattr(Usage, "now", lambda: Usage(began.moment + 2.0, began.everyone + 3.0, began.own + 1.0))
    assert began.others_since() == pytest.approx(1.0)


def test_training_view_says_it_once_in_one_line(
    machine: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at_work(machine, 100, 100, 0, 0)
    with training_bar() as bar:
        view = TrainingView(bar, CPU)
        assert capsys.readouterr().err == ""
        for phase in ("feedforward", "feedforward", "feedback"):
            view(TrainingProgress(phase, 1, 2, 3, 4, 5.0, {"class": 1.0}, "accuracy", None))
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("fer: other programs are at work")
    assert said.err.endswith("With OMP_NUM_THREADS=2 it may be several times as fast.\n")
    assert said.err.count("\n") == 1


def test_cores_of_this_machine() -> None:
    cores = usable_cores()
    assert cores == sorted(set(cores))
    assert 1 <= len(cores) <= (os.cpu_count() or 1)
    assert 0 <= busy_cores(0.05) <= len(cores)


def test_waiting_is_passive_unless_somebody_has_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    wait_passively()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    wait_passively()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
