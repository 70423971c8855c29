"""The network under study is a parameter: no stage knows which one it is, and nothing above `network` names a layer."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fer_cli.calibration.calibrate import calibrated
from fer_cli.codebooks.clustering import PAPER_K, default_codes
from fer_cli.codebooks.fitted_layer import FittedLayers
from fer_cli.codebooks.layer_fitting import LayerFitting
from fer_cli.codebooks.reading import read_samples
from fer_cli.data.augmentation import Augmentation
from fer_cli.data.dataset import hold_out
from fer_cli.data.sample_input import Sample
from fer_cli.data.volumes import InputSpec
from fer_cli.data.voxelize import VoxelSettings, voxelize_source
from fer_cli.diagnosis.explain import explain
from fer_cli.diagnosis.probe import layer_locations, probe, sweep
from fer_cli.evaluation.survey import survey
from fer_cli.execution.workers import open_threads
from fer_cli.network.activations import FEEDFORWARD, PATHS
from fer_cli.network.backbone import OUTPUT
from fer_cli.network.fer_cnn import PRESETS
from fer_cli.network.phases import FeedbackPhase, TrainingData, TrainingSettings
from fer_cli.network.receptive import LayerSpec
from fer_cli.network.training import train
from fer_cli.network.views import Views
from fer_cli.run import Run
from fer_cli.storage.artifact import open_artifact
from fer_cli.storage.artifact_writer import ArtifactWriter
from fer_cli.storage.journal import Journal
from fer_cli.storage.run_paths import RunPaths
from fer_cli.storage.schema import CALIBRATION, VOXELS
from fer_cli.studies.evaluate import evaluate
from forks import forked
from networks import ArrayVolumes, Residual, explained
from tiny import write_box

SOURCE = Path(__file__).parents[1] / "src" / "fer_cli"
CPU = torch.device("cpu")
BOX = InputSpec(2, (12, 8, 16), "intensity")
NAMES = ("blob", "ridge", "wave")

# What is true of the paper's network alone is said in these.
ABOUT_FER_CNN = {"cli/app.py": 'fer probe chair_0891 --layer conv3 --location 2,2,2 --run my-run"'}


# Names


def test_nothing_above_the_network_names_a_layer_or_the_concrete_network() -> None:
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        name = path.relative_to(SOURCE).as_posix()
        text = path.read_text(encoding="utf-8").replace(ABOUT_FER_CNN.get(name, "\0"), "")
        if not name.startswith(("network/", "data/")):
            found += [f"{name}: {match}" for match in re.findall(r"\b(?:conv\d|fc\d|FERCNN|FERNet|FER-CNN)\b", text)]
            found += [f"{name}: {match}" for match in re.findall(r"torch\.sigmoid|\.blocks\b|\.encoder\b", text)]
    assert found == []


def test_default_number_of_codes_is_the_papers_spread_over_the_depth() -> None:
    assert default_codes(7) == PAPER_K
    assert default_codes(3) == (60, 30, 20)
    assert default_codes(1) == (30,)
    assert default_codes(3, samples=48) == (24, 24, 20)
    assert default_codes(2, samples=1) == (1, 1)
    for levels in range(1, 12):
        codes = default_codes(levels)
        assert len(codes) == levels
        assert list(codes) == sorted(codes, reverse=True)


# A network of somebody else's, on grey volumes of two channels and three lengths


def grey_volumes() -> ArrayVolumes:
    """Three kinds of smooth volumes, of which some have another kind's label."""
    generator = np.random.default_rng(0)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, side) for side in BOX.shape), indexing="ij")
    labels = np.arange(96) % 3
    volumes = []
    for label in labels:
        a, b, c = generator.uniform(-0.4, 0.4, 3)
        kind = [
            np.exp(-6 * ((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2)),
            np.exp(-12 * (x - a) ** 2),
            np.sin(4 * (z - c)) / 2,
        ][label]
        pair = np.stack([kind, kind[::-1] - 0.3])
        volumes.append(1000 * pair + generator.normal(0, 150, pair.shape))
    told = labels.copy()
    told[[5, 40, 70, 80, 90]] = (labels[[5, 40, 70, 80, 90]] + 1) % 3
    splits = ["train"] * 66 + ["test"] * 30
    return ArrayVolumes(np.array(volumes, np.float32), told, splits, NAMES, BOX)


@dataclass
class Model:
    """What is asked of a model.h5 beside its network."""

    held: np.ndarray
    id: str = "memory"
    seed: int = 0
    config: dict[str, Any] = field(
        default_factory=lambda: {
            "training": {"dropout": 0.0, "augmentation": vars(Augmentation(mirror=True))},
            "voxelization": {"resolution": 8, "padding": 0, "fill": "surface"},
        }
    )

    def read(self, name: str) -> np.ndarray:
        assert name == "validation/index"
        return self.held


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of a residual network on grey volumes: trained, clustered and calibrated in memory."""
    folder = tmp_path_factory.mktemp("grey")
    volumes = grey_volumes()
    network = explained(Residual(BOX, NAMES))
    training_split = volumes.indices("train")
    kept, held = (training_split[part] for part in hold_out(volumes.labels[training_split], 0.2, 0))
    torch.manual_seed(0)
    classifier = network.backbone
    assert isinstance(classifier, Residual)
    optimizer = torch.optim.Adam(classifier.parameters(), lr=5e-3)
    for _ in range(40):
        logits = classifier.logits(volumes.tensor(kept))
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(volumes.labels[kept]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    classifier.requires_grad_(False)
    phase = FeedbackPhase(
        TrainingData(volumes, kept, held, CPU),
        TrainingSettings(feedback_augmentation=Augmentation(mirror=True)),
        network,
        None,
    )
    optimizer = torch.optim.Adam(network.feedback.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(25):
        terms = phase.terms(network.feedback.train(), kept[:32], generator)
        optimizer.zero_grad()
        torch.autograd.backward(list(terms.values()))
        optimizer.step()
    network.eval().requires_grad_(False)
    validation_loss, psnr = phase.validate(network.feedback)
    assert np.isfinite([validation_loss, psnr]).all()
    with open_threads(2) as executor, Journal(folder / "codebook.h5", "key") as journal:
        k = {"stem.norm": 6, "stage": 5, "pool": 4, OUTPUT: 3}
        fitting = LayerFitting(
            network, volumes, kept, k, 10**8, folder, 0, FittedLayers(journal), executor, lambda _: None
        )
        precision = fitting.fit()
        codebook, known = fitting.codebook(precision), fitting.training_codes(precision)
        for path in PATHS:
            for layer in network.spec.layer_names:
                codebook.layer(path, layer)  # read from the journal while it is open
    run = Run(RunPaths.in_folder(folder), device=CPU)
    parents = dict.fromkeys(CALIBRATION.parents, "memory")
    views = Views(4, Augmentation(mirror=True, shift=1))
    with calibrated(run.paths.calibration, network, codebook, volumes, known, held, parents, views=lambda _: views):
        pass
    run.__dict__ |= {
        "network": network,
        "voxels": volumes,
        "model": Model(held),
        "_codebook": (codebook, None),
        "_calibration": open_artifact(run.paths.calibration, CALIBRATION),
    }
    return run


def test_codes_of_a_foreign_network_are_nearest_centroids_of_signed_features(grey: Run) -> None:
    reading = read_samples(grey.network, grey.codebook, grey.voxels.tensor([0, 67, 95]))
    for path in PATHS:
        for layer in grey.network.spec.layer_names:
            book, feature = grey.codebook.layer(path, layer), reading.features[path][layer]
            assert reading.codes[path][layer].shape == (3, grey.network.spec.locations(layer))
            flat = feature.flatten(2).permute(2, 0, 1).numpy()
            for location in range(0, len(flat), 37):
                distance = np.square(flat[location][:, None] - book.centroids[location, : book.n_codes[location]]).sum(
                    2
                )
                chosen = distance[np.arange(3), reading.codes[path][layer][:, location]]
                np.testing.assert_allclose(chosen, distance.min(axis=1), rtol=1e-2, atol=1e-4)
    assert (reading.features[FEEDFORWARD]["stem.norm"] < 0).any()


def test_samples_of_a_foreign_network_are_explained(grey: Run) -> None:
    volumes = grey.voxels
    for index in volumes.indices("test"):
        sample = Sample(volumes.names[index], volumes.volumes([int(index)])[0], int(volumes.labels[index]))
        found = explain(grey, sample)
        assert found.local_layer == "stage"
        assert [layer.name for layer in found.layers] == ["stem.norm", "stage", "pool", OUTPUT]
        for volume in (found.input_volume, found.local_volume, found.nearest_volume, found.class_code_volume):
            assert volume.shape == BOX.volume
            assert np.isfinite(volume).all()
        for layer in found.layers:
            assert all(p.representative.shape == p.exemplar_volume.shape == BOX.volume for p in layer.paths.values())
        assert found.departure is not None
        assert all(np.isfinite(value) for value in found.errors.values())
        if found.correct is False:
            assert found.blame.layer in grey.network.spec.layer_names
            assert {test.layer for test in found.repair} <= {"stem.norm", "stage"}
            assert found.repair
            assert all(np.isfinite(test.gain) for test in found.repair)


def test_layers_keep_the_order_of_computation(grey: Run) -> None:
    """Not that of the alphabet, in which artifacts list them."""
    layers = list(grey.network.spec.layer_names[:-1])
    assert layers != sorted(layers)
    assert [list(of_path) for of_path in grey.temperatures.evidence.values()] == [layers] * 2
    assert list(grey.typicality.layers) == layers
    assert [list(of_path) for of_path in grey.validation_evidence.values()] == [layers] * 2


def test_a_location_of_a_foreign_network_is_probed(grey: Run) -> None:
    volume = grey.voxels.volumes([70])[0]
    found = probe(grey.network, volume, "stage", (2, 1, 3), centroids_of=grey.codebook)
    assert found.receptive_field == ((0, 12), (0, 8), (0, 16))
    assert found.response_field == layer_locations(grey.network.spec, "stage")  # group norm sees everything
    assert found.reconstruction.shape == found.crop.shape == BOX.volume
    locations = layer_locations(grey.network.spec, "stem.norm", [7])
    assert [each.location for each in sweep(grey.network, volume, "stem.norm", locations)] == locations


def test_a_foreign_network_is_evaluated_in_every_way(grey: Run) -> None:
    result = evaluate(grey, votes=2, sanity=True, repair=True, planted=True)
    assert (result["n"], result["votes"]["views"]) == (30, 2)
    assert 0 < result["n_errors"] < 15
    shut = {layer: rows["shut"] for layer, rows in result["reconstruction"].items()}
    assert list(shut) == list(grey.network.spec.layer_names)
    assert all(set(row) == {"psnr", "ssim", "mse"} for row in shut.values())
    # What the network lacks is left out: it has no dropout, and its logits are no linear map of its last level.
    assert {"max_softmax", "deep_knn", "rotations", "nearest_grid"} <= set(result["detection"])
    assert not {"mc_dropout", "vim"} & set(result["detection"])
    assert set(result["repair"]["layers"]) == {"stem.norm", "stage"}
    assert set(result["planted"]["layer"]) <= {"feature", "weight"}
    assert set(result["planted"]["layer"]["feature"]) <= {"all", "stem.norm", "stage", "pool"}
    assert result["planted"]["grafts"] == {}
    assert set(result["sanity"][0]["checks"]["random_encoder"]) == {"stem.norm", "stage", "pool"}
    json.dumps(result, allow_nan=False)
    found = survey(grey)
    assert len(found.names) == 30


# A network without a layer called conv3, on shapes of three lengths, in every command


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder: boxes in grids of 16×8×12, and a network of the layers stem, mid and dense."""
    folder = tmp_path_factory.mktemp("boxes")
    generator = np.random.default_rng(5)
    kinds = {"beam": (8, 2, 2), "plate": (8, 8, 2), "pole": (2, 2, 8)}
    for label, name in enumerate(kinds):
        for split, count in (("train", 16), ("test", 5)):
            for number in range(count):
                shape = list(kinds)[(label + 1) % 3] if split == "test" and number == 0 else name
                sides = np.array(kinds[shape]) * generator.uniform(0.6, 1.6, 3)
                write_box(folder / "meshes" / name / split / f"{name}_{split}_{number:02}.off", sides)
    paths = RunPaths.in_folder(folder / "run")
    voxelize_source(folder / "meshes", folder / "cubes.h5", VoxelSettings(16, 2), workers=1)
    _cut(folder / "cubes.h5", paths.voxels)
    with pytest.MonkeyPatch.context() as patch:
        layers = (LayerSpec("stem", 6, 4, 2, 1), LayerSpec("mid", 8, 2, 2), LayerSpec("dense", 5))
        patch.setitem(PRESETS, "other", layers)
        settings = TrainingSettings("other", epochs=4, feedback_epochs=2, batch_size=8, dropout=0.1)
        train(paths.voxels, paths.model, settings, device=CPU)
    return folder


def _cut(source: Path, target: Path) -> None:
    """Write the middle 16×8×12 of every grid of a voxels.h5."""
    with open_artifact(source, VOXELS) as cubes:
        attributes = {"classes": cubes.attribute("classes")}
        writer = ArtifactWriter(target, VOXELS, config=cubes.config, parents={}, attributes=attributes)
        with writer:
            for name in cubes.names():
                spec = VOXELS.spec(name)
                assert spec is not None
                stored: Any = cubes.read_text(name) if spec.dtype == "text" else cubes.read(name)
                writer.write(name, stored[:, :, 4:12, 2:14] if name == "occupancy" else stored)


def commands() -> Iterator[str]:
    yield "cluster --k auto -o run/auto.h5"
    yield "cluster --k 4,3,3"
    yield "calibrate --force"
    yield "info run/voxels.h5"
    yield "info run/model.h5"
    yield "info run/codebook.h5"
    yield "info run/codebook.calibration.h5"
    yield "probe beam_test_01 --layer mid --location 1,1,1"
    yield "probe beam_test_01 --layer stem --by centroid --all-locations --slices 3"
    yield "explain beam_test_00 --vtk"
    yield "explain --errors"
    yield "explain shape.npy --label pole --local-layer stem --no-images"
    yield "evaluate --votes 2 --repair --planted --sanity"
    yield "figures"


@pytest.mark.end_to_end
def test_every_command_works_on_a_network_without_conv3_and_a_box_of_voxels(boxes: Path) -> None:
    np.save(boxes / "shape.npy", np.ones((16, 8, 12), np.uint8))
    wanted = list(commands())
    ended = forked([[*command.split(), "--json"] for command in wanted], folder=boxes, FER_RUN="run")
    assert [(command, done.stderr) for command, done in zip(wanted, ended, strict=True) if done.code] == []
    answers = {command: json.loads(done.stdout) for command, done in zip(wanted, ended, strict=True)}
    assert answers["info run/voxels.h5"]["content"]["resolution"] == [16, 8, 12]
    assert [layer["name"] for layer in answers["explain beam_test_00 --vtk"]["layers"]] == [
        "stem", "mid", "dense", OUTPUT
    ]  # fmt: skip
    evaluation = answers["evaluate --votes 2 --repair --planted --sanity"]
    assert list(evaluation["reconstruction"]) == ["stem", "mid", "dense", OUTPUT]
    assert set(evaluation["repair"]["layers"]) == {"stem", "mid"}
    spans = answers["probe beam_test_01 --layer mid --location 1,1,1"]["receptive_field"]
    assert [high - low for low, high in spans] == [6, 5, 6]
    reconstruction = np.load(boxes / "run/probe/beam_test_01-mid-1-1-1/reconstruction.npy")
    assert reconstruction.shape == (16, 8, 12)


@pytest.mark.end_to_end
def test_what_does_not_fit_the_box_is_refused_in_one_line(boxes: Path) -> None:
    write_box(boxes / "mesh.off", np.array([1.0, 2.0, 3.0]))
    np.save(boxes / "cube.npy", np.ones((16, 16, 16), np.uint8))
    refusals = (
        ("explain mesh.off --no-images", 3, r"mesh\.off cannot be voxelized into 16×8×12; give a \.npy array"),
        ("explain cube.npy --no-images", 3, r"cube\.npy is a grid of 16×16×16 voxels, but the network reads 16×8×12"),
        (
            "explain beam_test_00 --local-layer conv3 --no-images",
            2,
            "no layer 'conv3'; the layers are stem, mid",
        ),
        ("cluster --k 4,3 -o new.h5", 2, "--k names 2 numbers, but the network has 3 layers below the output"),
    )
    ended = forked([command.split() for command, _, _ in refusals], folder=boxes, FER_RUN="run")
    for (_, code, said), done in zip(refusals, ended, strict=True):
        assert done.code == code, done.stderr
        assert re.search(said, done.stderr), done.stderr
        assert done.stderr.count("\n") == 1
