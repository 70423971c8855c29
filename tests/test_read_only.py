"""An installation that cannot be written, for a user without a home: as in a container run by another user."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import fer_cli
from fer_cli.cli.doctor import NO_CACHE

READ_ONLY = 'mount --make-rprivate / && mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
WRAPPERS = {
    "read-only file system": ["unshare", "--mount", "sh", "-c", READ_ONLY],
    "another user": [
        "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
        "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search",  # the tests' Python may lie in a closed home
    ],
}  # fmt: skip
TETRAHEDRON = "4 4 0\n0 0 0\n3 0 0\n0 2 0\n0 0 1\n3 0 1 2\n3 0 1 3\n3 0 2 3\n3 1 2 3\n"
SHAPES = {
    "mesh.off": f"OFF\n{TETRAHEDRON}",
    "mesh.ply": "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\n"
    "element face 1\nproperty list uchar int vertex_indices\nend_header\n0 0 0\n3 0 0\n0 2 1\n3 0 1 2\n",
    "cloud.xyz": "0 0 0\n1 2 3\n4 4 4\n",
    "cloud.pcd": "VERSION 0.7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH 2\nHEIGHT 1\n"
    "VIEWPOINT 0 0 0 1 0 0 0\nPOINTS 2\nDATA ascii\n0 0 0\n1 2 3\n",
}


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package without compiled code."""
    folder = tmp_path_factory.mktemp("installed")
    package = Path(fer_cli.__file__).parent
    shutil.copytree(package, folder / "fer_cli", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(params=WRAPPERS)
def wrapper(request: pytest.FixtureRequest, installation: Path) -> list[str]:
    """What is put before a command so that it cannot write the installation."""
    if os.geteuid():
        for path in (installation, *installation.rglob("*")):
            path.chmod(path.stat().st_mode & ~0o222)
        return []
    words = list(WRAPPERS[request.param])
    if words[0] == "unshare":
        words.append(str(installation))
    try:
        subprocess.run([*words, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip(f"this machine does not let {words[0]} do it")
    return words


def run(wrapper: Sequence[str], installation: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key not in ("XDG_CACHE_HOME", "NUMBA_CACHE_DIR")}
    environment |= {"HOME": "/proc/nonexistent", "PYTHONPATH": str(installation)}
    command = [*wrapper, sys.executable, *words]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)


@pytest.mark.end_to_end
def test_shapes_are_voxelized_without_a_cache(wrapper: list[str], installation: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name, text in SHAPES.items():
        (source / name).write_text(text)
    tmp_path.chmod(0o777)
    done = run(wrapper, installation, tmp_path, "-m", "fer_cli", "voxelize", "source", "-o", "voxels.h5", "--json")
    assert (done.returncode, done.stderr.count("Traceback")) == (0, 0), done.stderr
    answer = json.loads(done.stdout)
    assert (answer["samples"], answer["skipped"]) == (len(SHAPES), [])
    assert not [*installation.rglob("*.nbi"), *installation.rglob("__pycache__")]


@pytest.mark.end_to_end
def test_doctor_tells_that_compiled_code_is_not_kept(wrapper: list[str], installation: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    program = """
from pathlib import Path
from fer_cli.cli import doctor
doctor.metadata.requires = lambda _: ["numba"]  # alone, to be quick
print(*doctor.examination_lines(doctor.examine(Path("run"))), sep="\\n")
"""
    done = run(wrapper, installation, tmp_path, "-c", program)
    assert f"remark    {NO_CACHE}" in done.stdout.splitlines(), done.stderr
    if not wrapper:
        return
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(0o777)
    given = run([*wrapper, "env", f"NUMBA_CACHE_DIR={cache}"], installation, tmp_path, "-c", program)
    assert NO_CACHE not in given.stdout
    assert "numba" in given.stdout
