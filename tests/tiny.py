"""Shared fixtures; every test runs with array shapes and types checked by jaxtyping and beartype.

The tiny run is three classes of boxes, a network of three convolutions and one dense layer on 8³ voxels, and
every stage's real code from meshes to codebook; one test shape in six lies in the folder of another class, so
that there are mistakes to explain.
"""

import importlib.util
import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from jaxtyping import install_import_hook

if importlib.util.find_spec("beartype"):  # machines with GPUs may have PyTorch and little else
    install_import_hook("fer_cli", "beartype.beartype")

import torch

from fer_cli.calibration.calibrate import calibrate
from fer_cli.codebooks.clustering import cluster_network
from fer_cli.data.augmentation import Augmentation
from fer_cli.data.voxelize import VoxelSettings, voxelize_source
from fer_cli.diagnosis.replacement import Replacement
from fer_cli.evaluation.results import Evaluation
from fer_cli.network.activations import encode
from fer_cli.network.fer_cnn import PRESETS
from fer_cli.network.phases import TrainingSettings
from fer_cli.network.training import train
from fer_cli.run import Run
from fer_cli.storage import artifact
from fer_cli.storage.artifact import Artifact
from fer_cli.storage.artifact_writer import ArtifactWriter
from fer_cli.storage.run_paths import RunPaths
from fer_cli.studies.evaluate import evaluate
from tiny_layers import TINY_LAYERS

# A shell that starts the tests in the background has SIGINT ignored, and children inherit that; a handler they do not.
signal.signal(signal.SIGINT, signal.default_int_handler)

TINY_K = (5, 4, 4, 3)
BOX = "OFF\n8 6 0\n{}4 0 2 3 1\n4 4 5 7 6\n4 0 1 5 4\n4 2 6 7 3\n4 0 4 6 2\n4 1 3 7 5\n"
SIDES = {"beam": (8, 2, 2), "plate": (8, 8, 2), "pole": (2, 2, 8)}


def load_benchmark(name: str) -> ModuleType:
    """A script of `benchmarks`, imported as it stands there, with its neighbours on the path."""
    folder = Path(__file__).parents[1] / "benchmarks"
    spec = importlib.util.spec_from_file_location(f"{name}_by_file", folder / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)  # as when it is run as a script
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real data archives (`FER_SHARED_DATA`); skips where there is none."""
    default = Path(__file__).parents[1].parent / "shared" / "data"
    folder = Path(os.environ.get("FER_SHARED_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real data: FER_SHARED_DATA names no folder ({folder})")
    return folder


@pytest.fixture(scope="session")
def shared_cases(shared_data: Path) -> Path:
    """Folder of inputs that once came out wrong, beside the real data; skips where there is none."""
    folder = shared_data.parent / "cases"
    if not folder.is_dir():
        pytest.skip(f"no cases: there is no folder {folder}")
    return folder


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser; skips where there is none, unless `FER_CHROMIUM` names one, which then has to be there."""
    named = os.environ.get("FER_CHROMIUM")
    found = shutil.which(named or "chromium")
    if found is None and named:
        pytest.fail(f"FER_CHROMIUM names no browser: {named}")
    if found is None:
        pytest.skip("no chromium here (Debian: apt-get install chromium)")
    return found


@pytest.fixture
def tiny_preset(monkeypatch: pytest.MonkeyPatch) -> str:
    """A preset of the tiny network's layers, known while the test runs."""
    monkeypatch.setitem(PRESETS, "tiny", TINY_LAYERS)
    return "tiny"


def write_box(path: Path, sides: np.ndarray) -> None:
    """Write an OFF mesh of a box with one corner at the origin."""
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)]) * sides
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(BOX.format("".join(f"{x:.4f} {y:.4f} {z:.4f}\n" for x, y, z in corners)))


