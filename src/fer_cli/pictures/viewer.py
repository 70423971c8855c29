"""What the report's script is given: shapes as bits, boxes, colours and camera, and the library that draws them.

A grid of 32³ voxels is 4 KiB of bits; the script makes the faces. plotly.js comes with the PyPI package of plotly,
whose Python is not imported, and goes into the page compressed, as browsers themselves can unpack it.

Source: the panels of Figs 5 and 7.
"""

import base64
import gzip
import json
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from fer_cli.diagnosis.diagnosis import Diagnosis
from fer_cli.errors import ResourceError
from fer_cli.pictures import scene
from fer_cli.pictures.shape_pictures import colour_of

VIEWS = ("input", "local", "nearest", "class-code")
"""The shapes that can be rotated."""


def viewer_facts(diagnosis: Diagnosis) -> dict[str, object]:
    """The four shapes, the boxes that its places see, and how to show them, as plain JSON values."""
    volumes = (diagnosis.input_volume, diagnosis.local_volume, diagnosis.nearest_volume, diagnosis.class_code_volume)
    colours = [scene.SHAPE] * 3 + [colour_of(diagnosis, diagnosis.predicted)]
    return {
        "shape": list(diagnosis.input_volume.shape[1:]),
        "views": [
            {"name": name, "bits": pack_bits(scene.flat(volume)), "colour": css_colour(colour)}
            for name, volume, colour in zip(VIEWS, volumes, colours, strict=True)
        ],
        "boxes": [[list(span) for span in box] for box in diagnosis.places.boxes],
        "colours": {
            **{name: css_colour(colour) for name, colour in scene.LEGEND},
            "seen": [list(colour) for colour in scene.SEEN],
            "outline": css_colour(scene.OUTLINE),
            "box": css_colour(scene.BOX_LINE),
        },
        "eye": scene.TO_CAMERA.round(6).tolist(),
    }


def pack_bits(grid: scene.Grid) -> str:
    """Which voxels are occupied, as base64 of one bit each, z fastest, the first in a byte's highest bit."""
    return base64.b64encode(np.packbits(scene.occupied(grid).ravel()).tobytes()).decode()


def css_colour(colour: scene.Colour) -> str:
    """A colour as `#rrggbb`."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


@cache
def packed_library() -> str:
    """plotly.js, gzipped, as base64. Raises ResourceError where plotly is not installed as it should be."""
    spec = find_spec("plotly")  # which does not import it
    folder = Path(spec.origin).parent if spec and spec.origin else Path()
    try:
        return base64.b64encode(
            gzip.compress((folder / "package_data" / "plotly.min.js").read_bytes(), 6, mtime=0)
        ).decode()
    except OSError as error:
        raise ResourceError(
            f"plotly's plotly.min.js cannot be read ({error.strerror}). Run 'pip install --force-reinstall plotly'."
        ) from error


def embedded_json(value: Any) -> str:
    """JSON that can stand in an HTML script element: no character in it can end the element or the line."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
