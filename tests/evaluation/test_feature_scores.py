"""Each score against a slow loop written from its publication."""

import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis as scipy_mahalanobis

from fer_cli.evaluation import feature_scores as scores
from fer_cli.storage.spooled import SpooledRows

GENERATOR = np.random.default_rng(3)
CLASSES, FILTERS = 3, 5
LABELS = np.arange(60) % CLASSES
TRAINING = (GENERATOR.normal(0, 1, (60, FILTERS)) + 2 * np.eye(CLASSES, FILTERS)[LABELS]).astype(np.float32)
FEATURES = GENERATOR.normal(0.5, 2, (11, FILTERS)).astype(np.float32)
PREDICTED = GENERATOR.integers(0, CLASSES, 11)


@pytest.fixture(autouse=True, params=["at once", "in blocks", "spooled"])
def training(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> np.ndarray | SpooledRows:
    """The training features as evaluation gives them: an array, or spooled; read at once or seven rows at a time."""
    if request.param == "at once":
        return TRAINING
    monkeypatch.setattr(scores, "_NUMBERS", 7 * FILTERS)
    return TRAINING if request.param == "in blocks" else spooled(TRAINING)


def spooled(rows: np.ndarray) -> SpooledRows:
    kept = SpooledRows(rows.shape[1])
    for part in np.array_split(rows, 4):
        kept.append(part)
    return kept


def length(vector: np.ndarray) -> float:
    return float(np.sqrt(sum(float(value) ** 2 for value in vector)))


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / length(vector)


def test_mahalanobis_is_scipys_under_the_shared_covariance(training: np.ndarray | SpooledRows) -> None:
    means = [TRAINING[label == LABELS].mean(axis=0, dtype=np.float64) for label in range(CLASSES)]
    offsets = TRAINING - np.array(means)[LABELS]
    inverse = np.linalg.inv(offsets.T @ offsets / len(TRAINING))
    expected = [-min(scipy_mahalanobis(row, mean, inverse) ** 2 for mean in means) for row in FEATURES]
    assert scores.mahalanobis(FEATURES, training, LABELS) == pytest.approx(expected, rel=1e-3)
    everything = TRAINING.mean(axis=0, dtype=np.float64)
    common = np.linalg.inv(np.cov(TRAINING.T.astype(np.float64), bias=True))
    relative = [
        own + scipy_mahalanobis(row, everything, common) ** 2 for own, row in zip(expected, FEATURES, strict=True)
    ]
    assert scores.relative_mahalanobis(FEATURES, training, LABELS) == pytest.approx(relative, rel=1e-3, abs=1e-3)


def test_a_filter_that_never_varies_is_no_reason_to_fail() -> None:
    flat = np.concatenate([TRAINING, np.zeros((60, 1), np.float32)], axis=1)
    wide = np.concatenate([FEATURES, np.zeros((11, 1), np.float32)], axis=1)
    assert scores.mahalanobis(wide, flat, LABELS) == pytest.approx(
        scores.mahalanobis(FEATURES, TRAINING, LABELS), rel=1e-3
    )


@pytest.mark.parametrize("k", [1, 4, 60, 90])
def test_neighbour_distance_is_the_kth_smallest(k: int, training: np.ndarray | SpooledRows) -> None:
    found = scores.neighbour_distance(scores.neighbour_distances(FEATURES, training, k), k)
    for row, value in zip(FEATURES, found, strict=True):
        distances = sorted(length(unit(row) - unit(other)) for other in TRAINING)
        assert value == pytest.approx(-distances[min(k, 60) - 1], abs=1e-3)


def test_deep_neighbours_count_labels_and_compare_with_held_out_samples() -> None:
    k = 7
    layers = [(FEATURES, TRAINING), (FEATURES[:, ::-1].copy() ** 2, TRAINING[:, ::-1].copy() ** 2)]
    neighbours = [scores.neighbour_labels(features, training, LABELS, 20) for features, training in layers]
    odd = scores.nonconformity(neighbours, k, CLASSES)
    for sample in range(len(FEATURES)):
        for label in range(CLASSES):
            expected = 0
            for features, training in layers:
                order = np.argsort([length(unit(features[sample]) - unit(other)) for other in training])
                expected += sum(LABELS[other] != label for other in order[:k])
            assert odd[sample, label] == expected
    reference = np.array([0, 3, 3, 9, 12, 14])
    found = scores.credibility(odd, PREDICTED, reference)
    own = odd[np.arange(len(PREDICTED)), PREDICTED]
    assert found == pytest.approx([np.mean([held >= mine for held in reference]) for mine in own])


def test_virtual_logit_by_its_steps(training: np.ndarray | SpooledRows) -> None:
    weight, bias = GENERATOR.normal(0, 1, (CLASSES, FILTERS)).astype(np.float32), np.array([0.1, -0.2, 0.3], np.float32)
    logits, training_logits = FEATURES @ weight.T + bias, TRAINING @ weight.T + bias
    origin = -np.linalg.pinv(weight) @ bias
    _, _, rows = np.linalg.svd(TRAINING - origin, full_matrices=True)
    rest = rows[FILTERS // 2 :]  # all but the two directions with most variance
    alpha = training_logits.max(axis=1).sum() / sum(length(rest @ (row - origin)) for row in TRAINING)
    expected = [
        np.log(np.exp(z.astype(np.float64)).sum()) - alpha * length(rest @ (row - origin))
        for row, z in zip(FEATURES, logits, strict=True)
    ]
    found = scores.virtual_logit(FEATURES, logits, training, training_logits, weight, bias)
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_trust_score_is_a_ratio_of_distances(training: np.ndarray | SpooledRows) -> None:
    table = scores.class_distances(FEATURES, training, LABELS, CLASSES)
    found = scores.trust_score(table, PREDICTED)
    for row, label, value in zip(FEATURES, PREDICTED, found, strict=True):
        nearest = [min(length(row - other) for other in TRAINING[c == LABELS]) for c in range(CLASSES)]
        others = min(distance for c, distance in enumerate(nearest) if c != label)
        assert value == pytest.approx(others / nearest[label], rel=1e-3)


def test_a_class_without_training_samples_is_infinitely_far(training: np.ndarray | SpooledRows) -> None:
    table = scores.class_distances(FEATURES, training, LABELS, CLASSES + 1)
    assert np.isinf(table[:, CLASSES]).all()
    assert np.isfinite(scores.trust_score(table, PREDICTED)).all()
