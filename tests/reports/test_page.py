import base64
import gzip
import html
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image as Pillow

from diagnoses import (
    CORRECT,
    INPUT,
    REPAIR,
    UNKNOWN,
    UNUSUAL,
    VERDICT,
    changed,
    diagnosis_of,
    grey,
    grey_diagnosis,
    named_layers,
)
from fer_cli.calibration.confidence import ReferenceErrors
from fer_cli.diagnosis.blame import Blame
from fer_cli.diagnosis.cause import Cause
from fer_cli.diagnosis.probe import Probe
from fer_cli.errors import ResourceError
from fer_cli.pictures.drawing import open_drawing
from fer_cli.pictures.slice_pictures import view_of_diagnosis
from fer_cli.pictures.viewer import VIEWS
from fer_cli.reports import page
from fer_cli.reports.explained import diagnosis_json
from fer_cli.reports.probe_files import write_probe
from fer_cli.reports.report import ERRORS, PATHS


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


LIKE = {"like-predicted", "like-true"}
PICTURED = ("conv3", "conv4", "conv5", "fc6", "fc7")


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
    strip = {f"{layer}-{path}{kind}" for layer in PICTURED for path in PATHS for kind in ("", "-exemplar")}
    shapes = {
        "input",
        "local",
        "nearest",
        "class-code",
        "local-overlay",
        "nearest-overlay",
        "class-code-overlay",
        "blame",
        "like-predicted",
        "like-true",
    }
    assert pictures == shapes | strip
    assert len(source) < 8e6
    assert len(Page(source).all("img")) == len(pictures) + 1  # the input twice


