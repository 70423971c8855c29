"""A diagnosis as a small piece of HTML for a notebook, every text in it escaped."""

from collections.abc import Iterable, Sequence
from html import escape

_CELL = 'style="text-align:left;padding:2px 10px"'


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of plain text."""
    head = "".join(f'<th scope="col" {_CELL}>{escape(text)}</th>' for text in heads)
    body = "".join(f"<tr>{''.join(f'<td {_CELL}>{escape(text)}</td>' for text in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def paragraph(heading: str, text: str) -> str:
    """A line with a bold heading."""
    return f"<p><strong>{escape(heading)}</strong> {escape(text)}</p>"
