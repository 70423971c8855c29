"""Text → numbers: one compiled pass over the bytes gives all numbers and where each line begins among them.

A median ModelNet10 mesh takes longer to read where every number passes through a Python string than it takes to read
and voxelize here. Every number is the float that Python's own `float` makes of it, to the last bit.
"""

from collections.abc import Callable
from typing import no_type_check

import numba
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

    Raises InputError if what is not white space or a comment is not a number.
    """
    room = (len(content) - start) // 2 + 2
    numbers, lines = np.empty(room), np.empty(room, np.int64)
    unusual = np.empty((min(room, _UNUSUAL_AT_ONCE), 2), np.int64)
    text, n_numbers, n_lines, new_line = np.frombuffer(content, np.uint8), 0, 0, True
    while start < len(content):
        start, n_numbers, n_lines, n_unusual, new_line = _scan_numbers(
            text, start, numbers, n_numbers, lines, n_lines, new_line, unusual, _POWERS_OF_TEN
        )
        for index, offset in unusual[:n_unusual].tolist():
            token = content[offset : offset + _LONGEST_NUMBER].split(None, 1)[0].partition(b"#")[0]
            try:
                if b"_" in token or len(token) == _LONGEST_NUMBER:  # 1_000 is Python's own way to write 1000
                    raise ValueError
                numbers[index] = float(token)
            except ValueError:
                raise InputError(f"{name}: {excerpt(token)} at byte {offset} is not a number.") from None
    return numbers[:n_numbers], np.append(lines[:n_lines], n_numbers)


def excerpt(content: bytes) -> str:
    """The first bytes of a content, fit for one line of a message."""
    return repr(content[:16].decode("ascii", errors="replace"))


def format_point(point: np.ndarray) -> str:
    """A point as messages show it."""
    return f"({', '.join(f'{value:g}' for value in point)})"


@no_type_check
def _scan(text, start, numbers, n_numbers, lines, n_lines, new_line, unusual, powers):
    """Decimal numbers of `text` from `start` on; `unusual` takes (index, offset) of tokens left to Python's `float`.

    Stops where `unusual` is full, and returns how to go on: position, counts, and whether a new line begins.
    """
    n_unusual = 0
    end = len(text)
    i = start
    while i < end and n_unusual < len(unusual):
        byte = text[i]
        if byte == 35:  # a comment, to the end of the line
            while i < end and text[i] != 10 and text[i] != 13:
                i += 1
            continue
        if byte == 32 or 9 <= byte <= 13:
            new_line = new_line or byte == 10 or byte == 13
            i += 1
            continue
        if new_line:
            lines[n_lines] = n_numbers
            n_lines += 1
            new_line = False
        offset = i
        if byte == 45 or byte == 43:
            i += 1
        mantissa = digits = exponent = 0
        in_fraction = False
        while i < end and (48 <= text[i] <= 57 or (text[i] == 46 and not in_fraction)):
            if text[i] == 46:
                in_fraction = True
            else:
                if mantissa < 10**17:  # beyond, more digits would overflow; such numbers are left to `float`
                    mantissa = 10 * mantissa + (text[i] - 48)
                digits += 1
                exponent -= in_fraction
            i += 1
        regular = digits > 0
        if regular and i < end and (text[i] == 101 or text[i] == 69):
            i += 1
            sign = 1
            if i < end and (text[i] == 45 or text[i] == 43):
                sign = 44 - np.int64(text[i])
                i += 1
            regular = i < end and 48 <= text[i] <= 57
            power = 0
            while i < end and 48 <= text[i] <= 57:
                power = min(10 * power + (text[i] - 48), 10**6)
                i += 1
            exponent += sign * power
        at_end = i == end or text[i] == 32 or 9 <= text[i] <= 13 or text[i] == 35
        # Integers up to 2^53 and powers of ten up to 10^22 are exact, so that one operation rounds once, correctly.
        if regular and at_end and mantissa <= 2**53 and -22 <= exponent <= 22:
            value = mantissa / powers[-exponent] if exponent < 0 else mantissa * powers[exponent]
            numbers[n_numbers] = -value if byte == 45 else value
        else:
            unusual[n_unusual, 0] = n_numbers
            unusual[n_unusual, 1] = offset
            n_unusual += 1
            while i < end and not (text[i] == 32 or 9 <= text[i] <= 13 or text[i] == 35):
                i += 1
        n_numbers += 1
    return i, n_numbers, n_lines, n_unusual, new_line


_POWERS_OF_TEN = np.array([float(f"1e{power}") for power in range(23)])
_scan_numbers: Callable[..., tuple[int, int, int, int, bool]] = numba.njit(cache=True, nogil=True)(_scan)
