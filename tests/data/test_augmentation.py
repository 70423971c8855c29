import math
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fer_cli.data.augmentation import Augmentation, resample, turn
from fer_cli.errors import UsageError
from tiny import load_benchmark


def vary(grids: Tensor, seed: int, **settings: Any) -> Tensor:
    augmentation = Augmentation(**settings)
    return augmentation.draw(len(grids), torch.Generator().manual_seed(seed)).apply(grids)


def moved(grid: np.ndarray, move: tuple[int, ...], flips: tuple[bool, bool]) -> np.ndarray:
    """A grid moved, then mirrored in x and in y, voxel by voxel."""
    result = np.zeros_like(grid)
    for index in np.ndindex(grid.shape):
        target = [i + m for i, m in zip(index, move, strict=True)]
        if all(0 <= i < side for i, side in zip(target, grid.shape, strict=True)):
            for axis, flip in enumerate(flips):
                target[axis] = grid.shape[axis] - 1 - target[axis] if flip else target[axis]
            result[tuple(target)] = grid[index]
    return result


def which_moves(before: Tensor, after: Tensor, shift: int) -> list[tuple[tuple[int, ...], tuple[bool, bool]]]:
    moves = product(product(range(-shift, shift + 1), repeat=3), product((False, True), repeat=2))
    candidates = {key: moved(before[0, 0].numpy(), *key) for key in moves}
    found = [[key for key, grid in candidates.items() if np.array_equal(grid, one[0].numpy())] for one in after]
    assert all(len(keys) == 1 for keys in found)
    return [keys[0] for keys in found]


@pytest.mark.parametrize(("shift", "mirror"), [(1, True), (1, False), (0, True), (2, False), (0, False)])
def test_augmented_shape_is_the_shape_moved_and_mirrored(shift: int, mirror: bool) -> None:
    grid = torch.rand(1, 1, 6, 5, 4, generator=torch.Generator().manual_seed(1))
    repeated = grid.expand(200, -1, -1, -1, -1)
    result = vary(repeated, 2, shift=shift, mirror=mirror)
    found = which_moves(grid, result, shift)
    for axis in range(3):
        assert {move[axis] for move, _ in found} == set(range(-shift, shift + 1))
    assert len({flips for _, flips in found}) == (4 if mirror else 1)
    assert torch.equal(result, vary(repeated, 2, shift=shift, mirror=mirror))
    if shift or mirror:
        assert not torch.equal(result, vary(repeated, 3, shift=shift, mirror=mirror))
    assert torch.equal(repeated[7], grid[0])  # the input is left alone


@pytest.mark.parametrize("edge", [False, True])
def test_batched_variations_are_those_of_a_loop_over_samples(edge: bool) -> None:
    """Every kind at once, of several channels."""
    volumes = torch.rand(40, 2, 6, 6, 4, generator=torch.Generator().manual_seed(3))
    settings = Augmentation(shift=2, mirror="xyz", quarter_turns=True, edge=edge)
    drawn = settings.draw(40, torch.Generator().manual_seed(4))
    padded = torch.nn.functional.pad(volumes, (2,) * 6, mode="replicate" if edge else "constant")
    for sample, found in enumerate(drawn.apply(volumes)):
        x, y, z = drawn.moves[sample].tolist()
        wanted = padded[sample, :, x : x + 6, y : y + 6, z : z + 4]
        flips = (*drawn.flips[sample, :2].tolist(), bool(drawn.flips_z[sample]))
        wanted = wanted.flip([axis + 1 for axis, flip in enumerate(flips) if flip])
        assert torch.equal(found, wanted.transpose(1, 2) if drawn.flips[sample, 2] else wanted)
    assert drawn.flips_z.any()


def ball(x: float, y: float, z: float, side: int = 20) -> Tensor:
    """A soft ball around a place, in voxels from the grid's centre."""
    axis = torch.arange(side) - (side - 1) / 2
    distance = (axis - x)[:, None, None] ** 2 + (axis - y)[:, None] ** 2 + (axis - z) ** 2
    return torch.exp(-distance / 3)[None, None]


