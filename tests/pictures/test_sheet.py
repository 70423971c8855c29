import numpy as np
import pytest

from fer_cli.pictures.scene import LEGEND
from fer_cli.pictures.sheet import Panel, Row, mount

RED, GREEN = (200, 30, 40), (10, 140, 60)


def square(colour: tuple[int, int, int], side: int = 60) -> np.ndarray:
    return np.full((side, side, 3), colour, np.uint8)


def where(sheet: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return np.argwhere((sheet == np.array(colour)).all(axis=2))


def test_panels_lie_in_rows_and_columns_in_their_own_pixels() -> None:
    rows = [
        Row("first", [Panel(square(RED), "head", "line"), None, Panel(square(GREEN), "other")]),
        Row("", [None, Panel(square(RED)), Panel(None, "nothing here")]),
    ]
    sheet = mount("a title", rows, note="a note " * 60, legend=LEGEND, panel=60)
    red, green = where(sheet, RED), where(sheet, GREEN)
    assert len(red) == 2 * 60 * 60
    assert len(green) == 60 * 60
    first, second = red[: 60 * 60], red[60 * 60 :]
    assert first[:, 0].max() < second[:, 0].min()
    assert first[:, 1].max() < second[:, 1].min()
    assert green[:, 0].min() == first[:, 0].min()
    assert green[:, 1].min() > second[:, 1].max()
    for _, colour in LEGEND:
        assert len(where(sheet, colour)) > 50
    assert (sheet[:, 0] == 255).all(), "the margin is white"


def test_pictures_of_another_size_are_fitted_to_the_panel() -> None:
    sheet = mount("", [Row("", [Panel(square(RED, 120))])], panel=60)
    assert len(where(sheet, RED)) == 60 * 60


@pytest.mark.parametrize("text", ["x" * 500, "ein Stuhl 😀 <b>&amp;</b> " * 30])
def test_text_that_is_too_long_does_not_leave_its_panel(text: str) -> None:
    sheet = mount(text, [Row(text, [Panel(square(RED), text, text), Panel(square(GREEN), "b", "b")])], panel=60)
    plain = mount("t", [Row("t", [Panel(square(RED), "a", "a"), Panel(square(GREEN), "b", "b")])], panel=60)
    assert sheet.shape == plain.shape
    np.testing.assert_array_equal(where(sheet, GREEN), where(plain, GREEN))
    left = where(sheet, GREEN)[:, 1].min()
    captions = sheet[where(sheet, GREEN)[:, 0].min() - 20 : where(sheet, GREEN)[:, 0].min(), left - 4 : left]
    assert (captions == 255).all(), "the first panel's captions run into the second's"


def test_legend_makes_the_sheet_as_wide_as_it_needs() -> None:
    legend = [(f"a long entry of the legend, number {number}", (number, 200, 90)) for number in range(5)]
    sheet = mount("t", [Row("", [Panel(square(RED))])], legend=legend, panel=60)
    assert all(len(where(sheet, colour)) > 50 for _, colour in legend)
    assert (sheet[:, -3:] == 255).all(), "the last entry is cut"
