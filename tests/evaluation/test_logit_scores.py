"""Each score against its published formula, sample by sample and class by class."""

import math

import numpy as np
import pytest

from fer_cli.evaluation import logit_scores as scores

LOGITS = np.random.default_rng(0).normal(0, 3, (7, 4)).astype(np.float32)


def probabilities(row: np.ndarray) -> list[float]:
    weights = [math.exp(float(value)) for value in row]
    return [weight / sum(weights) for weight in weights]


def by_hand(formula) -> list[float]:
    return [formula([float(z) for z in row], probabilities(row)) for row in LOGITS]


@pytest.mark.parametrize(
    ("score", "formula"),
    [
        (scores.maximum_softmax, lambda z, p: max(p)),
        (scores.softmax_margin, lambda z, p: math.log(sorted(p)[-1] / sorted(p)[-2])),
        (scores.negative_entropy, lambda z, p: sum(q * math.log(q) for q in p)),
        (scores.max_logit, lambda z, p: max(z)),
        (scores.energy, lambda z, p: math.log(sum(math.exp(value) for value in z))),
        (scores.generalized_entropy, lambda z, p: -sum(q**0.1 * (1 - q) ** 0.1 for q in p)),
        (scores.doctor, lambda z, p: -(1 - sum(q * q for q in p)) / sum(q * q for q in p)),
    ],
)
def test_a_score_is_its_formula(score, formula) -> None:
    assert score(LOGITS) == pytest.approx(by_hand(formula), rel=1e-6)


@pytest.mark.parametrize("p", [1, 2, 7])
def test_p_norms(p: int) -> None:
    def largest(z: list[float], _: list[float]) -> float:
        centred = [value - sum(z) / len(z) for value in z]
        return max(centred) / sum(abs(value) ** p for value in centred) ** (1 / p)

    assert scores.max_logit_p_norm(LOGITS, p) == pytest.approx(by_hand(largest), rel=1e-6)
    assert scores.max_logit_p_norm(5 * LOGITS + 2, p) == pytest.approx(by_hand(largest), rel=1e-5)
    soft = scores.softmax_p_norm(LOGITS, p, 0.5)
    assert soft == pytest.approx(scores.maximum_softmax(scores.over_p_norm(LOGITS, p) / 0.5))


def test_a_temperature_of_one_changes_nothing_and_a_high_one_makes_unsure() -> None:
    assert scores.scaled_softmax(LOGITS, 1.0) == pytest.approx(scores.maximum_softmax(LOGITS))
    assert scores.scaled_softmax(LOGITS, 1e6) == pytest.approx([0.25] * 7, abs=1e-4)


def test_logits_beyond_what_exponentials_hold_are_read() -> None:
    for score in (scores.maximum_softmax, scores.negative_entropy, scores.energy, scores.generalized_entropy):
        assert np.isfinite(score(LOGITS * 1e4)).all()