def centre(grid: Tensor) -> list[float]:
    axis = torch.arange(grid.shape[-1]) - (grid.shape[-1] - 1) / 2
    mass = grid[0, 0] / grid.sum()
    return [float((mass.sum(others) * axis).sum()) for others in ((1, 2), (0, 2), (0, 1))]


@pytest.mark.parametrize("degrees", [0, 30, 45, 90, 180, -60])
def test_a_turn_is_about_the_vertical_and_counterclockwise(degrees: float) -> None:
    angle = math.radians(degrees)
    turned = turn(ball(4, 1, -2), torch.tensor([angle]))
    expected = [4 * math.cos(angle) - math.sin(angle), 4 * math.sin(angle) + math.cos(angle), -2]
    assert centre(turned) == pytest.approx(expected, abs=0.03)  # a tenth of what interpolation blurs over
    assert float(turned.sum()) == pytest.approx(float(ball(4, 1, -2).sum()), rel=0.02)


def test_quarters_of_a_turn_are_exact() -> None:
    grid = (torch.rand(1, 1, 6, 6, 4, generator=torch.Generator().manual_seed(1)) < 0.3).float()
    for quarters in range(4):
        turned = turn(grid, torch.tensor([quarters * math.pi / 2]))
        torch.testing.assert_close(turned, torch.rot90(grid, quarters, (2, 3)), atol=1e-5, rtol=0)


def test_quarter_turns_with_mirrors_give_all_eight_symmetries_of_the_square() -> None:
    grid = torch.rand(1, 1, 5, 5, 4, generator=torch.Generator().manual_seed(1))
    result = vary(grid.expand(200, -1, -1, -1, -1), 0, mirror=True, quarter_turns=True)
    symmetries = [torch.rot90(g, quarters, (2, 3)) for g in (grid, grid.flip(2)) for quarters in range(4)]
    found = {next(i for i, symmetry in enumerate(symmetries) if torch.equal(one, symmetry[0])) for one in result}
    assert found == set(range(8))


def test_rotation_and_stretch_keep_to_their_bounds() -> None:
    grids = ball(5, 0, 2).expand(300, -1, -1, -1, -1)
    places = np.array([centre(one[None]) for one in vary(grids, 0, rotation=20.0)])
    angles = np.degrees(np.arctan2(places[:, 1], places[:, 0]))
    assert 18 < angles.max() < 20.5
    assert -20.5 < angles.min() < -18
    assert places[:, 2] == pytest.approx(np.full(300, 2.0), abs=0.01)
    places = np.array([centre(one[None]) for one in vary(grids, 0, stretch=0.1)])
    assert places[:, 1] == pytest.approx(np.zeros(300), abs=0.01)
    for axis, at in ((0, 5), (2, 2)):
        # The two grids' beat moves the centre by up to a twentieth of a voxel.
        extremes = [places[:, axis].min() / at, places[:, axis].max() / at]
        assert extremes == pytest.approx([0.9, 1.1], abs=0.05 / at)


def test_a_share_of_a_batch_is_varied_as_in_the_whole() -> None:
    grids = torch.rand(7, 1, 6, 6, 6, generator=torch.Generator().manual_seed(1))
    variations = Augmentation(2, True, True, 15.0, 0.1).draw(7, torch.Generator().manual_seed(3))
    whole = variations.apply(grids)
    for rank in range(3):
        rows = slice(rank, None, 3)
        assert torch.equal(variations[rows].apply(grids[rows]), whole[rows])


def test_what_is_switched_on_does_not_change_what_else_is_drawn() -> None:
    states = []
    for settings in (Augmentation(), Augmentation(2, True, True, 15.0, 0.1)):
        generator = torch.Generator().manual_seed(3)
        settings.draw(7, generator)
        states.append(generator.get_state())
    assert torch.equal(*states)


