import numpy as np

from fer_cli.evaluation.findings import (
    CORRECT,
    FEATURE,
    MISCLASSIFIED,
    WEIGHT,
)
from fer_cli.evaluation.planted import CODE_DISTANCE, locations_over, plant_faults
from fer_cli.network.model import PRESETS, NetworkConfig
from fer_cli.run import Run


def test_middles_of_the_receptive_fields_fill_the_grid_side_by_side() -> None:
    config = NetworkConfig(PRESETS["smoke"], ("p", "q"), 32)
    voxels = np.zeros((32, 32, 32), bool)
    voxels[9, 17, 31] = True
    for layer, step in (("conv1", 2), ("conv2", 4), ("conv3", 8), ("conv4", 16)):
        found = np.flatnonzero(locations_over(config, layer, voxels))
        shape = (32 // step,) * 3
        assert found.tolist() == [np.ravel_multi_index((9 // step, 17 // step, 31 // step), shape)]


def test_planted_faults_name_layers_and_places(run: Run) -> None:
    planting = plant_faults(run, per_layer=3, split="test", seed=1)
    assert planting.attempts == ()  # boxes have no tables to put a back on
    unplanted = [each for each in planting.findings if each.kind in (CORRECT, MISCLASSIFIED)]
    assert sorted(each.shape for each in unplanted) == sorted(run.voxels.names[i] for i in run.voxels.indices("test"))
    found = planting.findings[len(unplanted) :]
    assert {each.kind for each in found} <= {FEATURE, WEIGHT}
    names = run.network.config.layer_names
    for each in found:
        assert names[each.planted] == each.layer
        assert 0 <= each.blamed < len(names)
        assert 0 <= each.departed < len(names)
        assert 0 < each.p_value <= 1
        assert all(0 <= value <= 1 for value in (*each.overlap.values(), *each.rank.values()))
        assert bool(each.overlap) == (each.kind == FEATURE and each.layer in ("conv1", "conv2"))
        assert not each.overlap or CODE_DISTANCE in each.overlap
    assert repr(planting) == repr(plant_faults(run, per_layer=3, split="test", seed=1))  # nan is nan
