import numpy as np

from fer_cli.evaluation.resampling import mean_with_interval, shape_weights


def test_rows_of_one_shape_are_drawn_together() -> None:
    weights = shape_weights(["a", "b", "a", "c"], draws=50)
    assert (weights[0] == 1).all()
    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[1:, [0, 1, 3]].sum(axis=1) == 3).all()
    once, twice = (
        mean_with_interval(np.array(values), shape_weights(names, seed=2))
        for values, names in (([0.0, 1, 1, 0, 1], list("abcde")), ([0.0, 1, 1, 0, 1] * 2, list("abcde" * 2)))
    )
    assert once == twice  # seeds that say the same add nothing
