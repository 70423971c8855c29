import numpy as np
import pytest
import torch

from fer_cli.calibration import outliers
from fer_cli.calibration.outliers import LEVEL, NEIGHBOURS, InputOutliers
from fer_cli.data.statistics import input_statistics, statistic_names

NAMES = ("size", "number of pieces (log)", "constant")


def training(count=400):
    generator = np.random.default_rng(0)
    return generator.normal([10.0, 1.0, 3.0], [2.0, 0.5, 0.0], (count, 3))


def test_samples_of_the_same_kind_are_as_often_odd_as_the_level_says():
    outliers = InputOutliers(NAMES, training())
    others = np.random.default_rng(1).normal([10.0, 1.0, 3.0], [2.0, 0.5, 0.0], (2000, 3))
    share = np.mean([found.is_outlier for found in outliers.measure(others)])
    # Binomial, and the reference's own quantile: four standard errors of each.
    assert share == pytest.approx(LEVEL, abs=0.03)


def test_a_sample_far_from_all_others_is_odd_and_says_by_what():
    [found] = InputOutliers(NAMES, training()).measure(np.array([[10.0, 6.0, 3.0]]))
    assert found.is_outlier
    assert found.p_value == pytest.approx(1 / 401)
    assert len(found.unusual) == 1
    assert found.unusual[0].startswith(f"number of pieces {np.exp(6.0):.3g}, usually ")


def test_a_figure_that_never_varies_in_training_counts_where_it_differs():
    usual, strange = InputOutliers(NAMES, training()).measure(np.array([[10.0, 1.0, 3.0], [10.0, 1.0, 3.5]]))
    assert not usual.is_outlier
    assert strange.is_outlier
    assert strange.unusual[0].startswith("constant 3.5")


def test_one_training_sample_is_enough_to_ask():
    [found] = InputOutliers(NAMES, training(1)).measure(np.array([[0.0, 0.0, 0.0]]))
    assert found.p_value == 0.5


def test_the_distance_is_the_mean_to_the_nearest_others_as_a_loop_over_all_finds_them():
    known = training(40)
    standard = (known - known.mean(axis=0)) / np.array([*known.std(axis=0)[:2], 1e-3 * 3])
    far = [
        np.sort(np.linalg.norm(np.delete(standard, at, 0) - row, axis=1))[:NEIGHBOURS].mean()
        for at, row in enumerate(standard)
    ]
    outliers = InputOutliers(NAMES, known)
    np.testing.assert_allclose(outliers.reference, far, rtol=1e-9)


def test_equal_training_samples_are_each_others_nearest():
    outliers = InputOutliers(NAMES, np.repeat(training(1), 20, axis=0))
    np.testing.assert_array_equal(outliers.reference, 0)


def test_of_many_training_samples_some_are_drawn_and_compared_with_all(monkeypatch):
    known = training()
    whole = InputOutliers(NAMES, known)
    monkeypatch.setattr(outliers, "_MOST", 100)
    some = InputOutliers(NAMES, known)
    assert len(some.reference) == 100
    assert set(some.reference) < set(whole.reference)
    other = training(500)[-1:]
    assert some.measure(other)[0].p_value == pytest.approx(whole.measure(other)[0].p_value, abs=0.1)


def test_distances_do_not_depend_on_the_blocks_that_they_are_worked_out_in(monkeypatch):
    whole = InputOutliers(NAMES, training())
    monkeypatch.setattr(outliers, "_DISTANCES", 1500)
    np.testing.assert_array_equal(InputOutliers(NAMES, training()).reference, whole.reference)


def test_an_empty_shape_is_said_to_have_nothing():
    shapes = torch.from_numpy(np.random.default_rng(0).random((9, 2, 6, 6, 6)) < 0.5).float()
    outliers = InputOutliers(statistic_names("occupancy"), input_statistics(shapes, "occupancy"))
    empty = torch.zeros(2, 2, 6, 6, 6)
    empty[1, 0] = shapes[0, 0]
    nothing, half = outliers.measure(input_statistics(empty, "occupancy"))
    assert nothing.unusual == ("no voxel is occupied",)
    assert half.unusual
    assert half.unusual != nothing.unusual
