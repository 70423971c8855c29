"""Ctrl-C and SIGTERM held back until the work in hand can be left."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Within the block, SIGINT and SIGTERM are noted and change nothing; `deliver` hands the noted one on.

    A second signal is handed on at once, for users who do not want to wait; unless `patient`, for processes that get
    the same signal from several sides, such as a cluster and `torchrun`. Outside the main thread, where Python has no
    signals, nothing is noted. On leaving the block a signal still pending is handed on.
    """

    def __init__(self, *, patient: bool = False) -> None:
        self.pending = False
        self._patient = patient
        self._number = 0
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                handler = signal.getsignal(number)
                if handler not in (signal.SIG_IGN, None):
                    self._handlers[number] = handler
                    signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._restore()
        if kind is None and self.pending:
            signal.raise_signal(self._number)

    def deliver(self) -> None:
        """Pass the pending signal to the handler from before the block; without one, raise KeyboardInterrupt."""
        self._restore()
        if self.pending:
            self.pending = False
            signal.raise_signal(self._number)
        raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        again, self.pending, self._number = self.pending, True, number
        if again and not self._patient:
            self.deliver()

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()
