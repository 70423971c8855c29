"""`fer download`: the archives of ModelNet from their official place or a mirror; goes on where it broke off.

pooch decides whether anything is to be done, and puts the file in its place only when it is whole; the transfer
itself is ours, since pooch begins every transfer anew. What was fetched is recorded beside the file.
"""

import datetime
import json
import re
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fer_cli import __version__
from fer_cli.errors import InputError, ResourceError, UsageError, first_line
from fer_cli.storage.disk import write_whole, writing
from fer_cli.storage.outputs import claim_output

URLS = {
    "modelnet10": "http://3dvision.princeton.edu/projects/2014/3DShapeNets/ModelNet10.zip",
    "modelnet40": "http://modelnet.cs.princeton.edu/ModelNet40.zip",
}
"""Where the authors keep the archives; they publish no checksums."""
_FILES = {"modelnet10": "ModelNet10.zip", "modelnet40": "ModelNet40.zip"}

TIMEOUT_SECONDS = 30.0
_BLOCK = 1 << 14
# Small, since of a block in which the connection ends nothing is handed out.

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class DownloadRecord:
    """What was fetched, from where and when; kept beside the file as `<file>.json`."""

    url: str
    bytes: int
    sha256: str
    downloaded: str
    last_modified: str | None
    created_by: str


@dataclass(frozen=True)
class Download:
    """A file that is there and whole; `fetched` bytes of it came over the network just now."""

    path: Path
    record: DownloadRecord
    fetched: int


