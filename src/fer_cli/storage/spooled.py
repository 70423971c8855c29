"""Rows of numbers of any count, in a temporary file where memory would not hold them."""

import os
import tempfile
import weakref
from pathlib import Path

import numpy as np
from jaxtyping import Int, Shaped
from numpy.typing import DTypeLike

from fer_cli.storage.disk import writing

_MOST_IN_MEMORY = 1 << 26
"""Bytes of one array that are kept in memory."""


class SpooledRows:
    """Rows of `width` numbers, added at the end, and read a slice or some rows at a time."""

    def __init__(self, width: int, dtype: DTypeLike = np.float32) -> None:
        self.width = width
        self.dtype = np.dtype(dtype)
        self._rows = 0
        self._file = tempfile.SpooledTemporaryFile(max_size=_MOST_IN_MEMORY)  # noqa: SIM115
        weakref.finalize(self, self._file.close)

    def append(self, rows: Shaped[np.ndarray, "row number"]) -> None:
        """Add rows. Raises ResourceError where the disk cannot hold them."""
        if rows.shape[1] != self.width:
            raise ValueError(f"rows of {rows.shape[1]} numbers do not go with rows of {self.width}")
        with writing(Path(tempfile.gettempdir())):
            self._file.seek(0, 2)
            self._file.write(np.ascontiguousarray(rows, self.dtype).tobytes())
            self._file.flush()
        self._rows += len(rows)

    def __len__(self) -> int:
        return self._rows

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return self._rows * self.width * self.dtype.itemsize

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows, and of numbers in each."""
        return self._rows, self.width

    def __getitem__(self, rows: slice | Int[np.ndarray, " chosen"]) -> Shaped[np.ndarray, "chosen number"]:
        if isinstance(rows, slice):
            start, stop, step = rows.indices(self._rows)
            if step != 1:
                raise ValueError("rows are read in their order")
            content = self._read(start, max(0, stop - start))
        else:
            numbers = range(self._rows)
            content = bytearray().join(self._read(numbers[row], 1) for row in rows.tolist())
        return np.frombuffer(content, self.dtype).reshape(-1, self.width)

    def _read(self, start: int, count: int) -> bytearray:
        row_bytes, content = self.width * self.dtype.itemsize, bytearray()
        first, size = start * row_bytes, count * row_bytes
        with writing(Path(tempfile.gettempdir())):
            if self.nbytes > _MOST_IN_MEMORY and hasattr(os, "pread"):  # several threads may read at once
                while piece := os.pread(self._file.fileno(), size - len(content), first + len(content)):
                    content += piece
                return content
            self._file.seek(first)
            return content + self._file.read(size)
