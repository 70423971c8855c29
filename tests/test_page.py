import html
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image as Pillow

from diagnoses import CORRECT, UNKNOWN, VERDICT, diagnosis_of
from fer_cli import page
from fer_cli.errors import ResourceError
from fer_cli.probe import Probe
from fer_cli.report import PATHS, diagnosis_json


class Page(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        self.text += " "

    def handle_data(self, data):
        self.text += data

    def all(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "explain" / "chair_0891"
    path = page.write_report(diagnosis_of(), folder)
    return folder, path, path.read_text(encoding="utf-8")


def test_report_is_one_page_with_its_json_and_pictures(written):
    folder, path, source = written
    assert path == folder / "index.html"
    assert json.loads((folder / "diagnosis.json").read_text()) == diagnosis_json(diagnosis_of(), report=str(path))
    pictures = {picture.stem for picture in folder.glob("*.png")}
    strip = {f"{layer}-{path}{kind}" for layer in page.PICTURED_LAYERS for path in PATHS for kind in ("", "-exemplar")}
    shapes = {
        "input",
        "local",
        "nearest",
        "class-code",
        "local-overlay",
        "nearest-overlay",
        "class-code-overlay",
        "blame",
    }
    assert pictures == shapes | strip
    assert len(source) < 8e6
    assert len(Page(source).all("img")) == len(pictures)


def test_page_asks_for_nothing_from_outside(written):
    parsed = Page(written[2])
    assert not parsed.all("script")
    for _, attributes in parsed.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in {"src", "href", "xlink:href", "data", "action", "poster", "srcset"}:
                assert value.startswith("data:")
    style = re.search(r"<style>(.*?)</style>", written[2], re.DOTALL)[1]
    assert "url(" not in style
    assert "@import" not in style
    assert not re.search(r"https?://", written[2])


def test_page_describes_every_picture_and_orders_its_headings(written):
    parsed = Page(written[2])
    assert all(image["alt"] for image in parsed.all("img"))
    assert any(image["alt"] == "Input chair_0891: 1184 occupied voxels." for image in parsed.all("img"))
    levels = [int(tag[1]) for tag, _ in parsed.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    identifiers = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    assert {section["aria-labelledby"] for section in parsed.all("section")} == set(identifiers)


def test_page_tells_verdict_numbers_and_readings(written):
    text = " ".join(Page(written[2]).text.split())
    assert VERDICT in text
    assert text.index(VERDICT) < text.index("Class probabilities") < text.index("What came in")
    for part in ("chair_0891: predicted table, truly chair", "2241", "2.00 times the first", "0.0684 per voxel"):
        assert part in text, part
    assert (
        "Suspicious: 3 % of the correctly classified validation samples look at least as odd (conformal p = 0.031)"
        in text
    )
    assert "672 matching 512 missing 0 extra" in text
    assert "3, 3, 1 14 to 31 14 to 31 0 to 23" in text


def test_chart_places_each_margin_by_its_value(written):
    points = [
        [tuple(map(float, point.split(","))) for point in line["points"].split()]
        for line in Page(written[2]).all("polyline")
    ]
    assert [len(line) for line in points] == [8, 8]
    margins = [(0.1 + 0.2 * index) - (0.5 - 0.01 * index) for index in range(8)] + [1.0] * 8
    heights = [y for line in points for _, y in line]
    slope, offset = np.polyfit(margins, heights, 1)
    assert slope < 0
    # Coordinates are written with one decimal.
    np.testing.assert_allclose(np.polyval((slope, offset), margins), heights, atol=0.06)


@pytest.mark.parametrize("changes", [CORRECT, UNKNOWN])
def test_page_of_a_sample_without_blame_says_so(changes, tmp_path):
    source = page.write_report(diagnosis_of(**changes), tmp_path).read_text(encoding="utf-8")
    assert "The blamed locations" not in source
    assert not (tmp_path / "blame.png").exists()
    assert ("✓ correct" if changes is CORRECT else "true class unknown") in source


def test_everything_from_files_is_escaped(tmp_path):
    evil = '<script>alert("1")</script>\'" onload=x 🪑'
    layers = tuple(
        replace(layer, feedforward_class=evil, feedforward_exemplar=evil, feedback_exemplar=evil)
        for layer in diagnosis_of().layers
    )
    diagnosis = diagnosis_of(
        sample=evil,
        nearest_training_sample=evil,
        verdict=evil,
        layers=layers,
        probabilities={evil: 1.0},
        local_layer=evil,
    )
    source = page.write_report(diagnosis, tmp_path).read_text(encoding="utf-8")
    parsed = Page(source)
    assert not parsed.all("script")
    assert not any("onload" in attributes for _, attributes in parsed.tags)
    assert evil in parsed.text
    assert html.escape(evil).replace("&#x27;", "&#39;").replace("&quot;", "&#34;") in source
    assert any(image["alt"].startswith(f"Input {evil}") for image in parsed.all("img"))


def test_earlier_report_is_replaced(tmp_path):
    (tmp_path / "index.html").write_text("old")
    (tmp_path / "notes.txt").write_text("mine")
    path = page.write_report(diagnosis_of(**CORRECT), tmp_path)
    assert "old" not in path.read_text(encoding="utf-8")[:20]
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_folder_that_cannot_be_made_is_a_resource_error_in_one_line(tmp_path):
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ResourceError, match=r"cannot write the report to .*file") as caught:
            page.write_report(diagnosis_of(), folder)
        assert "\n" not in str(caught.value)
    assert (tmp_path / "file").read_text() == "mine"


def test_probe_is_a_picture_and_the_whole_reconstruction(tmp_path):
    reconstruction = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 4, 2)
    probed = Probe("conv1", (4, 2, 1), (1, 1, 0), [(0, 1, 0), (1, 1, 0)], ((1, 5), (1, 4), (0, 2)), reconstruction)
    files = page.write_probe(probed, np.ones((8, 4, 2), np.uint8), tmp_path / "probe")
    np.testing.assert_array_equal(np.load(files.reconstruction), reconstruction)
    with Pillow.open(files.picture) as picture:
        width, height = picture.size
    assert width > 3 * height
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ResourceError, match=r"cannot write .*file"):
        page.write_probe(probed, np.ones((8, 4, 2), np.uint8), tmp_path / "file")
