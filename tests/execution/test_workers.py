import ast
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fer_cli.execution.workers import is_stopping, open_executor

WAITING = """
import os, time
from fer_cli.execution.workers import is_stopping, open_executor

def wait(started):
    open(started, "w").close()
    while not is_stopping():
        time.sleep(0.01)
    return "told"

if __name__ == "__main__":
    import sys
    with open_executor(2, preload="fer_cli.execution.workers") as executor:
        futures = [executor.submit(wait, f"{sys.argv[1]}/{number}") for number in range(20)]
        while not os.listdir(sys.argv[1]):
            time.sleep(0.01)
    print({future.result() for future in futures if not future.cancelled()}, any(f.cancelled() for f in futures))
"""


LEFT = """
import os, sys, time
from fer_cli.execution.workers import open_executor

if __name__ == "__main__":
    with open_executor(2, preload="fer_cli.execution.workers") as executor:
        print({executor.submit(os.getpid).result() for _ in range(20)}, flush=True)
        time.sleep(60)
"""


def test_one_worker_is_this_process():
    with open_executor(1, preload="fer_cli.execution.workers") as executor:
        assert executor.submit(os.getpid).result() == os.getpid()
    assert not is_stopping()


def test_more_workers_are_other_processes():
    with open_executor(2, preload="fer_cli.execution.workers") as executor:
        assert executor.submit(os.getpid).result() != os.getpid()


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_call_raises_reaches_the_caller(workers):
    with (
        open_executor(workers, preload="fer_cli.execution.workers") as executor,
        pytest.raises(ValueError, match="seven"),
    ):
        executor.submit(int, "seven").result()


def test_workers_at_work_are_told_to_stop_and_the_rest_is_cancelled(tmp_path):
    (tmp_path / "script.py").write_text(WAITING)
    (tmp_path / "started").mkdir()
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "started")]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert (result.stdout, result.stderr) == ("{'told'} True\n", "")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs a way to see whether a process has ended")
def test_workers_end_when_whoever_started_them_is_killed(tmp_path):
    (tmp_path / "script.py").write_text(LEFT)
    run = subprocess.Popen([sys.executable, str(tmp_path / "script.py")], stdout=subprocess.PIPE, text=True)
    workers = ast.literal_eval(run.stdout.readline())
    run.kill()
    run.communicate()

    def is_running(pid):
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    deadline = time.monotonic() + 20
    while any(map(is_running, workers)):
        assert time.monotonic() < deadline, "workers were left behind"
        time.sleep(0.05)
