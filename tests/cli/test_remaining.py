import pytest

from fer_cli.cli.remaining import Remaining, duration


def heard(*steps: tuple[float, str, int, int | None]) -> list[str]:
    """What is said at these times (seconds, piece of work, done, total)."""
    said: list[str] = []
    times = iter([time for time, *_ in steps])
    remaining = Remaining(said.append, clock=lambda: next(times))
    for _, doing, done, total in steps:
        remaining(doing, done, total)
    return said


def test_the_time_left_is_said_once_when_it_is_known() -> None:
    # 10 of 110 in 6 s: the other 100 take a minute more.
    steps = [(0.0, "reading", 0, 110), (4.0, "reading", 5, 110), (6.0, "reading", 10, 110), (30.0, "reading", 50, 110)]
    assert heard(*steps) == ["reading: about 60 s left"]


def test_each_piece_of_work_is_estimated_by_itself_from_when_it_is_heard_of() -> None:
    steps = [(0.0, "a", 0, 100), (100.0, "b", 40, 100), (110.0, "b", 45, 100)]
    assert heard(*steps) == ["b: about 2 min left"]


@pytest.mark.parametrize(
    "steps",
    [
        [(0.0, "a", 0, 100), (10.0, "a", 90, 100)],  # a second is left
        [(0.0, "a", 0, None), (10.0, "a", 1, None)],
        [(0.0, "a", 3, 100), (10.0, "a", 3, 100)],
        [(0.0, "a", 0, 100), (1.0, "a", 1, 100)],
    ],
)
def test_nothing_is_said_of_what_is_short_or_not_known(steps: list[tuple[float, str, int, int | None]]) -> None:
    assert heard(*steps) == []


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (4.0, "4 s"),
        (44.0, "40 s"),
        (89.0, "90 s"),
        (91.0, "2 min"),
        (3600.0, "60 min"),
        (5400.0, "1 h 30 min"),
        (7190.0, "2 h"),
    ],
)
def test_a_duration_is_as_exact_as_an_estimate_is(seconds: float, words: str) -> None:
    assert duration(seconds) == words
