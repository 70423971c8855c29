"""How long a stage will still take, as a line of a log: where no bar can show it."""

import time
from collections.abc import Callable

QUICK_STEP = 30.0
"""Seconds up to which a first step is left out of the estimate: much of it may be imports and starts of processes."""
KNOWN_AFTER = 5.0
"""Seconds of work after which the rest is estimated."""
WORTH_TELLING = 20.0
"""Seconds left below which nothing is said."""


class Remaining:
    """Says once for each piece of work how long it will still take, once that is known and if it is long.

    The estimate is by the mean rate after the first step. A first step that took longer than `QUICK_STEP` counts, too.
    """

    def __init__(self, say: Callable[[str], None], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._say, self._clock = say, clock
        self._began: dict[str, tuple[float, int]] = {}
        self._stepped: set[str] = set()
        self._told: set[str] = set()

    def __call__(self, doing: str, done: int, total: int | None) -> None:
        """Hear that `done` of `total` of it is done; the total is None where it is not known."""
        now = self._clock()
        began, at_first = self._began.setdefault(doing, (now, done))
        if done > at_first and doing not in self._stepped:
            self._stepped.add(doing)
            if now - began < QUICK_STEP:
                self._began[doing] = (now, done)
                return
        if doing in self._told or total is None or done <= at_first or now - began < KNOWN_AFTER:
            return
        self._told.add(doing)
        left = (total - done) * (now - began) / (done - at_first)
        if left >= WORTH_TELLING:
            self._say(f"{doing}: about {duration(left)} left")


def duration(seconds: float) -> str:
    """A time in words, as exact as an estimate is: `40 s`, `3 min`, `1 h 20 min`."""
    if seconds < 90:
        return f"{max(1, round(seconds, -1 if seconds >= 10 else 0)):.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(round(minutes, -1), 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"
