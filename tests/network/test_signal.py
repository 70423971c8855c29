from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
import torch
from torch.nn import functional

from fer_cli.data.volumes import InputSpec
from fer_cli.network.backbone import Level, NetworkSpec
from fer_cli.network.signal import Intensity, Occupancy, foreground_weights, signal_of

SPEC = NetworkSpec((Level("a", 3, (4, 2, 2)), Level("b", 3, (1, 1, 1))), InputSpec(2, (8, 5, 6)), ("p", "q"))


def pair(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    target = torch.randn(3, 2, 8, 5, 6, generator=generator) * 40 + 100
    return target + torch.randn(target.shape, generator=generator) * 9, target


def test_a_kind_of_input_has_its_signal() -> None:
    assert isinstance(signal_of("occupancy"), Occupancy)
    assert isinstance(signal_of("intensity"), Intensity)


def test_loss_of_occupancy_is_cross_entropy_with_occupied_voxels_weighted() -> None:
    raw, target = torch.randn(3, 1, 4, 3, 2), (torch.rand(3, 1, 4, 3, 2) < 0.3).float()
    weight = torch.tensor([1.0, 2.0, 5.0])
    log = functional.logsigmoid
    expected = -(weight[:, None, None, None, None] * target * log(raw) + (1 - target) * log(-raw))
    torch.testing.assert_close(Occupancy().loss(raw, target, weight, "sum"), expected.sum())
    torch.testing.assert_close(Occupancy().loss(raw, target, weight, "mean"), expected.mean())
    torch.testing.assert_close(Occupancy().value(raw), torch.sigmoid(raw))


def test_occupied_voxels_weigh_more_where_a_level_keeps_no_places() -> None:
    # Output and level b have one location, level a has several; the balance is 16.
    assert Occupancy().level_weights(SPEC, 1 / 17, 0.2).tolist() == pytest.approx([4, 4, 2])


def test_intensities_are_measured_in_their_standard_deviation() -> None:
    signal = Intensity(0.0)
    raw, target = pair()
    weights = signal.level_weights(SPEC, 100.0, 40.0)
    assert weights.tolist() == pytest.approx([1 / 40] * 3)
    assert signal.level_weights(SPEC, 3.0, 0.0).tolist() == [1, 1, 1]
    loss = signal.loss(raw, target, weights, "mean")
    # Far from zero the Charbonnier loss is the absolute difference.
    torch.testing.assert_close(loss, (raw - target).abs().mean() / 40, atol=2e-3, rtol=0)
    scaled = signal.loss(raw * 10, target * 10, weights / 10, "mean")
    torch.testing.assert_close(scaled, loss)
    assert signal.loss(target, target, weights, "sum") == 0
    assert torch.equal(signal.value(raw), raw)


def test_voxels_weigh_by_their_distance_from_the_background() -> None:
    _, target = pair()
    target[1, 0] = 7.0
    found = foreground_weights(target, 2.0)
    for i in range(3):
        expected = []
        for channel in range(2):
            values = np.sort(target[i, channel].numpy().ravel().astype(np.float64))
            background, spread = values[(len(values) - 1) // 2], values.std() or 1.0
            deviation = np.abs(target[i, channel].numpy() - background) / spread
            expected.append(1 + 2 * np.minimum(deviation, 3))
        expected = np.stack(expected)
        np.testing.assert_allclose(found[i].numpy(), expected / expected.mean(), rtol=1e-4)
    assert foreground_weights(target, 0.0).unique().tolist() == [1]


def test_a_small_structure_painted_over_costs_more_than_as_much_error_in_the_background() -> None:
    target = torch.zeros(1, 1, 8, 5, 6)
    target[..., 2:4, 2:4, 2:4] = 1.0
    painted_over, noise = torch.zeros_like(target), target.clone()
    noise[..., 5:7, 2:4, 2:4] = 1.0
    weight = torch.ones(1)

    def ratio(signal: Intensity) -> float:
        return float(signal.loss(painted_over, target, weight, "sum") / signal.loss(noise, target, weight, "sum"))

    assert ratio(Intensity(0.0)) == pytest.approx(1)
    assert ratio(Intensity(1.0)) == pytest.approx(4)  # three standard deviations at most


def test_psnr_is_of_the_targets_own_range() -> None:
    value, target = pair()
    found = Intensity().scores(value, target)["psnr"]
    for i in range(3):
        a, b = value[i].numpy().astype(np.float64), target[i].numpy().astype(np.float64)
        expected = 10 * np.log10((b.max() - b.min()) ** 2 / ((a - b) ** 2).mean())
        assert float(found[i]) == pytest.approx(expected, rel=1e-4)
    assert Intensity().scores(target, target)["psnr"].tolist() == [100, 100, 100]


def windows(value: np.ndarray, target: np.ndarray, window: tuple[int, ...]) -> Iterator[tuple[float, ...]]:
    """Both means, both variances and the covariance in every window inside a volume."""
    for start in product(*(range(side - edge + 1) for side, edge in zip(value.shape, window, strict=True))):
        part = tuple(slice(at, at + edge) for at, edge in zip(start, window, strict=True))
        a, b = value[part].ravel(), target[part].ravel()
        (va, cov), (_, vb) = np.cov(a, b)
        yield a.mean(), b.mean(), va, vb, cov


def test_ssim_is_that_of_a_loop_over_windows() -> None:
    value, target = pair()
    found = Intensity().scores(value, target)["ssim"]
    for i in range(3):
        b = target[i].numpy().astype(np.float64)
        spread = b.max() - b.min()
        c1, c2 = (0.01 * spread) ** 2, (0.03 * spread) ** 2
        each = []
        for channel in range(2):
            a = value[i, channel].numpy().astype(np.float64)
            for ma, mb, va, vb, cov in windows(a, b[channel], (7, 5, 6)):
                each.append((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
        assert float(found[i]) == pytest.approx(float(np.mean(each)), abs=1e-4)
    assert Intensity().scores(target, target)["ssim"].tolist() == pytest.approx([1, 1, 1])


def test_constant_target_has_finite_scores() -> None:
    target = torch.full((1, 1, 4, 3, 2), 7.0)
    scores = Intensity().scores(target + 1, target)
    assert scores["psnr"].tolist() == pytest.approx([0])
    assert all(torch.isfinite(values).all() for values in scores.values())
