"""What people install: wheel and sdist hold all that is needed, declare what was tested, and run away from the source.

The wheel is installed by itself into a fresh environment that finds the dependencies where the tests do: a second
download of PyTorch would show nothing more. `make` installs those dependencies by constraints.txt.
"""

import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "fer_cli"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
UNTESTED_LOWEST = {"torch"}


def declared(*extras: str) -> dict[str, Requirement]:
    """What the project needs by name, with that of some extras; of extras that name it itself, nothing."""
    texts = [*PROJECT["dependencies"], *(text for name in extras for text in PROJECT["optional-dependencies"][name])]
    requirements = {text: Requirement(text) for text in texts}
    return {each.name: each for each in requirements.values() if each.name != PROJECT["name"]}


def pinned(file: str) -> dict[str, Version]:
    """Versions of a constraints file by name."""
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    return {name: Version(version) for name, _, version in (line.partition("==") for line in lines if "==" in line)}


# Bounds


def test_every_dependency_is_pinned_for_the_tests_within_its_bounds() -> None:
    pins = pinned("constraints.txt")
    for name, requirement in declared("test", "dev").items():
        assert name in pins, f"constraints.txt does not pin {name}"
        assert requirement.specifier.contains(pins[name]), f"constraints.txt has {name} {pins[name]}, not {requirement}"


def test_lowest_constraints_are_the_lower_bounds() -> None:
    pins = pinned("constraints-lowest.txt")
    needed = declared("test")
    assert set(pins) == set(needed)
    for name, requirement in needed.items():
        (lowest,) = (Version(bound.version) for bound in requirement.specifier if bound.operator == ">=")
        if name in UNTESTED_LOWEST:
            assert pins[name] >= lowest
        else:
            assert pins[name] == lowest, f"constraints-lowest.txt has {name} {pins[name]}, not {lowest}"


def test_python_versions_are_those_of_the_classifiers() -> None:
    named = [text.rpartition(" ")[2] for text in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d+$", text)]
    assert named == ["3.11", "3.12", "3.13"]
    assert PROJECT["requires-python"] == f">={named[0]}"


# Wheel and sdist


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the sdist, and the wheel that was built from it."""
    pytest.importorskip("build", reason="build is not installed: pip install '.[test]'")
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--outdir", folder, ROOT], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs' folder of a fresh environment with the wheel alone, that finds its dependencies where we do."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, symlinks=True)
    (wheel,) = built.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", wheel], check=True)
    (library,) = folder.glob("lib/python*/site-packages")
    # A path in a .pth file comes after the environment's own packages; .pth files in that place are not followed.
    places = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (library / "dependencies.pth").write_text("".join(f"{place}\n" for place in places))
    return folder / "bin"


# `fer demo` with fewer shapes, epochs and codes: what is asked is whether the wheel holds all that it needs.
SMALL_DEMO = """
from functools import partial
from fer_cli.cli import app, demo
demo.PER_CLASS_TRAIN, demo.PER_CLASS_TEST, demo.DEMO_K = 4, 3, (2,) * 7
demo.preset_settings = partial(demo.preset_settings, epochs=3, feedback_epochs=1)
app.main()
"""


def run_installed(programs: Path, program: str, *arguments: str, folder: Path) -> str:
    """Standard output of an installed program in `folder`, where nothing points at the source."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    completed = subprocess.run(
        [programs / program, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    assert completed.returncode == 0, completed.stderr + completed.stdout
    return completed.stdout


def package_files() -> Iterator[str]:
    """Every file of the package, as the wheel names it."""
    for path in PACKAGE.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path.relative_to(PACKAGE.parent).as_posix()


@pytest.mark.end_to_end
def test_wheel_holds_the_whole_package_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        (licence,) = (name for name in archive.namelist() if name.endswith("/licenses/LICENSE"))
        assert archive.read(licence) == (ROOT / "LICENSE").read_bytes()
    assert names == set(package_files())
    assert {"fer_cli/py.typed", "fer_cli/reports/templates/report.html.j2"} <= names


@pytest.mark.end_to_end
def test_sdist_holds_what_building_testing_and_the_site_need(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"src/{name}" for name in package_files()} <= names
    for file in (
        "Makefile",
        "constraints.txt",
        "constraints-lowest.txt",
        "mkdocs.yml",
        "docs/cli.md",
        "tests/conftest.py",
    ):
        assert file in names, f"the sdist lacks {file}"


@pytest.mark.end_to_end
def test_installed_wheel_finds_all_it_needs(installed: Path, tmp_path: Path) -> None:
    said = json.loads(run_installed(installed, "fer", "doctor", "--json", folder=tmp_path))
    assert said["problems"] == []
    needed = {library["name"]: library["needs"] for library in said["libraries"]}
    assert needed == {name: str(each.specifier) for name, each in declared().items()} | {"vtk": ""}
    assert {extra["name"] for extra in said["extras"]} == set(PROJECT["optional-dependencies"]) - {"dev", "test"}


@pytest.mark.end_to_end
def test_installed_wheel_runs_the_demo_to_the_report_of_a_mistake(installed: Path, tmp_path: Path) -> None:
    words = ("-c", SMALL_DEMO, "demo", "--run", "fer-demo")
    *_, last = run_installed(installed, "python", *words, folder=tmp_path).splitlines()
    found = re.fullmatch(r"(\w+) taken for (\w+); report: (.+)", last)
    assert found, last
    label, predicted, report = found.groups()
    assert label != predicted
    assert {label, predicted} <= {path.name for path in (tmp_path / "fer-demo" / "meshes").iterdir()}
    assert Path(report).is_absolute()
    assert Path(report).is_file()
    assert {"voxels.h5", "model.h5", "codebook.h5"} <= {path.name for path in (tmp_path / "fer-demo").iterdir()}