def test_page_asks_for_nothing_from_outside(written):
    parsed = Page(written[2])
    policy = next(meta["content"] for meta in parsed.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; ")
    assert "http" not in policy
    for _, attributes in parsed.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in {"src", "href", "xlink:href", "data", "action", "poster", "srcset"}:
                assert value.startswith("data:")
    style = re.search(r"<style>(.*?)</style>", written[2], re.DOTALL)[1]
    assert "url(" not in style
    assert "@import" not in style
    assert not re.search(r"https?://", written[2])


def test_page_holds_the_library_packed(written):
    packed = re.search(r'<script type="text/plain" id="library">(.*?)</script>', written[2])[1]
    library = gzip.decompress(base64.b64decode(packed, validate=True))
    assert library.startswith(b"/**\n* plotly.js v")


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
    assert {section["aria-labelledby"] for section in parsed.all("section")} < set(identifiers)


def test_every_control_has_a_name_and_the_shapes_can_be_reached_by_keyboard(written):
    parsed = Page(written[2])
    for button in parsed.all("button"):
        assert button["aria-label"]
        assert button["type"] == "button"
    assert {button["data-action"] for button in parsed.all("button")} == {action for action, _, _ in page.CONTROLS}
    views = [tag for tag in parsed.all("div") if tag.get("class") == "view"]
    assert [tag["id"] for tag in views] == [f"view-{name}" for name in VIEWS]
    assert all(tag["tabindex"] == "0" and "Arrow keys rotate" in " ".join(tag["aria-label"].split()) for tag in views)
    boxes = parsed.all("input")
    assert {box.get("data-special") for box in boxes} == {*VIEWS, None}
    assert len(boxes) == len(parsed.all("label")) == 7


def facts_of(source):
    """What the page's script is given."""
    return json.loads(re.search(r'<script type="application/json" id="facts">(.*?)</script>', source, re.DOTALL)[1])


def test_script_is_given_the_shapes_boxes_and_charts(written):
    facts, diagnosis = facts_of(written[2]), diagnosis_of()
    volumes = (diagnosis.input_volume, diagnosis.local_volume, diagnosis.nearest_volume, diagnosis.class_code_volume)
    for view, name, volume in zip(facts["views"], VIEWS, volumes, strict=True):
        assert view["name"] == name
        bits = np.unpackbits(np.frombuffer(base64.b64decode(view["bits"]), np.uint8)).reshape(facts["shape"])
        np.testing.assert_array_equal(bits, volume[0] >= 0.5)
    assert facts["boxes"] == [[list(span) for span in box] for box in diagnosis.places.boxes]
    assert set(facts["charts"]) <= {tag.get("id") for tag in Page(written[2]).all("div")}
    assert len(facts["charts"]) == 6


def test_page_tells_verdict_numbers_and_readings(written):
    text = " ".join(Page(written[2]).text.split())
    assert VERDICT in text
    assert (
        text.index(VERDICT)
        < text.index("Class probabilities")
        < text.index("From the input")
        < text.index("What came in")
    )
    for part in ("chair_0891: predicted table , truly chair", "2241", "1.41 times the first", "0.0684 per voxel"):
        assert part in text, part
    assert (
        "Suspicion: 0.87 of 1 suspicious 3% of correctly classified validation samples look at least as suspicious "
        "for their class (p = 0.031). It is 1 minus the mean probability of table over the views." in text
    )
    views = (
        "Averaged over 24 slightly varied copies of the sample (views) the network says chair (0.42), which is right"
    )
    assert views in text
    assert "672 matching 512 missing 0 extra" in text
    assert "3, 3, 1 14 to 31 14 to 31 0 to 23" in text


def test_page_begins_with_the_likely_cause_and_what_to_do(written, tmp_path):
    text = " ".join(Page(written[2]).text.split())
    cause = diagnosis_of().cause
    assert text.index(f"Likely cause: {cause.words}") < text.index("Class probabilities")
    for sentence in (cause.remedy, *cause.evidence):
        assert sentence in text
    assert "Odd about the input" not in text
    odd = page.write_report(diagnosis_of(remarks=("flat along z: 1 voxel <thick>",)), tmp_path / "odd")
    assert "Odd about the input : flat along z: 1 voxel <thick>" in " ".join(Page(odd.read_text("utf-8")).text.split())
    nothing = Cause("none", "none found", "Nothing needs to be done.")
    correct = page.write_report(diagnosis_of(**CORRECT, cause=nothing), tmp_path / "correct")
    assert "Likely cause" not in Page(correct.read_text(encoding="utf-8")).text


def test_errors_are_ranked_among_those_of_validation_samples(written, tmp_path):
    text = " ".join(Page(written[2]).text.split())
    assert "Larger than that of 58% of the 19 correct and of 25% of the 4 misclassified validation samples." in text
    nothing = ReferenceErrors({name: np.zeros(0) for name in ERRORS}, {name: np.zeros(0) for name in ERRORS})
    source = page.write_report(diagnosis_of(reference_errors=nothing), tmp_path).read_text(encoding="utf-8")
    assert "Larger than" not in source
    assert set(facts_of(source)["charts"]) == {"chart-feedforward", "chart-feedback"}


@pytest.mark.parametrize("changes", [CORRECT, UNKNOWN])
def test_page_of_a_sample_without_a_mistake_points_nowhere(changes, tmp_path):
    source = page.write_report(diagnosis_of(**changes), tmp_path).read_text(encoding="utf-8")
    assert "Where it is unusual: nowhere. " in card(source)
    assert "Where to look" not in source
    assert named_rows(source) == []
    assert not (tmp_path / "blame.png").exists()
    assert not (tmp_path / "like-true.png").exists()
    assert (tmp_path / "like-predicted.png").exists()
    assert ("✓ correct" if changes is CORRECT else "true class unknown") in source


def words(source):
    return " ".join(Page(source).text.split())


def card(source):
    """The answer, above the pictures."""
    return re.search(r"Where it (?:goes wrong|is unusual).*?(?= Each picture shows)", words(source))[0] + " "


def named_rows(source):
    """The layers that the pictures on the way, the table of evidence, its chart and the strip mark."""
    chart = facts_of(source)["charts"]["chart-feedforward"]
    marked = [chart["data"][0]["x"][note["x"]] for note in chart["layout"].get("annotations", [])]
    return [*re.findall(r"<(?:t[hd]|strong)[^>]*>(\w+) ◀", source), *re.findall(r"<h3>(\w+) ◀", source), *marked]


def prose(source):
    """Verdict, cause, answer, and where to look."""
    text = words(source)
    end = text.index("Each picture shows")
    look = re.search(r"Where to look .*?(?=Made by fer)", text)
    return text[text.rindex(": predicted", 0, end) : end] + (look[0] if look else "")


def test_page_of_an_unusual_computation_names_its_layer_and_no_other(tmp_path):
    source = page.write_report(diagnosis_of(**UNUSUAL), tmp_path).read_text(encoding="utf-8")
    assert "Where it is unusual: conv2. The computation departs from the usual, most likely here (p = 0.010). " in (
        card(source)
    )
    assert named_rows(source) == ["conv2", "conv2", "conv2"]  # on the way, in the table, in the chart
    assert facts_of(source)["charts"]["chart-feedforward"]["layout"]["annotations"][0]["text"] == "unusual"
    assert "◀ computation unusual." in source
    text = words(source)
    assert "The most unusual locations of conv2, the strongest first: their positions" in text
    assert "7, 0, 4 20 to 31 0 to 3 12 to 23" in text
    assert facts_of(source)["boxes"] == [[list(span) for span in box] for box in UNUSUAL["places"].boxes]
    assert "What the most unusual locations of conv2 see" in text
    alt = "Input with what the most unusual locations of conv2 see, as boxes."
    assert any(image["alt"] == alt for image in Page(source).all("img"))


def test_page_of_an_input_like_another_class_names_no_layer(tmp_path):
    source = page.write_report(diagnosis_of(**INPUT), tmp_path).read_text(encoding="utf-8")
    assert "Where it goes wrong: the input. Of the two classes the evidence favours table from the lowest layer on" in (
        card(source)
    )
    assert named_rows(source) == []
    assert "◀" not in words(source)
    assert "The parts of the input that push most towards table, the strongest first: the input voxels of each." in (
        words(source)
    )
    assert "part x voxels y voxels z voxels 1 0 to 15 0 to 23 6 to 31 2 14 to 31" in words(source)


def test_page_points_at_nothing_where_the_layer_sees_the_whole_input(tmp_path):
    whole = Blame("conv5", ((0, 0, 0),), (((0, 32),) * 3,), 1.0, (1.0,))
    source = page.write_report(diagnosis_of(blame=whole), tmp_path).read_text(encoding="utf-8")
    assert "Where to look conv5 sees the whole input, so it points at no part of it." in words(source)
    assert not (tmp_path / "blame.png").exists()
    assert "conv5 has too few locations for this test; conv3 is the highest layer below it that has enough." in (
        words(source)
    )


def test_page_where_departures_are_not_known_does_not_say_nowhere(tmp_path):
    source = page.write_report(diagnosis_of(departure=None, **CORRECT), tmp_path).read_text(encoding="utf-8")
    assert "Where it is unusual: not known. The prediction is correct. Run 'fer calibrate' to learn" in card(source)


@pytest.mark.parametrize("changes", [{}, UNUSUAL, INPUT, {**CORRECT, **UNUSUAL}])
@pytest.mark.parametrize("made", [diagnosis_of, grey_diagnosis])
def test_the_prose_of_a_page_names_the_layer_of_the_answer_at_most(made, changes, tmp_path):
    if made is grey_diagnosis:
        boxes = made().blame.boxes
        changes = changes | {name: replace(changes[name], boxes=boxes) for name in {"blame", "places"} & set(changes)}
    diagnosis = made(**changes)
    source = page.write_report(diagnosis, tmp_path).read_text(encoding="utf-8")
    assert named_layers(prose(source)) == ([diagnosis.answer.layer] if diagnosis.answer.layer else [])


def test_most_similar_training_samples_are_shown_by_class(written):
    text = words(written[2])
    assert "nearest to the input by the features of conv3" in text
    assert (
        "Nearest table (predicted) table_0011, then table_0031 Nearest chair (true) chair_0123, then chair_0007" in text
    )
    alts = {image["alt"] for image in Page(written[2]).all("img")}
    assert any(alt.startswith("Nearest training sample of class table, table_0011") for alt in alts)
    assert any(alt.startswith("Nearest training sample of class chair, chair_0123") for alt in alts)


def test_everything_from_files_is_escaped(tmp_path):
    evil = '<script>alert("1")</script><!--\'" onload=x {{ 7 * 7 }} \u2028 🪑'

    def renamed(evidence):
        return {evil if name == "table" else name: value for name, value in evidence.items()}

    layers = tuple(
        changed(
            layer,
            **{
                path: {"speaks_for": evil, "exemplar": evil, "evidence": renamed(said.evidence)}
                for path, said in layer.paths.items()
            },
        )
        for layer in diagnosis_of().layers
    )
    diagnosis = diagnosis_of(
        sample=evil,
        nearest_training_sample=evil,
        verdict=evil,
        predicted=evil,
        layers=layers,
        probabilities={evil: 1.0},
        local_layer=evil,
    )
    source = page.write_report(diagnosis, tmp_path).read_text(encoding="utf-8")
    parsed = Page(source)
    assert [tag.get("type") for tag in parsed.all("script")] == ["application/json", "text/plain", None]
    line = facts_of(source)["charts"]["chart-feedforward"]["data"][0]["name"]
    assert html.unescape(line) == f"{evil} (predicted)"
    assert "<" not in line  # plotly reads names as a kind of HTML
    assert not any("onload" in attributes for _, attributes in parsed.tags)
    assert evil in parsed.text
    assert html.escape(evil).replace("&#x27;", "&#39;").replace("&quot;", "&#34;") in source
    assert any(image["alt"].startswith(f"Input {evil}") for image in parsed.all("img"))


@pytest.mark.parametrize(("implied", "tests"), [("chair", 1), ("bed", 2)])
def test_a_repair_without_label_is_told_where_it_is_another(implied, tests, tmp_path):
    without = replace(REPAIR, wanted=implied, chosen_by="evidence")
    written = page.write_report(diagnosis_of(repair=(REPAIR, without)), tmp_path)
    text = " ".join(Page(written.read_text(encoding="utf-8")).text.split())
    assert text.count("With the features of") == tests
    assert ("Without the label the clusters imply chair too" in text) == (tests == 1)


def test_name_that_is_not_utf_8_is_written_all_the_same(tmp_path):
    path = page.write_report(diagnosis_of(sample="chair\udcff"), tmp_path)
    assert "chair?: predicted table" in path.read_text(encoding="utf-8")
    assert json.loads((tmp_path / "diagnosis.json").read_text(encoding="utf-8"))["sample"] == "chair?"


def test_pictures_drawn_by_other_processes_are_the_same(written, tmp_path):
    with open_drawing(2) as drawing:
        page.begin_report(diagnosis_of(), tmp_path, drawing, parts=2)()
    for picture in written[0].glob("*.png"):
        assert (tmp_path / picture.name).read_bytes() == picture.read_bytes(), picture.name


def test_earlier_report_is_replaced(tmp_path):
    (tmp_path / "index.html").write_text("old")
    (tmp_path / "notes.txt").write_text("mine")
    path = page.write_report(diagnosis_of(**CORRECT), tmp_path)
    assert "old" not in path.read_text(encoding="utf-8")[:20]
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_folder_that_cannot_be_made_is_a_resource_error_in_one_line(tmp_path):
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ResourceError, match=r"cannot write .*file") as caught:
            page.write_report(diagnosis_of(), folder)
        assert "\n" not in str(caught.value)
    assert (tmp_path / "file").read_text() == "mine"