def test_resampling_in_columns_is_trilinear_interpolation_of_every_voxel() -> None:
    generator = torch.Generator().manual_seed(3)
    grids = torch.rand(5, 2, 8, 6, 4, generator=generator)
    angles = torch.rand(5, generator=generator) * 2 - 1
    scales = 0.7 + 0.6 * torch.rand(5, 3, generator=generator)
    expected = load_benchmark("augmentation").voxel_by_voxel(grids, angles, scales)
    # Places are computed in float32 in another order; a voxel is 1, its neighbour 0.
    torch.testing.assert_close(resample(grids, angles, scales), expected, atol=1e-5, rtol=0)


def test_a_turn_is_one_of_voxels_where_the_sides_differ() -> None:
    grid = torch.zeros(1, 2, 12, 8, 3)
    grid[0, 0, 8, 4, 1] = 1  # 2.5 voxels from the middle along x, 0.5 along y
    grid[0, 1, 5, 6, 2] = 1  # −0.5 and 2.5
    turned = turn(grid, torch.tensor([math.pi / 2]))
    expected = torch.zeros_like(grid)
    expected[0, 0, 5, 6, 1] = 1
    expected[0, 1, 3, 3, 2] = 1
    torch.testing.assert_close(turned, expected, atol=1e-5, rtol=0)


def test_a_volume_whose_sides_differ_is_not_turned_by_quarters() -> None:
    with pytest.raises(UsageError, match="4 by 6 voxels cannot be turned by quarters"):
        vary(torch.zeros(2, 1, 4, 6, 5), 0, mirror=False, quarter_turns=True)


def test_settings_are_parsed_from_text() -> None:
    parsed = Augmentation.parsed("shift=2, mirror=xz,rotation=10,contrast=0.1,quarter_turns=1")
    assert parsed == Augmentation(shift=2, mirror="xz", rotation=10.0, contrast=0.1, quarter_turns=True)
    assert Augmentation.parsed("none") == Augmentation()
    usual = Augmentation.parsed("mirror,turn,shift,stretch,contrast,brightness")
    assert usual == Augmentation(shift=2, mirror="xy", rotation=10.0, stretch=0.1, contrast=0.1, brightness=0.1)
    for text in ("mirror=w", "zoom=2", "shift=far", "rotation=", "stretch=1", "turn=181", "", ",,", "shift=2,"):
        with pytest.raises(UsageError):
            Augmentation.parsed(text)


def test_mirroring_in_x_and_y_is_what_true_stood_for() -> None:
    assert Augmentation(mirror=True) == Augmentation(mirror="xy")
    assert Augmentation(**vars(Augmentation(mirror=True))) == Augmentation(mirror="xy")


def test_each_axis_is_mirrored_by_itself() -> None:
    volumes = torch.rand(64, 1, 3, 4, 5)
    for axis, name in enumerate("xyz"):
        varied = Augmentation(mirror=name).draw(64, torch.Generator().manual_seed(0)).apply(volumes)
        flipped = volumes.flip(axis + 2)
        same = (varied == volumes).flatten(1).all(1)
        other = (varied == flipped).flatten(1).all(1)
        assert bool((same | other).all())
        assert 16 < int(other.sum()) < 48


def test_contrast_and_brightness_are_linear_in_the_values() -> None:
    volumes = torch.rand(8, 1, 4, 4, 4) + 5
    settings = Augmentation(contrast=0.2, brightness=0.5)
    drawn = settings.draw(8, torch.Generator().manual_seed(0))
    varied = drawn.apply(volumes)
    assert float((drawn.gains - 1).abs().max()) <= 0.2
    assert float(drawn.offsets.abs().max()) <= 0.5
    for before, after, gain, offset in zip(volumes, varied, drawn.gains, drawn.offsets, strict=True):
        torch.testing.assert_close(after, before * gain + offset * before.std())


def test_at_an_edge_the_value_of_the_border_comes_in() -> None:
    flat = torch.full((16, 1, 6, 6, 6), 3.0)
    settings = Augmentation(shift=2, rotation=30.0, stretch=0.3, edge=True)
    torch.testing.assert_close(settings.draw(16, torch.Generator().manual_seed(0)).apply(flat), flat)
    lost = replace(settings, edge=False).draw(16, torch.Generator().manual_seed(0)).apply(flat)
    assert float(lost.min()) == 0
