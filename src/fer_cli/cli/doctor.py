"""`fer doctor`: what of the machine and the installation fer needs, what of it works, and how to mend the rest.

Libraries are imported, and a picture is drawn, in processes of their own: a library built for another CPU or an OpenGL
driver that is broken ends a process instead of raising, or hangs, and VTK writes its complaints past Python. Only the
standard library and `packaging` are imported here, so that a broken installation can still be told of.
"""

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, TypedDict

from packaging.requirements import Requirement

from fer_cli import __version__
from fer_cli.cli.machine import Cpu, Disk, Memory, read_cpu, read_disk, read_memory, temporary_folder

PACKAGE = "fer-cli"
TIME_LIMIT = 60.0
"""Seconds that a process may take; a network file system without a cache can take ten for PyTorch."""
LITTLE_DISK = 2 * 10**9
"""Bytes below which the free disk is remarked upon: a run of ModelNet10 takes about one gigabyte with its scratch."""
NO_CACHE = (
    "compiled code cannot be kept, so that every command that reads shapes compiles anew, for some seconds. Set "
    "NUMBA_CACHE_DIR to a folder that can be written"
)
_MODULES = {
    "faiss-cpu": "faiss",
    "mapbox-earcut": "mapbox_earcut",
    "pillow": "PIL",
    "scikit-learn": "sklearn",
    "vtk": "vtkmodules.vtkCommonCore",
}
_DRAWN_WITH = ("pyvista", "vtk")
_FOR_DEVELOPERS = ("dev", "test")
"""Extras that using fer does not need."""


@dataclass(frozen=True)
class Library:
    """A package that fer uses: required and installed version, and the problem (None if there is none)."""

    name: str
    needs: str
    version: str | None
    problem: str | None


@dataclass(frozen=True)
class Extra:
    """An optional part of fer: its missing packages, and the command that installs them."""

    name: str
    missing: tuple[str, ...]
    command: str


@dataclass(frozen=True)
class Drawing:
    """Whether pictures can be drawn off-screen: VTK's kind of window, OpenGL's renderer, or the problem."""

    window: str | None
    renderer: str | None
    problem: str | None


@dataclass(frozen=True)
class Examination:
    """All findings; `problems` keep fer from working, `remarks` do not."""

    fer: str
    python: str
    platform: str
    cpu: Cpu
    memory: Memory
    gpus: tuple[str, ...]
    libraries: tuple[Library, ...]
    extras: tuple[Extra, ...]
    drawing: Drawing
    disks: tuple[Disk, ...]
    problems: tuple[str, ...] = field(default=())
    remarks: tuple[str, ...] = field(default=())


class Answer(TypedDict, total=False):
    """A line from another process: of a module its problem, PyTorch's devices, Numba's cache; or a `Drawing`."""

    module: str
    problem: str | None
    bfloat16: bool
    gpus: list[str]
    keeps_code: bool
    window: str | None
    renderer: str | None


def examine(run: Path) -> Examination:
    """Try everything that fer needs to work on the run folder `run`, which need not exist and is not made."""
    needed, extras = _requirements()
    needed.append(Requirement("vtk"))  # which PyVista brings, and pictures hang on
    modules = {requirement.name: _MODULES.get(requirement.name, requirement.name) for requirement in needed}
    drawn_with = [module for name, module in modules.items() if name in _DRAWN_WITH]
    others = [module for name, module in modules.items() if name not in _DRAWN_WITH]
    with _begin("draw", *drawn_with) as drawing:
        disks = (read_disk("the run", run), read_disk("temporary files", temporary_folder()))
        answers = _import_elsewhere(others)
        drawn, ending = _finish(drawing)
    answers |= {answer["module"]: answer for answer in drawn if "module" in answer}
    torch = answers.get("torch", {})
    libraries = [_library(requirement, answers.get(modules[requirement.name]), ending) for requirement in needed]
    examination = Examination(
        fer=__version__,
        python=platform.python_version(),
        platform=platform.platform(),
        cpu=read_cpu(torch.get("bfloat16")),
        memory=read_memory(),
        gpus=tuple(torch.get("gpus", ())),
        libraries=tuple(libraries),
        extras=tuple(_extra(name, requirements) for name, requirements in extras.items()),
        drawing=_drawing(drawn, ending),
        disks=disks,
    )
    remarks = _remarks(examination)
    if answers.get("numba", {}).get("keeps_code") is False:
        remarks += (NO_CACHE,)
    return Examination(**{**vars(examination), "problems": _problems(examination), "remarks": remarks})


