import os
import subprocess
import sys
from pathlib import Path

import pytest

from fer_cli.errors import ResourceError, UsageError
from fer_cli.storage.journal import Journal


def written(output: Path, *contents: bytes, key: str = "one") -> Path:
    with Journal(output, key) as journal:
        for content in contents:
            journal.append(content)
        return journal.path


def records(output: Path, key: str = "one") -> list[bytes]:
    with Journal(output, key) as journal:
        return [journal[index] for index in range(len(journal))]


def test_records_outlive_the_block(tmp_path: Path) -> None:
    path = written(tmp_path / "v.h5", b"first", b"", b"\n\0third")
    assert path == tmp_path / ".v.h5.journal"
    assert records(tmp_path / "v.h5") == [b"first", b"", b"\n\0third"]
    written(tmp_path / "v.h5", b"fourth")
    assert records(tmp_path / "v.h5") == [b"first", b"", b"\n\0third", b"fourth"]


def test_records_are_read_while_more_are_added(tmp_path: Path) -> None:
    with Journal(tmp_path / "v.h5", "one") as journal:
        journal.append(b"first")
        assert journal[0] == b"first"
        journal.append(b"second")
        assert (journal[1], journal[0]) == (b"second", b"first")


def test_another_key_begins_afresh(tmp_path: Path) -> None:
    written(tmp_path / "v.h5", b"first")
    assert records(tmp_path / "v.h5", key="two") == []
    assert records(tmp_path / "v.h5", key="one") == []


def test_wherever_a_journal_is_cut_the_whole_records_before_stay(tmp_path: Path) -> None:
    contents = [b"first", b"second", b"third"]
    whole = written(tmp_path / "v.h5", *contents).read_bytes()
    path = tmp_path / ".cut.h5.journal"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        kept = records(tmp_path / "cut.h5")
        assert kept == contents[: len(kept)]
        written(tmp_path / "cut.h5", *contents[len(kept) :])
        assert path.read_bytes() == whole


def test_a_flipped_bit_ends_the_records_before_it(tmp_path: Path) -> None:
    path = written(tmp_path / "v.h5", b"first", b"second", b"third")
    content = bytearray(path.read_bytes())
    content[content.index(b"second")] ^= 1
    path.write_bytes(content)
    assert records(tmp_path / "v.h5") == [b"first"]


def test_a_used_journal_goes_and_is_read_until_the_block_ends(tmp_path: Path) -> None:
    with Journal(tmp_path / "v.h5", "one") as journal:
        with journal.used():
            journal.append(b"first")
        assert journal[0] == b"first"
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "kept"), [(UsageError("no"), False), (ResourceError("full"), True), (KeyboardInterrupt(), True)]
)
def test_a_journal_is_kept_where_the_run_can_go_on(tmp_path: Path, error: BaseException, kept: bool) -> None:
    def run() -> None:
        with Journal(tmp_path / "v.h5", "one") as journal, journal.used():
            journal.append(b"first")
            raise error

    with pytest.raises(type(error)):
        run()
    assert bool(list(tmp_path.iterdir())) is kept


def test_a_journal_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"cannot write .*missing/\.v\.h5\.journal: No such file"):
        written(tmp_path / "missing" / "v.h5")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a limit on file sizes")
def test_a_full_disk_keeps_what_was_there(tmp_path: Path) -> None:
    script = """
import resource, signal, sys
from pathlib import Path
from fer_cli.errors import ResourceError
from fer_cli.storage.journal import Journal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
with Journal(Path(sys.argv[1]), "one") as journal:
    journal.append(b"x" * 1000)
    try:
        journal.append(b"y" * 9000)
    except ResourceError as error:
        print(error)
"""
    command = [sys.executable, "-c", script, str(tmp_path / "v.h5")]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert "cannot write" in result.stdout
    assert "File too large" in result.stdout
    assert records(tmp_path / "v.h5") == [b"x" * 1000]
