import html
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
from rich.console import Console

from fer_cli import report
from fer_cli.diagnosis import Blame, Diagnosis, LayerReading, Suspicion
from fer_cli.errors import ResourceError

CLASSES = ("bed", "chair", "night_stand", "table")
LOCATIONS = {"conv1": 4096, "conv2": 512, "conv3": 64, "conv4": 8, "conv5": 1, "fc6": 1, "fc7": 1, "output": 1}
VERDICT = "This chair was taken for a table. From conv3 on the feedforward clusters speak for table."


def chair(*, back=True):
    grid = np.zeros((32, 32, 32), np.float32)
    grid[8:24, 8:24, 12:14] = 1
    for x in (8, 22):
        for y in (8, 22):
            grid[x : x + 2, y : y + 2, 2:12] = 1
    if back:
        grid[8:24, 22:24, 14:30] = 1
    return grid


def reading(name, locations, index):
    feedforward = {"bed": -1.0, "chair": 0.5 - 0.01 * index, "night_stand": -2.0, "table": 0.1 + 0.2 * index}
    feedback = {"bed": -1.0, "chair": -0.25, "night_stand": -2.0, "table": 0.75}
    return LayerReading(
        name=name,
        locations=locations,
        feedforward_class=max(feedforward, key=lambda label: feedforward[label]),
        feedback_class="table",
        feedforward_evidence={label: value * locations for label, value in feedforward.items()},
        feedback_evidence={label: value * locations for label, value in feedback.items()},
        feedforward_exemplar="chair_0007",
        feedback_exemplar="table_0042",
        feedforward_representative=chair(),
        feedback_representative=chair(back=False),
        feedforward_exemplar_grid=chair(),
        feedback_exemplar_grid=chair(back=False),
    )


def diagnosis_of(**changes):
    whole = Diagnosis(
        sample="chair_0891",
        predicted="table",
        label="chair",
        correct=False,
        probabilities={"bed": 0.05, "chair": 0.3, "night_stand": 0.04, "table": 0.61},
        errors={"input_vs_local": 1120.5, "nearest_vs_code": 1433.0, "local_vs_code": 1720.0, "input_vs_code": 2241.0},
        nearest_training_sample="table_0042",
        layers=tuple(reading(name, count, index) for index, (name, count) in enumerate(LOCATIONS.items())),
        blame=Blame("conv3", ((0, 1, 2), (3, 3, 1)), (((0, 16), (0, 24), (6, 32)), ((14, 32), (14, 32), (0, 24)))),
        suspicion=Suspicion(0.87, 0.031),
        verdict=VERDICT,
        local_layer="conv3",
        input_grid=chair(),
        local_grid=chair() * np.float32(0.9),
        nearest_grid=chair(back=False),
        class_code_grid=np.roll(chair(back=False), 1, axis=2),
    )
    return replace(whole, **changes)


CORRECT = {"predicted": "chair", "correct": True, "blame": Blame(None, (), ())}
UNKNOWN = {"label": None, "correct": None, "blame": Blame(None, (), ())}


def printed(renderable, width=80):
    console = Console(width=width, force_terminal=False, file=None)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


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
    path = report.write_report(diagnosis_of(), folder)
    return folder, path, path.read_text(encoding="utf-8")


@pytest.mark.parametrize("changes", [{}, CORRECT, UNKNOWN])
def test_terminal_report_says_it_all_on_one_screen(changes):
    diagnosis = diagnosis_of(**changes)
    text = printed(report.terminal_report(diagnosis))
    lines = text.rstrip("\n").split("\n")
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert "…" not in text
    assert " ".join(text.split()).count(VERDICT) == 1
    for part in ("chair_0891", f"{diagnosis.predicted} 0.", "input−code 2241", "table_0042", "0.87 of 1", *LOCATIONS):
        assert part in text, part