def test_probe_is_a_picture_and_the_whole_reconstruction(tmp_path):
    reconstruction = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 4, 2)
    probed = Probe(
        "conv1", (4, 2, 1), (1, 1, 0), [(0, 1, 0), (1, 1, 0)], ((1, 5), (1, 4), (0, 2)), reconstruction[None]
    )
    volume = np.ones((1, 8, 4, 2), np.float32)
    files = write_probe(probed, volume, tmp_path / "probe")
    both = replace(probed, reconstruction=np.stack([reconstruction, 1 - reconstruction]))
    stored = np.load(write_probe(both, np.concatenate([volume] * 2), tmp_path / "two").reconstruction)
    np.testing.assert_array_equal(stored, both.reconstruction)
    np.testing.assert_array_equal(np.load(files.reconstruction), reconstruction)
    with Pillow.open(files.picture) as picture:
        width, height = picture.size
    assert width > 3 * height
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ResourceError, match=r"cannot write .*file"):
        write_probe(probed, volume, tmp_path / "file")


# Grey values


@pytest.fixture(scope="module")
def grey_written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grey")
    path = page.write_report(grey_diagnosis(channels=2), folder)
    return folder, path, path.read_text(encoding="utf-8")


def test_report_of_grey_values_is_slices_and_nothing_of_occupancy(grey_written):
    folder, _, source = grey_written
    strip = {f"{layer}-{path}{kind}" for layer in PICTURED for path in PATHS for kind in ("", "-exemplar")}
    compared = {f"{name}{kind}" for name in ("local", "nearest", "class-code") for kind in ("", "-error")}
    assert {picture.stem for picture in folder.glob("*.png")} == {"input", "blame", "slices"} | compared | strip | LIKE
    assert len(Page(source).all("img")) == len(compared | strip | LIKE) + 3  # the input twice
    for word in ("occupied", "matching", "turn\n    together", "WebGL"):
        assert word not in source
    text = " ".join(Page(source).text.split())
    assert "Radiological convention: the patient's right is on the left of axial and coronal slices" in text
    assert "Voxels measure 2 × 1.5 × 3 mm" in text
    assert "1, 0, 1 0.75 4 to 7 0 to 2 2 to 3" in text  # a blamed location with its share
    assert set(facts_of(source)) == {"slices", "charts"}
    assert len(source) < 8e6


