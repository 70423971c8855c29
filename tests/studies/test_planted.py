import shutil
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from fer_cli.calibration.calibrate import calibrate
from fer_cli.codebooks.clustering import cluster_network
from fer_cli.data.synthetic import write_collection
from fer_cli.data.voxelize import VoxelSettings, voxelize_source
from fer_cli.network.fer_cnn import FERCNN
from fer_cli.network.phases import TrainingSettings
from fer_cli.network.training import train
from fer_cli.run import Run
from fer_cli.storage.run_paths import RunPaths
from fer_cli.studies.findings import CORRECT, DOSE, FEATURE, GRAFT, MISCLASSIFIED, SYNTHETIC, WEIGHT
from fer_cli.studies.graft_candidates import GRAFTS, part_grafts
from fer_cli.studies.planted import CODE_DISTANCE, DOSES, locations_over, plant_faults
from networks import SMOKE
from tiny import TINY_K


def test_middles_of_the_receptive_fields_fill_the_grid_side_by_side() -> None:
    backbone = FERCNN(SMOKE)
    voxels = np.zeros((32, 32, 32), bool)
    voxels[9, 17, 31] = True
    for layer, step in (("conv1", 2), ("conv2", 4), ("conv3", 8), ("conv4", 16)):
        found = np.flatnonzero(locations_over(backbone, layer, voxels))
        shape = (32 // step,) * 3
        assert found.tolist() == [np.ravel_multi_index((9 // step, 17 // step, 31 // step), shape)]


def test_planted_faults_name_layers_and_places(run: Run) -> None:
    planting = plant_faults(run, per_layer=6, split="test", seed=1)
    assert planting.attempts == ()  # boxes have no tables to put a back on
    unplanted = [each for each in planting.findings if each.kind in (CORRECT, MISCLASSIFIED)]
    assert sorted(each.shape for each in unplanted) == sorted(run.voxels.names[i] for i in run.voxels.indices("test"))
    doses = [each for each in planting.findings if each.kind == DOSE]
    right = len([each for each in unplanted if each.kind == CORRECT])
    by_dose = Counter((each.layer, each.dose) for each in doses)
    assert by_dose == dict.fromkeys(product(run.network.spec.layer_names, DOSES), right)
    assert all(run.network.spec.layer_names[each.planted] == each.layer and 0 < each.p_value <= 1 for each in doses)
    strong, weak = (np.mean([each.turned for each in doses if each.dose == dose]) for dose in (8.0, 0.5))
    assert strong > weak
    found = [each for each in planting.findings[len(unplanted) :] if each.kind != DOSE]
    assert {each.kind for each in found} <= {FEATURE, WEIGHT}
    names = run.network.spec.layer_names
    for each in found:
        assert names[each.planted] == each.layer
        assert 0 <= each.blamed < len(names)
        assert 0 <= each.departed < len(names)
        assert 0 < each.p_value <= 1
        assert all(0 <= value <= 1 for value in (*each.overlap.values(), *each.rank.values()))
        assert bool(each.overlap) == (each.kind == FEATURE and each.layer in ("conv1", "conv2"))
        assert not each.overlap or CODE_DISTANCE in each.overlap
    # A random order of locations has a mean rank of 0.5; five faults leave it a chance of a few in a thousand.
    located = [each for each in found if each.overlap]
    assert len(located) >= 5
    for ranking in ("donor_path", "donor_distance", CODE_DISTANCE):
        assert np.mean([each.rank[ranking] for each in located]) < 0.25
        assert np.mean([each.overlap[ranking] for each in located]) > 2 * np.mean([each.share for each in located])
    assert repr(planting) == repr(plant_faults(run, per_layer=6, split="test", seed=1))  # nan is nan


@pytest.fixture
def furniture_run(tiny_preset: str, tmp_path: Path) -> Run:
    """Seats, beds and tables at 16³, and the tiny network, which learns three of four."""
    source = tmp_path / "meshes"
    write_collection(source, per_class_train=24, per_class_test=8, seed=0)
    for folder in source.iterdir():
        if folder.name not in ("bed", "chair", "sofa", "table"):
            shutil.rmtree(folder)
    paths = RunPaths.in_folder(tmp_path / "run")
    voxelize_source(source, paths.voxels, VoxelSettings(16), workers=1)
    settings = TrainingSettings(tiny_preset, epochs=20, feedback_epochs=1, batch_size=4)
    device = torch.device("cpu")
    train(paths.voxels, paths.model, settings, device=device)
    cluster_network(paths.voxels, paths.model, paths.codebook, k=TINY_K, workers=1, device=device)
    calibrate(paths, device=device)
    return Run(paths, device=device)


def test_grafts_that_turn_the_prediction_are_looked_for(furniture_run: Run) -> None:
    everything = np.arange(len(furniture_run.voxels))
    candidates = part_grafts(furniture_run, everything, np.random.default_rng(0))
    known = {pair for pair in GRAFTS if set(pair) <= set(furniture_run.voxels.classes)}
    assert {candidate.pair for candidate in candidates} == known
    planting = plant_faults(furniture_run, per_layer=0, grafts=3, synthetic=2, split="test")
    assert any(each.turned for each in planting.attempts)
    for kind, most, pairs in (
        (GRAFT, 3, known),
        (SYNTHETIC, 2, {("table", "chair")}),
    ):
        attempts = [each for each in planting.attempts if each.kind == kind]
        turned = [each for each in attempts if each.turned]
        assert {(each.receiver, each.giver) for each in attempts} <= pairs  # of those that the network recognises
        assert len(turned) <= most
        found = [each for each in planting.findings if each.kind == kind]
        assert {each.layer for each in found} == ({"conv1", "conv2", "conv3"} if turned else set())
        assert len(turned) <= len(found) <= 3 * len(turned)
        for each in found:
            assert each.planted is None  # what the input has too much enters at no layer
            assert 0 < each.share <= 1
            assert set(each.overlap) == set(each.rank) > {CODE_DISTANCE}
            assert each.shape in furniture_run.voxels.names or kind == SYNTHETIC
