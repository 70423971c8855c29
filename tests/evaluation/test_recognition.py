import numpy as np
import pytest

from fer_cli.evaluation.recognition import mean_recognition, recognise

LABELS = np.array([0] * 8 + [1] * 2)


def probabilities(second) -> np.ndarray:
    second = np.asarray(second, dtype=np.float64)
    return np.stack([1 - second, second], 1)


def test_a_rare_class_shows_in_auc_and_at_the_threshold_of_the_validation_samples() -> None:
    second = np.array([0.1, 0.1, 0.2, 0.2, 0.2, 0.3, 0.3, 0.4, 0.35, 0.45])
    found = recognise(probabilities(second), LABELS, probabilities(second), LABELS)
    assert found["majority"] == 0.8
    assert found["unequal"]
    assert found["auc"] == pytest.approx(15 / 16)  # one of sixteen pairs is the wrong way round
    at = found["at_threshold"]
    assert at is not None
    assert 0.3 < at["threshold"] < 0.35
    assert at["class_accuracy"] == pytest.approx((7 / 8 + 1) / 2)
    assert at["accuracy"] == 0.9


def test_the_threshold_is_not_fitted_to_the_samples_it_is_used_on() -> None:
    held_out = probabilities([0.1, 0.2, 0.8, 0.9])
    found = recognise(probabilities([0.6] * 8 + [0.7] * 2), LABELS, held_out, np.array([0, 0, 1, 1]))
    at = found["at_threshold"]
    assert at is not None
    assert at["threshold"] == pytest.approx(0.5)
    assert at["class_accuracy"] == 0.5


def test_several_classes_have_the_mean_area_and_no_threshold() -> None:
    perfect = np.eye(3)[[0, 1, 2, 2]]
    labels = np.array([0, 1, 2, 2])
    found = recognise(perfect, labels, perfect, labels)
    assert found["auc"] == 1
    assert found["at_threshold"] is None
    assert recognise(perfect, np.zeros(4, np.int64), perfect, labels)["auc"] is None


def test_runs_are_averaged() -> None:
    second = np.linspace(0, 1, 10)
    one = recognise(probabilities(second), LABELS, probabilities(second), LABELS)
    other = recognise(probabilities(1 - second), LABELS, probabilities(second), LABELS)
    assert mean_recognition([one, other])["auc"] == pytest.approx(0.5)