def test_page_of_slices_has_names_for_all_controls_and_asks_for_nothing(grey_written):
    parsed = Page(grey_written[2])
    identifiers = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    labelled = {label["for"] for label in parsed.all("label") if "for" in label}
    inside = grey_written[2]
    for control in (*parsed.all("input"), *parsed.all("select")):
        within = re.search(rf'<label[^>]*>(?:(?!</label>).)*id="{control["id"]}"', inside, re.DOTALL)
        assert control.get("aria-label") or control["id"] in labelled or within, control
    slices = [tag for tag in parsed.all("div") if tag.get("class") == "slice"]
    assert len(slices) == 6
    assert all(tag["tabindex"] == "0" and "Arrow keys move the cursor" in tag["aria-description"] for tag in slices)
    test_page_asks_for_nothing_from_outside(grey_written)
    levels = [int(tag[1]) for tag, _ in parsed.tags if re.fullmatch(r"h[1-6]", tag)]
    assert all(after - before <= 1 for before, after in pairwise(levels))


@pytest.mark.parametrize("changes", [CORRECT, UNKNOWN])
def test_slices_of_a_sample_without_places(changes, tmp_path):
    source = page.write_report(grey_diagnosis(**changes), tmp_path).read_text(encoding="utf-8")
    assert "overlay-blame" not in Page(source).text
    assert not any(tag.get("id") == "overlay-blame" for tag in Page(source).all("input"))
    assert not (tmp_path / "blame.png").exists()
    assert "the middle of the volume" in source


