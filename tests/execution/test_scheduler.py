"""A real Dask scheduler and workers on loopback, in processes of their own."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from fer_cli.codebooks import layer_fitting
from fer_cli.codebooks.clustering import cluster_network
from fer_cli.data.voxelize import VoxelSettings, voxelize_source
from fer_cli.errors import ResourceError, UsageError
from fer_cli.execution import scheduler
from fer_cli.execution.progress import FITTING, ClusteringProgress
from fer_cli.storage.artifact import open_artifact
from fer_cli.storage.run_paths import RunPaths
from fer_cli.storage.schema import VOXELS
from tiny import TINY_K

pytest.importorskip("distributed")

FER = [sys.executable, "-m", "fer_cli", "voxelize", "shapes", "--resolution", "64", "--fill", "solid"]
OFF = "OFF\n4 3 0\n0 0 0\n{} 0 0\n0 2 0\n0 0 1\n3 0 1 2\n3 0 1 3\n3 0 2 3\n"
N_SHAPES = 200
START_SECONDS = 180
"""How long a scheduler or worker may take to start: seconds, unless lines are counted and the machine is busy."""


def impatient(name: str) -> list[str]:
    """The same command, with one second for what fer has a constant for."""
    program = f"from fer_cli.cli import app; from fer_cli.execution import scheduler; scheduler.{name} = 1; app.main()"
    return [sys.executable, "-c", program, *FER[3:]]


def wait_until(condition: Callable[[], object], *logs: Path, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain\n" + "\n".join(log.read_text() for log in logs)
        time.sleep(0.01)


@contextmanager
def dask(*words: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as stream:
        process = subprocess.Popen([sys.executable, "-m", "dask", *words], stdout=stream, stderr=stream)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@dataclass
class Cluster:
    address: str
    scheduler: subprocess.Popen[bytes]
    workers: list[subprocess.Popen[bytes]]


@contextmanager
def started(folder: Path) -> Iterator[Cluster]:
    log = folder / "scheduler.log"
    with dask("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", log=log) as main:
        wait_until(
            lambda: b"Scheduler at:" in log.read_bytes() and b"\n" in log.read_bytes().split(b"Scheduler at:")[1],
            log,
            seconds=START_SECONDS,
        )
        address = log.read_text().split("Scheduler at:")[1].split()[0]
        options = ("worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard", "--host", "127.0.0.1")
        logs = folder / "1.log", folder / "2.log"
        with dask(*options, log=logs[0]) as one, dask(*options, log=logs[1]) as two:
            wait_until(lambda: log.read_bytes().count(b"Register worker addr") == 2, log, *logs, seconds=START_SECONDS)
            yield Cluster(address, main, [one, two])


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster of which a test may kill what it likes."""
    with started(tmp_path) as found:
        yield found


@pytest.fixture(scope="module")
def whole_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster that tests leave as it is."""
    with started(tmp_path_factory.mktemp("cluster")) as found:
        yield found


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    for i in range(N_SHAPES):
        path = tmp_path / "shapes" / ("sofa", "bed")[i % 2] / ("train", "test")[i % 4 == 0] / f"{i:03}.off"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("OFF\n1 1 0\n" if i % 50 == 7 else OFF.format(3 + i % 60))
    return tmp_path


def content(path: Path) -> dict[str, object]:
    """Every dataset's bytes, and the id."""
    with open_artifact(path, VOXELS) as artifact:
        stored = {
            name: artifact.read_text(name)
            if artifact.form.spec(name).dtype == "text"
            else artifact.read(name).tobytes()  # type: ignore[union-attr]
            for name in artifact.names()
        }
        return stored | {"id": artifact.id}


def told(stderr: bytes) -> list[str]:
    """The lines but those that tell, on a slow machine, how long a stage will take."""
    return [line for line in stderr.decode().splitlines() if not line.endswith(" left")]


