"""Makes the documents' pictures from a finished run of `fer demo`: README, `docs/paper.md` and the page on reports.

Run: make demo && .venv/bin/fer figures --run fer-demo && .venv/bin/fer explain --errors --single-file --run fer-demo &&
.venv/bin/python docs/make_images.py fer-demo

Takes the report that the demo wrote (the synthetic furniture, nothing of ModelNet) and mounts its pictures: the input
and its reconstructions above, the representatives of conv3 … fc7 in both paths below. What the captions say is read
from the report's `diagnosis.json`. The sheets that `fer figures` drew are made smaller. The pictures of report and
gallery are what Debian's Chromium shows.
"""

import argparse
import io
import json
import shutil
from pathlib import Path
from typing import Any

import matplotlib
from PIL import Image, ImageDraw, ImageFont

PANEL, GAP, LETTER = 264, 18, 15
HEADING, CAPTION = 64, 52
LAYERS = ("conv3", "conv4", "conv5", "fc6", "fc7")
SOFT = (80, 80, 80)
OUTPUT = Path(__file__).parent / "images"
FIGURES = ("fig2", "fig3", "fig4", "fig5", "fig6", "fig7")
FIGURE_WIDTH, FIGURE_COLOURS = 960, 96

Panel = tuple[str, str, str]
"""File name without its suffix, bold line, plain line."""


def main() -> None:
    """Read the run's report and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder of fer demo")
    parser.add_argument("-o", "--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    reports = {path: json.loads(path.read_text("utf-8")) for path in options.run.glob("explain/*/diagnosis.json")}
    mistakes = [path for path, report in reports.items() if report["correct"] is False]
    if not mistakes:
        parser.error(f"{options.run} holds no report of a mistake; run 'make demo' first")
    chosen = max(mistakes, key=lambda path: max(reports[path]["probabilities"].values()))  # as the demo chooses
    diagnosis, folder = reports[chosen], chosen.parent
    options.output.mkdir(parents=True, exist_ok=True)
    pictures = {"demo": compose(folder, diagnosis)}
    if chromium := shutil.which("chromium"):
        pictures |= photographs(chromium, folder / "index.html", options.run / "explain" / "index.html")
    for name, picture in pictures.items():
        picture.quantize(96).save(options.output / f"{name}.png", optimize=True)
        print(options.output / f"{name}.png")
    for name in FIGURES:
        source = options.run / "figures" / f"{name}.png"
        if source.exists():
            shrink(source, options.output / source.name)


def shrink(source: Path, target: Path) -> None:
    """Write a sheet of `fer figures` at a width that a page shows, in few colours."""
    with Image.open(source) as picture:
        sheet = picture.convert("RGB")
    height = round(sheet.height * FIGURE_WIDTH / sheet.width)
    small = sheet.resize((FIGURE_WIDTH, height), Image.Resampling.LANCZOS)
    small.quantize(FIGURE_COLOURS, method=Image.Quantize.MEDIANCUT).save(target, optimize=True)
    print(target)


def photographs(chromium: str, report: Path, gallery: Path) -> dict[str, Image.Image]:
    """Report and gallery as a browser shows them: the head with two comparisons on, and the strip of layers."""
    from playwright.sync_api import sync_playwright

    flags = ["--headless", "--no-sandbox", "--disable-gpu"]
    with sync_playwright() as playwright:
        tab = playwright.chromium.launch(executable_path=chromium, args=flags).new_page()
        tab.set_default_timeout(240_000)
        tab.set_viewport_size({"width": 1200, "height": 1480})
        tab.goto(report.resolve().as_uri())
        tab.wait_for_function("document.documentElement.dataset.ready")
        for name in ("input", "class-code"):
            tab.locator(f"[data-special={name}]").check()
        tab.evaluate("scrollTo(0, 0)")
        tab.wait_for_timeout(3000)
        pngs = {"report": tab.screenshot(), "strip": tab.locator(".strip").screenshot()}
        tab.goto(gallery.resolve().as_uri())
        pngs["gallery"] = tab.screenshot(clip={"x": 0, "y": 0, "width": 1200, "height": 700})
    return {name: Image.open(io.BytesIO(png)).convert("RGB") for name, png in pngs.items()}


def compose(folder: Path, diagnosis: dict[str, Any]) -> Image.Image:
    """The picture: a row of reconstructions, and a row of representatives for each path."""
    rows = [reconstructions(diagnosis), *(representatives(diagnosis, path) for path in ("feedforward", "feedback"))]
    titles = (
        f"{diagnosis['sample']}: a {diagnosis['label']} taken for a {diagnosis['predicted']}",
        "Feedforward: the clusters nearest to what the encoder found, decoded",
        "Feedback: the clusters nearest to what the class probabilities bring back, decoded",
    )
    height = HEADING + CAPTION + PANEL
    canvas = Image.new("RGB", (GAP + len(LAYERS) * (PANEL + GAP), len(rows) * height + GAP), "white")
    pen = ImageDraw.Draw(canvas)
    for row, (title, panels) in enumerate(zip(titles, rows, strict=True)):
        top = row * height
        pen.text((GAP, top + HEADING - 2.3 * LETTER), title, fill="black", font=font("DejaVuSans-Bold", 20))
        for column, (name, head, line) in enumerate(panels):
            left = GAP + column * (PANEL + GAP)
            pen.text((left, top + HEADING), head, fill="black", font=font("DejaVuSans-Bold", LETTER))
            pen.text((left, top + HEADING + 1.4 * LETTER), line, fill=SOFT, font=font("DejaVuSans", LETTER))
            with Image.open(folder / f"{name}.png") as picture:
                shown = picture.convert("RGB").resize((PANEL, PANEL), Image.Resampling.LANCZOS)
            canvas.paste(shown, (left, top + HEADING + CAPTION))
    return canvas


def reconstructions(diagnosis: dict[str, Any]) -> list[Panel]:
    """Input, local and class-code reconstruction, nearest training sample, and where to look."""
    errors = diagnosis["errors"]
    return [
        ("input", "input", f"label {diagnosis['label']}"),
        ("local", "local reconstruction", f"error to input {errors['input_vs_local']:.0f}"),
        ("class-code", "class-code reconstr.", f"error to input {errors['input_vs_code']:.0f}"),
        ("nearest", "nearest by class code", diagnosis["nearest_training_sample"]),
        ("blame", "where to look", diagnosis["answer"]["layer"] or "in the input"),
    ]


def representatives(diagnosis: dict[str, Any], path: str) -> list[Panel]:
    """Representatives of conv3 … fc7 in one path, with the class that the layer's evidence favours."""
    layers = {layer["name"]: layer for layer in diagnosis["layers"]}
    return [(f"{name}-{path}", name, f"speaks for {layers[name][f'{path}_class']}") for name in LAYERS]


def font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """A font that comes with matplotlib, so that the picture is the same everywhere."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf", size)


if __name__ == "__main__":
    main()