def test_terminal_report_tells_outcome_and_blame_without_colour():
    wrong, right, unknown = (printed(report.terminal_report(diagnosis_of(**c))) for c in ({}, CORRECT, UNKNOWN))
    assert "✗ misclassified" in wrong
    assert "blame        conv3 at 0,1,2 3,3,1" in wrong
    assert re.search(r"▶ conv3 +✗ table +\+0\.50 +\+0\.48 +✗ table +\+0\.75 +−0\.25", wrong)
    assert re.search(r"  conv1 +✓ chair +\+0\.10 +\+0\.50 +✗ table", wrong)
    assert "✓ correct" in right
    assert "true class unknown" in unknown
    assert "✗" not in unknown
    assert "✓" not in unknown


def test_terminal_report_fits_long_class_names():
    long = diagnosis_of(predicted="night_stand", probabilities={"night_stand": 1.0})
    layers = tuple(
        replace(layer, feedback_class="night_stand", feedforward_class="night_stand") for layer in long.layers
    )
    text = printed(report.terminal_report(replace(long, layers=layers)))
    assert max(map(len, text.split("\n"))) <= 80
    assert text.count("✗ night_stand") == 16


def test_terminal_report_prints_no_control_characters_or_markup_of_names():
    text = printed(report.terminal_report(diagnosis_of(sample="\x1b[31m[bold]a[/bold]\n.off")))
    assert "\x1b" not in text
    assert "�[31m[bold]a[/bold]�.off" in text


def test_json_has_exactly_the_contracts_keys():
    summary = report.diagnosis_json(diagnosis_of(), report="out/index.html")
    assert list(summary) == [
        "sample", "predicted", "label", "correct", "probabilities", "errors", "nearest_training_sample", "layers",
        "blame", "suspicion", "verdict", "report",
    ]  # fmt: skip
    assert set(summary["errors"]) == {"input_vs_local", "nearest_vs_code", "local_vs_code", "input_vs_code"}
    assert [layer["name"] for layer in summary["layers"]] == list(LOCATIONS)
    for layer in summary["layers"]:
        assert set(layer) == {
            "name", "feedforward_class", "feedback_class", "feedforward_evidence", "feedback_evidence",
            "feedforward_exemplar", "feedback_exemplar",
        }  # fmt: skip
        assert set(layer["feedforward_evidence"]) == set(layer["feedback_evidence"]) == set(CLASSES)
    assert summary["blame"] == {"layer": "conv3", "locations": [[0, 1, 2], [3, 3, 1]]}
    assert set(summary["suspicion"]) == {"score", "p_value"}
    assert summary["report"] == "out/index.html"


def test_json_holds_plain_python_numbers():
    diagnosis = diagnosis_of(
        probabilities={name: np.float64(0.25) for name in CLASSES},
        errors={name: np.float64(1) for name in report.ERRORS},
    )
    summary = report.diagnosis_json(diagnosis, report=None)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert type(summary["probabilities"]["bed"]) is float


def test_json_refuses_numbers_that_are_not_finite():
    with pytest.raises(ValueError, match="local_vs_code is nan"):
        report.diagnosis_json(diagnosis_of(errors=diagnosis_of().errors | {"local_vs_code": float("nan")}), report=None)


def test_report_is_one_page_with_its_json_and_pictures(written):
    folder, path, source = written
    assert path == folder / "index.html"
    assert json.loads((folder / "diagnosis.json").read_text()) == report.diagnosis_json(
        diagnosis_of(), report=str(path)
    )
    pictures = {picture.stem for picture in folder.glob("*.png")}
    strip = {
        f"{layer}-{path}{kind}"
        for layer in report.PICTURED_LAYERS
        for path in report.PATHS
        for kind in ("", "-exemplar")
    }
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
    page = Page(written[2])
    assert not page.all("script")
    for _, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in {"src", "href", "xlink:href", "data", "action", "poster", "srcset"}:
                assert value.startswith("data:")
    style = re.search(r"<style>(.*?)</style>", written[2], re.DOTALL)[1]
    assert "url(" not in style
    assert "@import" not in style
    assert not re.search(r"https?://", written[2])


