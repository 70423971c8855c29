"""The compiled pass over the bytes of a text that finds its numbers, for `decimals`.

Apart from `decimals` because Numba takes a third of a second to import, which only texts are worth.
"""

from collections.abc import Callable
from typing import no_type_check

import numpy as np

from fer_cli.data.formats.compiling import compiled


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


POWERS_OF_TEN = np.array([float(f"1e{power}") for power in range(23)])
scan_numbers: Callable[..., tuple[int, int, int, int, bool]] = compiled(_scan)
"""See `_scan`; `powers` is `POWERS_OF_TEN`."""
