import numpy as np
import pytest

from fer_cli.network.poses import poses
from fer_cli.studies.plantings import DAMAGES, DOSES, Damage, tipped


def shape():
    grid = np.zeros((1, 16, 16, 16), np.float32)
    grid[0, 2:14, 4:12, 3:15] = 1
    return grid


def test_damage_of_a_shape_is_as_large_as_its_dose():
    generator = np.random.default_rng(0)
    grid = shape()
    for dose in DOSES["noise"]:
        exchanged = (Damage("noise", dose).apply(grid, "occupancy", generator) != grid).mean()
        assert exchanged == pytest.approx(dose, abs=4 * np.sqrt(dose / grid.size))
    for dose in DOSES["holes"]:
        left = Damage("holes", dose).apply(grid, "occupancy", generator)
        assert 1 - left.sum() / grid.sum() == pytest.approx(dose, abs=0.05)
        assert (left <= grid).all()
    for dose in DOSES["crop"]:
        left = Damage("crop", dose).apply(grid, "occupancy", generator)
        shares = [round(dose * side) / side for side in (12, 8, 12)]
        assert min(abs(1 - left.sum() / grid.sum() - share) for share in shares) < 1e-6
    for dose in DOSES["scale"]:
        small = np.argwhere(Damage("scale", dose).apply(grid, "occupancy", generator)[0])
        extents = small.max(axis=0) + 1 - small.min(axis=0)
        # Whatever lies in a cell of the smaller grid fills it, one to each side at most.
        np.testing.assert_allclose(extents, np.array([12, 8, 12]) * dose, atol=2)


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_of_a_scan_keeps_shape_and_type_and_takes_away_to_the_lowest_value(kind):
    scan = np.random.default_rng(0).normal(5, 1, (2, 8, 6, 4)).astype(np.float32)
    kept = scan.copy()
    damaged = Damage(kind, DOSES[kind][-1]).apply(scan, "intensity", np.random.default_rng(1))
    assert damaged.shape == scan.shape
    assert damaged.dtype == scan.dtype
    assert not np.array_equal(damaged, scan)
    np.testing.assert_array_equal(scan, kept)
    if kind in ("holes", "crop"):
        assert set(damaged[damaged != scan]) == {scan.min()}


def test_another_pose_has_up_elsewhere_where_the_shape_allows_it():
    generator = np.random.default_rng(0)
    drawn = [tipped(poses((4, 4, 4)), generator) for _ in range(50)]
    assert all(pose is not None and not pose.keeps_vertical for pose in drawn)
    assert len(set(drawn)) > 10
    assert tipped(poses((4, 4, 4))[:1], generator) is None
