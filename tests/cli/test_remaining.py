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
    # 10 of 111 in 6 s: the other 100 take a minute more.
    steps = [(0.0, "reading", 0, 111), (9.0, "reading", 1, 111), (12.0, "reading", 6, 111), (15.0, "reading", 11, 111)]
    assert heard(*steps, (60.0, "reading", 50, 111)) == ["reading: about 60 s left"]


def test_a_first_step_counts_only_if_it_takes_long() -> None:
    assert heard((0.0, "a", 0, 11), (15.0, "a", 1, 11), (18.0, "a", 2, 11), (21.0, "a", 3, 11)) == [
        "a: about 20 s left"
    ]
    assert heard((0.0, "a", 0, 3), (60.0, "a", 1, 3)) == ["a: about 2 min left"]


def test_each_piece_of_work_is_estimated_by_itself_from_when_it_is_heard_of() -> None:
    steps = [(0.0, "a", 0, 100), (100.0, "b", 40, 100), (101.0, "b", 41, 100), (111.0, "b", 46, 100)]
    assert heard(*steps) == ["b: about 2 min left"]


@pytest.mark.parametrize(
    "steps",
    [
        [(0.0, "a", 0, 100), (1.0, "a", 1, 100), (10.0, "a", 90, 100)],  # a second is left
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
