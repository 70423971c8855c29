import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import softmax

from fer_cli.evaluation.label_issues import cross_fitted_probabilities, questionable_labels


def test_changed_labels_are_found_and_others_are_not() -> None:
    generator = np.random.default_rng(0)
    true = np.repeat(np.arange(3), 60)
    features = generator.normal(0, 1, (180, 20)) + 8 * np.eye(3, 20)[true]
    labels = true.copy()
    changed = generator.permutation(180)[:9]
    labels[changed] = (labels[changed] + 1) % 3
    probabilities = cross_fitted_probabilities(features, labels)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert set(questionable_labels(probabilities, labels)) == set(changed)


@pytest.fixture
def exchanged() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities that are half as sure as they may be, labels drawn by the surer ones, a twentieth exchanged."""
    generator = np.random.default_rng(1)
    scores = 2 * generator.normal(0, 1, (2000, 4))
    sure = softmax(2 * scores, axis=1)
    labels = (generator.random((2000, 1)) > sure.cumsum(axis=1)).sum(axis=1).clip(max=3)
    changed = generator.random(2000) < 0.05
    labels = np.where(changed, (labels + generator.integers(1, 4, 2000)) % 4, labels)
    return softmax(scores, axis=1), labels, changed


def test_suspects_are_those_of_the_most_likely_temperature_and_share(exchanged) -> None:
    probabilities, labels, _ = exchanged

    def right(values: np.ndarray) -> tuple[float, np.ndarray]:
        sharp = probabilities ** (1 / values[0])
        own = (sharp / sharp.sum(axis=1, keepdims=True))[np.arange(2000), labels]
        given = (1 - values[1]) * own + values[1] * (1 - own) / 3
        return -float(np.log(given).sum()), (1 - values[1]) * own / given

    found = minimize(lambda values: right(values)[0], [1, 0.1], bounds=[(0.2, 5), (0.001, 0.4)])
    expected = np.flatnonzero(right(found.x)[1] < 0.5)
    got = questionable_labels(probabilities, labels)
    assert len(set(got) ^ set(expected)) <= 0.05 * len(expected)  # values of a grid, in steps of 3.5 and 7 %


def test_suspects_are_ordered_by_how_likely_their_label_is_wrong(exchanged) -> None:
    probabilities, labels, changed = exchanged
    suspects = questionable_labels(probabilities, labels)
    own = probabilities[np.arange(2000), labels][suspects]
    assert own[:20].max() < own[-20:].min()
    assert changed[suspects].mean() > 0.7


def test_nothing_is_questioned_where_every_label_fits() -> None:
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9]])
    assert questionable_labels(probabilities, np.array([0, 0, 1])).tolist() == []


def test_doubt_between_two_classes_that_overlap_questions_no_label() -> None:
    # A third of each class looks like the other: 0.7 to 0.3 is what the classifier says there, and is right to say.
    probabilities = np.array([[0.7, 0.3, 0.0]] * 70 + [[0.3, 0.7, 0.0]] * 30 + [[0.0, 0.0, 1.0]] * 50)
    labels = np.array([0] * 49 + [1] * 21 + [1] * 21 + [0] * 9 + [2] * 50)
    assert questionable_labels(probabilities, labels).tolist() == []
