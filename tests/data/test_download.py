"""Downloads from a local HTTP server that behaves, breaks off, knows no ranges, or refuses."""

import hashlib
import io
import json
import re
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from fer_cli.data.download import URLS, download_dataset
from fer_cli.errors import InputError, ResourceError, UsageError

SIX_BLOCKS = 6 << 14  # what comes in part of a block is lost when the connection ends


def archive(seed: int = 1, size: int = 300_000) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as opened:
        opened.writestr("ModelNet10/README.txt", np.random.default_rng(seed).bytes(size))
    return stream.getvalue()


@dataclass
class Served:
    """What the server has, how it behaves, and what it was asked for."""

    content: bytes
    url: str = ""
    etag: str | None = '"one"'
    knows_ranges: bool = True
    tells_length: bool = True
    break_after: int | None = None
    status: int = 200
    asked: list[str | None] = field(default_factory=list)


@pytest.fixture
def served() -> Iterator[Served]:
    state = Served(archive())

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.asked.append(wanted)
            if state.status != 200:
                self.send_error(state.status)
                return
            start = 0
            if wanted and state.knows_ranges and self.headers.get("If-Range") == state.etag:
                start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])  # type: ignore[index]
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(state.content) - 1}/{len(state.content)}")
            if state.tells_length:
                self.send_header("Content-Length", str(len(state.content) - start))
            if state.etag:
                self.send_header("ETag", state.etag)
            self.send_header("Last-Modified", "Thu, 05 Nov 2015 10:00:00 GMT")
            self.end_headers()
            end = len(state.content) if state.break_after is None else start + state.break_after
            self.wfile.write(state.content[start:end])

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}/ModelNet10.zip"
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_file_comes_whole_and_is_recorded(served: Served, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    result = download_dataset(
        "modelnet10", tmp_path / "new" / "folder", url=served.url, progress=lambda *state: seen.append(state)
    )
    assert result.path == tmp_path / "new" / "folder" / "ModelNet10.zip"
    assert result.path.read_bytes() == served.content
    assert (result.fetched, seen[-1]) == (len(served.content), (len(served.content),) * 2)
    recorded = json.loads((result.path.parent / "ModelNet10.zip.json").read_text())
    assert recorded == vars(result.record)
    assert (recorded["url"], recorded["bytes"]) == (served.url, len(served.content))
    assert recorded["sha256"] == hashlib.sha256(served.content).hexdigest()
    assert recorded["last_modified"] == "Thu, 05 Nov 2015 10:00:00 GMT"
    assert names(result.path.parent) == ["ModelNet10.zip", "ModelNet10.zip.json"]


def test_file_that_is_there_is_checked_and_not_fetched_again(served: Served, tmp_path: Path) -> None:
    first = download_dataset("modelnet10", tmp_path, url=served.url)
    again = download_dataset("modelnet10", tmp_path, url=served.url)
    assert (again.fetched, again.record, len(served.asked)) == (0, first.record, 1)
    first.path.write_bytes(served.content[:-1] + b"x")
    with pytest.raises(InputError, match=r"ModelNet10\.zip is not what was downloaded .*--force"):
        download_dataset("modelnet10", tmp_path, url=served.url)
    assert download_dataset("modelnet10", tmp_path, url=served.url, force=True).fetched == len(served.content)
    assert first.path.read_bytes() == served.content


@pytest.mark.parametrize("tells_length", [True, False], ids=["length", "no length"])
@pytest.mark.parametrize("etag", ['"one"', None], ids=["etag", "date"])
def test_transfer_that_breaks_off_goes_on(served: Served, tmp_path: Path, etag: str | None, tells_length: bool) -> None:
    served.etag = etag or "Thu, 05 Nov 2015 10:00:00 GMT"  # what If-Range is compared with
    served.break_after = SIX_BLOCKS
    if not tells_length:  # then only the archive itself tells that it is cut off
        served.tells_length = False
        with pytest.raises(InputError, match=rf"sent {SIX_BLOCKS} bytes that are no \.zip archive"):
            download_dataset("modelnet10", tmp_path, url=served.url)
        assert names(tmp_path) == []
        return
    for done in (SIX_BLOCKS, 2 * SIX_BLOCKS):
        with pytest.raises(
            ResourceError, match=rf"broke off after {done} bytes \(the connection was closed\)\. Give the same command"
        ):
            download_dataset("modelnet10", tmp_path, url=served.url)
        assert names(tmp_path) == ["ModelNet10.zip.part", "ModelNet10.zip.part.json"]
    served.break_after = None
    result = download_dataset("modelnet10", tmp_path, url=served.url)
    assert served.asked == [None, f"bytes={SIX_BLOCKS}-", f"bytes={2 * SIX_BLOCKS}-"]
    assert result.path.read_bytes() == served.content
    assert result.fetched == len(served.content) - 2 * SIX_BLOCKS
    assert names(tmp_path) == ["ModelNet10.zip", "ModelNet10.zip.json"]


def changed_file(served: Served) -> None:
    served.content, served.etag = archive(seed=2), '"two"'


def without_ranges(served: Served) -> None:
    served.knows_ranges = False


@pytest.mark.parametrize("change", [changed_file, without_ranges])
def test_transfer_begins_anew_where_it_cannot_go_on(
    served: Served, tmp_path: Path, change: Callable[[Served], None]
) -> None:
    served.break_after = SIX_BLOCKS
    with pytest.raises(ResourceError):
        download_dataset("modelnet10", tmp_path, url=served.url)
    served.break_after = None
    change(served)
    result = download_dataset("modelnet10", tmp_path, url=served.url)
    assert served.asked == [None, f"bytes={SIX_BLOCKS}-"]
    assert (result.path.read_bytes(), result.fetched) == (served.content, len(served.content))


def test_file_that_was_there_stays_until_another_is_whole(served: Served, tmp_path: Path) -> None:
    (tmp_path / "ModelNet10.zip").write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        download_dataset("modelnet10", tmp_path, url=served.url)
    served.break_after = SIX_BLOCKS
    with pytest.raises(ResourceError):
        download_dataset("modelnet10", tmp_path, url=served.url, force=True)
    assert (tmp_path / "ModelNet10.zip").read_text() == "mine"


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [
        (404, InputError, r"answers 404 Not Found; give the address of a mirror with --url"),
        (403, InputError, r"answers 403 Forbidden"),
        (503, ResourceError, r"answers 503 Service Unavailable\. Give the same command again later"),
    ],
)
def test_refusals_are_told(served: Served, tmp_path: Path, status: int, kind: type[Exception], message: str) -> None:
    served.status = status
    with pytest.raises(kind, match=message):
        download_dataset("modelnet10", tmp_path, url=served.url)
    assert names(tmp_path) == []


