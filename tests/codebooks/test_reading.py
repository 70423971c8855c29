import numpy as np
import pytest
import torch

from fer_cli.calibration.confidence import Calibration
from fer_cli.calibration.p_value import PredictedClasses
from fer_cli.codebooks.reading import code_distances, margin, read_samples
from fer_cli.network.activations import FEEDBACK, FEEDFORWARD, PATHS, encode, feed_back
from fer_cli.network.backbone import OUTPUT
from fer_cli.run import Run

NAMES = ("max_softmax", "softmax_margin", "evidence_feedforward_a", "evidence_feedforward_b", "evidence_feedback_a")


def test_margin_is_to_the_best_other_class() -> None:
    evidence = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32)
    chosen = np.random.default_rng(1).integers(0, 4, 50)
    for row, (values, label) in enumerate(zip(evidence, chosen, strict=True)):
        others = [float(value) for other, value in enumerate(values) if other != label]
        assert margin(evidence, chosen)[row] == pytest.approx(float(values[label]) - max(others), abs=1e-6)
    assert (margin(evidence, evidence.argmax(axis=1)) >= 0).all()


def test_reading_joins_codes_and_evidence_of_both_paths(run: Run) -> None:
    indices = run.voxels.indices("test")
    reading = read_samples(run.network, run.codebook, run.voxels.tensor(indices))
    forward = encode(run.network, run.voxels.tensor(indices))
    features = {FEEDFORWARD: forward, FEEDBACK: feed_back(run.network, forward[OUTPUT])}
    np.testing.assert_array_equal(reading.probabilities, forward[OUTPUT][:, :, 0, 0, 0])
    np.testing.assert_array_equal(reading.predicted, reading.probabilities.argmax(axis=1))
    for path in PATHS:
        for layer in run.network.spec.layer_names:
            assert torch.equal(reading.features[path][layer], features[path][layer])
            codes = run.codebook.layer(path, layer).assign(features[path][layer])
            np.testing.assert_array_equal(reading.codes[path][layer], codes)
            total = np.zeros((len(indices), 3))
            for location in range(codes.shape[1]):
                for sample in range(len(indices)):
                    total[sample] += run.codebook.evidence(path, layer, codes)[sample, location]
            np.testing.assert_allclose(reading.evidence[path][layer], total, rtol=1e-5, atol=1e-5)


def test_distance_of_a_layer_is_what_its_codes_leave_of_the_feature(run: Run) -> None:
    reading = read_samples(run.network, run.codebook, run.voxels.tensor([0, 25, 70]))
    distances = code_distances(run.codebook, reading)
    assert list(distances) == list(run.network.spec.layer_names[:-1])
    for layer, values in distances.items():
        snapped = run.codebook.feature_map(FEEDFORWARD, layer, reading.codes[FEEDFORWARD][layer])
        expected = (reading.features[FEEDFORWARD][layer] - snapped).double().square().flatten(1).sum(1)
        np.testing.assert_allclose(values, expected.numpy(), rtol=1e-5)


def test_scores_are_softmax_and_margins_of_every_layer_below_the_output(run: Run) -> None:
    reading = read_samples(run.network, run.codebook, run.voxels.tensor([0, 25, 70]))
    scores = reading.confidence_scores()
    layers = run.network.spec.layer_names[:-1]
    assert list(scores) == [
        "max_softmax",
        "softmax_margin",
        *(f"evidence_{p}_{layer}" for p in PATHS for layer in layers),
    ]
    top = np.sort(reading.probabilities, axis=1)
    np.testing.assert_array_equal(scores["max_softmax"], top[:, -1])
    np.testing.assert_allclose(scores["softmax_margin"], np.log(top[:, -1] / top[:, -2]), rtol=1e-4, atol=1e-6)
    expected = margin(reading.evidence[FEEDBACK]["conv2"], reading.predicted)
    np.testing.assert_array_equal(scores["evidence_feedback_conv2"], expected)
    assert all(np.isfinite(values).all() for values in scores.values())


def known_scores(scores: dict[str, np.ndarray], correct: np.ndarray) -> Calibration:
    """The calibration of samples of one predicted class."""
    return Calibration(scores, correct, PredictedClasses(alike(len(correct)), 1))


def alike(count: int) -> np.ndarray:
    """Predicted classes of samples that are all of one."""
    return np.zeros(count, dtype=int)


