from dataclasses import replace
from pathlib import Path

import pytest

from fer_cli.cli.stages import _tell_trained
from fer_cli.network.training import TrainingSummary

SUMMARY = TrainingSummary(
    path=Path("run/model.h5"),
    unreduced_layers=(),
    parameters=1_000,
    training_samples=90,
    validation_samples=10,
    accuracy=0.9,
    majority=0.8,
    score_name="PSNR",
    score=12.0,
    seconds=3.0,
)


@pytest.mark.parametrize(("accuracy", "told"), [(0.9, False), (0.8, True), (0.7, True)])
def test_a_classifier_no_better_than_the_most_frequent_class_is_named(
    capsys: pytest.CaptureFixture[str], accuracy: float, *, told: bool
) -> None:
    _tell_trained(replace(SUMMARY, accuracy=accuracy), as_json=False)
    assert ("most frequent class (0.8000)" in capsys.readouterr().out) is told
