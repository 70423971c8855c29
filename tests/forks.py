"""Runs commands of fer quickly: one process imports the program, and each command runs in a fork of it.

That takes a tenth of the time of starting Python for each. The process starts with the first command, serves all tests
of this process, one command after the other, and ends with it.
"""

import atexit
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Outcome:
    code: int
    stdout: str
    stderr: str


# What a command imports late, later commands find imported. Two processes that would start anew for every command do
# not: the one apart that opens files, and, before anything is drawn, the one that draws. test_cli starts some commands
# anew, and those have theirs.
SERVING = """
import contextlib, gc, importlib, json, os, select, socket, sys
from fer_cli.cli import app, attachments, demo, describing, doctor, explaining, readings, stages, terminal, voxelizing
from fer_cli.diagnosis import diagnosis, explain, probe
from fer_cli.network import attach, training
from fer_cli.codebooks import clustering
from fer_cli.studies import evaluate
from fer_cli.pictures import curves, drawing, figures, mosaic
from fer_cli.reports import contact_page, evaluation_page, evaluation_report, gallery, info, page, report
from fer_cli.reports import run_info, selection
from fer_cli.data import plan, store_volumes, triangles, voxelize
from fer_cli.data.formats import scanning
from fer_cli.storage import arrays, artifact, vetting

vetting.vet = arrays.vet = artifact.vet = lambda *_: None
drawing.preload_for_workers = lambda *_: None

late = sys.argv[1] + ".modules"

def run(words, folder, variables):
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    encoding, _, errors = variables.get("PYTHONIOENCODING", "").partition(":")
    if encoding:
        sys.stdout.reconfigure(encoding=encoding, errors=errors)
        sys.stderr.reconfigure(encoding=encoding, errors="backslashreplace")
    sys.argv = ["fer", *words]
    try:
        app.main()
    except SystemExit as end:
        sys.stdout.flush()
        sys.stderr.flush()
        with open(late, "w") as names:
            names.write("\\n".join(sys.modules))
        os._exit(end.code)  # clearing up all that is imported would take a second each time

listening = socket.socket(socket.AF_UNIX)
listening.bind(sys.argv[1])
listening.listen()
print("ready", flush=True)
while sys.stdin not in select.select([listening, sys.stdin], [], [])[0]:  # which ends with the tests
    line, _ = listening.accept()
    _, streams, _, _ = socket.recv_fds(line, 1, 3)
    asked = json.loads(line.makefile().readline())
    gc.freeze()  # else collecting garbage copies all that forks share
    if os.fork() == 0:
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        os.closerange(3, 1024)
        run(*asked)
    for stream in streams:
        os.close(stream)
    code = os.waitstatus_to_exitcode(os.wait()[1])
    if os.path.exists(late):
        with open(late) as names:
            for name in names.read().splitlines():
                with contextlib.suppress(Exception):  # modules of the tests' own networks are not here
                    importlib.import_module(name)
        os.remove(late)
    line.sendall(b"%d\\n" % code)
    line.close()
"""


@cache
def _address(python: str) -> str:
    """Start the process that forks, once for each interpreter, and return the path of its socket.

    An interpreter of another environment imports the fer that is installed there.
    """
    folder = tempfile.TemporaryDirectory(prefix="fer-")
    address = f"{folder.name}/socket"
    isolated = [] if python == sys.executable else ["-I"]
    process = subprocess.Popen(
        [python, *isolated, "-c", SERVING, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    atexit.register(folder.cleanup)
    atexit.register(process.communicate)
    return address


def ask(
    address: str, words: Sequence[str], folder: str, variables: Mapping[str, str], streams: Sequence[int] = (0, 1, 2)
) -> int:
    """Exit code of a command that the process at `address` runs on these three streams."""
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(900)
        line.connect(address)
        socket.send_fds(line, [b" "], streams)
        line.sendall(json.dumps([words, folder, dict(variables)]).encode() + b"\n")
        with line.makefile() as answer:
            return int(answer.readline())


def fer(*words: object, folder: Path, **variables: str) -> Outcome:
    """Run a command in `folder`: exit code and output."""
    with (
        Path(os.devnull).open() as stdin,
        tempfile.TemporaryFile("w+", encoding="utf-8") as out,
        tempfile.TemporaryFile("w+", encoding="utf-8") as err,
    ):
        streams = [stream.fileno() for stream in (stdin, out, err)]
        code = ask(
            _address(sys.executable), [str(word) for word in words], str(folder), os.environ | variables, streams
        )
        out.seek(0)
        err.seek(0)
        return Outcome(code, out.read(), err.read())


def forked(commands: Sequence[Sequence[object]], *, folder: Path, **variables: str) -> list[Outcome]:
    """Run the commands one after the other: exit code and output of each."""
    return [fer(*words, folder=folder, **variables) for words in commands]


def write_program(path: Path, python: str = sys.executable) -> None:
    """Write a program that does what the `fer` of a Python does, for shells."""
    path.write_text(
        f"#!{sys.executable} -IS\nimport os, sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\nimport forks\n"
        f"sys.exit(forks.ask({_address(python)!r}, sys.argv[1:], os.getcwd(), os.environ))\n"
    )
    path.chmod(0o755)
