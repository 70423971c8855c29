"""Text → numbers: one compiled pass over the bytes gives all numbers and where each line begins among them.

A median ModelNet10 mesh takes longer to read where every number passes through a Python string than it takes to read
and voxelize here. Every number is the float that Python's own `float` makes of it, to the last bit.
"""

import numpy as np
from jaxtyping import Float64, Int64

from fer_cli.errors import InputError

_LONGEST_NUMBER = 1024
_UNUSUAL_AT_ONCE = 1 << 16
"""Of a file full of what is no number, so much is looked at and no more."""


def numbers_by_line(
    content: bytes, start: int, name: str
) -> tuple[Float64[np.ndarray, " number"], Int64[np.ndarray, " line_and_end"]]:
    """All numbers of a text from byte `start` on, and where each line that holds any begins among them.

    The second array is closed by the count of numbers. A `#` begins a comment. Errors name `name`.

    Raises InputError for a token that is neither a number nor part of a comment.
    """
    from fer_cli.data.formats.scanning import POWERS_OF_TEN, scan_numbers

    room = (len(content) - start) // 2 + 2
    numbers, lines = np.empty(room), np.empty(room, np.int64)
    unusual = np.empty((min(room, _UNUSUAL_AT_ONCE), 2), np.int64)
    text, n_numbers, n_lines, new_line = np.frombuffer(content, np.uint8), 0, 0, True
    while start < len(content):
        start, n_numbers, n_lines, n_unusual, new_line = scan_numbers(
            text, start, numbers, n_numbers, lines, n_lines, new_line, unusual, POWERS_OF_TEN
        )
        for index, offset in unusual[:n_unusual].tolist():
            token = content[offset : offset + _LONGEST_NUMBER].split(None, 1)[0].partition(b"#")[0]
            try:
                if b"_" in token or len(token) == _LONGEST_NUMBER:  # 1_000 is Python's own way to write 1000
                    raise ValueError
                numbers[index] = float(token)
            except ValueError:
                raise InputError(
                    f"{name}: {excerpt(token)} at byte {offset} is not a number{_advice(token)}."
                ) from None
    return numbers[:n_numbers], np.append(lines[:n_lines], n_numbers)


def _advice(token: bytes) -> str:
    return "; write decimals with a point" if token.count(b",") == 1 and b"." not in token else ""


def excerpt(content: bytes) -> str:
    """The first bytes of a content, fit for one line of a message."""
    return repr(content[:16].decode("ascii", errors="replace"))


def format_point(point: np.ndarray) -> str:
    """A point as messages show it."""
    return f"({', '.join(f'{value:g}' for value in point)})"