def examination_lines(examination: Examination) -> Iterator[str]:
    """The examination for the terminal, a line a fact; problems and remarks last."""
    cpu, memory = examination.cpu, examination.memory
    yield f"fer {examination.fer}, Python {examination.python}, {examination.platform}"
    features = " ".join(name for name, there in cpu.features.items() if there) or "none known"
    bfloat16 = {True: "bfloat16", False: "float32", None: "unknown"}[cpu.bfloat16]
    yield f"CPU       {cpu.model}, {cpu.usable_cores} of {cpu.cores} cores usable; {features}; training in {bfloat16}"
    limit = f", {_size(memory.limit)} allowed to this container" if memory.limit is not None else ""
    yield f"memory    {_size(memory.available)} available of {_size(memory.total)}{limit}"
    yield f"GPU       {', '.join(examination.gpus) or 'none that PyTorch can use'}"
    drawing = examination.drawing
    yield f"drawing   {drawing.problem or f'off-screen by {drawing.window}, {drawing.renderer}'}"
    for disk in examination.disks:
        yield f"disk      {_size(disk.free)} free for {disk.use} in {disk.folder}"
    versions = (f"{library.name} {library.version or 'missing'}" for library in examination.libraries)
    yield f"libraries {', '.join(versions)}"
    for extra in examination.extras:
        state = f"lacks {', '.join(extra.missing)}: {extra.command}" if extra.missing else "installed"
        yield f"extra     {extra.name}: {state}"
    yield from (f"problem   {problem}" for problem in examination.problems)
    yield from (f"remark    {remark}" for remark in examination.remarks)
    if not examination.problems:
        yield "All that fer needs works."


# What runs in processes of their own


def import_libraries(modules: Iterable[str]) -> Iterator[Answer]:
    """Import each module; report its problem, if any, PyTorch's devices, and whether Numba has a cache."""
    for module in modules:
        try:
            imported = import_module(module)
            facts = _FACTS[module](imported) if module in _FACTS else Answer()
            yield {"module": module, "problem": None, **facts}
        except Exception as error:  # whatever a broken installation raises
            yield {"module": module, "problem": f"{type(error).__name__}: {error}"}


def draw_once() -> Answer:
    """Draw a small picture off-screen, and tell by what."""
    try:
        from fer_cli.pictures.render import try_drawing

        window, renderer = try_drawing()
    except Exception as error:  # whatever a broken installation raises
        return {"window": None, "renderer": None, "problem": f"{error or type(error).__name__}"}
    return {"window": window, "renderer": renderer, "problem": None}


def answer_in_lines(task: str, *modules: str) -> None:
    """Import the modules, then draw if that is the task; stdout gets a line of JSON for each answer alone."""
    # What libraries print, in C as in Python, must not mix with the answers.
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        for answer in import_libraries(modules):
            print(json.dumps(answer), file=answers, flush=True)
        if task == "draw":
            print(json.dumps(draw_once()), file=answers, flush=True)


def _compute_facts(torch: Any) -> Answer:
    gpus = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    return {
        "bfloat16": bool(gpus) or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()),
        "gpus": [f"{gpu.name}, {_size(gpu.total_memory)}" for gpu in gpus],
    }


def _cache_facts(_: Any) -> Answer:
    from fer_cli.data.formats.compiling import compiled, has_cache

    return {"keeps_code": has_cache(compiled)}


_FACTS = {"torch": _compute_facts, "numba": _cache_facts}