def test_page_instead_of_an_archive_is_refused(served: Served, tmp_path: Path) -> None:
    served.content = b"<html>please log in</html>"
    with pytest.raises(InputError, match=r"sent 26 bytes that are no \.zip archive"):
        download_dataset("modelnet10", tmp_path, url=served.url)
    assert names(tmp_path) == []


def test_no_server_and_no_such_host_are_told(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ResourceError, match=r"there is no connection \(connection refused\)"):
        download_dataset("modelnet10", tmp_path, url=f"http://127.0.0.1:{port}/a.zip")
    with pytest.raises(ResourceError, match=r"there is no connection \(its name is not known; is there a network\?\)"):
        download_dataset("modelnet10", tmp_path, url="http://no-such-host.invalid/a.zip")


def test_full_disk_is_told_before_the_transfer(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(ResourceError, match=rf"{len(served.content)} bytes are to come, but .* has 1000 free"):
        download_dataset("modelnet10", tmp_path, url=served.url)


def test_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot write"):
        download_dataset("modelnet10", tmp_path / "file", url="http://127.0.0.1:1/a.zip")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ModelNet10.zip", "http://"])
def test_what_is_no_web_address_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(UsageError, match="--url takes an http"):
        download_dataset("modelnet10", tmp_path, url=url)


def test_unknown_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no data set 'shapenet'; known are modelnet10, modelnet40"):
        download_dataset("shapenet", tmp_path)
    assert set(URLS) == {"modelnet10", "modelnet40"}


def test_command_prints_size_and_hash_and_the_next_command(served: Served, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fer_cli", "download", "modelnet10", "-o", str(tmp_path), "--url", served.url]
    served.break_after = SIX_BLOCKS
    broken = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (broken.returncode, broken.stdout) == (5, "")
    assert broken.stderr == (
        f"fer: {served.url}: the transfer broke off after {SIX_BLOCKS} bytes (the connection was closed). "
        "Give the same command again to go on.\n"
    )
    served.break_after = None
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    size, digest = len(served.content), hashlib.sha256(served.content).hexdigest()
    assert result.stderr == ""
    told, following, *rest = result.stdout.split("\n")
    assert told == f"{tmp_path}/ModelNet10.zip downloaded: {size} bytes, SHA-256 {digest}"
    assert following == f"Next: fer voxelize {tmp_path}/ModelNet10.zip"
    assert rest == [""]
