import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from fer_cli.data import statistics
from fer_cli.data.statistics import input_statistics, statistic_names


def shape_figures(grid):
    """Slow and plain, voxel by voxel."""
    voxels = np.argwhere(grid)
    sides = np.array(grid.shape)
    low, high = voxels.min(axis=0), voxels.max(axis=0) + 1
    inside = {tuple(voxel) for voxel in voxels.tolist()}
    steps = [(x, y, z) for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1) if (x, y, z) != (0, 0, 0)]
    near = np.array([sum(tuple(np.add(voxel, step)) in inside for step in steps) for voxel in voxels])
    box = grid[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    asymmetry = sorted((box ^ np.flip(box, axis)).sum() / (2 * len(voxels)) for axis in (0, 1))
    pieces = ndimage.label(grid, structure=np.ones((3, 3, 3)))[1]
    extents = (high - low) / sides
    middle = np.abs((low + high) / 2 - sides / 2) / sides
    counts = [(near <= 2).mean(), (near <= 5).mean(), near.mean()]
    return [np.log(len(voxels)), extents.max(), *np.log(extents), *middle, *counts, np.log(pieces), *asymmetry]


def test_figures_of_shapes_are_those_of_a_slow_count():
    grids = np.random.default_rng(0).random((5, 7, 6, 5)) < np.array([0.02, 0.1, 0.3, 0.6, 1.0])[:, None, None, None]
    grids[:, 3, 3, 3] = True
    found = input_statistics(torch.from_numpy(grids[:, None]).float(), "occupancy")
    np.testing.assert_allclose(found, [shape_figures(grid) for grid in grids], atol=1e-5)
    assert found.shape[1] == len(statistic_names("occupancy"))


@pytest.mark.parametrize("few", [0, 1000])
def test_figures_of_an_empty_shape_are_zero_beside_others(monkeypatch, few):
    monkeypatch.setattr(statistics, "_FEW", few)
    full, empty = torch.ones(1, 1, 4, 4, 4), torch.zeros(1, 1, 4, 4, 4)
    np.testing.assert_array_equal(input_statistics(empty, "occupancy"), 0)
    found = input_statistics(torch.cat([full, empty, full]), "occupancy")
    np.testing.assert_array_equal(found[1], 0)
    np.testing.assert_array_equal(found[[0, 2]], input_statistics(torch.cat([full, full]), "occupancy"))


def signal(name, volumes):
    return input_statistics(volumes, "intensity")[:, statistic_names("intensity").index(name)]


def test_each_figure_of_a_scan_rises_with_what_it_names():
    smooth = torch.linspace(0, 1, 8)[None, None, :, None, None].expand(1, 1, 8, 8, 8).contiguous()
    noisy = smooth + 0.2 * torch.randn(smooth.shape, generator=torch.Generator().manual_seed(0))
    cut = smooth.clone()
    cut[:, :, :, 5:] = 0
    spiked = smooth.clone()
    spiked[0, 0, 4, 4, 4] = 9.0
    assert signal("roughness (log)", noisy) > signal("roughness (log)", smooth) + 0.3
    assert signal("share of empty planes across y", cut) == pytest.approx(3 / 8)
    assert signal("share of voxels at the lowest value", cut) > signal("share of voxels at the lowest value", smooth)
    assert signal("share of spikes", spiked) == pytest.approx(1 / 512)
    assert signal("asymmetry along x", smooth) > 0.5 > signal("asymmetry along y", smooth) == 0
    assert signal("mean", smooth + 3) == pytest.approx(signal("mean", smooth) + 3, abs=1e-5)


def test_a_constant_scan_and_a_flat_one_have_finite_figures():
    assert np.isfinite(input_statistics(torch.full((2, 3, 4, 4, 4), 7.0), "intensity")).all()
    assert np.isfinite(input_statistics(torch.rand(2, 1, 5, 4, 1), "intensity")).all()


def test_channels_are_averaged():
    volumes = torch.rand(2, 2, 4, 5, 6)
    each = [input_statistics(volumes[:, channel : channel + 1], "intensity") for channel in (0, 1)]
    np.testing.assert_allclose(input_statistics(volumes, "intensity"), np.mean(each, axis=0))


@given(grids=arrays(bool, array_shapes(min_dims=3, max_dims=3, max_side=7)))
def test_pieces_are_those_of_scipy(grids):
    assert statistics._count_pieces(grids) == statistics._label_pieces(grids)


def test_the_pieces_of_a_winding_line_and_of_no_voxel():
    line = np.zeros((15, 15, 3), bool)
    line[::2, :, 1] = True
    line[1::4, -1, 1] = line[3::4, 0, 1] = True
    assert statistics._count_pieces(line) == 1
    assert statistics._count_pieces(np.zeros((3, 4, 5), bool)) == 0
    line[7, 0, 1] = False
    assert statistics._count_pieces(line) == 2


def test_many_voxels_have_the_figures_that_few_have(monkeypatch):
    grids = torch.from_numpy(np.random.default_rng(0).random((5, 1, 6, 6, 6)) < 0.1).float()
    few = input_statistics(grids, "occupancy")
    monkeypatch.setattr(statistics, "_FEW", 0)
    np.testing.assert_array_equal(input_statistics(grids, "occupancy"), few)
