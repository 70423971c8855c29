"""The resume log of a run: finished work beside the output, so that the same command continues after an interruption.

One file: a line with the run's key, then records of length, checksum and content. Opening truncates an incomplete last
record, and starts afresh if the key differs. The stage defines the content of records.
"""

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from fer_cli.errors import ResourceError
from fer_cli.storage.disk import writing

_HEAD = struct.Struct("<QI")


def journal_path(output: Path) -> Path:
    """Where the journal of an output lies: beside it."""
    return output.with_name(f".{output.name}.journal")


class Journal:
    """The records kept for the output `output` by the run `key`; a context manager that leaves the file behind.

    The run has claimed the output. Raises ResourceError if the journal cannot be written.
    """

    def __init__(self, output: Path, key: str) -> None:
        self.path = journal_path(output)
        self._title = f"fer journal 1 {key}\n".encode()
        self._spans: list[tuple[int, int]] = []
        self._end = len(self._title)

    def __enter__(self) -> "Journal":
        with writing(self.path):
            self._file: BinaryIO = self.path.open("a+b")
        try:
            with writing(self.path):
                self._find_records()
        except BaseException:
            self._file.close()
            raise
        return self

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, index: int) -> bytes:
        """The content of a record."""
        start, length = self._spans[index]
        self._file.seek(start)
        return self._file.read(length)

    def append(self, content: bytes) -> None:
        """Add a record; it survives the death of this process."""
        with writing(self.path):
            self._file.write(_HEAD.pack(len(content), zlib.crc32(content)) + content)
            self._file.flush()
        self._spans.append((self._end + _HEAD.size, len(content)))
        self._end += _HEAD.size + len(content)

    @contextmanager
    def used(self) -> Iterator[None]:
        """Remove the file once the block has run, or failed in a way that would come again.

        It stays if the block was interrupted or ran out of resources. Records can be read until the journal is closed.
        """
        try:
            yield
        except Exception as error:
            if not isinstance(error, ResourceError):
                self.path.unlink(missing_ok=True)
            raise
        self.path.unlink(missing_ok=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with writing(self.path):
            self._file.close()

    def _find_records(self) -> None:
        self._file.seek(0)
        if self._file.read(len(self._title)) != self._title:
            self._file.truncate(0)
            self._file.write(self._title)
            self._file.flush()
            return
        while len(head := self._file.read(_HEAD.size)) == _HEAD.size:
            length, checksum = _HEAD.unpack(head)
            content = self._file.read(length)
            if len(content) != length or zlib.crc32(content) != checksum:
                break
            self._spans.append((self._end + _HEAD.size, length))
            self._end += _HEAD.size + length
        self._file.truncate(self._end)
