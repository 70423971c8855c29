import fcntl
import multiprocessing
import os
import signal
import sys
from pathlib import Path

import pytest

from fer_cli.errors import ResourceError, UsageError
from fer_cli.storage import lock, outputs
from fer_cli.storage.disk import write_whole
from fer_cli.storage.lock import hold, partial_name, remove_partials
from fer_cli.storage.outputs import check_output, claim_output, held

FORK = multiprocessing.get_context("fork")


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def test_output_that_exists_is_claimed_by_force_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.h5"
    with claim_output(path, force=False):
        assert names(path.parent) == {".a.h5.lock"}
    assert not names(path.parent)
    path.write_text("precious")
    message = r"a\.h5 exists already\. Name another output, or give --force to replace it"
    with pytest.raises(UsageError, match=message), claim_output(path, force=False):
        pass
    with claim_output(path, force=True):
        pass
    assert (path.read_text(), names(path.parent)) == ("precious", {"a.h5"})


def fail_at(path: Path, *files: Path) -> None:
    """A run that takes `path`, makes some files, and ends by an error."""
    with claim_output(path, force=False):
        assert path.parent.is_dir()
        for file in files:
            file.touch()
        raise ValueError("nothing came of it")


def test_folders_made_for_a_run_that_fails_go_again(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    for folder in ("old", "old/new", "new/deeper"):
        with pytest.raises(ValueError, match="nothing came of it"):
            fail_at(tmp_path / folder / "a.h5")
    assert names(tmp_path) == {"old"}
    assert not names(tmp_path / "old")
    with pytest.raises(ValueError, match="nothing came of it"):
        fail_at(tmp_path / "kept" / "a.h5", tmp_path / "kept" / "journal")
    assert names(tmp_path / "kept") == {"journal"}


def test_output_is_a_file_and_none_of_those_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.h5").touch()
    (tmp_path / "b.h5").symlink_to("a.h5")
    check_output(tmp_path / "c.h5", tmp_path / "a.h5", tmp_path / "none.h5", None)
    for output in ("a.h5", "b.h5"):
        with pytest.raises(UsageError, match=rf"{output} is a file that the run reads\. Name another output"):
            check_output(Path(output), None, tmp_path / "a.h5")
    for nameless in (Path(), Path("/")):
        with pytest.raises(UsageError, match="names no file"):
            check_output(nameless)


def test_output_that_cannot_be_written_is_said_so_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    (tmp_path / "folder").mkdir()
    outputs = [tmp_path / "file" / "a.h5", tmp_path / "file" / "deeper" / "a.h5", Path("/proc/a.h5")]
    for path in outputs:
        with pytest.raises(ResourceError, match=rf"cannot write {path}: "), claim_output(path, force=False):
            pass
    for output in (tmp_path / "folder", tmp_path / "folder" / ("n" * 300)):
        with pytest.raises(ResourceError, match=r"Is a directory|name too long"), claim_output(output, force=True):
            pass
    assert names(tmp_path) == {"file", "folder"}


def test_a_second_run_is_refused_and_told_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["fer", "train", "--run", "my run"])
    path = tmp_path / "a.h5"
    message = (
        rf"another run is at work on {path}: process {os.getpid()} on \S+ since \S+ \S+ \(fer train --run 'my run'\)\. "
        "Wait for it, or name another output"
    )
    with claim_output(path, force=False):
        for force in (False, True):
            with pytest.raises(ResourceError, match=message), claim_output(path, force=force):
                pass
        with claim_output(path, force=False, leads=False):  # of the same run
            pass
        with claim_output(tmp_path / "b.h5", force=False):  # another stage
            pass
        assert names(tmp_path) == {".a.h5.lock"}
    assert not names(tmp_path)


def test_a_refused_run_that_cannot_tell_by_whom_says_so(tmp_path: Path) -> None:
    with (
        hold(tmp_path / ".a.h5.lock", wait=False),
        pytest.raises(ResourceError, match=r"at work on .*: a process that has just started"),
        held(tmp_path / "a.h5"),
    ):
        pass


