"""A Dask cluster as an executor: `--scheduler tcp://host:port` sends a stage's work to the scheduler's workers.

Dask runs a call again elsewhere when its worker dies. Workers need the same version of `fer`, and read the source
under the same path as this machine. The only module that imports distributed.
"""

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fer_cli import __version__
from fer_cli.errors import ResourceError, UsageError, first_line
from fer_cli.execution.executor import Result, WorkExecutor

if TYPE_CHECKING:
    from distributed import Client

CONNECT_SECONDS = 5.0
"""How long a scheduler, and then its first worker, is waited for."""
PATIENCE_SECONDS = 60.0
"""How long a run waits for new workers when all have gone."""

_GO_ON = "Start the same command again to go on."


@contextmanager
def open_scheduler(address: str, *, reads: Path | None) -> Iterator[WorkExecutor]:
    """Run calls on the workers of the Dask scheduler at `address`; the end cancels pending calls.

    `reads` is a path that every worker must be able to read; None if the calls read no files.

    Raises UsageError if the extra `distributed` is not installed, ResourceError if the scheduler does not answer, or
    has no worker that can do the work.
    """
    try:
        import distributed
    except ModuleNotFoundError as error:
        raise UsageError(
            "--scheduler needs Dask, which is not installed here: pip install 'fer-cli[distributed]'"
        ) from error
    _silence_logs()
    client = _connect(distributed.Client, address)
    try:
        _check_workers(client, address, reads)
        executor = _DaskExecutor(client, address)
        try:
            yield executor
        finally:
            executor.shutdown(wait=False, cancel_futures=True)
    finally:
        with suppress(Exception):  # whatever a scheduler that has gone makes of it
            client.close(timeout=CONNECT_SECONDS)


class _DaskExecutor(WorkExecutor):
    """`Client.get_executor()`, with errors that say what to do."""

    def __init__(self, client: "Client", address: str) -> None:
        self._client = client
        self._address = address
        # Not `pure`: an answer that the cluster still holds may be of a source that has changed since.
        self._executor = client.get_executor(pure=False)
        self.slots = sum(client.nthreads().values())

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return self._executor.submit(call, *args, **kwargs)

    def wait(self, future: Future[Result]) -> Result:
        alone_since: float | None = None
        while True:
            try:
                return future.result(timeout=1.0)
            except TimeoutError:
                if future.done():
                    raise
            except CancelledError as error:
                raise self._gone() from error
            except Exception as error:
                if type(error).__name__ != "KilledWorker":
                    raise
                raise ResourceError(
                    f"workers of {self._address} died repeatedly on the same work, most likely out of memory. {_GO_ON}"
                ) from error
            if (
                self._client.status == "closed"
            ):  # Dask forgets a future whose result was on its way when the scheduler went
                raise self._gone()
            alone_since = None if self._n_workers() else alone_since or time.monotonic()
            if alone_since is not None and time.monotonic() - alone_since > PATIENCE_SECONDS:
                raise ResourceError(f"the scheduler at {self._address} has no workers any more. {_GO_ON}")

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        # Dask's own waits, without end if the scheduler has gone; closing the client cancels what is left.
        if wait and not cancel_futures:
            self._executor.shutdown(wait=True)

    def _gone(self) -> ResourceError:
        return ResourceError(f"the scheduler at {self._address} has gone. {_GO_ON}")

    def _n_workers(self) -> int:
        """Workers known from the scheduler's last report, a few seconds old."""
        return len(self._client.scheduler_info(n_workers=-1).get("workers", ()))


def _silence_logs() -> None:
    """Keep Dask's loggers, and those of the event loops under it, from the terminal; what matters is raised here."""
    for name in logging.root.manager.loggerDict:
        if name.split(".")[0] in ("distributed", "tornado", "asyncio"):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)


def _connect(connect: Callable[..., "Client"], address: str) -> "Client":
    try:
        return connect(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, TimeoutError, ValueError, RuntimeError) as error:
        raise ResourceError(f"no Dask scheduler answers at {address} within {CONNECT_SECONDS:.0f} s.") from error


def _check_workers(client: "Client", address: str, reads: Path | None) -> None:
    try:
        client.wait_for_workers(1, timeout=CONNECT_SECONDS)
    except TimeoutError as error:
        raise ResourceError(f"the scheduler at {address} has no workers; start some with 'dask worker'.") from error
    try:
        answers = client.run(introduce, None if reads is None else str(reads))
    except Exception as error:  # whatever the worker's interpreter says, such as that there is no module fer_cli
        raise ResourceError(
            f"the workers of {address} cannot run fer {__version__}: {type(error).__name__}: {first_line(error)}"
        ) from error
    for worker, (version, is_there) in answers.items():
        if version != __version__:
            raise ResourceError(
                f"worker {worker} runs fer {version}, but this is {__version__}; they must be the same."
            )
        if not is_there:
            raise ResourceError(f"worker {worker} does not see {reads}; it must be there under this very path.")


def introduce(reads: str | None) -> tuple[str, bool]:
    """What a worker says of itself: the version of `fer`, and whether it sees the source."""
    return __version__, reads is None or Path(reads).exists()
