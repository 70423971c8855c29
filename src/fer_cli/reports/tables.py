"""Tables on a terminal: how they look, and figures and names as their cells."""

import math
from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table


def open_table(*heads: str) -> Table:
    """A table without frame: names on the left, then columns of figures."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False)
    for index, head in enumerate(heads):
        table.add_column(head, justify="right" if index else "left", no_wrap=True)
    return table


def number_or_dash(value: float | None, digits: int) -> str:
    """A number with `digits` decimals, or a dash for None."""
    return "–" if value is None else f"{value:.{digits}f}"


def signed(value: float) -> str:
    """With two decimals and a sign, a typographic one, unless it is zero."""
    shown = f"{value:+.2f}"
    return "0.00" if float(shown) == 0 else shown.replace("-", "−")


def aligned(figures: Sequence[Any]) -> list[str]:
    """A column: floats with as many decimals as give the largest four digits."""
    largest = max((abs(figure) for figure in figures if isinstance(figure, float)), default=0.0)
    if not 1e-3 <= largest < 1e6:
        return [plain(figure) for figure in figures]
    decimals = max(0, 3 - max(-1, math.floor(math.log10(largest))))
    return [f"{figure:.{decimals}f}" if isinstance(figure, float) else plain(figure) for figure in figures]


def plain(value: Any) -> str:
    """A value as a cell: floats to four digits, a dash for none."""
    if value is None or value == {}:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else printable(str(value))


def printable(text: str) -> str:
    """`text` without control characters, which a terminal would obey."""
    return "".join(letter if letter.isprintable() else "�" for letter in text)
