"""Artifacts that another program has open, and file systems without locks."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest

from fer_cli.errors import ArtifactError, InputError
from fer_cli.storage.arrays import read_numbers
from fer_cli.storage.artifact import open_artifact
from fer_cli.storage.lock import is_open_elsewhere

OPEN = "import h5py, sys; file = h5py.File(sys.argv[1], 'r+')\n"
WAIT = "\nprint('open', flush=True); sys.stdin.read()"
NO_LOCKS = "#include <errno.h>\nint flock(int fd, int op) { errno = ENOLCK; return -1; }\n"
"""As NFS answers where no lock daemon runs."""
READ = """
import sys
from pathlib import Path
from fer_cli.storage.artifact import open_artifact
with open_artifact(Path(sys.argv[1])) as artifact:
    print(artifact.id, artifact.read("occupancy").sum())
"""


@contextmanager
def another_program(path: Path, does: str = "") -> Iterator[None]:
    """A process that has the file open for writing, and has done something to it."""
    command = [sys.executable, "-c", OPEN + does + WAIT, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        assert is_open_elsewhere(path)
        yield
        process.communicate()
    assert not is_open_elsewhere(path)


@pytest.fixture
def voxels(run_paths, tmp_path: Path) -> Path:
    return Path(shutil.copy(run_paths.voxels, tmp_path / "voxels.h5"))


def test_a_sound_artifact_that_is_open_elsewhere_is_read(voxels: Path) -> None:
    with open_artifact(voxels) as artifact:
        expected = artifact.read("occupancy")
    with another_program(voxels), open_artifact(voxels) as artifact:
        np.testing.assert_array_equal(artifact.read("occupancy"), expected)


@pytest.mark.parametrize(
    "does",
    [
        "file['label'][0] = 7; file.flush()",
        "del file['occupancy']; file.flush()",
        "file.attrs['config'] = '{}'; file.flush()",
        "file['extra'] = [1, 2]; file.flush()",
    ],
)
def test_what_another_program_is_changing_is_not_called_damaged(voxels: Path, does: str) -> None:
    with another_program(voxels, does), pytest.raises(ArtifactError) as caught, open_artifact(voxels) as artifact:
        artifact.read("label")
    assert str(caught.value) == f"{voxels} is open in another program, which may be writing it. Close it there."
    with pytest.raises(ArtifactError) as caught, open_artifact(voxels) as artifact:  # once it is closed, it is
        artifact.read("label")
    assert "open in another program" not in str(caught.value)


def test_arrays_of_others_are_read_while_they_are_open(tmp_path: Path) -> None:
    path = tmp_path / "points.h5"
    with h5py.File(path, "w") as file:
        file["data"] = np.arange(6.0)
    with another_program(path):
        np.testing.assert_array_equal(read_numbers(path, "data"), np.arange(6.0))
    half = tmp_path / "half.h5"
    half.write_bytes(path.read_bytes()[:700])
    with pytest.raises(InputError, match="not a readable HDF5 file"):
        read_numbers(half, "data")


@pytest.mark.skipif(shutil.which("gcc") is None or sys.platform != "linux", reason="needs gcc and LD_PRELOAD")
def test_a_file_system_without_locks_is_no_damage(voxels: Path, tmp_path: Path) -> None:
    (tmp_path / "none.c").write_text(NO_LOCKS)
    library = tmp_path / "none.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, tmp_path / "none.c"], check=True)
    without = {**os.environ, "LD_PRELOAD": str(library)}
    # The locks are gone: h5py's own way fails.
    usual = [sys.executable, "-c", OPEN, str(voxels)]
    assert "No locks available" in subprocess.run(usual, env=without, capture_output=True, text=True).stderr
    answers = [
        subprocess.run([sys.executable, "-c", READ, str(voxels)], env=env, capture_output=True, text=True, check=True)
        for env in (without, {**os.environ})
    ]
    assert answers[0].stdout == answers[1].stdout != ""
    box = tmp_path / "box.off"
    box.write_text("OFF\n4 4 0\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n3 0 1 2\n3 0 1 3\n3 0 2 3\n3 1 2 3\n")
    for words in (["voxelize", box, "-o", tmp_path / "new.h5"], ["info", tmp_path / "new.h5"]):
        command = [sys.executable, "-m", "fer_cli", *map(str, words)]
        subprocess.run(command, env=without, check=True, capture_output=True)
