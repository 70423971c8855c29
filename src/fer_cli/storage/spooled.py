"""Rows of numbers of any count, in a temporary file where memory would not hold them."""

import tempfile
import weakref
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from fer_cli.storage.disk import writing

_MOST_IN_MEMORY = 1 << 26
"""Bytes of one array that are kept in memory."""


class SpooledRows:
    """Rows of `width` float32 numbers, added at the end and read a slice at a time."""

    def __init__(self, width: int) -> None:
        self.width = width
        self._rows = 0
        self._file = tempfile.SpooledTemporaryFile(max_size=_MOST_IN_MEMORY)  # noqa: SIM115
        weakref.finalize(self, self._file.close)

    def append(self, rows: Float32[np.ndarray, "row number"]) -> None:
        """Add rows. Raises ResourceError where the disk cannot hold them."""
        if rows.shape[1] != self.width:
            raise ValueError(f"rows of {rows.shape[1]} numbers do not go with rows of {self.width}")
        with writing(Path(tempfile.gettempdir())):
            self._file.seek(0, 2)
            self._file.write(np.ascontiguousarray(rows).tobytes())
        self._rows += len(rows)

    def __len__(self) -> int:
        return self._rows

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows, and of numbers in each."""
        return self._rows, self.width

    def __getitem__(self, rows: slice) -> Float32[np.ndarray, "row number"]:
        start, stop, step = rows.indices(self._rows)
        if step != 1:
            raise ValueError("rows are read in their order")
        count, row_bytes = max(0, stop - start), 4 * self.width
        with writing(Path(tempfile.gettempdir())):
            self._file.seek(start * row_bytes)
            content = self._file.read(count * row_bytes)
        return np.frombuffer(content, np.float32).reshape(count, self.width)
