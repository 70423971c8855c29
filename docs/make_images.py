"""Makes the documents' pictures from a finished run of `fer demo`: the README's, and those of `docs/paper.md`.

Run: make demo && .venv/bin/fer figures --run fer-demo && .venv/bin/python docs/make_images.py fer-demo

Takes the report that the demo wrote (the synthetic furniture, nothing of ModelNet) and mounts its pictures: the input
and its reconstructions above, the representatives of conv3 … fc7 in both paths below. What the captions say is read
from the report's `diagnosis.json`. The sheets that `fer figures` drew are made smaller; without them only the first
picture is made.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib
from PIL import Image, ImageDraw, ImageFont

PANEL, GAP, LETTER = 264, 18, 15
HEADING, CAPTION = 64, 52
LAYERS = ("conv3", "conv4", "conv5", "fc6", "fc7")
SOFT = (80, 80, 80)
OUTPUT = Path(__file__).parent / "images" / "demo.png"
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
    reports = sorted((options.run / "explain").glob("*/diagnosis.json"), key=lambda path: path.stat().st_mtime)
    if not reports:
        parser.error(f"{options.run} holds no report; run 'make demo' first")
    diagnosis = json.loads(reports[-1].read_text(encoding="utf-8"))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    compose(reports[-1].parent, diagnosis).quantize(96).save(options.output, optimize=True)
    print(options.output)
    for name in FIGURES:
        source = options.run / "figures" / f"{name}.png"
        if source.exists():
            shrink(source, options.output.parent / source.name)


def shrink(source: Path, target: Path) -> None:
    """Write a sheet of `fer figures` at a width that a page shows, in few colours."""
    with Image.open(source) as picture:
        sheet = picture.convert("RGB")
    height = round(sheet.height * FIGURE_WIDTH / sheet.width)
    small = sheet.resize((FIGURE_WIDTH, height), Image.Resampling.LANCZOS)
    small.quantize(FIGURE_COLOURS, method=Image.Quantize.MEDIANCUT).save(target, optimize=True)
    print(target)


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
    """Input, local and class-code reconstruction, nearest training sample, and blame."""
    errors = diagnosis["errors"]
    return [
        ("input", "input", f"label {diagnosis['label']}"),
        ("local", "local reconstruction", f"error to input {errors['input_vs_local']:.0f}"),
        ("class-code", "class-code reconstr.", f"error to input {errors['input_vs_code']:.0f}"),
        ("nearest", "nearest training sample", diagnosis["nearest_training_sample"]),
        ("blame", f"blame: {diagnosis['blame']['layer']}", "what its locations see"),
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
