"""Stages that are killed, run twice at once, find the disk full or read-only, or their input exchanged.

A small part of `benchmarks/faults.py`, and the faults that need no process of their own. See docs/reliability.md.
"""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fer_cli.cli import endings
from fer_cli.codebooks.clustering import cluster_network
from fer_cli.data.voxelize import VoxelSettings, voxelize_source
from fer_cli.errors import ArtifactError, LineageError, ResourceError
from fer_cli.evaluation.results import Evaluation
from fer_cli.network.training import preset_settings, train
from fer_cli.pictures.curves import write_learning_curve
from fer_cli.run import Run
from fer_cli.storage.artifact import open_artifact
from fer_cli.storage.artifact_writer import ArtifactWriter
from fer_cli.storage.disk import make_folder, write_whole
from fer_cli.storage.run_paths import RunPaths
from fer_cli.storage.schema import MODEL, VOXELS
from fer_cli.studies.evaluate import evaluate, write_evaluation

CAMPAIGN = Path(__file__).parents[1] / "benchmarks" / "faults.py"
CPU = torch.device("cpu")
TINY_K = (5, 4, 4, 3)


# Killed, two at once, twice


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one trial of every kind on the stages that make artifacts found; `make faults` makes more."""
    found = tmp_path_factory.mktemp("faults") / "found.json"
    trials = "--instants 1 --events 1 --limits 1 --pairs 1 --stages voxelize,train,cluster,evaluate"
    command = [sys.executable, str(CAMPAIGN), *trials.split(), "--seed", "1", "--json", str(found)]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"})
    parsed = json.loads(found.read_text())
    assert isinstance(parsed, dict)
    return parsed


@pytest.mark.end_to_end
@pytest.mark.parametrize("kind", ["instants", "events", "two", "full"])
@pytest.mark.parametrize("stage", ["voxelize", "train", "cluster", "evaluate"])
def test_stage_survives(stage: str, kind: str, campaign: dict[str, Any]) -> None:
    tally = campaign["kinds"][kind][stage]
    assert tally["trials"] > 0
    assert not tally["faults"]
    if kind == "events":
        assert tally["during"] == tally["trials"]  # the harness does kill


@pytest.mark.end_to_end
def test_every_stage_makes_the_same_in_another_process(campaign: dict[str, Any]) -> None:
    made = set(campaign["compared"])
    assert {"voxels.h5", "model.h5", "codebook.h5", "evaluate/test.json", "evaluate/test.html"} <= made
    assert any(name.startswith("explain/") and name.endswith("index.html") for name in made)
    assert campaign["differing"] == []


def test_an_artifact_is_the_same_however_many_workers_make_it(
    run_paths: RunPaths, box_source: Path, tmp_path: Path
) -> None:
    voxelize_source(box_source, tmp_path / "v.h5", VoxelSettings(8, 0), workers=2)
    assert (tmp_path / "v.h5").read_bytes() == run_paths.voxels.read_bytes()
    options = {"k": TINY_K, "workers": 3, "memory": 10_000, "device": CPU}
    cluster_network(run_paths.voxels, run_paths.model, tmp_path / "c.h5", **options)  # type: ignore[arg-type]
    assert (tmp_path / "c.h5").read_bytes() == run_paths.codebook.read_bytes()


# Killed between the artifact and what tidies up after it


def test_training_killed_after_writing_the_model_is_finished_by_resuming(
    run_paths: RunPaths, tiny_preset: str, tmp_path: Path
) -> None:
    def killed(_: Path) -> None:
        raise KeyboardInterrupt

    settings = preset_settings("tiny", epochs=1, feedback_epochs=1, batch_size=9)
    output = tmp_path / "model.h5"
    with pytest.raises(KeyboardInterrupt):
        train(run_paths.voxels, output, settings, device=CPU, finish=killed)
    assert {path.name for path in tmp_path.iterdir()} == {"model.h5", "model.checkpoint.h5"}
    with open_artifact(output, MODEL) as model:
        before = model.id
    reports: list[object] = []
    train(
        run_paths.voxels,
        output,
        settings,
        device=CPU,
        resume=True,
        report=reports.append,
        finish=write_learning_curve,
    )
    assert reports == []  # no step was made again
    assert {path.name for path in tmp_path.iterdir()} == {"model.h5", "model.curve.png"}
    with open_artifact(output, MODEL) as model:
        assert model.id == before


# Full and read-only disks


@contextmanager
def limited(size: int) -> Iterator[None]:
    """No file may grow beyond so many bytes; Python ignores the signal, so that writing fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Callable[[str], None]]:
    """A tmpfs at `folder`; what it gives mounts it again with other options. Skips where we may not mount."""
    folder.mkdir()

    def mount(*arguments: str) -> None:
        command = ["mount", *arguments, str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"may not mount a file system here: {done.stderr.strip()}")

    if not shutil.which("mount"):
        pytest.skip("there is no mount command here")
    mount("-t", "tmpfs", "-o", options, "tmpfs")
    try:
        yield lambda more: mount("-o", f"remount,{more}")
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def write_artifact(path: Path, source: Path) -> None:
    """Write a voxels.h5 again, dataset by dataset."""
    with open_artifact(source, VOXELS) as artifact:
        attributes = {"classes": artifact.attribute("classes")}
        with ArtifactWriter(path, VOXELS, config=artifact.config, parents={}, attributes=attributes) as writer:
            for name in artifact.names():
                spec = VOXELS.spec(name)
                assert spec is not None
                writer.write(name, artifact.read_text(name) if spec.dtype == "text" else artifact.read(name))