@pytest.fixture(scope="session")
def box_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in ModelNet layout: 20 boxes a class to train with, 6 to test with, of which one is misplaced."""
    folder = tmp_path_factory.mktemp("boxes")
    generator = np.random.default_rng(5)
    classes = list(SIDES)
    for label, name in enumerate(classes):
        for split, count in (("train", 20), ("test", 6)):
            for i in range(count):
                shape = classes[(label + 1) % 3] if split == "test" and i == 0 else name
                sides = np.array(SIDES[shape]) * generator.uniform(0.6, 1.6, 3)
                write_box(folder / name / split / f"{name}_{split}_{i:02}.off", sides)
    return folder


@pytest.fixture(scope="session")
def run_paths(box_source: Path, tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    """The artifacts of the tiny run; with `FER_TINY_RUN`, a folder, made there once and kept, for `make mutants`.

    There they are not vetted either: every mutant is a process, which would start one of its own to vet them.
    """
    kept = os.environ.get("FER_TINY_RUN")
    if kept:
        artifact.vet = lambda *_: None
    paths = RunPaths.in_folder(Path(kept) if kept else tmp_path_factory.mktemp("run"))
    if kept and paths.calibration.exists():
        return paths
    voxelize_source(box_source, paths.voxels, VoxelSettings(8, 0), workers=1)
    make_run(paths, epochs=6, seed=3)
    return paths


def make_run(paths: RunPaths, *, epochs: int, seed: int) -> None:
    """Train, cluster and calibrate the tiny network on voxels that are there."""
    device = torch.device("cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "tiny", TINY_LAYERS)
        settings = TrainingSettings(
            "tiny",
            epochs=epochs,
            feedback_epochs=4,
            batch_size=9,
            dropout=0.1,
            augmentation=Augmentation(shift=1, mirror=True),
            seed=seed,
        )
        train(paths.voxels, paths.model, settings, device=device)
    cluster_network(paths.voxels, paths.model, paths.codebook, k=TINY_K, workers=1, device=device)
    calibrate(paths, device=device)


@pytest.fixture(scope="session")
def other_run_paths(run_paths: RunPaths, tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    """A second run on the same voxels, trained for less long, which makes other mistakes."""
    paths = RunPaths.in_folder(tmp_path_factory.mktemp("other"))
    shutil.copy(run_paths.voxels, paths.voxels)
    make_run(paths, epochs=3, seed=5)
    return paths


@pytest.fixture(scope="session")
def run(run_paths: RunPaths) -> Run:
    """The tiny run, opened."""
    return Run(run_paths, device=torch.device("cpu"))


@pytest.fixture(scope="session")
def evaluated(run: Run) -> Evaluation:
    """What `fer evaluate` finds of the tiny run; nobody changes it."""
    return evaluate(run)


@pytest.fixture
def edit(run: Run) -> Replacement:
    """Three shapes of the tiny run at conv1, their features to be replaced by those of three others."""
    volumes = run.voxels.tensor([0, 25, 50, 10, 30, 45])
    features = encode(run.network, volumes)["conv1"]
    wanted, given = torch.tensor([2, 0, 1]), torch.tensor([0, 1, 2])
    return Replacement(run.network.backbone, "conv1", volumes[:3], features[:3], features[3:], wanted, given)


Rewrite = Callable[[Artifact, Path, Mapping[str, Any]], str]


@pytest.fixture
def rewrite() -> Rewrite:
    """Writes an artifact again with some datasets or the attribute `classes` replaced; returns the new id."""

    def rewritten(artifact: Artifact, path: Path, changes: Mapping[str, Any]) -> str:
        attributes = {}
        if artifact.form.name == "fer-voxels":
            attributes["classes"] = changes.get("classes", artifact.attribute("classes"))
        writer = ArtifactWriter(
            path,
            artifact.form,
            config=artifact.config,
            parents=artifact.parents,
            seed=artifact.seed,
            attributes=attributes,
        )
        with writer:
            for name in artifact.names():
                spec = artifact.form.spec(name)
                assert spec is not None
                stored = artifact.read_text(name) if spec.dtype == "text" else artifact.read(name)
                writer.write(name, changes.get(name, stored))
        return writer.id

    return rewritten
