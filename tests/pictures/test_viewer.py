import base64
import json

import numpy as np

from diagnoses import diagnosis_of
from fer_cli.pictures import scene
from fer_cli.pictures.viewer import css_colour, embedded_json, pack_bits, viewer_facts


def test_bits_are_voxels_with_z_fastest() -> None:
    grid = np.random.default_rng(0).random((3, 4, 5))
    packed = base64.b64decode(pack_bits(grid))
    assert len(packed) == 8  # 60 bits
    for x, y, z in np.ndindex(3, 4, 5):
        place = (x * 4 + y) * 5 + z
        bit = packed[place // 8] >> (7 - place % 8) & 1
        assert bit == (grid[x, y, z] >= 0.5)


def test_embedded_json_can_end_neither_its_element_nor_its_line() -> None:
    value = {"name": "</script><!--&\u2028\u2029\ud800 🪑", "n": [1.5, None]}
    text = embedded_json(value)
    assert json.loads(text) == value
    assert text.isascii()
    assert not set(text) & set("<>&\n")


def test_facts_have_the_colours_and_the_camera_of_the_pictures() -> None:
    facts = viewer_facts(diagnosis_of())
    assert css_colour((1, 32, 255)) == "#0120ff"
    assert {name: facts["colours"][name] for name, _ in scene.LEGEND} == {
        name: css_colour(colour) for name, colour in scene.LEGEND
    }
    np.testing.assert_allclose(facts["eye"], scene.TO_CAMERA, atol=1e-6)
    assert [view["name"] for view in facts["views"]] == ["input", "local", "nearest", "class-code"]
    assert json.loads(json.dumps(facts)) == facts