def download_dataset(
    dataset: str,
    folder: Path,
    *,
    url: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Download:
    """Fetch the archive of a data set into `folder`, unless it is there and whole; `url` names a mirror.

    `progress` is told (bytes there, bytes in all or None). What has come when a transfer breaks off stays in
    `<file>.part`, and the next call fetches the rest if the server can send it and the file is still the same.

    Raises UsageError for an unknown data set, a URL that is none, or an unknown file in the way while `force` is off;
    InputError if the server refuses or sends no .zip; ResourceError if the connection or the disk fails.
    """
    if dataset not in URLS:
        raise UsageError(f"there is no data set {dataset!r}; known are {', '.join(URLS)}.")
    address = url or URLS[dataset]
    if not re.match(r"https?://[^/\s]+", address):
        raise UsageError(f"--url takes an http:// or https:// address, got {address!r}.")
    import pooch

    path = folder / _FILES[dataset]
    sidecar = path.with_name(f"{path.name}.json")
    if not force and (record := _read_record(sidecar)) and path.is_file():
        _require_whole(path, record)
        return Download(path, record, 0)
    with claim_output(path, force=force):
        pooch.get_logger().setLevel("ERROR")
        transfer = _Transfer(path, progress)
        fresh = path.with_name(f".{path.name}.fresh")  # what was there before stays until the new file is whole
        with writing(path):
            fresh.unlink(missing_ok=True)
            pooch.retrieve(address, known_hash=None, fname=fresh.name, path=folder, downloader=transfer.fetch)
            record = DownloadRecord(
                url=address,
                bytes=fresh.stat().st_size,
                sha256=pooch.file_hash(str(fresh)),
                downloaded=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                last_modified=transfer.last_modified,
                created_by=f"fer {__version__}",
            )
            fresh.replace(path)
            write_whole(sidecar, json.dumps(asdict(record), indent=2) + "\n")
    return Download(path, record, transfer.fetched)


class _Transfer:
    """One transfer into `<file>.part`, with what the server said of the file in `<file>.part.json`."""

    def __init__(self, path: Path, progress: Progress | None) -> None:
        self._path = path
        self._part = path.with_name(f"{path.name}.part")
        self._notes = path.with_name(f"{path.name}.part.json")
        self._progress = progress or (lambda done, total: None)
        self._answered = False
        self.fetched = 0
        self.last_modified: str | None = None

    def fetch(self, url: str, output_file: Any, _: object) -> None:
        """What pooch calls a downloader."""
        import requests

        try:
            self._receive(url)
        except requests.exceptions.RequestException as error:
            reason = _reason(error)
            if not self._answered:
                raise ResourceError(
                    f"{url}: there is no connection ({reason}). Give the same command again later, or the address of a "
                    "mirror with --url."
                ) from error
            done = self._part.stat().st_size if self._part.exists() else 0
            raise ResourceError(
                f"{url}: the transfer broke off after {done} bytes ({reason}). Give the same command again to go on."
            ) from error
        if not zipfile.is_zipfile(self._part):
            size = self._part.stat().st_size
            self._forget()
            raise InputError(
                f"{url} sent {size} bytes that are no .zip archive; give the address of a mirror with --url."
            )
        self._part.replace(output_file)
        self._forget()

    def _receive(self, url: str) -> None:
        import requests

        headers = {"Accept-Encoding": "identity", "User-Agent": f"fer/{__version__}"}
        there = self._resumable(url)
        if there:
            headers |= {"Range": f"bytes={there[0]}-", "If-Range": there[1]}
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS) as response:
            self._answered = True
            start = there[0] if there and response.status_code == 206 else 0
            if start and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                raise InputError(f"{url}: the server sent another part of the file than it was asked for; use --force.")
            if response.status_code not in (200, 206):
                self._refuse(url, response.status_code, response.reason)
            length = response.headers.get("Content-Length", "")
            total = start + int(length) if length.isdecimal() else None
            self._check_space(url, total, start)
            self.last_modified = response.headers.get("Last-Modified")
            etag = response.headers.get("ETag", "")
            same = etag if etag and not etag.startswith("W/") else self.last_modified
            write_whole(self._notes, json.dumps({"url": url, "same": same, "total": total}))
            with self._part.open("ab" if start else "wb") as file:
                for block in response.iter_content(_BLOCK):
                    file.write(block)
                    self.fetched += len(block)
                    self._progress(start + self.fetched, total)
            if total is not None and start + self.fetched != total:
                raise requests.exceptions.ConnectionError(f"{start + self.fetched} of {total} bytes came")

    def _resumable(self, url: str) -> tuple[int, str] | None:
        """How much is there of an earlier transfer, and by what the server tells that the file is the same."""
        try:
            notes = json.loads(self._notes.read_text())
            size = self._part.stat().st_size
        except (OSError, ValueError):
            return None
        if notes.get("url") != url or not notes.get("same") or not 0 < size < (notes.get("total") or size + 1):
            return None
        return size, str(notes["same"])

    def _refuse(self, url: str, status: int, reason: str) -> None:
        said = f"{url}: the server answers {status} {reason}"
        if status in (408, 425, 429) or status >= 500:
            raise ResourceError(f"{said}. Give the same command again later, or the address of a mirror with --url.")
        raise InputError(f"{said}; give the address of a mirror with --url.")

    def _check_space(self, url: str, total: int | None, start: int) -> None:
        free = shutil.disk_usage(self._path.parent).free
        if total is not None and total - start > free:
            raise ResourceError(f"{url}: {total - start} bytes are to come, but {self._path.parent} has {free} free.")

    def _forget(self) -> None:
        self._part.unlink(missing_ok=True)
        self._notes.unlink(missing_ok=True)


def _read_record(sidecar: Path) -> DownloadRecord | None:
    try:
        return DownloadRecord(**json.loads(sidecar.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _require_whole(path: Path, record: DownloadRecord) -> None:
    """Raise InputError unless the file matches its record."""
    import pooch

    size = path.stat().st_size
    if size != record.bytes or pooch.file_hash(str(path)) != record.sha256:
        raise InputError(f"{path} is not what was downloaded ({size} bytes, {record.bytes} expected); use --force.")


def _reason(error: BaseException) -> str:
    """The innermost cause, in a few words."""
    text = str(error)
    for pattern, words in _REASONS.items():
        if re.search(pattern, text):
            return words
    return first_line(error)


_REASONS = {
    r"NameResolution|getaddrinfo|Name or service not known": "its name is not known; is there a network?",
    r"Connection refused": "connection refused",
    r"unreachable": "the network is unreachable",
    r"[Tt]imed out": "no answer in time",
    r"IncompleteRead|Connection broken|bytes came|ConnectionReset": "the connection was closed",
}
