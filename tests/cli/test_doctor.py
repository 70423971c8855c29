"""What `fer doctor` finds: on this machine, and with libraries that crash, hang, chatter or are too old."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fer_cli.cli import doctor
from fer_cli.cli.doctor import Examination, Library, examination_lines, examine
from fer_cli.errors import ResourceError


def declare(monkeypatch: pytest.MonkeyPatch, **packages: tuple[str, str]) -> None:
    """Have fer need these packages alone: name = (what is asked for, version that is installed)."""
    packages = {**packages, "vtk": ("", "9")}
    monkeypatch.setattr(
        doctor.metadata, "requires", lambda _: [f"{name}{asked}" for name, (asked, _) in packages.items()]
    )
    monkeypatch.setattr(doctor.metadata, "version", lambda name: packages.get(name, ("", "0"))[1])


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose modules the processes that import find first; VTK is an empty one there."""
    folder = tmp_path / "fakes"
    folder.mkdir()
    (folder / "vtkmodules").mkdir()
    for name in ("__init__", "vtkCommonCore"):
        (folder / "vtkmodules" / f"{name}.py").touch()
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{os.environ.get('PYTHONPATH', '')}")
    return folder


def problems(examination: Examination) -> dict[str, str | None]:
    return {library.name: library.problem for library in examination.libraries}


def test_library_that_ends_the_process_is_named_and_the_rest_are_still_tried(
    fakes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(monkeypatch, quiet=("", "1"), crash=("", "1"), broken=("", "1"), chatty=(">=2", "2.1"))
    (fakes / "quiet.py").touch()
    (fakes / "crash.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n")
    (fakes / "broken.py").write_text("import nothing_of_this_name\n")
    (fakes / "chatty.py").write_text("import os\nprint('{\"module\": 1}')\nos.write(1, b'{}\\n')\n")
    examination = examine(tmp_path / "run")
    assert problems(examination) | {"vtk": None} == {
        "quiet": None,
        "crash": "does not work: importing it ended its process by signal 4",
        "broken": "does not work: ModuleNotFoundError: No module named 'nothing_of_this_name'",
        "chatty": None,
        "vtk": None,
    }
    assert "Run: pip install 'crash'" in " ".join(examination.problems)


def test_library_that_hangs_is_given_up(fakes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    declare(monkeypatch, pyvista=("", "1"))
    monkeypatch.setattr(doctor, "TIME_LIMIT", 3.0)
    (fakes / "pyvista.py").write_text("import time\ntime.sleep(60)\n")
    examination = examine(tmp_path / "run")
    assert problems(examination)["pyvista"] == "does not work: importing it was not done within 3 s"
    assert examination.drawing.problem == "drawing was not done within 3 s."


def test_versions_are_held_against_the_bounds(fakes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    declare(monkeypatch, old=(">=2.1", "2.0.9"), new=("<4", "4.0"))
    for name in ("old", "new"):
        (fakes / f"{name}.py").touch()
    examination = examine(tmp_path / "run")
    assert problems(examination)["old"] == "is 2.0.9, but >=2.1 is needed"
    assert problems(examination)["new"] == "is 4.0, but <4 is needed"
    assert any(problem.endswith("Run: pip install 'old>=2.1'") for problem in examination.problems)


def test_extra_that_lacks_a_package_is_told_with_its_command_and_is_no_problem(
    fakes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor.metadata, "requires", lambda _: ["nosuch>=3; extra == 'cluster'"])
    examination = examine(tmp_path / "run")
    (extra,) = examination.extras
    assert (extra.name, extra.missing, extra.command) == ("cluster", ("nosuch",), "pip install 'fer-cli[cluster]'")
    assert "nosuch" not in " ".join(examination.problems)


def test_extras_that_only_developers_need_are_not_listed(
    fakes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared = [f"nosuch>=3; extra == '{name}'" for name in ("dev", "test", "volumes")]
    monkeypatch.setattr(doctor.metadata, "requires", lambda _: declared)
    examination = examine(tmp_path / "run")
    assert [extra.name for extra in examination.extras] == ["volumes"]


def test_folder_that_cannot_be_written_is_a_problem_and_none_is_made(
    fakes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(monkeypatch)
    run, temporary = examine(tmp_path / "some" / "run").disks
    assert (run.problem, temporary.problem) == (None, None)
    assert run.free is not None
    assert run.free > 0
    assert not (tmp_path / "some").exists()
    run, _ = examine(Path("/proc/run")).disks
    assert run.free is None
    assert re.fullmatch(r"files cannot be written to /proc: .+\.", str(run.problem))


def test_lines_tell_problems_in_place_of_the_closing_word(
    fakes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(monkeypatch)
    examination = examine(tmp_path)
    values = vars(examination) | {"libraries": (Library("h5py", ">=3", None, "is not installed"),)}
    sound, ill = (Examination(**values | {"problems": found}) for found in ((), ("h5py is not installed",)))
    assert list(examination_lines(sound))[-1] == "All that fer needs works."
    assert "problem   h5py is not installed" in list(examination_lines(ill))
    assert "All that fer needs works." not in list(examination_lines(ill))
    assert "libraries h5py missing" in list(examination_lines(ill))


def test_command_ends_with_the_code_of_the_error_and_prints_json_all_the_same(fakes: Path, tmp_path: Path) -> None:
    (fakes / "faiss.py").write_text("raise ImportError('no AVX2')\n")
    (fakes / "torch.py").write_text("raise ImportError('no libtorch')\n")
    (fakes / "pyvista.py").write_text("raise ImportError('no libGL')\n")
    completed = subprocess.run(
        [sys.executable, "-m", "fer_cli", "doctor", "--json"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert completed.returncode == ResourceError.exit_code
    said = json.loads(completed.stdout)
    assert {library["name"] for library in said["libraries"] if library["problem"]} >= {"faiss-cpu", "torch", "pyvista"}
    assert said["cpu"]["bfloat16"] is None
    assert re.fullmatch(r"fer: \d+ things that fer needs do not work; see the problems above\.\n", completed.stderr)


@pytest.mark.end_to_end
def test_all_works_where_the_tests_run(tmp_path: Path) -> None:
    completed = subprocess.run(
        [sys.executable, "-m", "fer_cli", "doctor", "--json"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert (completed.returncode, completed.stderr) == (0, "")
    said = json.loads(completed.stdout)
    assert said["problems"] == []
    assert said["drawing"]["window"].startswith("vtk")
    assert list(tmp_path.iterdir()) == []
