"""Tests of `endings`: which reason a command ends by where there are several. Whole commands are tested in test_cli."""

import subprocess
import sys

import pytest

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
