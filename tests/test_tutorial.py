"""Every shell block of the tutorial, run in its order on a small stand-in for ModelNet10 with a small network.

The outputs that the page shows are of the real data and are not compared; what is compared is that every command ends
well and leaves what the page says it leaves.
"""

import functools
import http.server
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fer_cli.data.synthetic import write_collection
from forks import write_program

pytestmark = pytest.mark.end_to_end

TUTORIAL = Path(__file__).parents[1] / "docs" / "tutorial.md"
CLASSES = ("bed", "night_stand", "table")
# What makes a command of the page affordable here; every one of them has to occur.
IN_SMALL = {
    "fer download modelnet10": "fer download modelnet10 --url {server}/ModelNet10.zip",
    "--preset compact --epochs 20 --learning-rate 0.0005": "--preset smoke --epochs 1 --feedback-epochs 1",
    "fer cluster": "fer cluster --k 2,2,2,2,2,2,2",
    "bed_0580": "bed_0009",
    "--pair table,desk": "--pair table,bed",
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of a server with an archive in ModelNet's layout, of three classes with eight and two shapes."""
    shapes, served = tmp_path / "ModelNet10", tmp_path / "served"
    write_collection(shapes, per_class_train=8, per_class_test=2, seed=0)
    for folder in shapes.iterdir():
        if folder.name not in CLASSES:
            shutil.rmtree(folder)
    served.mkdir()
    shutil.make_archive(str(served / "ModelNet10"), "zip", root_dir=tmp_path, base_dir="ModelNet10")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(served))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()


def test_shell_blocks_of_the_tutorial_run_in_their_order(server: str, tmp_path: Path) -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```", TUTORIAL.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    script = "".join(blocks)
    for shown, small in IN_SMALL.items():
        assert shown in script, f"the tutorial no longer has {shown!r}"
        script = script.replace(shown, small.format(server=server))
    folder, programs = tmp_path / "desk", tmp_path / "programs"
    folder.mkdir()
    programs.mkdir()
    write_program(programs / "fer")
    shutil.copy(tmp_path / "ModelNet10" / "table" / "test" / "table_0010.off", folder / "stool.off")
    completed = subprocess.run(
        ["bash", "-euo", "pipefail", "-xc", script],
        cwd=folder,
        env=os.environ | {"PATH": f"{programs}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert completed.returncode == 0, completed.stderr
    assert script.count("\nfer ") + 1 == completed.stderr.count("+ fer ")
    run = folder / "my-run"
    for left in (
        "model.curve.png",
        "evaluate/test.json",
        "explain/index.html",
        "explain/night_stand_0009/index.html",
        "explain/stool/index.html",
    ):
        assert (run / left).is_file(), f"the tutorial leaves no {left}"
    assert list((run / "probe").rglob("*.png"))
