import numpy as np
import pytest

from fer_cli.evaluation.encoded import Encoded
from fer_cli.evaluation.experts import SOFTMAX, even_weights, evidence_experts, nearest_experts, view_experts


def encoded(features: np.ndarray, labels: np.ndarray, *, classes: int = 3) -> Encoded:
    count = len(labels)
    return Encoded(
        np.arange(count), labels, np.zeros((count, classes), np.float32), {"fc7": features.astype(np.float32)}
    )


def test_every_expert_gives_log_probabilities() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 30)
    part = encoded(generator.normal(size=(30, 4)), labels)
    tables = generator.dirichlet(np.ones(3), 30)
    evidence = {"conv1": generator.normal(size=(30, 3)).astype(np.float32)}
    pairs = (
        view_experts(part, (tables, tables)),
        evidence_experts((evidence, evidence), {"conv1": 2.0}, np.full(3, 1 / 3)),
        nearest_experts(encoded(generator.normal(size=(9, 4)), np.arange(9) % 3), part, part, 3),
    )
    for pair in pairs:
        for of in pair:
            for table in of.values():
                np.testing.assert_allclose(np.exp(table).sum(axis=1), 1, rtol=1e-9)


def test_temperatures_come_from_validation_alone() -> None:
    labels = np.array([0, 1, 2] * 10)
    right = encoded(np.eye(3)[labels], labels)
    wrong = encoded(np.eye(3)[labels], (labels + 1) % 3)
    training = encoded(np.eye(3), np.arange(3))
    assert np.exp(nearest_experts(training, right, wrong, 3)[1]["nearest_fc7"][0, 0]) > 0.9
    assert np.exp(nearest_experts(training, wrong, right, 3)[1]["nearest_fc7"][0, 0]) < 0.4


def test_evidence_is_divided_by_its_temperature_and_joined_by_the_prior() -> None:
    evidence = {"conv1": np.log(np.array([[1.0, 16.0]], np.float32))}
    _, said = evidence_experts((evidence, evidence), {"conv1": 2.0}, np.array([0.8, 0.2]))
    np.testing.assert_allclose(np.exp(said["conv1"]), [[0.5, 0.5]], rtol=1e-6)


def test_nearness_is_of_direction_not_length() -> None:
    training = encoded(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0, 1]), classes=2)
    validation = encoded(np.array([[1.0, 0.1], [0.1, 1.0]]), np.array([0, 1]), classes=2)
    short, long = (encoded(np.array([[0.2, 0.1]]) * scale, np.array([0]), classes=2) for scale in (1, 50))
    said = [nearest_experts(training, validation, part, 2)[1]["nearest_fc7"] for part in (short, long)]
    np.testing.assert_allclose(said[0], said[1], rtol=1e-5)
    assert said[0].argmax() == 0


def test_each_kind_of_witness_has_the_same_say() -> None:
    weights = even_weights([SOFTMAX, "conv1", "conv2", "nearest_conv2", "nearest_fc7"])
    assert weights == pytest.approx(
        {SOFTMAX: 1 / 3, "conv1": 1 / 6, "conv2": 1 / 6, "nearest_conv2": 1 / 6, "nearest_fc7": 1 / 6}
    )
    assert even_weights([SOFTMAX, "nearest_fc7"]) == {SOFTMAX: 0.5, "nearest_fc7": 0.5}
