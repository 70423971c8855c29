"""Pictures mounted on a sheet: rows and columns of panels with captions, a title, and a legend."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from fer_cli.pictures.scene import Colour

Image = UInt8[np.ndarray, "height width 3"]
SOFT = (70, 70, 70)


@dataclass(frozen=True)
class Panel:
    """A square picture under a bold and a plain line; without a picture an empty frame."""

    image: Image | None
    head: str = ""
    line: str = ""


@dataclass(frozen=True)
class Row:
    """Panels beside each other, with a title above them; None leaves a place free."""

    title: str
    panels: Sequence[Panel | None]


def mount(
    title: str,
    rows: Sequence[Row],
    *,
    note: str = "",
    legend: Sequence[tuple[str, Colour]] = (),
    panel: int = 220,
) -> UInt8[np.ndarray, "canvas_height canvas_width 3"]:
    """One picture of all rows, with panels of `panel` pixels; text wider than its panel is cut with an ellipsis."""
    from PIL import Image as Pillow
    from PIL import ImageDraw

    gap = max(6, panel // 14)
    letter = max(11, round(panel / 16))
    bold, plain, large = _font("Bold", letter), _font("", letter), _font("Bold", round(1.3 * max(letter, 14)))
    small = _font("", max(letter, 12))
    heights = [_row_height(row, letter, panel) for row in rows]
    columns = max(len(row.panels) for row in rows)
    entries = [3 * small.size + small.getlength(name) for name, _ in legend]
    width = max(gap + columns * (panel + gap), 560, gap + ceil(sum(entries)))
    notes = _lines(note, small, width - 2 * gap)
    top = round(2.4 * large.size) + round(1.5 * small.size) * len(notes)
    bottom = round(2.2 * small.size) if legend else gap
    canvas = Pillow.new("RGB", (width, top + sum(heights) + bottom), "white")
    pen = ImageDraw.Draw(canvas)
    pen.text((gap, 0.7 * large.size), _fitted(title, large, width - 2 * gap), fill="black", font=large)
    for number, line in enumerate(notes):
        pen.text((gap, 2.2 * large.size + 1.5 * small.size * number), line, fill=SOFT, font=small)
    for row, height in zip(rows, heights, strict=True):
        above = top
        if row.title:
            pen.text(
                (gap, above), _fitted(row.title, small, width - 2 * gap), fill="black", font=_font("Bold", small.size)
            )
            above += round(1.7 * small.size)
        for column, shown in enumerate(row.panels):
            if shown is None:
                continue
            left, below = gap + column * (panel + gap), above
            for text, font, colour in ((shown.head, bold, "black"), (shown.line, plain, SOFT)):
                if any(other is not None and (other.head if font is bold else other.line) for other in row.panels):
                    pen.text((left, below), _fitted(text, font, panel), fill=colour, font=font)
                    below += round(1.35 * letter)
            if shown.image is None:
                pen.rectangle((left, below, left + panel - 1, below + panel - 1), outline=(225, 225, 225))
            else:
                picture = Pillow.fromarray(shown.image)
                if picture.size != (panel, panel):
                    picture = picture.resize((panel, panel), Pillow.Resampling.LANCZOS)
                canvas.paste(picture, (left, below))
        top += height
    x = float(gap)
    for (name, colour), entry in zip(legend, entries, strict=True):
        size = small.size
        pen.rectangle((x, top + 4, x + size, top + 4 + size), fill=colour, outline=(90, 90, 90))
        pen.text((x + 1.5 * size, top + 3), name, fill="black", font=small)
        x += entry
    return np.asarray(canvas)


def _row_height(row: Row, letter: int, panel: int) -> int:
    shown = [one for one in row.panels if one is not None]
    lines = any(one.head for one in shown) + any(one.line for one in shown)
    title = round(1.7 * max(letter, 12)) if row.title else 0
    return title + lines * round(1.35 * letter) + panel + max(8, panel // 14)


def _font(weight: str, size: int) -> Any:
    """DejaVu Sans as it comes with Matplotlib, so that the picture is the same everywhere."""
    import matplotlib
    from PIL import ImageFont

    name = f"DejaVuSans{'-' if weight else ''}{weight}.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size)


def _fitted(text: str, font: Any, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def _lines(text: str, font: Any, width: int) -> list[str]:
    """`text` broken between words into lines no wider than `width`."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(_fitted(word, font, width))
    return lines
