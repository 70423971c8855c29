import pytest

from fer_cli.calibration.departure import Departure
from fer_cli.diagnosis.answer import Answer, find_answer
from fer_cli.diagnosis.verdict import where_words

EVIDENCE = {"a": (0, 2), "b": (3, 1), "c": (4, 1)}
ALL_FOR_X = dict.fromkeys("abc", (3, 1))


def departing(p_value: float) -> Departure:
    return Departure("b", score=3.0, margin=1.0, p_value=p_value)


@pytest.mark.parametrize(
    ("departure", "turn", "expected"),
    [
        (departing(0.05), None, Answer("layer", "b", "anomaly", 0.05)),
        (departing(0.05), "a", Answer("layer", "b", "anomaly", 0.05)),
        (departing(0.01), "output", Answer("layer", "b", "anomaly", 0.01)),
        (departing(0.051), "a", Answer("input", None, None, 0.051)),
        (departing(0.5), "c", Answer("layer", "c", "turn", 0.5)),
        (departing(0.5), "output", Answer("layer", "output", "turn", 0.5)),
        (departing(0.5), None, Answer("none", None, None, 0.5)),
        (None, "a", Answer("input")),
        (None, "b", Answer("layer", "b", "turn")),
        (None, None, Answer("none")),
    ],
)
def test_a_departure_goes_first_and_the_lowest_layer_is_the_input(
    departure: Departure | None, turn: str | None, expected: Answer
) -> None:
    assert find_answer(departure, turn, lowest="a") == expected


@pytest.mark.parametrize(
    ("answer", "evidence", "margin", "said"),
    [
        (
            Answer("layer", "b", "anomaly", 0.0123),
            EVIDENCE,
            0.1,
            "The computation departs from the usual, most likely at b (p = 0.012)",
        ),
        (
            Answer("input"),
            ALL_FOR_X,
            2.0,
            "The input itself looks like an X, such as the training sample X_7",
        ),
        (
            Answer("input"),
            EVIDENCE,  # a speaks for Y
            1.0,
            "The input itself looks like an X, on the whole, narrowly, such as the training sample X_7",
        ),
        (Answer("layer", "b", "turn"), EVIDENCE, 1.1, "Between the two the evidence turns from Y to X at b"),
        (Answer("layer", "b", "turn"), EVIDENCE, 1.0, "Between the two the evidence turns from Y to X at b, narrowly"),
        (
            Answer("layer", "b", "turn"),
            {**EVIDENCE, "c": (0, 1)},
            2.0,
            "Between the two the evidence turns from Y to X at b, on the whole",
        ),
        (
            Answer("layer", "b", "turn"),
            ALL_FOR_X,
            2.0,
            "Between the two the evidence turns from Y to X at b, on the whole",
        ),
        (
            Answer("layer", "output", "turn"),
            dict.fromkeys("abc", (0, 1)),
            2.0,
            "The evidence favours Y to the last, and yet the network says X",
        ),
        (
            Answer("layer", "output", "turn"),
            EVIDENCE,
            2.0,
            "The evidence favours Y to the last, on the whole, and yet the network says X",
        ),
        (Answer("none"), EVIDENCE, None, "The clusters of 2 of 3 layers speak for X"),
    ],
)
def test_words_name_the_layer_of_the_answer_and_no_other(
    answer: Answer, evidence: dict[str, tuple[float, float]], margin: float | None, said: str
) -> None:
    by_class = {name: {"X": float(first), "Y": float(second)} for name, (first, second) in evidence.items()}
    found = where_words(answer, by_class, "X", "Y", like="X_7", margin=margin)
    assert found.replace("a X", "an X") == said