def _begin(task: str, *modules: str) -> subprocess.Popen[str]:
    program = "import sys; from fer_cli.cli.doctor import answer_in_lines; answer_in_lines(*sys.argv[1:])"
    return subprocess.Popen(
        [sys.executable, "-c", program, task, *modules],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def _finish(process: subprocess.Popen[str]) -> tuple[list[Answer], str | None]:
    """A process's answers, and what became of it if it did not come to its end."""
    ending: str | None
    try:
        said, _ = process.communicate(timeout=TIME_LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        said, _ = process.communicate()
        ending = f"was not done within {TIME_LIMIT:.0f} s"
    else:
        code = process.returncode
        ending = None if code == 0 else f"ended its process {f'by signal {-code}' if code < 0 else f'with code {code}'}"
    return [json.loads(line) for line in said.splitlines() if line.endswith("}")], ending


def _import_elsewhere(modules: Sequence[str]) -> dict[str, Answer]:
    """The answers for each module; after one that ended the process, the rest are tried in another."""
    answers: dict[str, Answer] = {}
    while left := [module for module in modules if module not in answers]:
        with _begin("import", *left) as importing:
            said, ending = _finish(importing)
        answers |= {answer["module"]: answer for answer in said}
        if len(said) < len(left):
            answers[left[len(said)]] = {"problem": f"importing it {ending}"}
    return answers


# What is made of it


def _requirements() -> tuple[list[Requirement], dict[str, list[Requirement]]]:
    """What the installed package declares that it needs, and what each extra does that is for users."""
    try:
        declared = [Requirement(text) for text in metadata.requires(PACKAGE) or ()]
    except metadata.PackageNotFoundError:
        return [], {}
    extras: dict[str, list[Requirement]] = {}
    needed = []
    for requirement in declared:
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            needed.append(requirement)
            continue
        for name in re.findall(r"extra == ['\"]([\w.-]+)['\"]", str(requirement.marker)):
            if name not in _FOR_DEVELOPERS:
                extras.setdefault(name, []).append(requirement)
    return needed, extras


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _unfit(requirement: Requirement) -> str | None:
    """The reason why the installed version does not satisfy the requirement, or None."""
    version = _version(requirement.name)
    if version is None:
        return "is not installed"
    if not requirement.specifier.contains(version, prereleases=True):
        return f"is {version}, but {requirement.specifier} is needed"
    return None


def _library(requirement: Requirement, answer: Answer | None, ending: str | None) -> Library:
    problem = _unfit(requirement)
    if problem is None and answer is None:
        problem = f"does not work: importing it {ending}"
    elif problem is None and answer is not None and answer["problem"]:
        problem = f"does not work: {answer['problem']}"
    return Library(requirement.name, str(requirement.specifier), _version(requirement.name), problem)


def _extra(name: str, requirements: Sequence[Requirement]) -> Extra:
    missing = tuple(requirement.name for requirement in requirements if _unfit(requirement))
    return Extra(name, missing, f"pip install '{PACKAGE}[{name}]'")


def _drawing(answers: Sequence[Answer], ending: str | None) -> Drawing:
    if answers and "window" in (last := answers[-1]):
        return Drawing(last["window"], last["renderer"], last["problem"])
    return Drawing(None, None, f"drawing {ending}.")


def _problems(examination: Examination) -> tuple[str, ...]:
    problems = [
        f"{library.name} {library.problem}. Run: pip install '{library.name}{library.needs}'"
        for library in examination.libraries
        if library.problem
    ]
    if _version(PACKAGE) is None:
        problems.append(f"{PACKAGE} is not installed, so that nothing tells what it needs. Run: pip install .")
    if examination.drawing.problem:
        problems.append(f"no pictures: {examination.drawing.problem} fer explain --no-images does without.")
    problems += [f"{disk.folder}: {disk.problem}" for disk in examination.disks if disk.problem]
    return tuple(problems)


def _remarks(examination: Examination) -> tuple[str, ...]:
    remarks = [
        f"only {_size(disk.free)} are free for {disk.use} in {disk.folder}"
        for disk in examination.disks
        if disk.free is not None and disk.free < LITTLE_DISK
    ]
    if examination.cpu.bfloat16 is False:
        remarks.append("neither GPU nor CPU has bfloat16: training computes in float32, which takes longer")
    return tuple(remarks)


def _size(number: int | None) -> str:
    return "an unknown amount" if number is None else f"{number / 1e9:.1f} GB"
