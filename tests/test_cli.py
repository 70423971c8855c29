"""The real command line in processes: help, refusals with their exit codes, interrupts.

Processes are forked from one that has imported what they need, since importing takes seconds; Python starts anew where
that is in question. Commands that are refused all work on one run; what lies on disk is compared before and after.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import typer
from scipy.io import savemat

from fer_cli.cli.app import app
from fer_cli.data.synthetic import write_collection
from fer_cli.data.voxelize import VoxelSettings, voxelize_source
from fer_cli.network.training import preset_settings
from fer_cli.storage.artifact import open_artifact
from fer_cli.storage.history import read_history
from fer_cli.storage.run_paths import RunPaths
from fer_cli.storage.schema import CHECKPOINT, CODEBOOK, MODEL, VOXELS
from forks import Outcome, fer, forked

pytestmark = pytest.mark.end_to_end

FER = [sys.executable, "-m", "fer_cli"]
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
HEAVY = ("torch", "numpy", "h5py", "faiss", "sklearn", "numba", "pyvista", "vtkmodules")
SAMPLE = "bathtub_0005"
K = "2,2,2,2,2,2,2"
THIRTY_TWO = VoxelSettings()


def contents(folder: Path) -> dict[str, str]:
    """Digest of every file below `folder`, hidden ones included."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def only_line(stderr: str) -> str:
    """The one line on stderr, which names the program."""
    assert re.fullmatch(r"fer: [^\n]+\n", stderr), stderr
    return stderr.strip()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, run_paths: RunPaths) -> Path:
    """A folder with a run of the smoke network in `run`, the tiny run in `other`, and all kinds of bad input."""
    folder = tmp_path_factory.mktemp("cli")
    write_collection(folder / "meshes", per_class_train=3, per_class_test=17, seed=0)
    paths = RunPaths.in_folder(folder / "run")
    stages = ("voxelize meshes", "train --preset smoke --epochs 1 --feedback-epochs 1", f"cluster --k {K}")
    ended = forked([stage.split() for stage in stages], folder=folder, FER_RUN="run")  # here every call is checked
    assert [outcome.stderr for outcome in ended if outcome.code] == []
    last = [outcome.stdout.splitlines()[-1] for outcome in ended]
    assert last == [f"Next: fer {stage} --run run" for stage in ("train", "cluster", "evaluate")]
    (folder / "other").mkdir()
    for path in (run_paths.voxels, run_paths.model, run_paths.codebook, run_paths.calibration):
        shutil.copy(path, folder / "other")
    _write_bad_shapes(folder)
    _write_bad_artifacts(folder, paths)
    return folder


def _write_bad_shapes(folder: Path) -> None:
    (folder / "empty").mkdir()
    (folder / "notes").mkdir()
    (folder / "notes" / "readme.txt").write_text("no shape")
    bad = folder / "bad"
    bad.mkdir()
    mesh = (folder / "meshes/chair/train/chair_0001.off").read_bytes()
    binvox = b"#binvox 1\ndim 4 4 4\ntranslate 0 0 0\nscale 1\ndata\n" + bytes([1, 64])
    savemat(bad / "whole.mat", {"instance": np.ones((4, 4, 4), np.int8)}, do_compression=True)
    mat = (bad / "whole.mat").read_bytes()
    (bad / "whole.mat").unlink()
    for suffix, whole in ((".off", mesh), (".binvox", binvox), (".mat", mat)):
        (bad / f"truncated{suffix}").write_bytes(whole[: len(whole) - 1] if suffix == ".binvox" else whole[:-40])
        (bad / f"garbage{suffix}").write_bytes(bytes(range(256)) * 4)
    np.save(bad / "small.npy", np.ones((30, 30, 30), np.uint8))
    np.save(bad / "empty.npy", np.zeros((32, 32, 32), np.uint8))
    (bad / "empty.off").write_text("OFF\n0 0 0\n")
    for split in ("train", "test"):
        (folder / "mixed/chair" / split).mkdir(parents=True)
        (folder / "mixed/chair" / split / f"chair_{split}.off").write_bytes(mesh)
    (folder / "mixed/chair/train/chair_broken.off").write_bytes(mesh[:-40])


