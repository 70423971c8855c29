"""Tests of `endings`: which reason a command ends by where there are several. Whole commands are tested in test_cli."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from fer_cli.cli import endings
from fer_cli.cli.opening import leave_soon
from fer_cli.network.attached.model_file import KIND
from fer_cli.run import Run
from fer_cli.storage.run_paths import RunPaths

COMMAND = """
import os, signal
from fer_cli.cli import endings
from fer_cli.errors import UsageError

def told():
    os.kill(os.getpid(), signal.SIGTERM)

def command():
    {body}

def late(*arguments, said=print, **options):
    told()
    said(*arguments, **options)

endings.print = late if {late} else print
endings.run(command)
"""
AMID = "try: raise UsageError('no layer conv9.')\n    finally: told()"
TERMINATED = "fer: terminated; nothing half-written was left behind.\n"


@pytest.mark.parametrize(
    ("body", "late", "code", "said"),
    [
        ("told()", False, 143, TERMINATED),
        ("raise UsageError('no layer conv9.')", False, 2, "fer: no layer conv9.\n"),
        (AMID, False, 2, "fer: no layer conv9.\n"),
        ("raise UsageError('no layer conv9.')", True, 2, "fer: no layer conv9.\n"),
        ("try: raise KeyError(1)\n    finally: told()", False, 143, TERMINATED),
    ],
    ids=["told to end", "error", "told while it ends", "told when it says why", "told while it ends by a defect"],
)
def test_a_command_that_ends_already_says_why(body: str, late: bool, code: int, said: str) -> None:
    script = COMMAND.format(body=body, late=late)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (code, said)


@pytest.mark.parametrize("kept", [True, False])
def test_what_is_kept_is_told_of_where_it_is(kept: bool, tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.h5"
    body = f"endings.goes_on('it is kept.', where=Path({str(file)!r}))\n    told()"
    if kept:
        file.touch()
    script = "from pathlib import Path\n" + COMMAND.format(body=body, late=False)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (143, "fer: terminated; it is kept.\n" if kept else TERMINATED)


@pytest.mark.parametrize("options", ["", "--json"])
def test_reader_of_a_pipe_may_go_away(options: str, run_paths: RunPaths) -> None:
    command = f"{sys.executable} -u -m fer_cli info {run_paths.model} {options} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_stream_that_is_closed_ends_no_command(closed: str, run_paths: RunPaths, tmp_path: Path) -> None:
    program = f"import sys; from fer_cli.cli.app import main; sys.argv[1:] = ['info', {str(run_paths.model)!r}]; main()"
    (tmp_path / "program.py").write_text(program)
    shell = f"{sys.executable} {tmp_path / 'program.py'} {closed}"
    done = subprocess.run(shell, shell=True, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert ("format" in done.stdout) == (">&-" not in closed.split())


@pytest.mark.parametrize(
    ("words", "streams", "code"),
    [
        ("info nowhere.h5", "2>/dev/full", 4),
        ("nope", "2>/dev/full", 2),
        ("info 'n\xf6where\x01.h5'", "2>&-", 4),
        ("--help", "1</dev/null", 5),
    ],
)
def test_what_cannot_be_written_does_not_hide_how_a_command_ended(words: str, streams: str, code: int) -> None:
    shell = f"LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 {sys.executable} -m fer_cli {words} {streams}"
    done = subprocess.run(shell, shell=True, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stderr
    assert "internal error" not in done.stderr


LOST = """
import os, signal, sys, threading
from fer_cli.cli import endings

class Dropped:
    def __del__(self):
        os.kill(os.getpid(), signal.{name})
        len(str(10**100))  # where Python takes the signal, and drops what its handler raises

def command():
    threading.Thread(target=lambda: [None for _ in iter(int, 1)], daemon=True).start()  # so that others wait
    for _ in range(200):
        Dropped()
        for _ in range(100_000):
            pass

endings.run(command)
"""


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_is_not_lost_where_python_drops_what_a_handler_raises(name: str, code: int) -> None:
    script = LOST.format(name=name)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "Exception ignored" in done.stderr) == (code, False), done.stderr


LEAVING = """
import atexit, sys, threading, time
from fer_cli.cli import endings

class Held:
    def __del__(self):
        print("taken apart")

held = Held()
atexit.register(lambda: print("said at the end"))

def command():
    {before}
    print("done")
    return {code}

endings.run(command)
"""


@pytest.mark.parametrize(
    ("before", "code", "apart"),
    [
        ("pass", None, True),
        ("endings.leave_at_once()", None, True),
        ("endings.allow_leaving(); endings.leave_at_once()", None, False),
        ("endings.allow_leaving(); endings.leave_at_once()", 3, True),
        (
            "endings.allow_leaving(); endings.leave_at_once(); threading.Thread(target=time.sleep, args=[0.2]).start()",
            None,
            True,
        ),
    ],
)
def test_a_command_may_leave_at_once_with_all_that_it_has_said(before: str, code: int | None, apart: bool) -> None:
    script = LEAVING.format(before=before, code=code)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    said = "done\nsaid at the end\n" + "taken apart\n" * apart
    assert (done.returncode, done.stdout, done.stderr) == (code or 0, said, "")


def test_a_third_interrupt_ends_a_failed_command_that_waits_for_a_thread() -> None:
    script = """
import os, signal, threading, time
from fer_cli import errors
from fer_cli.cli import endings

def interrupt():
    time.sleep(0.5)
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
    time.sleep(60)

def command():
    threading.Thread(target=interrupt).start()
    raise errors.ArtifactError("x.h5 is damaged.")

endings.run(command)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (4, "fer: x.h5 is damaged.\n")


@pytest.mark.parametrize("attached", [False, True])
def test_only_commands_without_code_of_the_user_s_leave_at_once(
    attached: bool, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endings, "_leaves_at_once", False)
    config = {"network": {"kind": KIND}} if attached else run.model.config
    leave_soon(SimpleNamespace(model=SimpleNamespace(config=config)))
    assert endings._leaves_at_once == (not attached)


MANY_LOST = """
import os, signal
from fer_cli.cli import endings

class Dropped:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        len(str(10**100))

def command():
    for _ in range(20):
        Dropped()
    try:
        while True:
            pass
    finally:
        for _ in range(20_000_000):
            pass
        print("cleared up")

endings.run(command)
"""


def test_many_lost_interrupts_do_not_cut_the_clearing_up_short() -> None:
    done = subprocess.run([sys.executable, "-c", MANY_LOST], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (130, "cleared up\n"), done.stderr


INSISTING = """
import os, signal, sys
from fer_cli import errors
from fer_cli.cli import endings

class Interrupting:
    def isatty(self):
        return False

    def write(self, text):
        for _ in range(4):
            os.kill(os.getpid(), signal.{name})
            len(str(10**100))
        sys.__stderr__.write(text)

    def flush(self):
        sys.__stderr__.flush()

def command():
    sys.stderr = Interrupting()
    raise {error}

endings.run(command)
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        ("KeyboardInterrupt", 130, "fer: interrupted; nothing half-written was left behind.\n"),
        ("errors.ArtifactError('x.h5 is damaged.')", 4, "fer: x.h5 is damaged.\n"),
    ],
)
def test_a_command_that_is_ending_ends_as_it_is(name: str, error: str, code: int, said: str) -> None:
    script = INSISTING.format(name=name, error=error)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (code, said)