def test_names_in_slices_are_escaped(tmp_path):
    evil = '<script>alert("1")</script><!--\'" onload=x {{ 7 * 7 }} \u2028 🪑'
    diagnosis = grey_diagnosis(sample=evil, nearest_training_sample=evil, local_layer=evil)
    source = page.write_report(diagnosis, tmp_path).read_text(encoding="utf-8")
    parsed = Page(source)
    assert [tag.get("type") for tag in parsed.all("script")] == ["application/json", "text/plain", None]
    assert not any("onload" in attributes for _, attributes in parsed.tags)
    assert f"Nearest training sample, {evil}" in parsed.text
    assert facts_of(source)["slices"]["volumes"][3]["words"] == f"Nearest training sample, {evil}"


def test_probe_of_grey_values_is_drawn_as_slices(tmp_path):
    diagnosis = grey_diagnosis()
    view = view_of_diagnosis(diagnosis, diagnosis.slicing)
    probed = Probe("conv1", (4, 3, 2), (1, 1, 0), [(0, 1, 0), (1, 1, 0)], ((1, 5), (1, 4), (0, 2)), grey(5))
    files = write_probe(probed, diagnosis.input_volume, tmp_path, view)
    np.testing.assert_array_equal(np.load(files.reconstruction), probed.reconstruction[0])
    with Pillow.open(files.picture) as picture:
        assert picture.size[0] > 5 * 420


def test_the_true_class_is_among_the_probabilities_however_improbable(tmp_path):
    classes = {f"class {number}": 0.9 / 2**number for number in range(8)}
    diagnosis = diagnosis_of(probabilities={**classes, "table": 0.95, "chair": 0.0001})
    text = words(page.write_report(diagnosis, tmp_path).read_text(encoding="utf-8"))
    assert "chair (true) 0.000" in text
    assert "class 3" in text
    assert "class 4" not in text.split("From the input to the prediction")[0]


def test_a_named_layer_that_is_not_pictured_stands_on_the_way_all_the_same(tmp_path):
    source = page.write_report(diagnosis_of(**UNUSUAL), tmp_path).read_text(encoding="utf-8")
    way = words(source).split("From the input to the prediction")[1].split("The most similar")[0]
    assert "conv2 ◀" in way
    assert "◀ computation unusual." in way
    assert "What is unusual" in words(source)


def test_doubts_about_a_class_stand_where_it_is_predicted(tmp_path):
    diagnosis = diagnosis_of()
    found = {"Of all.": None, "Of this one.": diagnosis.predicted, "Of another.": "no such class"}
    for name, doubts in {"some": found, "none": {"Of another.": "no such class"}}.items():
        site = page.Site(trust="evaluation.html", doubts=doubts)
        source = page.begin_report(diagnosis, tmp_path / name, site=site)().read_text(encoding="utf-8")
        assert ("</a>: Of all. Of this one.</p>" in source) == (name == "some")
        assert ('class="note doubts"' in source) == (name == "some")
        assert "Of another." not in source
