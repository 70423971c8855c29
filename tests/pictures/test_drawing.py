import numpy as np
import pytest

from fer_cli.pictures.drawing import open_drawing
from fer_cli.pictures.render import draw_pngs
from fer_cli.pictures.scene import Scene, grid_scene


def scenes(count: int) -> dict[str, Scene]:
    generator = np.random.default_rng(0)
    return {f"scene {i}": grid_scene((generator.random((8, 4, 2)) < 0.3).astype(np.float32)) for i in range(count)}


def test_pictures_are_those_drawn_here_in_their_order_however_they_are_shared() -> None:
    here = draw_pngs(scenes(5), sizes=dict.fromkeys(scenes(5), 60))
    assert all(png.startswith(b"\x89PNG") for png in here.values())
    with open_drawing(2) as drawing:
        drawing.get_ready()
        finishing = {parts: drawing.begin(scenes(5), parts=parts) for parts in (1, 2, 9)}
        for finish in finishing.values():
            drawn = finish()
            assert list(drawn) == list(here)
        assert len({tuple(finish().values()) for finish in finishing.values()}) == 1
        assert drawing.begin({})() == {}


def test_pictures_that_were_drawn_before_are_not_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_drawing(1) as drawing:
        first = drawing.begin(scenes(3), sizes={"scene 0": 60})()
        monkeypatch.setattr("fer_cli.pictures.drawing.draw_pngs", None)
        assert drawing.begin(scenes(3), sizes={"scene 0": 60})() == first
        with pytest.raises(TypeError):
            drawing.begin(scenes(3), sizes={"scene 1": 60})()


def test_what_cannot_be_drawn_is_told_where_the_pictures_are_waited_for() -> None:
    flat = Scene((0, 4, 2), grid_scene(np.ones((8, 4, 2), np.float32)).solids)
    with open_drawing(1) as drawing:
        finish = drawing.begin({"fine": scenes(1)["scene 0"], "wrong": flat})
        with pytest.raises(Exception, match=r"shape|broadcast|operands"):
            finish()