def test_page_describes_every_picture_and_orders_its_headings(written):
    page = Page(written[2])
    assert all(image["alt"] for image in page.all("img"))
    assert any(image["alt"] == "Input chair_0891: 1184 occupied voxels." for image in page.all("img"))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    assert {section["aria-labelledby"] for section in page.all("section")} == set(identifiers)


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
    source = report.write_report(diagnosis_of(**changes), tmp_path).read_text(encoding="utf-8")
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
    source = report.write_report(diagnosis, tmp_path).read_text(encoding="utf-8")
    page = Page(source)
    assert not page.all("script")
    assert not any("onload" in attributes for _, attributes in page.tags)
    assert evil in page.text
    assert html.escape(evil).replace("&#x27;", "&#39;").replace("&quot;", "&#34;") in source
    assert any(image["alt"].startswith(f"Input {evil}") for image in page.all("img"))


def test_earlier_report_is_replaced(tmp_path):
    (tmp_path / "index.html").write_text("old")
    (tmp_path / "notes.txt").write_text("mine")
    path = report.write_report(diagnosis_of(**CORRECT), tmp_path)
    assert "old" not in path.read_text(encoding="utf-8")[:20]
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_folder_that_cannot_be_made_is_a_resource_error_in_one_line(tmp_path):
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ResourceError, match=r"cannot write the report to .*file") as caught:
            report.write_report(diagnosis_of(), folder)
        assert "\n" not in str(caught.value)
    assert (tmp_path / "file").read_text() == "mine"


EVALUATION = {
    "split": "test",
    "n": 908,
    "n_errors": 71,
    "accuracy": 0.9218,
    "class_accuracy": 0.9187,
    "table1": {
        "all": dict.fromkeys(report.ERRORS, 1500.25) | {"ratio": 1.675},
        "correct": dict.fromkeys(report.ERRORS, 1493.0) | {"ratio": 1.68},
        "misclassified": None,
    },
    "detection": {
        "max_softmax": {"auroc": 0.906, "auroc_ci": [0.88, 0.93], "aurc": 0.0123, "augrc": 0.0101, "fpr95": 0.4},
        "input_vs_code": {"auroc": None, "auroc_ci": None, "aurc": None, "augrc": None, "fpr95": None},
    },
}


def test_evaluation_table_shows_every_figure_and_a_dash_where_there_is_none():
    text = printed(report.evaluation_table(EVALUATION))
    assert max(map(len, text.split("\n"))) <= 80
    for part in ("908 samples, 71 wrong", "0.9218", "0.9187", "1500.2", "1.68", "0.906", "0.880 to 0.930", "0.400"):
        assert part in text, part
    assert re.search(r"misclassified\W+–\W+–\W+–\W+–\W+–", text)
    assert re.search(r"input_vs_code\W+–\W+–\W+–\W+–\W+–", text)


def test_info_table_indents_nested_parts_and_shortens_lists():
    text = printed(
        report.info_table(
            {
                "format": "fer-codebook",
                "version": 1,
                "id": "3fa1",
                "parents": {"model": "9bc2"},
                "created_by": "fer 0.1.0",
                "config": {"k": list(range(40)), "seed": 0, "memory": None},
                "content": {"layers": [{"name": "conv1", "inertia": 0.123456789}], "classes": ["bed", "[red]chair"]},
            }
        )
    )
    assert re.search(r"^format +fer-codebook", text, re.MULTILINE)
    assert re.search(r"^  model +9bc2", text, re.MULTILINE)
    assert "… (40)" in text
    assert re.search(r"^    0", text, re.MULTILINE)
    assert re.search(r"^      inertia +0\.123457", text, re.MULTILINE)
    assert "bed, [red]chair" in text
    assert re.search(r"^  memory +–", text, re.MULTILINE)