def test_wherever_writing_an_artifact_fails_the_older_one_stays_and_nothing_else(
    run_paths: RunPaths, tmp_path: Path
) -> None:
    path = tmp_path / "v.h5"
    write_artifact(path, run_paths.voxels)
    whole = path.read_bytes()
    path.write_text("older")
    failed = 0
    for limit in np.linspace(0, len(whole) - 1, 30).astype(int).tolist():
        with pytest.raises(ResourceError, match=rf"^cannot write {path}: File too large\.$"), limited(limit):
            write_artifact(path, run_paths.voxels)
        failed += 1
        assert [entry.name for entry in tmp_path.iterdir()] == ["v.h5"]
        assert path.read_text() == "older"
    assert failed == 30
    with limited(len(whole)):
        write_artifact(path, run_paths.voxels)
    assert path.read_bytes() == whole


def test_full_disk_is_called_full_and_is_as_empty_as_before(run_paths: RunPaths, tmp_path: Path) -> None:
    size = run_paths.voxels.stat().st_size
    with mounted(tmp_path / "small", f"size={size // 2}") as remount:
        path = tmp_path / "small" / "v.h5"
        with pytest.raises(ResourceError, match=rf"^cannot write {path}: the disk is full\.$"):
            write_artifact(path, run_paths.voxels)
        report = tmp_path / "small" / "page.html"
        with pytest.raises(ResourceError, match=rf"^cannot write {report}: the disk is full\.$"):
            write_whole(report, b"x" * size)
        assert list((tmp_path / "small").iterdir()) == []
        remount(f"size={8 * size}")
        write_artifact(path, run_paths.voxels)
        assert [entry.name for entry in path.parent.iterdir()] == ["v.h5"]


def test_read_only_disk_is_found_before_the_work(
    run_paths: RunPaths, box_source: Path, tiny_preset: str, tmp_path: Path
) -> None:
    settings = preset_settings("tiny", epochs=1, feedback_epochs=1)
    with mounted(tmp_path / "fixed", "size=1m") as remount:
        remount("ro")
        output = tmp_path / "fixed" / "a.h5"
        stages: list[Callable[[], object]] = [
            lambda: voxelize_source(box_source, output, VoxelSettings(8, 0), workers=1),
            lambda: train(run_paths.voxels, output, settings, device=CPU),
            lambda: cluster_network(run_paths.voxels, run_paths.model, output, k=TINY_K, device=CPU),
            lambda: write_evaluation({"split": "test", "runs": []}, output.parent / "evaluate"),
            lambda: make_folder(output.parent / "explain"),
        ]
        for stage in stages:
            with pytest.raises(ResourceError, match=rf"^cannot write {output.parent}/\S+: Read-only file system\.$"):
                stage()