def test_run_that_waited_in_vain_for_another_finds_its_artifact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.h5"
    taken = outputs.held

    def finish_first(output: Path):  # type: ignore[no-untyped-def]
        output.write_text("of the other")
        return taken(output)

    monkeypatch.setattr(outputs, "held", finish_first)
    with pytest.raises(UsageError, match="exists already"), claim_output(path, force=False):
        pass
    assert path.read_text() == "of the other"


def killed_while_holding(path: Path) -> None:
    with held(path):
        partial_name(path).write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)


def test_lock_and_partial_of_a_killed_run_are_in_nobodys_way(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    for _ in range(3):
        process = FORK.Process(target=killed_while_holding, args=(path,))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    assert len(names(tmp_path)) == 4
    with claim_output(path, force=False):
        assert names(tmp_path) == {".a.h5.lock"}
    assert not names(tmp_path)


def counted(path: Path, rounds: int) -> None:
    """Add to a number in a file, which only holding it makes come out right."""
    for _ in range(rounds):
        while True:
            try:
                with held(path):
                    path.write_text(str(int(path.read_text()) + 1))
                break
            except ResourceError:
                pass


def test_of_many_processes_one_at_a_time_holds_a_path(tmp_path: Path) -> None:
    path = tmp_path / "number"
    path.write_text("0")
    processes = [FORK.Process(target=counted, args=(path, 150)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert path.read_text() == "600"
    assert names(tmp_path) == {"number"}


def test_only_partial_files_of_this_output_that_nobody_holds_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "a[1].h5"
    dead = partial_name(path)
    others = [partial_name(tmp_path / name) for name in ("a1.h5", "a[1].h5.old", "b.a[1].h5")]
    for file in (dead, *others, tmp_path / ".a[1].h5.journal"):
        file.write_text("half")
    with hold(partial_name(path), wait=True) as alive:
        remove_partials(path)
        assert names(tmp_path) == {*(each.name for each in others), Path(alive.name).name, ".a[1].h5.journal"}


def test_progress_older_than_its_artifact_goes_where_the_run_is_refused(tmp_path: Path) -> None:
    path, progress = tmp_path / "a.h5", tmp_path / ".a.h5.journal"
    for newer, left in ((path, {"a.h5"}), (progress, {"a.h5", ".a.h5.journal"})):
        for number, file in enumerate(sorted((path, progress), key=lambda each: each == newer)):
            file.write_text("whole")
            os.utime(file, (1000 + number, 1000 + number))
        with pytest.raises(UsageError, match="exists already"), claim_output(path, force=False, progress=progress):
            pass
        assert names(tmp_path) == left
    with claim_output(path, force=True, progress=progress):
        assert progress.exists()  # to be gone on with


def test_without_locks_nothing_is_removed_and_files_are_still_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    path = tmp_path / "a.json"
    left = partial_name(path)
    left.write_text("perhaps in work")
    monkeypatch.setattr(lock.fcntl, "flock", unsupported)
    with claim_output(path, force=False):
        write_whole(path, "{}")
    assert names(tmp_path) == {"a.json", left.name}


def test_whole_file_replaces_the_older_one_and_sweeps_before(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    partial_name(path).write_text("half")
    write_whole(path, b"first")
    assert names(tmp_path) == {"page.html"}
    write_whole(path, "sm\udcf6rg\u00e5s")
    assert path.read_bytes() == "sm?rg\u00e5s".encode()
    with path.open("rb") as reader:
        write_whole(path, "third")
        assert reader.read() == "sm?rg\u00e5s".encode()  # whoever has it open reads on
    write_whole(tmp_path / "new" / "page.html", "made with its folder")
    with pytest.raises(ResourceError, match=r"cannot write .*/page\.html/below\.html: (Not a directory|File exists)"):
        write_whole(path / "below.html", "")


def test_lock_is_the_kernels_and_dies_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with hold(path, wait=False), path.open("rb") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
