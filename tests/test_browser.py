"""The report and the gallery in a real browser: Debian's Chromium, opened from disk, driven by Playwright.

A page may take a minute to get ready where other work has the cores: everything is drawn in software here.
"""

import io
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from diagnoses import CORRECT, GREY_SHAPE, diagnosis_of, grey_diagnosis
from fer_cli.diagnosis.cause import Cause
from fer_cli.pictures import scene
from fer_cli.pictures.slices import BLAMED, ERROR, blamed_share, default_window
from fer_cli.pictures.viewer import VIEWS
from fer_cli.reports import page
from fer_cli.reports.explained import diagnosis_json
from fer_cli.reports.gallery_page import Explained, write_gallery
from fer_cli.reports.site import link, write_assets

pytestmark = pytest.mark.browser
PATIENCE = 240_000
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking")
NAME = 'a <b>chair</b> & "stool" 🪑 </script><script>alert(1)</script>'


Start = Callable[..., Any]


@pytest.fixture(scope="module")
def browser(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts the browser with an empty profile and given flags."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright, ExitStack() as stack:

        def start(*flags: str) -> Any:
            context = playwright.chromium.launch_persistent_context(
                tmp_path_factory.mktemp("profile"),
                executable_path=chromium,
                args=[*FLAGS, *flags],
                viewport={"width": 1400, "height": 900},
            )
            stack.callback(context.close)
            context.set_default_timeout(PATIENCE)
            return context

        yield start


class Opened:
    """A page opened from disk, with what it said and asked for."""

    def __init__(self, context, path: Path) -> None:
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.path = path
        self.tab = context.new_page()
        self.tab.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        self.tab.on("pageerror", lambda error: self.errors.append(str(error)))
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.on("dialog", lambda dialog: (self.errors.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        self.tab.goto(path.as_uri())

    def until_ready(self) -> "Opened":
        # Playwright's own waiting evaluates text in the page, which the page's policy forbids where it has to wait.
        assert eventually(lambda: self.tab.evaluate("document.documentElement.dataset.ready === 'true'"))
        return self

    def picture(self, view: str) -> np.ndarray:
        png = self.tab.locator(f"#view-{view}").screenshot()
        return np.asarray(Pillow.open(io.BytesIO(png)).convert("RGB")).astype(int)

    def pictures(self) -> dict[str, np.ndarray]:
        return {name: self.picture(name) for name in VIEWS}

    def eyes(self) -> list[list[float]]:
        """Where each shape is seen from."""
        return self.tab.evaluate(
            "names => names.map(name => Object.values(document.getElementById(name)._fullLayout.scene.camera.eye))",
            [f"view-{name}" for name in VIEWS],
        )

    def open_all(self) -> "Opened":
        """Open every fold, as a reader does, and wait for the charts in them."""
        for fold in self.tab.locator("details.fold > summary").all():
            fold.click()
        drawn = self.tab.locator(".chart svg.main-svg")
        assert eventually(lambda: drawn.count() >= self.tab.locator(".chart").count())
        return self

    def overflow(self) -> int:
        """Pixels by which the page is wider than the window."""
        return self.tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


@pytest.fixture(scope="module")
def report(browser: Start, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    folder = tmp_path_factory.mktemp("reports") / "a folder with spaces & 🪑"
    path = page.write_report(diagnosis_of(sample=NAME), folder)
    return Opened(browser(), path).until_ready().open_all()


def share_changed(before: np.ndarray, after: np.ndarray) -> float:
    return float((np.abs(before - after).max(axis=-1) > 24).mean())


def share_near(image: np.ndarray, colour: tuple[int, int, int], tolerance: int = 30) -> float:
    return float((np.abs(image - np.array(colour)).max(axis=-1) <= tolerance).mean())


def eventually(holds: Callable[[], bool]) -> bool:
    """Whether something comes to hold; the browser draws when it gets to it."""
    end = time.monotonic() + PATIENCE / 1000
    while not (held := holds()) and time.monotonic() < end:
        time.sleep(0.3)
    return held


def exposed_faces(cells: np.ndarray) -> int:
    padded = np.pad(cells, 1).astype(int)
    return sum(int(np.abs(np.diff(padded, axis=axis)).sum()) for axis in range(3))


def test_report_opens_from_disk_without_errors_and_asks_for_nothing(report: Opened) -> None:
    assert report.requests == [report.path.as_uri()]
    assert report.errors == []
    assert report.tab.title() == f"{NAME}: predicted table"
    assert report.tab.locator("h1").inner_text() == f"{NAME}: predicted table, truly chair"
    assert report.tab.locator(".chart svg.main-svg").count() >= 6


def test_shapes_are_drawn_with_a_face_where_a_voxel_meets_none(report: Opened) -> None:
    diagnosis = diagnosis_of()
    volumes = (diagnosis.input_volume, diagnosis.local_volume, diagnosis.nearest_volume, diagnosis.class_code_volume)
    light, predicted = (
        tuple(np.round(np.array(colour) * 0.97).astype(int)) for colour in (scene.SHAPE, scene.PREDICTED)
    )
    seen = report.tab.get_by_label("What the locations of conv3 that push most towards table see")
    seen.uncheck()
    assert eventually(lambda: share_near(report.picture("input"), light) > 0.01)
    for name, (grid,) in zip(VIEWS, volumes, strict=True):
        image = report.picture(name)
        tops = predicted if name == "class-code" else light  # of even and of odd voxels
        assert share_near(image, tops) > 0.01, name
        assert share_near(image, (255, 255, 255), 0) > 0.3, name
        corners = report.tab.evaluate(f"document.getElementById('view-{name}').data[1].x.length")
        assert corners == 4 * exposed_faces(scene.occupied(grid)), name
    seen.check()


def test_comparison_shows_what_is_missing_and_extra_in_that_view_alone(report: Opened) -> None:
    before = report.pictures()
    box = report.tab.get_by_label("Compare with the input").nth(2)
    box.check()
    assert eventually(lambda: share_changed(before["class-code"], report.picture("class-code")) > 0.03)
    after = report.pictures()
    for colour in (scene.MISSING, scene.EXTRA):
        assert share_near(after["class-code"], colour, 40) > 0.005
        assert share_near(before["class-code"], colour, 40) < 0.001
    for name in VIEWS[:3]:
        assert share_changed(before[name], after[name]) < 0.001, name
    report.tab.get_by_label("missing", exact=True).uncheck()
    assert eventually(lambda: share_near(report.picture("class-code"), scene.MISSING, 40) < 0.001)
    report.tab.get_by_label("missing", exact=True).check()
    box.uncheck()
    assert eventually(lambda: share_changed(before["class-code"], report.picture("class-code")) < 0.001)


def test_boxes_of_the_places_are_shown_and_can_be_hidden_by_the_space_bar(report: Opened) -> None:
    box = report.tab.get_by_label("What the locations of conv3 that push most towards table see")
    assert box.is_checked()
    assert eventually(lambda: share_near(report.picture("input"), scene.SEEN[0], 30) > 0.005)
    before = report.picture("input")
    box.focus()
    report.tab.keyboard.press("Space")
    assert eventually(lambda: share_changed(before, report.picture("input")) > 0.03)
    report.tab.keyboard.press("Space")
    assert eventually(lambda: share_changed(before, report.picture("input")) < 0.001)


def test_a_drag_turns_all_shapes_together(report: Opened) -> None:
    before, seen_from = report.pictures(), report.eyes()
    place = report.tab.locator("#view-local")
    place.scroll_into_view_if_needed()
    rectangle = place.bounding_box()
    x, y = rectangle["x"] + rectangle["width"] / 2, rectangle["y"] + rectangle["height"] / 2
    report.tab.mouse.move(x, y)
    report.tab.mouse.down()
    report.tab.mouse.move(x + 70, y + 15, steps=6)
    report.tab.mouse.up()
    assert eventually(lambda: np.ptp(report.eyes(), axis=0).max() < 1e-6 and report.eyes() != seen_from)
    assert np.linalg.norm(np.subtract(report.eyes()[0], seen_from[0])) > 0.2
    assert eventually(lambda: all(share_changed(before[name], report.picture(name)) > 0.02 for name in VIEWS))
    report.tab.get_by_role("button", name="Reset the view").click()
    assert eventually(lambda: np.abs(np.subtract(report.eyes(), seen_from)).max() < 1e-6)
    assert eventually(lambda: all(share_changed(before[name], report.picture(name)) < 0.001 for name in VIEWS))


def test_arrow_keys_and_buttons_turn_all_shapes(report: Opened) -> None:
    seen_from = report.eyes()
    report.tab.locator("#view-nearest").focus()
    report.tab.keyboard.press("ArrowRight")
    assert eventually(lambda: np.abs(np.subtract(report.eyes(), seen_from)).max(axis=1).min() > 0.1)
    report.tab.keyboard.press("ArrowLeft")
    assert eventually(lambda: np.abs(np.subtract(report.eyes(), seen_from)).max() < 1e-6)
    report.tab.get_by_role("button", name="See from higher up").press("Enter")
    assert eventually(lambda: all(eye[2] > first[2] + 0.1 for eye, first in zip(report.eyes(), seen_from, strict=True)))
    report.tab.get_by_role("button", name="Reset the view").click()
    assert eventually(lambda: np.abs(np.subtract(report.eyes(), seen_from)).max() < 1e-6)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_nothing_is_wider_than_the_window(report: Opened, width: int, theme: str) -> None:
    report.tab.set_viewport_size({"width": width, "height": 900})
    report.tab.emulate_media(color_scheme=theme)
    assert eventually(lambda: report.overflow() <= 0)
    ground = report.tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(21, 23, 26)") == (theme == "dark")
    drawn = report.tab.locator("#view-input canvas").first.bounding_box()
    assert eventually(lambda: report.tab.locator("#view-input").bounding_box()["width"] >= 100)
    assert drawn["width"] <= width
    assert report.errors == []


def test_on_paper_pictures_stand_for_the_rotatable_shapes(report: Opened) -> None:
    report.tab.set_viewport_size({"width": 720, "height": 1000})
    report.tab.emulate_media(media="print", color_scheme="light")
    assert not report.tab.locator("#view-input").is_visible()
    assert report.tab.locator("figure.static img").count() == 8
    assert all(picture.is_visible() for picture in report.tab.locator("figure.static img").all())
    for chart in report.tab.locator(".chart").all():  # drawn for the window, scaled to the card
        assert chart.locator(".main-svg").first.bounding_box()["width"] <= chart.bounding_box()["width"] + 1
    report.tab.emulate_media(media="screen")
    assert report.tab.locator("#view-input").is_visible()


def test_folds_are_closed_at_first_and_open_on_paper(browser: Start, tmp_path: Path) -> None:
    report = Opened(browser(), page.write_report(diagnosis_of(), tmp_path / "report")).until_ready()
    table = report.tab.get_by_role("region", name="Table of the evidence by layer")
    first = report.tab.get_by_text("Likely cause")
    assert first.is_visible()
    assert first.bounding_box()["y"] < 300
    assert not table.is_visible()
    report.tab.emulate_media(media="print")
    assert eventually(table.is_visible)
    report.tab.emulate_media(media="screen")
    assert eventually(lambda: not table.is_visible())
    report.tab.get_by_text("Evidence by layer").click()
    assert eventually(lambda: report.tab.locator("#chart-feedforward svg.main-svg").count() > 0)


def test_without_webgl_the_pictures_stay_and_the_page_says_why(browser: Start, tmp_path: Path) -> None:
    path = page.write_report(diagnosis_of(**CORRECT), tmp_path / "report")
    report = Opened(browser("--disable-3d-apis"), path).until_ready()
    assert report.errors == []
    assert not report.tab.locator("#view-input").is_visible()
    assert report.tab.locator("figure.static img").first.is_visible()
    assert "no WebGL" in report.tab.locator("#static-note").inner_text()
    report.open_all()
    assert report.tab.locator("#chart-feedforward svg.main-svg").first.is_visible()


def test_gallery_sorts_by_mouse_and_by_keyboard_and_leads_to_the_reports(browser: Start, tmp_path: Path) -> None:
    scores = {NAME: ("chair", "table", 0.4), "bed 2": ("bed", "table", 0.9), "bed 10": ("bed", "chair", 0.1)}
    explained = []
    for number, (name, (label, predicted, score)) in enumerate(scores.items()):
        diagnosis = diagnosis_of(sample=name, label=label, predicted=predicted)
        written = page.write_report(diagnosis, tmp_path / f"a # {number} 🪑")
        answer = diagnosis_json(diagnosis, report=str(written))
        answer["suspicion"]["score"] = score
        suspicion = type(diagnosis.suspicion)(score, 0.5, 31)
        explained.append(Explained(answer, diagnosis.answer, suspicion, {"report": written}))
    path = write_gallery(explained, ["conv3"], tmp_path, "three")
    gallery = Opened(browser(), path)

    def order() -> list[str]:
        return gallery.tab.locator("tbody th").all_inner_texts()

    assert order() == ["bed 2", NAME, "bed 10"]
    gallery.tab.get_by_role("button", name="Sample").click()
    assert order() == [NAME, "bed 2", "bed 10"]
    head = gallery.tab.get_by_role("columnheader", name="Suspicion")
    assert head.get_attribute("aria-sort") is None
    head.get_by_role("button").focus()
    gallery.tab.keyboard.press("Enter")
    assert (order(), head.get_attribute("aria-sort")) == (["bed 10", NAME, "bed 2"], "ascending")
    gallery.tab.keyboard.press("Enter")
    assert (order(), head.get_attribute("aria-sort")) == (["bed 2", NAME, "bed 10"], "descending")
    gallery.tab.set_viewport_size({"width": 400, "height": 900})
    assert gallery.overflow() <= 0
    assert gallery.errors == []
    assert all(request.startswith(path.parent.as_uri()) for request in gallery.requests)
    gallery.tab.get_by_role("link", name="bed 10").click()
    gallery.tab.wait_for_url("**/index.html")
    assert gallery.tab.locator("h1").inner_text().startswith("bed 10: predicted chair")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with an evaluation, three reports that share scripts, and their gallery; answers its page."""
    run = tmp_path_factory.mktemp("site") / "a run & 🪑"
    folder = run / "explain"
    assets = write_assets(folder, "occupancy")
    (run / "evaluate").mkdir()
    (run / "evaluate" / "test.html").write_text("<h1>evaluation</h1>")
    explained = []
    causes = {"one": "label", "two": "overlap", "three": "overlap"}
    for number, (name, cause) in enumerate(causes.items()):
        diagnosis = diagnosis_of(
            sample=name,
            cause=Cause(cause, "fair", "Look at it."),
            suspicion=replace(diagnosis_of().suspicion, score=0.9 - number / 10, p_value=0.01 + number / 10),
        )
        own = folder / name
        written = page.begin_report(diagnosis, own, site=page.Site(link(assets, own / "index.html")))()
        answer = diagnosis_json(diagnosis, report=str(written))
        explained.append(Explained(answer, diagnosis.answer, diagnosis.suspicion, {"report": written}))
    return write_gallery(explained, ["conv3"], folder, "three", evaluation=run / "evaluate" / "test.html")


def shown_in(gallery: Opened) -> list[str]:
    return gallery.tab.locator("tbody tr:not([hidden]) th").all_inner_texts()


def test_gallery_is_filtered_by_cause_suspicion_and_name_and_by_its_address(browser: Start, site: Path) -> None:
    gallery = Opened(browser(), site)
    assert shown_in(gallery) == ["one", "two", "three"]
    gallery.tab.get_by_label("Cause").select_option("overlap")
    assert shown_in(gallery) == ["two", "three"]
    assert gallery.tab.get_by_role("status").first.inner_text() == "2 of 3 samples."
    assert gallery.tab.evaluate("location.hash") == "#cause=overlap"
    gallery.tab.get_by_label("Name").fill("TW")
    assert shown_in(gallery) == ["two"]
    gallery.tab.get_by_role("button", name="Show all").press("Enter")
    assert eventually(lambda: shown_in(gallery) == ["one", "two", "three"])
    gallery.tab.get_by_label("suspicious").press("Space")
    assert shown_in(gallery) == ["one"]
    gallery.tab.goto(site.as_uri() + "#cause=label&true=chair")
    assert eventually(lambda: shown_in(gallery) == ["one"])
    assert gallery.tab.get_by_label("Cause").input_value() == "label"
    gallery.tab.goto(site.as_uri() + "#sample=three&sample=one")
    assert eventually(lambda: shown_in(gallery) == ["one", "three"])
    counted = gallery.tab.get_by_role("status").first
    assert counted.inner_text() == "2 of 3 samples, those of one group."
    gallery.tab.get_by_label("Cause").select_option("overlap")
    assert shown_in(gallery) == ["three"]
    gallery.tab.get_by_role("button", name="Show all").press("Enter")
    assert eventually(lambda: shown_in(gallery) == ["one", "two", "three"])
    gallery.tab.goto(site.as_uri() + "#sample=two&sample=nine")
    assert eventually(lambda: shown_in(gallery) == ["two"])
    missing = "1 more is not in this gallery; fer explain --errors makes one of all mistakes."
    assert counted.inner_text() == f"1 of 3 samples, those of one group. {missing}"
    gallery.tab.get_by_role("button", name="Show all").press("Enter")
    assert eventually(lambda: shown_in(gallery) == ["one", "two", "three"])
    for width, theme in ((400, "dark"), (1400, "light")):
        gallery.tab.set_viewport_size({"width": width, "height": 900})
        gallery.tab.emulate_media(color_scheme=theme)
        assert eventually(lambda: gallery.overflow() <= 0)
        assert cut_off(gallery) == []
    assert gallery.errors == []


def test_site_leads_from_report_to_report_and_back_without_a_network(browser: Start, site: Path) -> None:
    report = Opened(browser(), site)
    report.tab.get_by_role("link", name="two", exact=True).click()
    report.tab.wait_for_url("**/two/index.html")
    report.until_ready()
    assert report.tab.locator("#view-input canvas").first.is_visible()
    assert report.tab.get_by_role("navigation").inner_text().split() == [
        *("Evaluation", "All", "3", "samples", "←", "one", "three", "→", "2", "of", "3")
    ]
    report.open_all()
    for width in (400, 1400):
        report.tab.set_viewport_size({"width": width, "height": 900})
        assert eventually(lambda: report.overflow() <= 0)
        assert cut_off(report) == []
    report.tab.get_by_role("link", name="three").click()
    report.tab.wait_for_url("**/three/index.html")
    report.tab.get_by_role("link", name="All 3 samples").click()
    report.tab.wait_for_url("**/explain/index.html")
    report.tab.get_by_role("link", name="Evaluation").click()
    report.tab.wait_for_url("**/evaluate/test.html")
    assert report.errors == []
    assert all(request.startswith("file://") for request in report.requests)


def cut_off(opened: Opened) -> list[str]:
    """Words of elements that lie beyond the window or are wider than their box, though nothing scrolls there."""
    return opened.tab.evaluate(
        """() => [...document.querySelectorAll("h1, h2, h3, p, li, td, th, figcaption, label, summary, a")]
          .filter((e) => e.checkVisibility() && !e.closest(".scroll, .path-strip, svg"))
          .filter((e) => e.getBoundingClientRect().right > innerWidth + 1
            || (e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX !== "visible"))
          .map((e) => e.textContent.trim().slice(0, 60))"""
    )


# Slices through grey values


class Slices(Opened):
    """A page with slices, and what they show."""

    def readout(self) -> str:
        return self.tab.locator("#slice-readout").inner_text()

    def cursor(self) -> tuple[int, ...]:
        """The slices that the three planes are at, as (x, y, z): of this volume sagittal, coronal, axial."""
        slices = [self.tab.locator(f"#first-{plane}").get_attribute("data-slice") for plane in (2, 1, 0)]
        return tuple(map(int, slices))

    def comes_to(self, *cursor: int) -> bool:
        return eventually(lambda: self.cursor() == cursor)

    def shown(self, panel: str, plane: int, rows: int, columns: int) -> np.ndarray:
        """The colour in the middle of every voxel of a slice."""
        return np.array(
            self.tab.evaluate(
                """([id, rows, columns]) => {
                  const canvas = document.querySelector(`#${id} canvas`), pen = canvas.getContext("2d");
                  return Array.from({ length: rows }, (_, row) => Array.from({ length: columns }, (_, column) => [
                    ...pen.getImageData(Math.floor((column + 0.5) * canvas.width / columns),
                      Math.floor((row + 0.5) * canvas.height / rows), 1, 1).data].slice(0, 3)));
                }""",
                [f"{panel}-{plane}", rows, columns],
            )
        )

    def shows(self, expected: np.ndarray, panel: str = "first", plane: int = 0, tolerance: float = 1.01) -> bool:
        rows, columns = expected.shape[:2]
        expected = expected if expected.ndim == 3 else np.repeat(expected[..., None], 3, axis=2)
        return eventually(lambda: np.abs(self.shown(panel, plane, rows, columns) - expected).max() <= tolerance)

    def box(self) -> dict[str, float]:
        """Where the axial slice is in the window."""
        canvas = self.tab.locator("#first-0 canvas")
        canvas.scroll_into_view_if_needed()
        return canvas.bounding_box()

    def check(self, name: str, on: bool) -> None:
        self.tab.locator(f"#{name}").set_checked(on)


GREY = grey_diagnosis(channels=2, sample=NAME)
HEIGHT, WIDTH = GREY_SHAPE[1], GREY_SHAPE[0]


def grey_levels(slice_: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """An axial slice (x, y) as it is to be drawn: right on the left, anterior at the top."""
    low, high = window
    return np.round(255 * np.clip((slice_[::-1, ::-1].T - low) / (high - low), 0, 1))


@pytest.fixture(scope="module")
def grey_report(browser: Start, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A browser, and the page that it opens."""
    return browser(), page.write_report(GREY, tmp_path_factory.mktemp("grey") / "a folder & 🪑")


@pytest.fixture
def slices(grey_report: tuple[Any, Path]) -> Iterator[Slices]:
    opened = Slices(*grey_report)
    assert eventually(lambda: bool(opened.readout()))  # before the charts are drawn
    for overlay in ("overlay-blame", "slice-cross"):
        opened.check(overlay, False)
    yield opened
    opened.tab.close()


def test_slices_open_from_disk_show_the_values_and_say_where_they_are(slices: Slices) -> None:
    assert slices.until_ready().errors == []
    assert slices.requests == [slices.path.as_uri()]
    assert "Radiological convention" in slices.tab.locator("#convention").inner_text()
    assert slices.readout().startswith("voxel x 5, y 1, z 2 · R 0.0, A 21.5, S 11.0 mm · input ")
    said = float(slices.readout().split("input ")[1].split(" ")[0])
    assert said == pytest.approx(float(GREY.input_volume[0, 5, 1, 2]), rel=1e-3)  # four digits
    window = default_window(GREY.input_volume[0])
    assert slices.shows(grey_levels(GREY.input_volume[0, :, :, 2], window))
    assert slices.shows(grey_levels(GREY.local_volume[0, :, :, 2], window), "second")
    edges = slices.tab.locator("#first-0 .edge").all_inner_texts()
    assert edges == ["R", "L", "A", "P"]
    box = slices.box()
    assert box["width"] / box["height"] == pytest.approx(8 * 2 / (6 * 1.5), rel=0.02)


def test_a_click_or_drag_in_one_plane_moves_the_others(slices: Slices) -> None:
    box = slices.box()
    x, y = box["x"] + box["width"] * 1.5 / 8, box["y"] + box["height"] * 0.5 / 6
    slices.tab.mouse.click(x, y)  # the second column from the right of the patient, the most anterior row
    assert slices.comes_to(6, 5, 2)
    slices.tab.mouse.move(x, y)
    slices.tab.mouse.down()
    slices.tab.mouse.move(x + box["width"] * 3 / 8, y + box["height"] * 2 / 6, steps=4)
    assert slices.comes_to(3, 3, 2)
    slices.tab.mouse.up()
    slices.tab.mouse.move(x, y)
    assert slices.cursor() == (3, 3, 2)
    slices.tab.locator("#slider-1").focus()
    slices.tab.keyboard.press("ArrowLeft")
    assert slices.comes_to(3, 2, 2)


def test_a_touch_may_scroll_and_moves_the_cursor_sideways(slices: Slices) -> None:
    fire = """([kind, column]) => {
      const place = document.getElementById("first-0"), box = place.querySelector("canvas").getBoundingClientRect();
      place.setPointerCapture = () => {};
      place.dispatchEvent(new PointerEvent(kind, { pointerType: "touch", pointerId: 7, bubbles: true,
        clientX: box.left + (column + 0.5) * box.width / 8, clientY: box.top + 5.5 * box.height / 6 }));
    }"""
    slices.tab.evaluate(fire, ["pointerdown", 0])
    slices.tab.evaluate(fire, ["pointermove", 7])
    assert slices.comes_to(0, 0, 2)
    slices.tab.evaluate(fire, ["pointercancel", 7])
    slices.tab.evaluate(fire, ["pointerdown", 0])
    slices.tab.evaluate(fire, ["pointercancel", 0])
    slices.tab.evaluate(fire, ["pointermove", 3])
    assert slices.cursor() == (0, 0, 2)
    action = "getComputedStyle(document.getElementById('first-0')).touchAction"
    assert slices.tab.evaluate(action) == "pan-y pinch-zoom"


def test_keys_move_the_cursor_on_the_screen(slices: Slices) -> None:
    slices.tab.locator("#first-0").focus()
    for key, cursor in (
        ("ArrowRight", (4, 1, 2)),  # to the patient's left
        ("ArrowUp", (4, 2, 2)),
        ("PageUp", (4, 2, 3)),
        ("PageUp", (4, 2, 3)),  # there is no further slice
        ("PageDown", (4, 2, 2)),
        ("ArrowDown", (4, 1, 2)),
        ("ArrowLeft", (5, 1, 2)),
        ("PageDown", (5, 1, 1)),
        ("Home", (5, 1, 2)),
    ):
        slices.tab.keyboard.press(key)
        assert slices.comes_to(*cursor), key
    slices.tab.locator("#second-2").focus()
    slices.tab.keyboard.press("ArrowRight")  # to posterior, in the sagittal plane
    assert slices.comes_to(5, 0, 2)


def test_window_level_channel_and_reset(slices: Slices) -> None:
    slices.tab.locator("#number-level").fill("100")
    slices.tab.locator("#number-width").fill("40")
    assert slices.shows(grey_levels(GREY.input_volume[0, :, :, 2], (80.0, 120.0)))
    slices.tab.locator("#slice-channel").select_option("1")
    assert slices.shows(grey_levels(GREY.input_volume[1, :, :, 2], default_window(GREY.input_volume[1])))
    slices.tab.locator("#slice-channel").select_option("0")
    assert slices.shows(grey_levels(GREY.input_volume[0, :, :, 2], (80.0, 120.0)))
    slices.tab.get_by_role("button", name="Reset window").click()
    assert slices.shows(grey_levels(GREY.input_volume[0, :, :, 2], default_window(GREY.input_volume[0])))
    slices.tab.locator("#window-width").focus()
    slices.tab.keyboard.press("Home")
    assert eventually(lambda: set(slices.shown("first", 0, HEIGHT, WIDTH).ravel()) <= {0, 255})


def test_projection_shows_the_largest_values_and_a_click_goes_to_one(slices: Slices) -> None:
    slices.check("slice-projection", True)
    window = default_window(GREY.input_volume[0])
    assert slices.shows(grey_levels(GREY.input_volume[0].max(axis=2), window))
    box = slices.box()
    slices.tab.mouse.click(box["x"] + box["width"] * 0.5 / 8, box["y"] + box["height"] * 0.5 / 6)
    assert slices.comes_to(7, 5, int(GREY.input_volume[0, 7, 5].argmax()))


def test_overlays_tint_by_blame_and_by_error(slices: Slices) -> None:
    window = default_window(GREY.input_volume[0])
    plain = grey_levels(GREY.input_volume[0, :, :, 2], window)[..., None]

    def tinted(share: np.ndarray, colour: tuple[int, int, int], opacity: float) -> np.ndarray:
        part = opacity * share[:, :, 2][::-1, ::-1].T[..., None]
        return plain * (1 - part) + np.array(colour) * part

    slices.check("overlay-blame", True)
    share = blamed_share(GREY_SHAPE, GREY.places.boxes, GREY.places.weights)
    assert slices.shows(tinted(share, BLAMED, 0.5))
    slices.check("overlay-blame", False)
    slices.tab.locator("#slice-other").select_option("nearest")
    slices.check("overlay-error", True)
    slices.tab.locator("#opacity-error").fill("0.5")
    difference = np.abs(GREY.nearest_volume[0] - GREY.input_volume[0])
    scale = np.sort(difference.ravel())[int(0.99 * (difference.size - 1))]
    # A step of the nearest sample's 256, over the scale, is half a level here.
    assert slices.shows(tinted(np.minimum(1, difference / scale), ERROR, 0.5), tolerance=2)
    assert slices.tab.locator("#error-scale").inner_text().startswith("full colour from ")


def test_another_volume_is_compared_beside_or_in_place(slices: Slices) -> None:
    window = default_window(GREY.input_volume[0])
    slices.tab.locator("#slice-other").select_option("from-conv1")
    made = grey_levels(GREY.slicing.reconstructions["conv1"][0, :, :, 2], window)
    assert slices.shows(made, "second", tolerance=2)
    slices.check("slice-swap", True)
    assert slices.shows(made, tolerance=2)
    assert slices.tab.locator("#head-first").inner_text() == "Reconstruction from conv1"
    slices.check("slice-beside", False)
    assert eventually(lambda: not slices.tab.locator("#panel-second").is_visible())


def test_the_receptive_field_at_the_cursor_is_outlined(slices: Slices) -> None:
    before = slices.shown("first", 0, 60, 80)
    slices.check("overlay-field", True)
    assert eventually(lambda: (slices.shown("first", 0, 60, 80) != before).any())
    changed = (slices.shown("first", 0, 60, 80) != before).any(axis=2)
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    # x from 4 to 8 is on the left, y from 0 to 3 below.
    assert (rows.min() >= 29, rows.max() == 59, columns.min() == 0, columns.max() <= 40) == (True,) * 4


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_slices_fit_a_phone(slices: Slices, theme: str) -> None:
    slices.tab.set_viewport_size({"width": 360, "height": 740})
    slices.tab.emulate_media(color_scheme=theme)
    assert eventually(lambda: slices.overflow() <= 0)
    assert eventually(lambda: slices.tab.locator("#first-0 canvas").bounding_box()["width"] <= 170)
    assert slices.tab.locator("#first-0 canvas").bounding_box()["width"] >= 100
    assert slices.errors == []


def test_on_paper_and_without_unpacking_the_pictures_stand_for_slices(slices: Slices) -> None:
    pictures = slices.tab.locator(".shapes.static img")
    assert not pictures.first.is_visible()
    slices.tab.emulate_media(media="print")
    assert all(picture.is_visible() for picture in pictures.all())
    assert not slices.tab.locator("#first-0").is_visible()
    old = slices.path.with_name("old.html")
    old.write_text(slices.path.read_text("utf-8").replace("new DecompressionStream", "new Missing"), "utf-8")
    opened = Slices(slices.tab.context, old).until_ready()
    assert "cannot be moved here" in opened.tab.locator("#static-note").inner_text()
    assert opened.tab.locator(".shapes.static img").first.is_visible()


def test_a_volume_without_a_place_says_so(browser: Start, tmp_path: Path) -> None:
    written = page.write_report(grey_diagnosis(matrix=None, spacing=None), tmp_path / "report")
    opened = Slices(browser(), written).until_ready()
    assert "No orientation known: axes x, y, z as stored." in opened.tab.locator("#convention").inner_text()
    assert opened.readout().startswith("voxel x 5, y 1, z 2 · input ")
    assert opened.tab.locator("#first-0 .edge").all_inner_texts() == ["−x", "+x", "+y", "−y"]
    assert opened.errors == []
