import numpy as np
import pytest

from fer_cli.calibration.surroundings import NEAREST, VOTERS, Neighbourhood, Surroundings, neighbourhood
from fer_cli.codebooks.training_codes import TrainingCodes
from fer_cli.network.activations import FEEDFORWARD, encode
from fer_cli.run import Run


def surroundings(distance, vote, label, predicted, probability):
    nothing = TrainingCodes("conv", np.zeros(0, np.int64), np.zeros((0, 1), np.int64))
    columns = (np.array(column) for column in (label, predicted, probability))
    return Surroundings(nothing, np.zeros(0, np.int64), Neighbourhood(np.array(distance), np.array(vote)), *columns)


def test_neighbours_are_those_of_a_slow_search(run: Run) -> None:
    kept = run.training_codes
    assert kept is not None
    labels, classes = run.voxels.labels[kept.index], len(run.voxels.classes)
    centroids = run.codebook.layer(FEEDFORWARD, kept.layer).centroids
    chosen = run.voxels.indices("test")[:3]
    features = encode(run.network, run.voxels.tensor(chosen), [kept.layer])[kept.layer]
    found = neighbourhood(kept, run.codebook, features, labels, classes)
    for row, feature in enumerate(features.float().flatten(2).permute(0, 2, 1).numpy()):
        away = [
            np.sqrt(sum(np.square(centroids[place, code] - feature[place]).sum() for place, code in enumerate(codes)))
            for codes in kept.code
        ]
        for klass in range(classes):
            nearest = sorted(one for one, label in zip(away, labels, strict=True) if label == klass)[:NEAREST]
            assert found.distance[row, klass] == pytest.approx(np.mean(nearest), rel=1e-4)
        voters = labels[np.argsort(away, kind="stable")[:VOTERS]]
        np.testing.assert_allclose(found.vote[row], np.bincount(voters, minlength=classes) / len(voters), atol=1e-6)


def test_a_run_keeps_the_neighbourhoods_of_its_validation_samples(run: Run) -> None:
    kept = run.surroundings
    assert kept is not None
    index = run.model.read("validation/index")
    features = encode(run.network, run.voxels.tensor(index[:5]), [kept.known.layer])[kept.known.layer]
    again = kept.around(run.codebook, features)
    np.testing.assert_allclose(again.distance, kept.validation.distance[:5], rtol=1e-4)
    np.testing.assert_allclose(again.vote, kept.validation.vote[:5], atol=1e-6)


def test_distance_is_far_where_few_of_the_class_lie_as_far():
    distances = [[float(1 + row), 100.0] for row in range(99)]
    known = surroundings(distances, np.zeros((99, 2)), [0] * 99, [0] * 99, np.full((99, 2), 0.5))
    assert known.far_from(0, 1000.0) == pytest.approx(0.01)
    assert known.far_from(0, 0.5) == pytest.approx(1.0)
    assert known.far_from(0, 50.0) == pytest.approx(0.51, abs=0.02)
    assert known.far_from(1, np.inf) == pytest.approx(0.01)


def test_overlap_is_the_larger_share_of_votes_of_correct_samples_for_the_other_class():
    votes = [[0.8, 0.2, 0.0], [0.6, 0.4, 0.0], [0.1, 0.9, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]
    known = surroundings(np.ones((5, 3)), votes, [0, 0, 1, 2, 0], [0, 0, 1, 2, 2], np.full((5, 3), 1 / 3))
    assert known.overlap(0, 1) == known.overlap(1, 0) == pytest.approx(0.3)
    assert known.overlap(0, 2) == 0.0


def test_unlikely_is_what_correct_samples_give_to_other_classes():
    probability = [[1 - given, given] for given in np.arange(1, 101) / 1000] + [[0.1, 0.9]]
    known = surroundings(np.ones((101, 2)), np.ones((101, 2)), [0] * 101, [0] * 100 + [1], probability)
    assert known.unlikely == pytest.approx(0.09505)


def test_least_is_what_nine_in_ten_mistakes_reach_and_sure_what_three_in_four_correct_samples_do():
    wrong = [[0.01 * n, 1 - 0.01 * n] for n in range(1, 11)]
    right = [[0.6, 0.4], [0.7, 0.3], [0.8, 0.2], [0.9, 0.1], [1.0, 0.0]]
    given, predicted = np.array(wrong + right), [1] * 10 + [0] * 5
    ones = np.ones((15, 2))
    known = surroundings(ones, ones, [0] * 15, predicted, given)
    assert known.least == pytest.approx(0.01)
    assert known.sure == pytest.approx(0.7)
    fewer = surroundings(ones[1:], ones[1:], [0] * 14, predicted[1:], given[1:])
    assert fewer.least == 0.0