@pytest.mark.end_to_end
def test_artifact_is_the_same_whoever_makes_it_though_a_worker_is_killed(
    shapes: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = subprocess.Popen([*FER, "-o", "dask.h5", "--scheduler", cluster.address], cwd=shapes, stderr=subprocess.PIPE)
    journal = shapes / ".dask.h5.journal"
    wait_until(lambda: journal.exists() and journal.stat().st_size > 1000)
    assert run.poll() is None, "the run ended before its worker could be killed"
    cluster.workers[0].send_signal(signal.SIGKILL)
    _, stderr = run.communicate(timeout=60)
    assert (run.returncode, told(stderr)) == (0, [])
    assert cluster.workers[0].poll() == -signal.SIGKILL
    subprocess.run([*FER, "-o", "2.h5", "--workers", "2"], cwd=shapes, check=True, timeout=60)
    monkeypatch.chdir(shapes)
    voxelize_source(Path("shapes"), Path("1.h5"), VoxelSettings(64, fill="solid"), workers=1)
    expected = content(shapes / "1.h5")
    assert len(expected["name"]) == N_SHAPES - 4
    assert content(shapes / "2.h5") == expected
    assert content(shapes / "dask.h5") == expected


@pytest.mark.end_to_end
def test_lost_scheduler_ends_the_run_in_one_line_and_another_engine_goes_on(shapes: Path, cluster: Cluster) -> None:
    command = [*FER, "-o", "v.h5", "--json"]
    run = subprocess.Popen([*command, "--scheduler", cluster.address], cwd=shapes, stderr=subprocess.PIPE)
    journal = shapes / ".v.h5.journal"
    wait_until(lambda: journal.exists() and journal.stat().st_size > 1000)
    cluster.scheduler.send_signal(signal.SIGKILL)
    _, stderr = run.communicate(timeout=60)
    assert run.returncode == 5
    assert told(stderr) == [f"fer: the scheduler at {cluster.address} has gone. Start the same command again to go on."]
    done = subprocess.run(command, cwd=shapes, check=True, capture_output=True, timeout=60)
    assert b'"resumed": 0' not in done.stdout
    assert not journal.exists()


@pytest.mark.end_to_end
def test_loss_of_all_workers_ends_the_run_in_one_line(shapes: Path, cluster: Cluster) -> None:
    command = [*impatient("PATIENCE_SECONDS"), "-o", "v.h5", "--scheduler", cluster.address]
    run = subprocess.Popen(command, cwd=shapes, stderr=subprocess.PIPE)
    journal = shapes / ".v.h5.journal"
    wait_until(lambda: journal.exists() and journal.stat().st_size > 1000)
    assert run.poll() is None, "the run ended before its workers could be killed"
    for worker in cluster.workers:
        worker.send_signal(signal.SIGKILL)
    _, stderr = run.communicate(timeout=60)
    assert told(stderr) == [
        f"fer: the scheduler at {cluster.address} has no workers any more. Start the same command again to go on."
    ]
    assert run.returncode == 5
    assert journal.exists()


@pytest.mark.end_to_end
def test_codebook_is_the_same_though_a_worker_is_killed(
    run_paths: RunPaths, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layer_fitting, "_PIECE", 1)  # a call for each location
    seen: list[ClusteringProgress] = []

    def kill_one(progress: ClusteringProgress) -> None:
        seen.append(progress)
        if progress.doing == FITTING and cluster.workers[0].poll() is None:
            cluster.workers[0].kill()

    path = tmp_path / "c.h5"
    cluster_network(
        run_paths.voxels,
        run_paths.model,
        path,
        k=TINY_K,
        scheduler=cluster.address,
        device=torch.device("cpu"),
        report=kill_one,
    )
    assert cluster.workers[0].wait() == -signal.SIGKILL
    assert sum(progress.doing == FITTING for progress in seen) > 100
    assert path.read_bytes() == run_paths.codebook.read_bytes()


class GoneClient:
    """A client whose scheduler went while a result was on its way: it is closed, and the future is never done."""

    status = "closed"

    def get_executor(self, *, pure: bool) -> None:
        assert not pure

    def nthreads(self) -> dict[str, int]:
        return {"tcp://127.0.0.1:1": 1}

    def scheduler_info(self, *, n_workers: int) -> dict[str, object]:
        return {"workers": self.nthreads()}


def test_future_that_the_client_forgot_is_not_waited_for() -> None:
    executor = scheduler._DaskExecutor(GoneClient(), "tcp://127.0.0.1:8786")
    with pytest.raises(ResourceError, match=r"the scheduler at tcp://127\.0\.0\.1:8786 has gone\."):
        executor.wait(Future())


def test_missing_extra_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with (
        pytest.raises(UsageError, match=r"pip install 'fer-cli\[distributed\]'"),
        scheduler.open_scheduler("tcp://127.0.0.1:8786", reads=tmp_path),
    ):
        pass


@pytest.mark.end_to_end
def test_unreachable_scheduler_is_an_error_within_seconds(tmp_path: Path) -> None:
    (tmp_path / "shapes").mkdir()
    (tmp_path / "shapes" / "a.off").write_text(OFF.format(3))
    started = time.monotonic()
    command = [*impatient("CONNECT_SECONDS"), "-o", "v.h5", "--scheduler", "tcp://127.0.0.1:9"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert (result.returncode, result.stdout) == (5, "")
    assert result.stderr == "fer: no Dask scheduler answers at tcp://127.0.0.1:9 within 1 s.\n"
    assert time.monotonic() - started < 20


@pytest.mark.end_to_end
def test_source_that_workers_do_not_see_is_an_error(whole_cluster: Cluster) -> None:
    script = (
        "import sys\nfrom pathlib import Path\nfrom fer_cli.execution.scheduler import open_scheduler\n"
        "with open_scheduler(sys.argv[1], reads=Path('/nowhere/shapes')):\n    pass\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, whole_cluster.address], capture_output=True, text=True, check=False, timeout=60
    )
    assert result.stderr.splitlines()[-1].startswith(
        f"{ResourceError.__module__}.ResourceError: worker tcp://127.0.0.1:"
    )
    assert "does not see /nowhere/shapes" in result.stderr


@pytest.mark.end_to_end
def test_what_fails_in_the_event_loop_is_not_printed(whole_cluster: Cluster) -> None:
    # A result on its way when the scheduler goes fails there, and Tornado logs it with a traceback.
    program = f"""
import time
from fer_cli.execution.scheduler import open_scheduler

async def fail():
    raise OSError("connection reset")

with open_scheduler({whole_cluster.address!r}, reads=None) as executor:
    executor._client.loop.add_callback(fail)
    print(executor.wait(executor.submit(len, "abc")))
    time.sleep(0.5)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (run.stdout, run.stderr) == ("3\n", "")
