"""How a command ends: each error as one line on stderr and an exit code, signals with what was done cleared up.

The only module that knows exit codes.
"""

import _thread
import atexit
import errno
import io
import os
import shutil
import signal
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from fer_cli.errors import FerError, ResourceError, is_out_of_memory, reasons

_INTERRUPTED, _TERMINATED, _CRASHED = 130, 143, 1
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
_NOTHING_LEFT = "nothing half-written was left behind."
_left_behind = _NOTHING_LEFT
"""What a stage that is ended from outside leaves."""
_kept_in: Path | None = None
"""Where that is; nothing is left where the file does not exist."""
_n_interrupts = 0
"""How often Ctrl-C came."""
_takes_interrupts = False
"""Whether Ctrl-C is ours to handle; else whoever started this process has it ignored."""
_may_leave = _leaves_at_once = False
"""Whether this process may end at once (`allow_leaving`), and whether its command wants to (`leave_at_once`)."""
_sent_again: set[int] = set()
"""Signals that were lost and are about to be sent again."""


class _Terminated(BaseException):
    """SIGTERM came; unwinds the stack as Ctrl-C does, so that partial files are removed."""


def run(command: Callable[[], object]) -> NoReturn:
    """Run a command and exit; with the whole number that it returns, 0 for anything else, or the code of its error."""
    global _leaves_at_once, _takes_interrupts, _n_interrupts
    _leaves_at_once, _n_interrupts = False, 0
    _open_streams()
    signal.signal(signal.SIGTERM, _on_terminate)
    # An earlier command of the same process has left a handler of ours.
    _takes_interrupts = _takes_interrupts or signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if _takes_interrupts:
        signal.signal(signal.SIGINT, _on_interrupt)
    sys.unraisablehook = _interrupt_again
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # names of files need not fit the terminal's encoding, or any
    try:
        code = command()
        sys.stdout.flush()
    except FerError as error:
        _fail(str(error), error.exit_code, error)
    except KeyboardInterrupt as error:
        _fail_by_signal("interrupted", _INTERRUPTED, error)
    except _Terminated as error:
        # What it ended by already, if anything: the signal came late.
        for reason in reasons(error):
            if isinstance(reason, FerError):
                _fail(str(reason), reason.exit_code, error)
        _fail_by_signal("terminated", _TERMINATED, error)
    except (BrokenPipeError, SystemExit) as error:  # typer and rich exit with 1 where a pipe is closed
        if not any(isinstance(reason, BrokenPipeError) for reason in reasons(error)):
            raise
        _give_up_stdout()  # the reader of a pipe went away; that is its right
        sys.exit(0)
    except Exception as error:
        if (
            isinstance(error, OSError) and error.errno in _UNWRITABLE and error.filename is None
        ):  # a file's error has its name
            _give_up_stdout()
            _fail(f"cannot write to stdout: {error.strerror}.", ResourceError.exit_code, error)
        if is_out_of_memory(error):
            message = "out of memory. Give a smaller --memory or --batch-size, or fewer --workers."
            _fail(message, ResourceError.exit_code, error)
        _fail(  # a defect of fer: no traceback for users, but a way to one
            f"internal error: {type(error).__name__}: {error}. Set FER_DEBUG=1 for the traceback and report it.",
            _CRASHED,
            error,
        )
    if code == _INTERRUPTED:  # typer turns Ctrl-C into an exit code
        _fail_by_signal("interrupted", _INTERRUPTED, None)
    if isinstance(code, int) and code:
        sys.exit(code)
    if _may_leave and _leaves_at_once and threading.active_count() == 1:
        _ignore_signals()
        atexit._run_exitfuncs()
        with suppress(OSError):  # what the command printed is written already
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(0)
    sys.exit(0)


def allow_leaving() -> None:
    """Say that this process has nothing to do after `run`, so that `leave_at_once` may end it there."""
    global _may_leave
    _may_leave = True


def leave_at_once() -> None:
    """Let the command, if it succeeds, end without taking apart what is in memory, which takes 0.15 s with PyTorch.

    Not for a command that runs code of the user's, which may hold back output until its files are closed.
    """
    global _leaves_at_once
    _leaves_at_once = True


