import numpy as np
import pytest

from fer_cli.codebooks.reading import read_samples
from fer_cli.codebooks.reconstruction import nearest_training_sample
from fer_cli.evaluation.outcomes import Outcomes
from fer_cli.evaluation.results import Evaluation
from fer_cli.evaluation.split_reading import spoken_for
from fer_cli.evaluation.survey import Survey, survey
from fer_cli.network.activations import PATHS
from fer_cli.run import Run


def made(labels: list[int], predicted: list[int], suspicion: list[float], names: str) -> Survey:
    values = np.array(predicted)
    speaks_for = {path: {"conv1": values, "output": np.array(labels)} for path in PATHS}
    nothing = np.zeros(len(names), int)
    outcomes = Outcomes(nothing, np.array(labels), values, values, {}, speaks_for, nothing > 0)
    return Survey(list(names), outcomes, np.array(suspicion))


def test_samples_are_picked_by_the_rule() -> None:
    found = made(
        labels=[1, 1, 1, 1, 0, 0, 0, 2, 3],
        predicted=[1, 1, 1, 1, 0, 1, 1, 0, 3],
        suspicion=[0.9, 0.1, 0.4, 0.2, 0.5, 0.8, 0.7, 0.3, 0.2],
        names="abcdefghi",
    )
    assert found.typical(correct=True) == ["e", "d", "i"]  # of 0.1 0.2 0.4 0.9 the lower middle
    assert found.typical(correct=False) == ["g", "h"]
    assert found.most_typical() == "i"  # 0.1 b, 0.2 d, 0.2 i, 0.4 c, 0.5 e, 0.9 a
    assert made([0], [1], [0.5], "a").most_typical() is None
    assert made([0], [1], [0.5], "a").typical(correct=True) == []


def test_order_of_samples_does_not_change_what_is_picked() -> None:
    generator = np.random.default_rng(0)
    labels, predicted = generator.integers(0, 3, 40).tolist(), generator.integers(0, 3, 40).tolist()
    suspicion = (generator.integers(0, 4, 40) / 4).tolist()
    names = [chr(65 + i) for i in range(40)]
    order = generator.permutation(40)
    first = made(labels, predicted, suspicion, "".join(names))
    again = made(
        *([values[i] for i in order] for values in (labels, predicted, suspicion)), "".join(names[i] for i in order)
    )
    for correct in (True, False):
        assert first.typical(correct=correct) == again.typical(correct=correct)
    assert first.most_typical() == again.most_typical()


def test_shares_are_counted_over_the_samples_of_each_kind() -> None:
    shares = made([1, 1, 0, 2], [1, 0, 0, 0], [0.1] * 4, "abcd").outcomes.shares()
    correct, wrong = shares["correct"], shares["misclassified"]
    assert (correct["n"], wrong["n"]) == (2, 2)
    assert correct["layers"][0] == {
        "name": "conv1",
        **{f"{path}_{what}": 1.0 for path in PATHS for what in ("true", "predicted")},
    }
    assert [wrong["layers"][0][f"feedback_{what}"] for what in ("true", "predicted")] == [0.0, 1.0]
    assert [wrong["layers"][1][f"feedback_{what}"] for what in ("true", "predicted")] == [1.0, 0.0]
    assert made([1], [1], [0.1], "a").outcomes.shares()["misclassified"]["nearest_of_true_class"] is None


def test_survey_of_a_run_is_what_its_samples_read_alone_say(run: Run) -> None:
    told: list[tuple[int, int]] = []
    found = survey(run, report=lambda done, total: told.append((done, total)))
    assert told == [(18, 18)]
    indices = run.voxels.indices("test")
    assert found.names == [run.voxels.names[i] for i in indices]
    np.testing.assert_array_equal(found.outcomes.labels, run.voxels.labels[indices])
    for position in (0, 7, 17):
        volumes = run.voxels.tensor([int(indices[position])])
        reading = read_samples(run.network, run.codebook, volumes)
        assert run.views is not None
        seen = run.views.probabilities(run.network, volumes)
        assert found.outcomes.predicted[position] == reading.predicted[0]
        assert found.suspicion[position] == pytest.approx(1 - seen[0, reading.predicted[0]], abs=1e-6)
        assert found.outcomes.nearest[position] == run.voxels.labels[nearest_training_sample(run.codebook, reading)[0]]
        for path in PATHS:
            for layer, classes in found.outcomes.speaks_for[path].items():
                assert classes[position] == reading.evidence[path][layer][0].argmax()


def test_table1_of_a_survey_is_that_of_the_evaluation(run: Run, evaluated: Evaluation) -> None:
    found = survey(run).outcomes.table1()
    for group, row in evaluated["table1"].items():
        assert found[group] == pytest.approx(row, rel=1e-9)


def test_evidence_that_two_classes_share_speaks_for_none() -> None:
    evidence = np.array([[0.5, 2.0, 1.0], [1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    assert spoken_for(evidence).tolist() == [1, -1, -1]