def _write_bad_artifacts(folder: Path, paths: RunPaths) -> None:
    damaged = folder / "damaged"
    damaged.mkdir()
    for path in (paths.voxels, paths.model, paths.codebook):
        whole = path.read_bytes()
        (damaged / f"truncated-{path.name}").write_bytes(whole[: len(whole) // 2])
    (damaged / "garbage.h5").write_bytes(bytes(range(256)) * 4)
    flipped = bytearray(paths.voxels.read_bytes())
    with open_artifact(paths.voxels) as artifact:
        # HDF5 keeps chunks in one piece, so that a long run of the file's middle is occupancy.
        assert artifact.shape("occupancy")[0] == 200
    middle = len(flipped) // 2
    flipped[middle] ^= 0xFF
    (damaged / "flipped.h5").write_bytes(bytes(flipped))

    def voxels(name: str, classes: Mapping[str, tuple[str, ...]], settings: VoxelSettings = THIRTY_TWO) -> None:
        for class_name, splits in classes.items():
            for split in splits:
                shutil.copytree(folder / "meshes" / class_name / split, folder / name / "meshes" / class_name / split)
        voxelize_source(folder / name / "meshes", folder / name / "voxels.h5", settings, workers=1)

    voxels("untrained", {"bed": ("train", "test"), "chair": ("test",)})
    voxels("nothing-to-train", {"bed": ("test",), "chair": ("test",)})
    voxels("single", {"bed": ("train", "test")})
    voxels("odd", {"bed": ("train",), "chair": ("train",)}, VoxelSettings(resolution=40))


@dataclass(frozen=True)
class Refusal:
    """A command that has to be refused: its exit code, and what its one line has to say."""

    name: str
    command: str
    code: int
    says: str


ID = "[0-9a-f]{12}"
REFUSALS = (
    # the command line itself
    Refusal("unknown command", "trian", 2, r"No such command 'trian'\. Did you mean 'train'\? Try 'fer --help'\."),
    Refusal("unknown option", "train --bogus", 2, r"No such option: --bogus\. Try 'fer train --help'"),
    Refusal("missing argument", "explain", 2, r"Missing argument 'SAMPLE', or --errors"),
    Refusal("errors of a sample", f"explain {SAMPLE} --errors", 2, r"--errors finds the samples .* give no SAMPLE"),
    Refusal(
        "errors of no split", "explain --errors --split new --no-images", 2, r"is not one of 'train', 'val', 'test'"
    ),
    Refusal("missing option", f"probe {SAMPLE}", 2, r"Missing option '--layer'\. Try 'fer probe --help'"),
    Refusal("value out of range", "train -o new.h5 --epochs 0", 2, r"'--epochs'.* greater than or equal to 1"),
    Refusal("k is no list of numbers", "cluster -o new.h5 --k 8,many", 2, r"--k takes whole numbers.*'8,many'"),
    Refusal("k too short", "cluster -o new.h5 --k 8,8", 2, r"--k names 2 numbers, but the network has 7 layers"),
    Refusal(
        "k beyond the samples", "cluster -o new.h5 --k 60,2,2,2,2,2,2", 2, r"conv1 cannot have 60 codes.*\(20\).*--k"
    ),
    Refusal("memory is no size", "cluster -o new.h5 --memory lots", 2, r"--memory takes a size such as .*'lots'"),
    Refusal("memory too small", f"cluster -o new.h5 --k {K} --memory 1KB", 2, r"more than --memory allows"),
    Refusal("location is no triple", f"probe {SAMPLE} --layer conv3 --location 1,2", 2, r"--location takes x,y,z.*1,2"),
    Refusal("location outside", f"probe {SAMPLE} --layer conv3 --location 0,4,0", 2, r"0,4,0 lies outside.*4×4×4"),
    Refusal("location below zero", f"probe {SAMPLE} --layer conv3 --location=0,0,-1", 2, r"0,0,-1 lies outside conv3"),
    Refusal("unknown layer", f"probe {SAMPLE} --layer conv9", 2, r"no layer 'conv9'; .*conv1, conv2, .*fc7"),
    Refusal(
        "unknown filling", f"probe {SAMPLE} --layer conv3 --by shape", 2, r"'shape' is not one of 'feature', 'centroid'"
    ),
    Refusal(
        "code without centroid", f"probe {SAMPLE} --layer conv3 --code 1", 2, r"--code names a centroid: .*--by cent"
    ),
    Refusal(
        "code out of range",
        f"probe {SAMPLE} --layer conv3 --by centroid --code 2",
        2,
        r"conv3 has the codes 0 to 1 at 0,0,0, not 2\.",
    ),
    Refusal(
        "code of all locations",
        f"probe {SAMPLE} --layer conv3 --by centroid --code 1 --all-locations",
        2,
        r"--code is for",
    ),
    Refusal(
        "one and all locations",
        f"probe {SAMPLE} --layer conv3 --location 1,1,1 --all-locations",
        2,
        r"--all-locations and --location exclude one another",
    ),
    Refusal("too many locations", f"probe {SAMPLE} --layer conv1 --all-locations", 2, r"4096 locations, .*--slices 8"),
    Refusal(
        "slice outside", f"probe {SAMPLE} --layer conv3 --all-locations --slices 3,4", 2, r"slices 0 to 3, not 4\."
    ),
    Refusal("slice of one location", f"probe {SAMPLE} --layer conv3 --slices 1", 2, r"--slices is for --all-locations"),
    Refusal(
        "centroids of another model",
        f"probe {SAMPLE} --layer conv3 --by centroid --codebook other/codebook.h5",
        4,
        rf"codebook\.h5 was made from model {ID}, but run/model\.h5 is {ID}\. Run 'fer cluster --force'",
    ),
    Refusal("unknown local layer", f"explain {SAMPLE} --local-layer conv9", 2, r"no layer 'conv9'"),
    Refusal("unknown label", f"explain {SAMPLE} --label bathtube", 2, r"no class 'bathtube'; near: bathtub"),
    Refusal("unknown preset", "train -o new.h5 --preset huge", 2, r"'huge' is not one of 'paper', 'compact', 'smoke'"),
    Refusal("no label left", "train -o new.h5 --label-smoothing 1", 2, r"a share from 0 to below 1, not 1"),
    Refusal("no learning rate", "train -o new.h5 --learning-rate 0", 2, r"a learning rate is a number above 0, not 0"),
    Refusal("former name", "train -o new.h5 --feedback-rate 0", 2, r"a learning rate is a number above 0, not 0"),
    Refusal(
        "former name of an option of attach",
        "attach nets.py:build --feedback-rate high",
        2,
        r"Invalid value for '--feedback-learning-rate'",
    ),
    Refusal(
        "learning rate of a classifier that is kept",
        "train -o new.h5 --encoder run/model.h5 --learning-rate 0.001",
        2,
        r"--learning-rate trains a classifier, but --encoder brings one",
    ),
    Refusal(
        "another preset than the encoder's",
        "train -o new.h5 --encoder run/model.h5 --preset paper",
        2,
        r"the classifier of run/model\.h5 is of preset smoke, not paper\. Leave --preset out",
    ),
    Refusal(
        "seed out of range",
        "train -o new.h5 --seed 4294967296",
        2,
        r"--seed.: Input should be less than or equal to 4294967295",
    ),
    Refusal("unknown split", "evaluate --split validation", 2, r"'validation' is not one of 'train', 'val', 'test'"),
    Refusal(
        "pooled runs of other shapes",
        "evaluate run other",
        2,
        r"different data sets cannot be pooled: .*run/voxels\.h5.*other/voxels\.h5",
    ),
    Refusal("a model for several runs", "evaluate run run --model run/model.h5", 2, r"of one run; give one RUN with"),
    Refusal(
        "unknown device", "train -o new.h5 --device abacus", 2, r"device 'abacus' cannot be used here\. Give auto, cpu"
    ),
    Refusal("device without arithmetic", "train -o new.h5 --device meta", 2, r"device 'meta' cannot be used here"),
    Refusal("resolution out of range", "voxelize meshes -o new.h5 --resolution 7", 2, r"resolution 7 .*8 to 128"),
    Refusal(
        "resolution the network cannot take", "train --run odd", 2, r"multiple of 32.*40³.*voxelize --resolution 32"
    ),
    # output
    Refusal("voxels exist", "voxelize meshes", 2, r"run/voxels\.h5 exists already\. .*--force"),
    Refusal("model exists", "train", 2, r"run/model\.h5 exists already\. .*--force"),
    Refusal("codebook exists", "cluster", 2, r"run/codebook\.h5 exists already\. .*--force"),
    Refusal("output without a name", "voxelize meshes -o .", 2, r"'\.' names no file"),
    Refusal("model over voxels", "train -o run/voxels.h5 --force", 2, r"run/voxels\.h5 is a file that the run reads"),
    Refusal("codebook over model", "cluster -o run/model.h5 --force", 2, r"run/model\.h5 is a file that the run reads"),
    Refusal("folder of no run", "info empty", 4, r"empty is no folder of a run: .*'fer voxelize SOURCE --run empty'"),
    Refusal("two files", "info run/voxels.h5 run/model.h5", 2, r"run/model\.h5 is one argument too many"),
    Refusal("sheet of a model", "info run/model.h5 --sheet", 4, r"fer-model file, but a fer-voxels"),
    Refusal("choice of no mistakes", f"explain {SAMPLE} --limit 3", 2, r"--pair, --cause and --limit choose among"),
    Refusal("pair of one class", "explain --errors --pair bed", 2, r"--pair takes TRUE,PREDICTED"),
    Refusal("pair of no class", "explain --errors --pair bed,sfoa", 2, r"no class 'sfoa'; near: sofa"),
    Refusal(
        "unknown cause", "explain --errors --cause bad", 2, r"'bad' is not one of 'label', 'overlap', 'gap', 'pose'"
    ),
    Refusal(
        "up of a sample of the run", f"explain {SAMPLE} --up y", 2, r"--up is for the file of a shape, but bathtub"
    ),
    Refusal("unknown axis", "voxelize meshes -o new.h5 --up w", 2, r"'w' is not one of 'x', 'y', 'z'"),
    Refusal("output is a folder", "voxelize meshes --force -o empty", 5, r"cannot write empty: Is a directory"),
    Refusal("output below a file", "voxelize meshes -o run/model.h5/new.h5", 5, r"cannot write run/model\.h5/new\.h5"),
    Refusal("output not writable", "cluster -o /proc/fer/new.h5", 5, r"cannot write /proc/fer/new\.h5"),
    Refusal("report not writable", f"explain {SAMPLE} -o run/model.h5/x", 5, r"cannot write .*run/model\.h5/x"),
    Refusal("probe not writable", f"probe {SAMPLE} --layer fc7 -o /proc/fer", 5, r"cannot write /proc/fer"),
    Refusal("evaluation not writable", "evaluate --split train -o run/model.h5/x", 5, r"cannot write run/model\.h5/x"),
    # input
    Refusal("no such source", "voxelize nowhere -o new.h5", 3, r"nowhere does not exist"),
    Refusal("empty folder", "voxelize empty -o new.h5", 3, r"empty holds no shape that fer reads"),
    Refusal("folder without shapes", "voxelize notes -o new.h5", 3, r"notes holds no shape .*\.off, \.obj, \.stl"),
    Refusal("not a shape", "voxelize notes/readme.txt -o new.h5", 3, r"readme\.txt is not a shape"),
    Refusal("no HDF5", "voxelize damaged/garbage.h5 -o new.h5", 3, r"garbage\.h5: not a readable HDF5 file"),
    Refusal("truncated OFF", "voxelize bad/truncated.off -o new.h5", 3, r"truncated\.off"),
    Refusal("garbage OFF", "voxelize bad/garbage.off -o new.h5", 3, r"garbage\.off: not an OFF file"),
    Refusal(
        "truncated binvox", "voxelize bad/truncated.binvox -o new.h5", 3, r"truncated\.binvox: the last run is cut"
    ),
    Refusal("garbage binvox", "explain bad/garbage.binvox", 3, r"garbage\.binvox: not a binvox file"),
    Refusal("truncated mat", "explain bad/truncated.mat", 3, r"truncated\.mat: not a readable MATLAB 5 file"),
    Refusal("garbage mat", "voxelize bad/garbage.mat -o new.h5", 3, r"garbage\.mat: not a readable MATLAB 5 file"),
    Refusal("sample is HDF5", "explain run/voxels.h5", 3, r"voxels\.h5: not a format that fer reads"),
    Refusal("strict", "voxelize mixed -o new.h5 --strict", 3, r"chair/train/chair_broken\.off: "),
    Refusal("sample of another resolution", "explain bad/small.npy", 3, r"30×30×30 voxels, but the network reads 32³"),
    Refusal("mesh with nothing in it", "explain bad/empty.off", 3, r"empty\.off: 0 vertices and 0 faces make no shape"),
    Refusal(
        "grid with nothing in it", "explain bad/empty.npy", 3, r"empty\.npy: not one of 32×32×32 voxels is occupied"
    ),
    Refusal("no such sample file", "explain nowhere.off", 3, r"nowhere\.off does not exist"),
    Refusal("no such sample", "explain bathtub_005", 3, r"no sample called 'bathtub_005'\. Near: .*bathtub_0005"),
    Refusal("class without training shape", "train --run untrained", 3, r"'chair' \(0\); at least two"),
    Refusal("no training shape at all", "train --run nothing-to-train", 3, r"'bed' \(0\); at least two"),
    Refusal("one class", "train --run single", 3, r"too few classes \(bed\); a classifier needs at least two"),
    # artifacts
    Refusal("no voxels", "train --run empty", 4, r"empty/voxels\.h5 does not exist\. Run 'fer voxelize' to make it\."),
    Refusal("no model", f"explain {SAMPLE} --run odd", 4, r"odd/model\.h5 does not exist\. Run 'fer train'"),
    Refusal("no codebook", "evaluate --codebook new.h5", 4, r"new\.h5 does not exist\. Run 'fer cluster'"),
    Refusal("a pooled run without model", "evaluate run odd", 4, r"odd/model\.h5 does not exist\. Run 'fer train'"),
    Refusal("artifact of another kind", "evaluate --codebook run/model.h5", 4, r"fer-model file, but a fer-codebook"),
    Refusal("truncated voxels", "train -o new.h5 --voxels damaged/truncated-voxels.h5", 4, r"truncated-voxels.*HDF5"),
    Refusal("truncated model", "cluster -o new.h5 --model damaged/truncated-model.h5", 4, r"truncated-model.*HDF5"),
    Refusal("truncated codebook", "evaluate --codebook damaged/truncated-codebook.h5", 4, r"truncated-codebook.*HDF5"),
    Refusal("garbage artifact", "info damaged/garbage.h5", 4, r"garbage\.h5 is not a readable HDF5 file"),
    Refusal("no such artifact", "info new.h5", 4, r"new\.h5 does not exist"),
    Refusal(
        "flipped bit", "train -o new.h5 --voxels damaged/flipped.h5", 4, r"flipped\.h5 is damaged: .*voxelize' again"
    ),
    Refusal(
        "codebook of another model",
        f"explain {SAMPLE} --codebook other/codebook.h5",
        4,
        rf"codebook\.h5 was made from model {ID}, but run/model\.h5 is {ID}\. Run 'fer cluster --force'",
    ),
    Refusal(
        "voxels of another model",
        "evaluate --voxels other/voxels.h5",
        4,
        rf"model\.h5 was made from voxels {ID}, but other/voxels\.h5 is {ID}\. Run 'fer train --force'",
    ),
    Refusal(
        "clustering another model's voxels",
        "cluster -o new.h5 --voxels other/voxels.h5",
        4,
        rf"model\.h5 was made from voxels {ID}, but other/voxels\.h5 is {ID}\.",
    ),
)


@dataclass(frozen=True)
class Refused:
    outcomes: dict[str, Outcome]
    before: dict[str, str]
    after: dict[str, str]


def test_info_finds_the_run_as_other_commands_do(place: Path) -> None:
    named, by_option, neither = forked([["info", "run"], ["info", "--run", "run"], ["info"]], folder=place)
    [by_environment] = forked([["info"]], folder=place, FER_RUN="run")
    assert named.code == 0
    assert named.stdout == by_option.stdout == by_environment.stdout
    assert neither.code == 2
    assert "name its file or folder" in neither.stderr


@pytest.fixture(scope="module")
def refused(place: Path) -> Refused:
    """Every refusal's outcome; the run is named by FER_RUN alone."""
    before = contents(place)
    commands = [case.command.split() for case in REFUSALS]
    ended = forked(commands, folder=place, FER_RUN="run")
    outcomes = {case.name: outcome for case, outcome in zip(REFUSALS, ended, strict=True)}
    return Refused(outcomes, before, contents(place))


@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: case.name)
def test_what_cannot_be_done_is_refused_in_one_line_with_its_exit_code(case: Refusal, refused: Refused) -> None:
    outcome = refused.outcomes[case.name]
    assert re.search(case.says, only_line(outcome.stderr)), outcome.stderr
    assert outcome.code == case.code
    assert outcome.stdout == ""


def test_refused_commands_leave_everything_on_disk_as_it_was(refused: Refused) -> None:
    assert refused.after == refused.before


def test_debugging_shows_the_traceback_before_the_line(place: Path) -> None:
    outcome = fer("voxelize", "nowhere", "-o", "new.h5", folder=place, FER_DEBUG="1")
    assert outcome.code == 3
    assert outcome.stderr.startswith("Traceback (most recent call last):")
    assert outcome.stderr.endswith("\nfer: nowhere does not exist.\n")


def test_a_damaged_shape_in_a_folder_is_skipped_counted_and_recorded(place: Path, tmp_path: Path) -> None:
    outcome = fer("voxelize", "mixed", "-o", tmp_path / "voxels.h5", folder=place)
    assert outcome.code == 0
    assert re.search(r"2 shapes in 1 classes, 1 skipped", outcome.stdout)
    assert re.search(r"^skipped chair/train/chair_broken\.off: ", outcome.stdout, re.MULTILINE)
    assert outcome.stderr == ""
    with open_artifact(tmp_path / "voxels.h5", VOXELS) as artifact:
        assert artifact.read_text("skipped/source") == ["chair/train/chair_broken.off"]


ODD = "chair \n\x1b[31m\udce9"
"""A line break, what a terminal obeys, and a byte that is not UTF-8."""


SHEET = "OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n"
BOX = (
    "OFF\n8 6 0\n0 0 0\n1 0 0\n0 1 0\n1 1 0\n0 0 1\n1 0 1\n0 1 1\n1 1 1\n"
    "4 0 2 3 1\n4 4 5 7 6\n4 0 1 5 4\n4 2 6 7 3\n4 0 4 6 2\n4 1 3 7 5\n"
)


@pytest.mark.parametrize("encoding", ["utf-8:strict", "ascii:strict"])
def test_odd_names_of_files_reach_the_user_whatever_the_encoding(encoding: str, tmp_path: Path) -> None:
    folder = tmp_path / "\udce9"
    folder.mkdir()
    (folder / f"{ODD}.off").write_text(SHEET)
    (folder / f"{ODD} bad.off").write_text("no mesh")

    commands = [
        ("voxelize", folder, "-o", "v.h5"),
        ("info", "v.h5"),
        ("voxelize", folder / f"{ODD}.off", "-o", "one.h5"),
        ("info", "one.h5"),
        ("voxelize", folder, "-o", "j.h5", "--json"),
        ("voxelize", folder, "-o", "s.h5", "--strict"),
    ]
    *told, as_json, strict = forked(commands, folder=tmp_path, PYTHONIOENCODING=encoding)
    assert [(outcome.code, outcome.stderr) for outcome in told] == [(0, "")] * 4
    assert [item["source"] for item in json.loads(as_json.stdout)["skipped"]] == ["chair \n\x1b[31m? bad.off"]
    assert strict.code == 3
    assert re.fullmatch(r"fer: chair \S+ bad\.off: not an OFF file; it begins with 'no mesh'\.\n", strict.stderr)
    assert "\x1b" not in strict.stderr


def test_shapes_that_enclose_nothing_are_named(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s/box.off").write_text(BOX)
    (tmp_path / "s/sheet.off").write_text(SHEET)
    solid = ("voxelize", "s", "-o", "solid.h5", "--fill", "solid", "--force")
    surface = ("voxelize", "s", "-o", "surface.h5", "--json")
    *answers, told = forked([(*solid, "--json"), surface, solid], folder=tmp_path)
    assert [json.loads(answer.stdout)["enclosing_nothing"] for answer in answers] == [["sheet"], None]
    assert "\n1 of 2 shapes enclose nothing: sheet\n" in told.stdout


# help


def test_fer_alone_shows_its_help_and_nothing_else(tmp_path: Path) -> None:
    outcome = subprocess.run(FER, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert outcome.returncode == 2
    assert re.search(r"Usage: .*\[OPTIONS\]", outcome.stdout)
    assert outcome.stderr == ""


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_of_a_command_fits_80_columns_and_has_an_example(name: str, tmp_path: Path) -> None:
    outcome = fer(name, "--help", folder=tmp_path, COLUMNS="80")
    assert outcome.code == 0
    options = {option for parameter in COMMANDS[name].params for option in parameter.opts if option.startswith("-")}
    assert options <= set(outcome.stdout.split())
    assert re.search(rf"^\s*Example: fer {name} ", outcome.stdout, re.MULTILINE)
    assert outcome.stderr == ""


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_argument_and_option_of_a_command_is_explained(name: str) -> None:
    command = COMMANDS[name]
    assert command.help
    assert not [parameter.name for parameter in command.params if not getattr(parameter, "help", None)]


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    outcome = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "fer_cli", "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in outcome.stderr.splitlines()}
    assert "fer_cli" in imported
    assert not imported & set(HEAVY)


def test_voxelizing_does_not_import_pytorch(tmp_path: Path) -> None:
    """Which takes seconds and memory, in the command itself and in each of its workers."""
    (tmp_path / "a.off").write_text("OFF\n3 1 0\n0 0 0\n4 0 0\n0 2 1\n3 0 1 2\n")
    command = [sys.executable, "-X", "importtime", "-m", "fer_cli", "voxelize", "a.off", "-o", "v.h5"]
    outcome = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip() for line in outcome.stderr.splitlines()}
    assert "fer_cli.data.batches" in imported
    assert "torch" not in imported


# pipes and signals


@pytest.mark.parametrize("command", ["info run/codebook.h5 --json", "info run/codebook.h5"])
def test_output_that_cannot_be_written_is_told_in_one_line(command: str, place: Path) -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [*FER, *command.split()], cwd=place, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (ended.returncode, only_line(ended.stderr)) == (5, "fer: cannot write to stdout: No space left on device.")


@pytest.mark.parametrize("form", [["--json"], []], ids=["json", "table"])
def test_a_reader_that_goes_away_is_no_error(form: list[str], place: Path) -> None:
    process = subprocess.Popen(
        [*FER, "info", "run/codebook.h5", *form], cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    process.wait(timeout=60)


Started = Callable[[subprocess.Popen[str]], bool]


def opened(path: Path) -> Started:
    """Whether the process has `path` open."""

    def is_open(process: subprocess.Popen[str]) -> bool:
        for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed since it was listed
                if descriptor.readlink() == path.resolve():
                    return True
        return False

    return is_open


def interrupted(arguments: str, number: signal.Signals, started: Started, *, folder: Path) -> tuple[int, str]:
    """Exit code and stderr of a command that gets a signal once it has `started`.

    Ctrl-C goes to the whole process group, as from a terminal; other signals to the command alone.
    """
    process = subprocess.Popen(
        [*FER, *arguments.split()],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    try:
        while not started(process):
            assert process.poll() is None, "the command ended before it could be interrupted"
            assert time.monotonic() < deadline, "the command did not start its work"
            time.sleep(0.005)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    return process.returncode, stderr


LAST_LINE = {
    signal.SIGINT: (130, "fer: interrupted; nothing half-written was left behind."),
    signal.SIGTERM: (143, "fer: terminated; nothing half-written was left behind."),
}
INTERRUPTED = {
    "evaluate": ("evaluate --run run", lambda folder: opened(folder / "run/codebook.h5")),
    "explain": (f"explain {SAMPLE} --run run", lambda folder: opened(folder / "run/codebook.h5")),
}


@pytest.fixture(scope="module")
def many(place: Path) -> Iterator[None]:
    """A source that takes a while: 1000 links to one mesh."""
    mesh = place / "meshes/sofa/train/sofa_0001.off"
    (place / "many/sofa/train").mkdir(parents=True)
    for i in range(1000):
        (place / f"many/sofa/train/sofa_{i:04}.off").hardlink_to(mesh)
    yield
    shutil.rmtree(place / "many")


@pytest.mark.parametrize("number", LAST_LINE, ids=lambda number: number.name)
def test_voxelize_goes_on_after_a_signal(number: signal.Signals, place: Path, many: None, tmp_path: Path) -> None:
    journal = tmp_path / ".v.h5.journal"
    outcome, stderr = interrupted(
        f"voxelize many -o {tmp_path / 'v.h5'}",
        number,
        lambda _: journal.exists() and journal.stat().st_size > 1000,
        folder=place,
    )
    code, line = LAST_LINE[number]
    kept = line.replace(
        "nothing half-written was left", "what was done is kept, and the same command goes on from there"
    )
    assert (outcome, only_line(stderr)) == (code, kept.replace(" behind.", "."))
    assert list(tmp_path.iterdir()) == [journal]
    answer = json.loads(fer("voxelize", "many", "-o", tmp_path / "v.h5", "--json", folder=place).stdout)
    assert answer["samples"] == 1000
    assert answer["resumed"] >= 16
    assert answer["duplicates"]["within_train"] == 999
    assert [path.name for path in tmp_path.iterdir()] == ["v.h5"]


@pytest.mark.parametrize("number", LAST_LINE, ids=lambda number: number.name)
def test_cluster_goes_on_after_a_signal(number: signal.Signals, place: Path, tmp_path: Path) -> None:
    journal = tmp_path / ".c.h5.journal"
    command = f"cluster --run run --k {K} -o {tmp_path / 'c.h5'}"
    outcome, stderr = interrupted(
        command, number, lambda _: journal.exists() and journal.stat().st_size > 1000, folder=place
    )
    code, line = LAST_LINE[number]
    kept = line.replace(
        "nothing half-written was left behind.", "what was done is kept, and the same command goes on from there."
    )
    assert (outcome, stderr.splitlines()[-1]) == (code, kept)
    assert list(tmp_path.iterdir()) == [journal]
    answer = json.loads(fer(*command.split(), "--json", folder=place).stdout)
    assert answer["resumed"] >= 1
    assert (tmp_path / "c.h5").read_bytes() == (place / "run/codebook.h5").read_bytes()
    assert (tmp_path / "c.calibration.h5").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.calibration.h5", "c.h5"]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="sees through /proc what a process has open")
@pytest.mark.parametrize("number", LAST_LINE, ids=lambda number: number.name)
@pytest.mark.parametrize("stage", INTERRUPTED)
def test_a_signal_ends_a_stage_and_leaves_no_file_behind(
    stage: str, number: signal.Signals, place: Path, many: None
) -> None:
    command, started = INTERRUPTED[stage]
    shutil.rmtree(place / "run/explain", ignore_errors=True)
    before = contents(place / "run")
    outcome, stderr = interrupted(command, number, started(place), folder=place)
    assert (outcome, only_line(stderr)) == LAST_LINE[number]
    assert contents(place / "run") == before


def test_training_goes_on_from_the_checkpoint_of_an_interrupted_run(place: Path) -> None:
    epochs = "--epochs 16 --feedback-epochs 16"
    train_again = f"train --run run -o resumed/model.h5 --preset smoke {epochs} --resume"
    checkpoint = place / "resumed/model.checkpoint.h5"
    before = contents(place / "run")

    def epochs_done(after: int) -> Started:
        seen = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0

        def started(_: object) -> bool:
            # Read once for each writing: to read on and on would take a core, and training would complain of that.
            nonlocal seen
            if not checkpoint.exists() or (written := checkpoint.stat().st_mtime_ns) == seen:
                return False
            seen = written
            return _epochs_done(checkpoint) > after

        return started

    done = 0
    for number in LAST_LINE:
        outcome, stderr = interrupted(train_again, number, epochs_done(done), folder=place)
        *lines, last = stderr.splitlines()
        code, line = LAST_LINE[number]
        how = "what was done is kept: run the same command with --resume to go on from there."
        assert (outcome, last) == (code, line.replace("nothing half-written was left behind.", how))
        if lines:
            assert re.match(rf"feedforward\s+{done + 1}/16 ", lines[0]), stderr
        done = _epochs_done(checkpoint)
        assert {path.name for path in (place / "resumed").iterdir()} == {checkpoint.name}
    finished = fer(*train_again.split(), folder=place)
    assert finished.code == 0, finished.stderr
    assert re.match(rf"(feedforward|feedback)\s+{done % 16 + 1}/16 ", finished.stderr)
    assert contents(place / "run") == before
    assert {path.name for path in (place / "resumed").iterdir()} == {"model.h5", "model.curve.png"}
    with open_artifact(place / "resumed/model.h5", MODEL) as model:
        assert [record.epoch for record in read_history(model)] == [*range(1, 17)] * 2


def _epochs_done(checkpoint: Path) -> int:
    with open_artifact(checkpoint, CHECKPOINT) as artifact:
        return len(read_history(artifact))


def test_a_kept_classifier_brings_the_settings_of_its_preset(place: Path, tmp_path: Path) -> None:
    ended = fer(
        *("train", "--run", "run", "--encoder", "run/model.h5", "-o", tmp_path / "m.h5"),
        *("--feedback-epochs", 1, "--feedback-learning-rate", 0.004),
        folder=place,
    )
    assert ended.code == 0, ended.stderr
    with open_artifact(tmp_path / "m.h5", MODEL) as model:
        training = model.config["training"]
    wanted = preset_settings("smoke")
    assert training["preset"] == "smoke"
    assert training["batch_size"] == wanted.batch_size != preset_settings("compact").batch_size
    assert training["learning_rate"] == wanted.learning_rate
    assert (training["feedback_epochs"], training["feedback_learning_rate"]) == (1, 0.004)


def test_json_is_all_there_is_on_stdout(place: Path, tmp_path: Path) -> None:
    outcome = fer("cluster", "--run", "run", "--k", K, "-o", tmp_path / "codebook.h5", "--json", folder=place)
    assert outcome.code == 0, outcome.stderr
    said = json.loads(outcome.stdout)
    assert said["path"] == str(tmp_path / "codebook.h5")
    with (
        open_artifact(tmp_path / "codebook.h5", CODEBOOK) as codebook,
        open_artifact(place / "run/codebook.h5") as first,
    ):
        assert codebook.id == first.id  # the same voxels, model, seed and numbers of codes
