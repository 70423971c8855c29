"""How-tos for networks of one's own, run as a reader does: `pip install`, every block in its order, to the report.

Each page is run in a folder of its own, by a fresh environment with fer as pip installs it. The dependencies are those
of the tests, so that nothing large is downloaded. One page is run as it stands; for the others, fer is installed once,
and its commands are forks of a process of that environment.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from forks import write_program

ROOT = Path(__file__).parents[1]
HOWTO = ROOT / "docs" / "howto"
PAGES = {
    "attach-script.md": ("test_00000", "bar", ()),
    "attach-monai.md": ("case_100", "hollow", ("monai",)),
    "attach-lightning.md": ("test_00000", "bar", ("pytorch_lightning",)),
    "attach-pt2.md": ("test_00000", "bar", ("monai",)),
    "medical.md": ("hippocampus_040_anterior", "posterior", ("monai",)),
}
"""By page: the sample that it explains, its label, and the packages without which the page cannot be run."""
AS_IT_STANDS = "attach-script.md"
INSTALLED = "fer-cli"
"""What pip is asked for in place of the checkout where it is installed already."""


def blocks(page: Path) -> list[tuple[str, str]]:
    """Kind and text of the blocks of a page, in their order."""
    return re.findall(r"^```(sh|python)\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def as_script(page: Path) -> str:
    """What a reader types: shell blocks as they are, Python blocks into the file that their first line names."""
    parts = []
    for kind, text in blocks(page):
        if kind == "python":
            named = re.match(r"# (\w+\.py)\n", text)
            assert named, f"{page.name} has a Python block that does not say where it goes"
            text = f"cat > {named[1]} <<'END OF FILE'\n{text}END OF FILE\n"
        parts.append(text)
    return "".join(parts)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Programs of a fresh environment without fer, that finds other packages where these tests do."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, symlinks=True, with_pip=True)
    (library,) = folder.glob("lib/python*/site-packages")
    # .pth files in those places are not followed, so that an editable install of fer is not found.
    for old in library.glob("setuptools*"):  # too old for torch, so that pip would ask the network for another
        shutil.rmtree(old)
    places = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (library / "dependencies.pth").write_text("".join(f"{place}\n" for place in places))
    return folder / "bin"


@pytest.fixture(scope="module")
def installed(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where shells find the programs of that environment with fer installed, whose commands are forks."""
    folder = tmp_path_factory.mktemp("forked")
    done = run_as_reader(f"pip install {ROOT}", str(programs), folder)
    assert done.returncode == 0, done.stdout + done.stderr
    write_program(folder / "fer", str(programs / "python"))
    return f"{folder}:{programs}"


def run_as_reader(script: str, programs: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A script in a folder, with nothing that points at the source."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV", "FER_RUN")}
    named = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "XDG_CONFIG_HOME": str(folder / "config"),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=inherited | named,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=900,
    )


@pytest.mark.parametrize("page", PAGES)
def test_every_package_that_a_page_imports_is_installed_by_the_page(page: str) -> None:
    (install,) = (line for kind, text in blocks(HOWTO / page) for line in text.splitlines() if "pip install" in line)
    words = install.partition("#")[0].replace('"', "").split()
    assert words[:3] == ["pip", "install", "./fer"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    tested = {canonicalize_name(Requirement(text).name) for text in project["optional-dependencies"]["test"]}
    named = {canonicalize_name(Requirement(word).name) for word in words[3:]}
    assert named <= tested, f"the tests do not install {named - tested}"
    known = named | {canonicalize_name(Requirement(text).name) for text in project["dependencies"]} | {"fer-cli"}
    code = [ast.parse(text) for kind, text in blocks(HOWTO / page) if kind == "python"]
    nodes = [node for tree in code for node in ast.walk(tree)]
    imported = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    imported |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    own = {match.removesuffix(".py") for match in re.findall(r"^# (\w+\.py)$", as_script(HOWTO / page), re.MULTILINE)}
    for module in {name.partition(".")[0] for name in imported} - sys.stdlib_module_names - own:
        found = {canonicalize_name(name) for name in packages_distributions().get(module, [module])}
        assert found & known, f"{page} imports {module}, which its pip install does not bring"


@pytest.mark.end_to_end
@pytest.mark.parametrize("page", PAGES)
def test_a_page_leads_from_pip_install_to_a_report(page: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    sample, label, needed = PAGES[page]
    for package in needed:
        pytest.importorskip(package, reason=f"{package} is not installed: pip install '.[test]'")
    script = as_script(HOWTO / page)
    if page == AS_IT_STANDS:
        programs = str(request.getfixturevalue("programs"))
        (tmp_path / "fer").symlink_to(ROOT, target_is_directory=True)
    else:
        programs = request.getfixturevalue("installed")
        script = script.replace("pip install ./fer", f"pip install {INSTALLED}")
    if page == "medical.md":
        archive = request.getfixturevalue("shared_data") / "msd-hippocampus-nifti-24.zip"
        shutil.unpack_archive(archive, tmp_path / "hippocampus")
    done = run_as_reader(script, programs, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(rf"^{sample}\b.*misclassified", done.stdout, re.MULTILINE)
    assert re.search(rf"\bAn? {label} taken for an? ", " ".join(done.stdout.split()))
    if page == "medical.md":
        assert "correlation with the scan 1.0" in done.stdout
        written = {path.name for path in (tmp_path / "my-run/explain" / sample / "nifti").iterdir()}
        assert {"blame.nii.gz", "fields.json", "input.nii.gz", "reconstruction-layer2.nii.gz"} <= written
        return
    report = (tmp_path / "why.html").read_text(encoding="utf-8")
    assert report.startswith("<!DOCTYPE html>")
    assert sample in report
    assert not list(tmp_path.glob("*-run/explain"))
    if page == "attach-lightning.md":
        _objects_are_refused_until_converted(programs, tmp_path)


def _objects_are_refused_until_converted(programs: str, folder: Path) -> None:
    """A checkpoint with a path among its hyperparameters is refused until the page's command has converted it."""
    script = as_script(HOWTO / "attach-lightning.md").splitlines(keepends=True)
    attach, convert, again = (line for line in script if line.startswith(("fer attach", "python -c")))
    path = folder / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["hyper_parameters"]["width"] == 8
    checkpoint["hyper_parameters"]["folder"] = folder
    torch.save(checkpoint, path)
    (folder / "weights.pt").unlink()
    refused = run_as_reader(attach, programs, folder)
    assert refused.returncode == 3
    assert "checkpoints/last.ckpt holds more than tensors, and reading that could run code" in refused.stderr
    command = convert.partition("import torch; ")[2].rstrip('"\n')
    assert command in refused.stderr, "the page converts in another way than the message says"
    converted = run_as_reader(convert + again, programs, folder)
    assert converted.returncode == 0, converted.stderr