def _open_streams() -> None:
    """Open the null device for every standard stream that is closed.

    If its file descriptor stayed free, the next file to be opened would get it, and output meant for the stream would
    go into that file.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, errors="backslashreplace"))  # noqa: SIM115


def _give_up_stdout() -> None:
    """Drop what stdout still holds, so that Python does not complain at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def goes_on(
    how: str = "what was done is kept, and the same command goes on from there.", *, where: Path | None = None
) -> None:
    """Set the message for an interrupted command that keeps finished work in the file `where`.

    Where that file does not exist by then, nothing was kept.
    """
    global _left_behind, _kept_in
    _left_behind, _kept_in = how, where


def _what_is_left() -> str:
    return _left_behind if _kept_in is None or _kept_in.exists() else _NOTHING_LEFT


def _on_terminate(signum: int, frame: FrameType | None) -> None:
    if _is_handling_a_loss(frame):
        _send_again(signum)
        return
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not cut the clearing up short
    raise _Terminated


def _on_interrupt(signum: int, frame: FrameType | None) -> None:
    if _is_handling_a_loss(frame):
        _send_again(signum)
        return
    global _n_interrupts
    _n_interrupts += 1
    if _n_interrupts == 2:  # which must not cut the clearing up short either, unless the user insists
        return
    if _n_interrupts > 2:
        goes_on("what is half-written has a name of its own, and goes when the command is run again.")
    raise KeyboardInterrupt


def _interrupt_again(unraisable: "sys.UnraisableHookArgs") -> None:
    """Send a signal a second time whose exception was lost in a destructor or in the callback of a weak reference.

    h5py runs many of those, and Python drops what is raised there, so that the run would go on.
    """
    number = {KeyboardInterrupt: signal.SIGINT, _Terminated: signal.SIGTERM}.get(unraisable.exc_type)
    if number is None:
        sys.__unraisablehook__(unraisable)
        return
    if number == signal.SIGTERM:
        signal.signal(number, _on_terminate)
    else:
        global _n_interrupts
        _n_interrupts -= 1
    _send_again(number)


def _is_handling_a_loss(frame: FrameType | None) -> bool:
    """Whether a signal came while `_interrupt_again` was at work, which drops what is raised in it as well."""
    while frame is not None and frame.f_code is not _interrupt_again.__code__:
        frame = frame.f_back
    return frame is not None


def _send_again(number: int) -> None:
    if number not in _sent_again:  # one is enough: a third Ctrl-C would cut the clearing up short
        _sent_again.add(number)
        # `Thread.start` would wait: the signal could come before this function is left, and be lost again.
        try:
            _thread.start_new_thread(_send_soon, (number,))
        except RuntimeError:  # there are too many; the next one that is lost tries again
            _sent_again.discard(number)


def _send_soon(number: int) -> None:
    time.sleep(0.05)
    _sent_again.discard(number)
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, number)  # wakes it, should it wait for something
    else:
        signal.raise_signal(number)


def _fail_by_signal(how: str, code: int, error: BaseException | None) -> NoReturn:
    _ignore_signals()
    _fail(f"{how}; {_what_is_left()}", code, error)


def _ignore_signals() -> None:
    """Let the command end as it is, with its message and its exit code, however often a signal comes."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _end_on_third_interrupt(code: int) -> None:
    """Let a third Ctrl-C end the process while Python clears up, which may have to wait for a thread."""

    def end(signum: int, frame: FrameType | None) -> None:
        global _n_interrupts
        _n_interrupts += 1
        if _n_interrupts > 2:
            os._exit(code)

    if _takes_interrupts:
        signal.signal(signal.SIGINT, end)


def _fail(message: str, code: int, error: BaseException | None) -> NoReturn:
    _ignore_signals()
    if error is not None and os.environ.get("FER_DEBUG") == "1":
        traceback.print_exception(error)
    one_line = " ".join(message.split())  # names of files may hold line breaks, and what a terminal would obey
    shown = f"fer: {''.join(c if c.isprintable() else '�' for c in one_line)}"
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns
        shown = "\n".join(textwrap.wrap(shown, width, break_long_words=False, break_on_hyphens=False))
    try:
        print(shown, file=sys.stderr, flush=True)
    except OSError:  # the code still says what happened
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    _end_on_third_interrupt(code)
    sys.exit(code)
