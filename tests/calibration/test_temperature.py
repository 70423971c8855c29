import numpy as np
import pytest
import torch

from fer_cli.calibration.temperature import fit_temperature
from fer_cli.network.activations import FEEDFORWARD, PATHS
from fer_cli.run import Run


def drawn(count: int, warmth: float, prior: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores, and labels drawn by the probabilities that the scores mean at this temperature."""
    generator = np.random.default_rng(seed)
    scores = generator.standard_normal((count, len(prior))) * 3
    logits = scores / warmth + np.log(prior)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = np.array([generator.choice(len(prior), p=row) for row in shares])
    return scores, labels


@pytest.mark.parametrize("warmth", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("prior", [[1 / 3, 1 / 3, 1 / 3], [0.7, 0.2, 0.1]])
def test_temperature_is_that_by_which_the_labels_were_drawn(warmth: float, prior: list[float]) -> None:
    scores, labels = drawn(4000, warmth, np.array(prior))
    # 4000 labels tell it to some five per cent.
    assert fit_temperature(scores, labels, np.array(prior)) == pytest.approx(warmth, rel=0.12)


def test_temperature_minimises_the_smoothed_cross_entropy() -> None:
    scores, labels = drawn(60, 2.0, np.full(4, 0.25), seed=3)
    found = fit_temperature(scores, labels)

    def loss(temperature: float) -> float:
        wanted = torch.nn.functional.one_hot(torch.from_numpy(labels), 4) * (60 / 61) + 1 / 61 / 4
        return float(torch.nn.functional.cross_entropy(torch.from_numpy(scores / temperature), wanted))

    assert loss(found) <= min(loss(found * 1.01), loss(found / 1.01))


def test_scores_that_are_never_wrong_do_not_become_infinitely_sure() -> None:
    labels = np.arange(30) % 3
    scores = np.eye(3)[labels] * 5
    odds = np.exp(5 / fit_temperature(scores, labels))
    assert odds == pytest.approx(91, rel=1e-3)  # of 31 samples a third of one has each class
    assert fit_temperature(scores * 7, labels) == pytest.approx(7 * fit_temperature(scores, labels), rel=1e-6)


def test_temperatures_of_a_run_are_fitted_on_its_validation_samples(run: Run) -> None:
    temperatures = run.temperatures
    layers = run.network.spec.layer_names[:-1]
    assert set(temperatures.evidence) == set(PATHS)
    assert all(set(by_layer) == set(layers) for by_layer in temperatures.evidence.values())
    held = run.model.read("validation/index")
    codes = run.codebook.layer(FEEDFORWARD, "conv2").assign(
        run.network.backbone.features(run.voxels.tensor(held))["conv2"]
    )
    evidence = run.codebook.evidence(FEEDFORWARD, "conv2", codes).sum(axis=1)
    expected = fit_temperature(evidence, run.voxels.labels[held], run.codebook.prior)
    assert temperatures.evidence[FEEDFORWARD]["conv2"] == pytest.approx(expected, rel=1e-4)


def test_calibrating_keeps_the_order_of_classes(run: Run) -> None:
    probabilities = np.array([[0.7, 0.2, 0.1], [0.0, 1.0, 0.0]], np.float32)
    calibrated = run.temperatures.calibrated(probabilities)
    np.testing.assert_allclose(calibrated.sum(axis=1), 1)
    np.testing.assert_array_equal(calibrated[0].argsort(), [2, 1, 0])
    warmth = run.temperatures.probability
    assert np.log(calibrated[0, 0] / calibrated[0, 1]) == pytest.approx(np.log(3.5) / warmth, rel=1e-5)
    assert np.isfinite(calibrated).all()
