import numpy as np
import pytest

from fer_cli.evaluation.posterior import RIDGES, Posterior, class_log_odds, fit_posterior


def experts(count: int, *, seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """One expert that is right, told too cautiously, and one that knows nothing."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 4, count)
    right = generator.normal(0, 1, (count, 4)) + 1.5 * np.eye(4)[labels]
    return {"right": right / 2, "noise": generator.normal(0, 1, (count, 4))}, labels


def test_the_posterior_is_the_weighted_product_of_its_experts() -> None:
    given, _ = experts(6)
    posterior = Posterior({"right": 0.5, "noise": 2.0}, 1.0)
    product = np.exp(given["right"]) ** 0.5 * np.exp(given["noise"]) ** 2
    expected = product / product.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.exp(posterior.logarithms(given)), expected, rtol=1e-9)
    chosen = np.array([0, 1, 2, 3, 0, 1])
    odds = expected[np.arange(6), chosen] / (1 - expected[np.arange(6), chosen])
    np.testing.assert_allclose(posterior.log_odds(given, chosen), np.log(odds), rtol=1e-9)


def test_odds_of_a_sure_posterior_are_finite() -> None:
    logarithms = np.array([[0.0, -800.0, -900.0]])
    assert class_log_odds(logarithms, np.array([0])) == pytest.approx([800.0])


def test_the_fit_finds_the_expert_that_is_right() -> None:
    given, labels = experts(3000)
    posterior = fit_posterior(given, labels, {"right": 0.5, "noise": 0.5})
    # Normal scores that lie 1.5 apart are worth 1.5 nats each; halved they are worth 3.
    assert posterior.ridge == RIDGES[0]
    assert posterior.weights["right"] == pytest.approx(3.0, rel=0.2)
    assert posterior.weights["noise"] < 0.1
    assert posterior == fit_posterior(given, labels, {"right": 0.5, "noise": 0.5})


def test_weights_stay_where_they_are_drawn_if_samples_do_not_say_otherwise() -> None:
    given, labels = experts(12)
    towards = {"right": 0.7, "noise": 0.3}
    few = fit_posterior(given, labels, towards)
    assert few.ridge == RIDGES[-1]
    assert few.weights == pytest.approx(towards, abs=0.1)
    same = {"a": given["noise"], "b": given["noise"]}
    weights = fit_posterior(same, labels, {"a": 0.5, "b": 0.5}).weights
    assert weights["a"] == pytest.approx(weights["b"])


def test_no_weight_is_negative() -> None:
    given, labels = experts(400, seed=1)
    against = {"right": given["right"], "wrong": -given["right"]}
    assert min(fit_posterior(against, labels, {"right": 0.5, "wrong": 0.5}).weights.values()) >= 0
