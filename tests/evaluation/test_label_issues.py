import numpy as np

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


def test_suspects_are_ordered_by_how_much_another_class_leads() -> None:
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.05, 0.95], [0.3, 0.7], [0.1, 0.9], [0.2, 0.8]])
    labels = np.array([0, 0, 0, 0, 1, 1])
    # Mean confidence of class 1 is 0.85, so that 0.7 is not enough to question a label.
    assert questionable_labels(probabilities, labels).tolist() == [2]
    assert questionable_labels(probabilities, np.array([0, 0, 0, 0, 1, 0])).tolist() == [2]


def test_nothing_is_questioned_where_every_label_fits() -> None:
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9]])
    assert questionable_labels(probabilities, np.array([0, 0, 1])).tolist() == []