# Inputs exchanged under a running stage


def replaced(path: Path, by: Path) -> None:
    shutil.copyfile(by, path.with_name("new"))
    path.with_name("new").replace(path)


def overwritten(path: Path, by: Path) -> None:
    shutil.copyfile(by, path)  # into the file that others have open


class Exchange:
    """What a stage reports to; the first report exchanges its input."""

    def __init__(self, how: Callable[[Path, Path], None], path: Path, by: Path) -> None:
        self.done = False
        self._exchange = how, path, by

    def __call__(self, *_: object) -> None:
        if not self.done:
            how, path, by = self._exchange
            how(path, by)
        self.done = True


@pytest.fixture
def own_run(run_paths: RunPaths, tmp_path: Path) -> RunPaths:
    """A copy of the tiny run, to be damaged."""
    shutil.copytree(run_paths.voxels.parent, tmp_path / "run")
    return RunPaths.in_folder(tmp_path / "run")


@pytest.fixture
def other_voxels(box_source: Path, tmp_path: Path) -> Path:
    voxelize_source(box_source, tmp_path / "other.h5", VoxelSettings(8, 1), per_class=8, workers=1)
    return tmp_path / "other.h5"


@pytest.mark.parametrize("exchange", [replaced, overwritten])
def test_cluster_is_not_misled_by_voxels_exchanged_meanwhile(
    exchange: Callable[[Path, Path], None], own_run: RunPaths, run_paths: RunPaths, other_voxels: Path, tmp_path: Path
) -> None:
    meanwhile = Exchange(exchange, own_run.voxels, other_voxels)
    output = tmp_path / "c.h5"  # everything is read at the start
    cluster_network(own_run.voxels, own_run.model, output, k=TINY_K, workers=1, device=CPU, report=meanwhile)
    assert output.read_bytes() == run_paths.codebook.read_bytes()
    assert meanwhile.done
    with pytest.raises(LineageError, match=r"model\.h5 was made from voxels \w+, but .*voxels\.h5 is"):
        _ = Run(own_run, device=CPU).voxels


def test_evaluate_goes_on_with_the_voxels_that_it_opened(
    own_run: RunPaths, other_voxels: Path, evaluated: Evaluation
) -> None:
    found = evaluate(Run(own_run, device=CPU), report=Exchange(replaced, own_run.voxels, other_voxels))
    assert found == evaluated | {"runs": found["runs"]}


@pytest.mark.parametrize("in_memory", [True, False])
def test_evaluate_says_in_one_line_that_its_voxels_were_overwritten(
    in_memory: bool, own_run: RunPaths, other_voxels: Path
) -> None:
    opened = Run(own_run, device=CPU, in_memory=in_memory)
    with pytest.raises(
        ArtifactError, match=r"voxels\.h5 is damaged: dataset '[\w/]+' cannot be read\. Run 'fer voxelize'"
    ):
        evaluate(opened, report=Exchange(overwritten, own_run.voxels, other_voxels))


# Signals while a command clears up


def test_second_ctrl_c_does_not_cut_clearing_up_short_but_a_third_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endings, "_n_interrupts", 0)
    monkeypatch.setattr(endings, "_left_behind", "nothing.")
    before = signal.signal(signal.SIGINT, endings._on_interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert endings._left_behind == "nothing."
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert "goes when the command is run again" in endings._left_behind
    finally:
        signal.signal(signal.SIGINT, before)
