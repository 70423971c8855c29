"""Who shares a stage's work: this process, or worker processes that end quietly when it is interrupted."""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_all_start_methods, get_context, parent_process
from multiprocessing.context import BaseContext
from multiprocessing.synchronize import Event
from typing import Any

from fer_cli.errors import ResourceError
from fer_cli.execution.executor import Result, WorkExecutor

# Set in workers: whoever started them no longer wants an answer.
_stopping: Event | None = None


@contextmanager
def open_executor(workers: int, *, preload: str | Sequence[str], apart: bool = False) -> Iterator[WorkExecutor]:
    """Run calls in `workers` processes, or in this process if there is one worker; the end cancels pending calls.

    `preload` are the modules that the calls need, imported once for all processes where the platform can. With `apart`
    even a single worker is a process of its own, so that it works beside this one. `scheduler.open_scheduler` does the
    same on a cluster.
    """
    modules = [preload] if isinstance(preload, str) else list(preload)
    executor = _InThisProcess() if workers == 1 and not apart else _ProcessPool(workers, modules)
    try:
        yield executor
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


@contextmanager
def open_threads(workers: int) -> Iterator[WorkExecutor]:
    """Run calls in `workers` threads, for work that releases the GIL. The end drops calls that have not started."""
    executor = _Threads(workers)
    try:
        yield executor
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def preload_for_workers(*modules: str) -> None:
    """Begin to import what processes opened later will need, meanwhile, where the platform can."""
    _prepare(modules)


def is_stopping() -> bool:
    """Whether this process is a worker whose answer is no longer wanted; long calls ask between steps."""
    return _stopping is not None and _stopping.is_set()


class _InThisProcess(WorkExecutor):
    """Runs calls in this process; for work that takes less time than starting worker processes."""

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(call(*args, **kwargs))
        return future


class _Threads(ThreadPoolExecutor, WorkExecutor):
    def __init__(self, workers: int) -> None:
        super().__init__(workers)
        self.slots = workers


class _ProcessPool(ProcessPoolExecutor, WorkExecutor):
    """Processes that do not hear Ctrl-C themselves, and end after the step in hand once they are shut down."""

    def __init__(self, workers: int, preload: list[str]) -> None:
        self.slots = workers
        # An interrupt between a semaphore's making and its entry among what is cleared up would leave it behind.
        with _interrupts_held():
            context = _prepare(preload)
            self._stopping = context.Event()
            super().__init__(workers, mp_context=context, initializer=_start_worker, initargs=(self._stopping,))

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        # An interrupt while a worker starts would leave it behind, to fail noisily when this process has gone.
        with _interrupts_held():
            try:
                return super().submit(call, *args, **kwargs)
            except BrokenProcessPool as error:
                raise self._died() from error

    def wait(self, future: Future[Result]) -> Result:
        try:
            return future.result()
        except BrokenProcessPool as error:
            raise self._died() from error

    def _died(self) -> ResourceError:
        return ResourceError(f"a worker process died, most likely out of memory; try fewer than {self.slots}.")

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        if cancel_futures:
            self._stopping.set()
        super().shutdown(wait, cancel_futures=cancel_futures)


def _prepare(preload: Sequence[str]) -> BaseContext:
    """The context that worker processes start in; where a server forks them, it runs and imports what they need."""
    # Not `fork`: HDF5 and BLAS run threads by now, and a forked lock that a thread held stays locked.
    method = "forkserver" if "forkserver" in get_all_start_methods() else "spawn"
    context = get_context(method)
    if method == "forkserver":
        from multiprocessing import forkserver  # does not exist everywhere

        context.set_forkserver_preload(list(preload))
        with _interrupts_held(signal.SIG_IGN):  # which the server, and whatever it forks, inherits
            forkserver.ensure_running()
    return context


def _start_worker(stopping: Event) -> None:
    global _stopping
    _stopping = stopping
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process if its parent is killed."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def _interrupts_held(handler: signal.Handlers | None = None) -> Iterator[None]:
    """Keep a Ctrl-C or SIGTERM that comes within the block for its end; `handler` takes Ctrl-C instead, if given."""
    if threading.current_thread() is not threading.main_thread():  # which alone is interrupted
        yield
        return
    held: list[int] = []

    def hold(number: int, _: object) -> None:
        held.append(number)

    previous = {
        signal.SIGTERM: signal.signal(signal.SIGTERM, hold),
        signal.SIGINT: signal.signal(signal.SIGINT, handler or hold),
    }
    try:
        yield
    finally:
        for number, handling in previous.items():
            signal.signal(number, handling)
        for received in held[:1]:
            signal.raise_signal(received)
