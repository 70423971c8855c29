"""The interface of executors: submit calls, receive results in order, limit the number of pending calls."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

Result = TypeVar("Result")

_AHEAD = 4


class WorkExecutor(Executor):
    """An executor with a known number of slots and an error for lost workers."""

    slots: int = 1

    def wait(self, future: Future[Result]) -> Result:
        """The result of a call. Raises what the call raised, or ResourceError if its worker died."""
        return future.result()


def results_in_order(
    executor: WorkExecutor, call: Callable[..., Result], arguments: Iterable[tuple[Any, ...]]
) -> Iterator[Result]:
    """Results of `call` for each of `arguments`, in their order; few are begun before they are asked for."""
    pending: deque[Future[Result]] = deque()
    for each in arguments:
        pending.append(executor.submit(call, *each))
        if len(pending) > _AHEAD * executor.slots:
            yield executor.wait(pending.popleft())
    while pending:
        yield executor.wait(pending.popleft())
