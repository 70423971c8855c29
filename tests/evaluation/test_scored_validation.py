"""How many validation samples baselines choose by."""

import numpy as np
import pytest

from fer_cli.evaluation import scored
from fer_cli.evaluation.scored import score_run
from fer_cli.evaluation.split_reading import read_split
from fer_cli.run import Run


def test_of_many_validation_samples_some_are_compared_with_all_training_samples(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_out = run.model.read("validation/index")
    reading = read_split(run, "test")
    everything = score_run(run, reading)
    assert len(everything.validation_wrong) == len(held_out)
    monkeypatch.setattr(scored, "_MOST_VALIDATION", 3)
    some = score_run(run, reading)
    chosen = [0, round((len(held_out) - 1) / 2), len(held_out) - 1]
    np.testing.assert_array_equal(some.validation_wrong, everything.validation_wrong[chosen])
    np.testing.assert_allclose(
        some.validation_scores["nearest_grid"], everything.validation_scores["nearest_grid"][chosen]
    )
