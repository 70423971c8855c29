from dataclasses import replace

import numpy as np
import pytest

from fer_cli.evaluation.outcomes import Outcomes
from fer_cli.evaluation.resampling import draw_weights
from fer_cli.network.activations import FEEDBACK, FEEDFORWARD
from fer_cli.network.backbone import OUTPUT
from fer_cli.studies.claims import BORNE_OUT, NOT_BORNE_OUT, UNDECIDED, judge_claims, verdict

COUNT = 400
LABELS = np.arange(COUNT) % 3
WRONG = np.arange(COUNT) % 4 == 0
PREDICTED = np.where(WRONG, (LABELS + 1) % 3, LABELS)


def measured(
    *, local: float, code: float, spoken: np.ndarray, painted: np.ndarray, other: float = 2, true: float = 0.5
) -> Outcomes:
    """Norms of misclassified samples' errors are so many times those of correct ones, which are about 10 and 15.

    Squared, the error to another sample's local reconstruction is `other` times that to its own, and that to the true
    class's code `true` times that to every other class's.
    """
    noise = np.random.default_rng(0).normal(1, 0.1, COUNT)
    errors = {
        "input_vs_local": np.square(10 * noise * np.where(WRONG, local, 1)),
        "input_vs_code": np.square(15 * noise * np.where(WRONG, code, 1)),
    }
    speaks_for = {FEEDFORWARD: {"conv1": spoken}, FEEDBACK: {"conv1": painted}}
    code_errors = np.where(np.arange(3) == LABELS[:, None], true, 1.0) * errors["input_vs_code"][:, None]
    return Outcomes(
        np.arange(COUNT),
        LABELS,
        PREDICTED,
        LABELS,
        errors,
        speaks_for,
        np.zeros(COUNT, bool),
        code_errors=code_errors,
        other_local=errors["input_vs_local"] * other,
    )


def judged(found: Outcomes) -> list[str | None]:
    return [claim["verdict"] for claim in judge_claims(found, draw_weights(np.arange(COUNT), draws=300))]


def test_verdicts_follow_the_intervals() -> None:
    assert verdict([1.1, 1.4], above=1.0) == BORNE_OUT
    assert verdict([0.9, 1.4], above=1.0) == UNDECIDED
    assert verdict([0.5, 0.9], above=1.0) == NOT_BORNE_OUT
    assert verdict([0.5, 0.9], below=1.0) == BORNE_OUT
    assert verdict([0.5, 1.0], below=1.0) == UNDECIDED
    assert verdict([1.1, 1.4], below=1.0) == NOT_BORNE_OUT
    assert verdict([0.9, 1.2], above=0.8, below=1.25) == BORNE_OUT
    assert verdict([0.7, 1.2], above=0.8, below=1.25) == UNDECIDED
    assert verdict([0.5, 1.5], above=0.8, below=1.25) == UNDECIDED
    assert verdict([0.9, 1.3], above=0.8, below=1.25) == UNDECIDED
    assert verdict([0.1, 0.7], above=0.8, below=1.25) == NOT_BORNE_OUT
    assert verdict([1.3, 1.7], above=0.8, below=1.25) == NOT_BORNE_OUT


def test_what_the_paper_says_is_borne_out_where_it_is_so() -> None:
    assert set(judged(measured(local=1, code=1.25, spoken=LABELS, painted=PREDICTED))) == {BORNE_OUT}


def test_and_not_where_it_is_the_other_way_round() -> None:
    found = measured(local=2, code=1, spoken=PREDICTED, painted=LABELS, other=0.5, true=2)
    assert set(judged(found)) == {NOT_BORNE_OUT}


def test_local_errors_that_are_far_smaller_on_mistakes_hang_on_the_class_too() -> None:
    found = measured(local=0.5, code=1, spoken=LABELS, painted=PREDICTED)
    claims = judge_claims(found, draw_weights(np.arange(COUNT), draws=300))
    [regardless] = [claim for claim in claims if "regardless" in claim["claim"]]
    assert (regardless["bound"], regardless["verdict"]) == ("between 0.8 and 1.25", NOT_BORNE_OUT)


def test_far_more_than_double_is_not_almost_double() -> None:
    found = measured(local=1, code=3, spoken=LABELS, painted=PREDICTED)
    claims = judge_claims(found, draw_weights(np.arange(COUNT), draws=300))
    [double] = [claim for claim in claims if "twice" in claim["claim"]]
    assert double["value"] == pytest.approx(4.5, rel=0.01)
    assert (double["bound"], double["verdict"]) == ("between 1.5 and 2.5", NOT_BORNE_OUT)


def test_a_tie_is_no_evidence() -> None:
    found = measured(local=1, code=1, spoken=np.full(COUNT, -1), painted=PREDICTED, other=1, true=1)
    claims = judge_claims(found, draw_weights(np.arange(COUNT), draws=300))
    tied = [claim for claim in claims if "nearer" in claim["measure"] or "Feedforward" in claim["claim"]]
    assert [(claim["value"], claim["verdict"]) for claim in tied] == [(0, UNDECIDED)] * 3
    alone = replace(found, other_local=np.full(COUNT, np.nan))
    assert judge_claims(alone, draw_weights(np.arange(COUNT), draws=300))[0]["value"] == 0


def test_rows_say_what_is_so_by_construction_and_what_the_figures_show() -> None:
    layers = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", OUTPUT)
    found = measured(local=1, code=1.25, spoken=LABELS, painted=PREDICTED)
    of_layers = {path: dict.fromkeys(layers, LABELS) for path in (FEEDFORWARD, FEEDBACK)}
    claims = judge_claims(replace(found, speaks_for=of_layers), draw_weights(np.arange(COUNT), draws=20))
    free = [claim["layer"] for claim in claims if not claim["by_construction"]]
    assert free == [None] * 5 + list(layers[:-1])  # of the feedforward path; the feedback path is made of predictions
    for path in ("Feedforward", "Feedback"):
        shown = [claim["layer"] for claim in claims if path in claim["claim"] and claim["in_figures"]]
        assert shown == ["conv3", "conv4", "conv5", "fc6", "fc7"]
    assert {claim["in_figures"] for claim in claims if claim["layer"] is None} == {None}


def test_a_value_is_counted_over_misclassified_samples() -> None:
    half = np.where(np.arange(COUNT) % 8 == 0, LABELS, PREDICTED)  # every other mistake's cluster shows its class
    found = measured(local=1.5, code=3, spoken=half, painted=PREDICTED)
    claims = judge_claims(found, draw_weights(np.arange(COUNT), draws=300))
    values = [1.0, 1.5, 1.0, 3.0, 2.0, 0.0, 1.0]
    assert [claim["value"] for claim in claims] == pytest.approx(values, rel=0.05, abs=0.01)
    assert [claim["verdict"] for claim in claims][5] == UNDECIDED
    share = found.shares()["misclassified"]["layers"][0]
    assert (share["feedforward_true"], share["feedforward_predicted"]) == (0.5, 0.5)


def test_without_mistakes_there_is_no_verdict() -> None:
    right = replace(measured(local=1, code=1, spoken=LABELS, painted=LABELS), predicted=LABELS)
    claims = judge_claims(right, draw_weights(np.arange(COUNT), draws=20))
    assert {(claim["value"], claim["verdict"]) for claim in claims} == {(None, None)}
