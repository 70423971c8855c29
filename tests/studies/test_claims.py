from dataclasses import replace

import numpy as np
import pytest

from fer_cli.evaluation.outcomes import Outcomes
from fer_cli.evaluation.resampling import draw_weights
from fer_cli.network.activations import FEEDBACK, FEEDFORWARD
from fer_cli.studies.claims import BORNE_OUT, NOT_BORNE_OUT, UNDECIDED, judge_claims, verdict

COUNT = 400
LABELS = np.arange(COUNT) % 3
WRONG = np.arange(COUNT) % 4 == 0
PREDICTED = np.where(WRONG, (LABELS + 1) % 3, LABELS)


def measured(*, local: float, code: float, spoken: np.ndarray, painted: np.ndarray) -> Outcomes:
    """Errors of misclassified samples are so many times those of correct ones, which are about 10 and 20."""
    noise = np.random.default_rng(0).normal(1, 0.1, COUNT)
    errors = {
        "input_vs_local": 10 * noise * np.where(WRONG, local, 1),
        "input_vs_code": 20 * noise * np.where(WRONG, code, 1),
    }
    speaks_for = {FEEDFORWARD: {"conv1": spoken}, FEEDBACK: {"conv1": painted}}
    return Outcomes(np.arange(COUNT), LABELS, PREDICTED, LABELS, errors, speaks_for, np.zeros(COUNT, bool))


def judged(found: Outcomes) -> list[str | None]:
    return [claim["verdict"] for claim in judge_claims(found, draw_weights(np.arange(COUNT), draws=300))]


def test_verdicts_follow_the_intervals() -> None:
    assert verdict([1.1, 1.4], above=1.0) == BORNE_OUT
    assert verdict([0.9, 1.4], above=1.0) == UNDECIDED
    assert verdict([0.5, 0.9], above=1.0) == NOT_BORNE_OUT
    assert verdict([0.5, 0.9], below=1.0) == BORNE_OUT
    assert verdict([0.5, 1.0], below=1.0) == UNDECIDED
    assert verdict([1.1, 1.4], below=1.0) == NOT_BORNE_OUT


def test_what_the_paper_says_is_borne_out_where_it_is_so() -> None:
    assert set(judged(measured(local=1, code=2, spoken=LABELS, painted=PREDICTED))) == {BORNE_OUT}


def test_and_not_where_it_is_the_other_way_round() -> None:
    assert set(judged(measured(local=2, code=1, spoken=PREDICTED, painted=LABELS))) == {NOT_BORNE_OUT}


def test_a_value_is_counted_over_misclassified_samples() -> None:
    half = np.where(np.arange(COUNT) % 8 == 0, LABELS, PREDICTED)  # every other mistake's cluster shows its class
    found = measured(local=1.5, code=3, spoken=half, painted=PREDICTED)
    claims = judge_claims(found, draw_weights(np.arange(COUNT), draws=300))
    assert [claim["value"] for claim in claims] == pytest.approx([1.5, 3.0, 4.0, 2.0, 0.0, 1.0], rel=0.05, abs=0.01)
    assert [claim["verdict"] for claim in claims][4] == UNDECIDED
    share = found.shares()["misclassified"]["layers"][0]
    assert (share["feedforward_true"], share["feedforward_predicted"]) == (0.5, 0.5)


def test_without_mistakes_there_is_no_verdict() -> None:
    right = replace(measured(local=1, code=1, spoken=LABELS, painted=LABELS), predicted=LABELS)
    claims = judge_claims(right, draw_weights(np.arange(COUNT), draws=20))
    assert {(claim["value"], claim["verdict"]) for claim in claims} == {(None, None)}
