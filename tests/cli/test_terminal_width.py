"""What commands print on a terminal of 80 columns: no line is longer, and none is broken within a word."""

import os
import pty
import re
import sys
import threading
from pathlib import Path

import pytest
import typer

from fer_cli.cli.app import app
from fer_cli.storage.run_paths import RunPaths
from forks import _address, ask, fer

pytestmark = pytest.mark.end_to_end
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def on_terminal(*words: object, folder: Path) -> list[str]:
    """Lines that a command prints where stdout and stderr are a terminal of 80 columns."""
    master, slave = pty.openpty()
    parts: list[bytes] = []

    def read() -> None:
        try:
            while part := os.read(master, 1 << 16):
                parts.append(part)
        except OSError:  # the other end is closed
            pass

    reader = threading.Thread(target=read)
    reader.start()
    with Path(os.devnull).open() as stdin:
        variables = os.environ | {"COLUMNS": "80", "TERM": "xterm"}
        streams = (stdin.fileno(), slave, slave)
        ask(_address(sys.executable), [str(word) for word in words], str(folder), variables, streams)
    os.close(slave)
    reader.join()
    os.close(master)
    text = ANSI.sub("", b"".join(parts).decode())
    return [line.rsplit("\r", 1)[-1].rstrip() for line in text.replace("\r\n", "\n").split("\n")]


@pytest.mark.parametrize(
    "command",
    [
        "voxelize BOXES --dry-run --layout class/split",
        "probe beam_test_00 --layer conv1 --run RUN -o out",
        "info RUN",
        "info RUN/voxels.h5",
        "info RUN/model.h5",
        "info RUN/codebook.h5",
        "explain beam_test_00 --label pole --no-images --run RUN -o out",
        "explain --errors --no-images --run RUN -o out",
        "explain nosuch --run RUN",
        "train --run RUN",
        "voxelize CLASSES --run out",
    ],
)
def test_lines_fit_the_terminal_and_break_between_words(
    command: str, run_paths: RunPaths, box_source: Path, tmp_path: Path
) -> None:
    (tmp_path / "RUN").symlink_to(run_paths.voxels.parent)
    (tmp_path / "BOXES").symlink_to(box_source)
    for name in ("first class with a name", "second"):
        (tmp_path / "CLASSES" / name).mkdir(parents=True)
        for number in range(4):
            shape = (box_source / f"pole/train/pole_train_{number:02}.off").read_bytes()
            (tmp_path / "CLASSES" / name / f"{number}.off").write_bytes(shape)
    lines = on_terminal(*command.split(), folder=tmp_path)
    assert [line for line in lines if len(line) > 80 and not line.startswith("Next: ")] == []
    piped = fer(*command.split(), folder=tmp_path, COLUMNS="80")
    words = (piped.stderr + piped.stdout).split()
    assert sorted(" ".join(lines).split()) == sorted(words)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_cuts_no_word_and_breaks_no_choice(name: str, tmp_path: Path) -> None:
    shown = fer(name, "--help", folder=tmp_path, COLUMNS="80").stdout
    assert max(map(len, shown.split("\n"))) <= 80
    assert not re.search(r"\S…", shown)
    for parameter in COMMANDS[name].params:
        for choice in getattr(parameter.type_descriptor, "choices", None) or ():
            assert re.search(rf"\b{choice}\b", shown), choice