def calibration(count: int, seed: int = 0, distinct: int | None = None) -> Calibration:
    generator = np.random.default_rng(seed)
    common = generator.standard_normal(count)
    scores = {name: common + generator.standard_normal(count) for name in NAMES}
    if distinct:
        scores = {name: np.round(values * distinct) / distinct for name, values in scores.items()}
    return known_scores(scores, generator.random(count) < 0.8)


def test_suspicion_is_one_less_the_mean_probability_over_views() -> None:
    known = calibration(40)
    seen = known_scores({**known.scores, "views": np.linspace(0, 1, 40)}, known.correct)
    assert seen.alarm == "views"
    assert seen.suspicion({"views": np.array([0.25, 1.0])}).tolist() == [0.75, 0.0]


def test_without_views_suspicion_is_one_less_the_rank_of_the_alarm() -> None:
    known, new = calibration(40, distinct=2), calibration(9, seed=1, distinct=2)
    name = known.alarm
    for value, found in zip(new.scores[name], known.suspicion(new.scores), strict=True):
        lower, equal = (sum(compared(known.scores[name], value)) for compared in (np.less, np.equal))
        assert found == pytest.approx(1 - (lower + equal / 2) / 40, abs=1e-12)


def test_without_views_the_alarm_is_what_tells_the_validation_samples_best() -> None:
    correct = np.arange(40) % 3 > 0
    noise = np.random.default_rng(0).standard_normal(40)
    scores = {"max_softmax": noise, "softmax_margin": noise + correct, "evidence_feedback_a": noise + 4 * correct}
    assert known_scores(scores, correct).alarm == "evidence_feedback_a"
    few = np.arange(40) % 5 > 0  # eight mistakes
    assert known_scores(scores, few).alarm == "max_softmax"


def test_suspicion_lies_between_0_and_1_and_falls_with_its_score() -> None:
    known = calibration(30)
    steps = np.linspace(-9, 9, 200)
    found = known.suspicion({known.alarm: steps})
    assert (found[0], found[-1]) == (1, 0)
    assert (np.diff(found) <= 0).all()


def test_p_value_counts_the_correct_samples_that_look_as_suspicious() -> None:
    known, new = calibration(40, distinct=1), calibration(20, seed=2, distinct=1)
    suspicion, reference = known.suspicion(new.scores), known.suspicion(known.scores)
    for value, p in zip(suspicion, known.p_value(suspicion, alike(20)), strict=True):
        at_least = sum(correct and other >= value for other, correct in zip(reference, known.correct, strict=True))
        assert p == pytest.approx((at_least + 1) / (known.correct.sum() + 1))
    assert known.p_value(np.array([2.0]), alike(1))[0] == pytest.approx(1 / (known.correct.sum() + 1))
    assert known.p_value(np.array([-1.0]), alike(1))[0] == 1
    assert (known_scores(known.scores, np.zeros(40, bool)).p_value(suspicion, alike(20)) == 1).all()


def test_p_value_of_one_score_is_exactly_uniform() -> None:
    """A new sample is as likely to fall between any two of n others."""
    known = known_scores({"max_softmax": np.arange(9.0)}, np.ones(9, bool))
    p = known.p_value(known.suspicion({"max_softmax": np.arange(10) - 0.5}), alike(10))
    np.testing.assert_allclose(np.sort(p), np.arange(1, 11) / 10)


def test_p_value_is_valid_on_exchangeable_samples() -> None:
    """Of samples like the correct ones at most a share α has a p-value of at most α."""
    values = []
    for seed in range(400):
        together = calibration(60, seed=seed)
        known = known_scores({name: scores[:50] for name, scores in together.scores.items()}, np.ones(50, bool))
        new = {name: scores[50:] for name, scores in together.scores.items()}
        values.extend(known.p_value(known.suspicion(new), alike(10)))
    for level in (0.05, 0.1, 0.2, 0.5, 0.8):
        # 4000 values from 400 calibrations: a standard error below 0.012; and the ranks of known samples, among
        # themselves, are up to half a place nearer the middle than a new one's.
        assert np.mean(np.array(values) <= level) == pytest.approx(level, abs=0.035)


def test_scores_a_rounding_apart_are_as_suspicious() -> None:
    known = known_scores({"max_softmax": np.array([0.2, 0.5, 0.5, 0.9])}, np.ones(4, bool))
    exact, above, below, further = known.suspicion({"max_softmax": np.array([0.5, 0.5 + 1e-7, 0.5 - 1e-7, 0.51])})
    assert exact == above == below == 0.5
    assert further == 0.25
