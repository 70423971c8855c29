from pathlib import Path

import pytest

from fer_cli.cli.next_step import next_command, tell_next
from fer_cli.cli.options import DEFAULT_RUN


def test_next_command_has_the_users_own_run_and_artifacts() -> None:
    assert next_command("cluster", run=DEFAULT_RUN) == "fer cluster"
    assert next_command("cluster", run=Path("my-run"), files={"voxels": None}) == "fer cluster --run my-run"
    named = {"voxels": None, "model": Path("other/model.h5")}
    assert next_command("cluster", run=DEFAULT_RUN, files=named) == "fer cluster --model other/model.h5"


def test_next_command_is_quoted_as_a_shell_takes_it() -> None:
    command = next_command("explain", "it's a chair.off", run=Path("my run"))
    assert command == """fer explain 'it'"'"'s a chair.off' --run 'my run'"""


def test_next_command_is_printed_without_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    tell_next("explain", "a\x1b[31m", run=DEFAULT_RUN)
    assert capsys.readouterr().out == "Next: fer explain 'a�[31m'\n"
