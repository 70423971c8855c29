from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from fer_cli.execution.executor import WorkExecutor, results_in_order


class Threads(ThreadPoolExecutor, WorkExecutor):
    """Counts how many calls were submitted."""

    slots = 3
    submitted = 0

    def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
        self.submitted += 1
        return super().submit(*args, **kwargs)


def test_results_come_in_order_and_few_calls_are_begun_ahead() -> None:
    with Threads(3) as executor:
        results = results_in_order(executor, pow, ((number, 2) for number in range(100)))
        for done in range(1, 101):
            assert next(results) == (done - 1) ** 2
            assert executor.submitted <= done + 4 * executor.slots
        assert next(results, None) is None


def test_no_calls_give_no_results() -> None:
    with Threads(1) as executor:
        assert list(results_in_order(executor, pow, [])) == []


def test_what_a_call_raises_comes_in_its_turn() -> None:
    with Threads(2) as executor:
        results = results_in_order(executor, int, [("1",), ("x",)])
        assert next(results) == 1
        with pytest.raises(ValueError, match="'x'"):
            next(results)
