import numpy as np

from fer_cli.data.occupancy import VoxelSettings
from fer_cli.studies.grafts import graft_back, graft_part


def furniture(*, plate: tuple[int, int], height: int, back: int) -> np.ndarray:
    """Four legs, a plate of those extents in x and y, and a back at its far edge in y."""
    grid = np.zeros((32, 32, 32), np.uint8)
    x, y = plate
    grid[4 : 4 + x, 4 : 4 + y, height] = 1
    for i in (4, 3 + x):
        for j in (4, 3 + y):
            grid[i, j, :height] = 1
    grid[4 : 4 + x, 3 + y, height + 1 : height + 1 + back] = 1
    return grid


def test_back_of_a_chair_is_as_wide_as_the_table_and_at_its_far_edge() -> None:
    table, chair = furniture(plate=(20, 10), height=8, back=0), furniture(plate=(10, 5), height=12, back=9)
    found = graft_part(table, chair, padding=1)
    assert found is not None
    assert found.without.sum() == table.sum()  # small enough to stay as large as it was
    new, rest = np.argwhere(found.new), np.argwhere(found.without)
    assert new[:, 0].min() == rest[:, 0].min()
    assert new[:, 0].max() == rest[:, 0].max()
    assert new[:, 1].max() == rest[:, 1].max()
    assert np.ptp(new[:, 1]) == 1  # one voxel, stretched to two
    assert new[:, 2].min() == rest[:, 2].max() + 1
    assert np.ptp(new[:, 2]) + 1 == 18
    assert (found.grid == found.without + found.new).all()


def test_whole_is_made_to_fit_the_grid() -> None:
    table, chair = furniture(plate=(24, 12), height=20, back=0), furniture(plate=(6, 6), height=12, back=9)
    found = graft_part(table, chair, padding=2)
    assert found is not None
    places = np.argwhere(found.grid)
    assert places.min() == 2
    assert places.max() == 29
    assert np.ptp(np.argwhere(found.without)[:, 0]) + 1 < 24


def test_shape_without_a_part_above_its_seat_gives_nothing() -> None:
    table = furniture(plate=(20, 16), height=8, back=0)
    assert graft_part(table, table, padding=1) is None
    assert graft_part(np.zeros_like(table), table, padding=1) is None
    assert graft_part(table, np.zeros_like(table), padding=1) is None


def test_back_of_a_synthetic_chair_stands_on_a_synthetic_table() -> None:
    settings = VoxelSettings()
    for seed in range(10):
        found = graft_back(np.random.default_rng(seed), settings)
        assert found.new.any()
        assert np.argwhere(found.new)[:, 2].min() > np.argwhere(found.without)[:, 2].max() - 1
        assert (found.grid == found.without + found.new).all()
        assert np.argwhere(found.grid).min() == settings.padding
