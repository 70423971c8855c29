"""A sweep over a layer as pictures: one sheet a horizontal slice, its locations laid out as they lie.

Each panel shows what one location stands for: the receptive field cut out of the reconstruction from its response
field, laid over the input. Where both are empty nothing is drawn.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from fer_cli.data.places import Box, Location
from fer_cli.diagnosis.probe import Probe
from fer_cli.errors import UsageError
from fer_cli.pictures import render
from fer_cli.pictures.scene import LEGEND, Scene, flat, occupied, overlay_scene
from fer_cli.pictures.sheet import Image, Panel, Row, mount
from fer_cli.pictures.slices import View, draw_slice

MOST_LOCATIONS = 1024
"""Most locations that one command draws."""
_PANEL, _LARGE_PANEL = 108, 220
"""Side of a panel in pixels, of a layer with more than four locations a side, and of others."""


@dataclass(frozen=True)
class Probed:
    """What a sweep gave at a location; `error` is the squared error of its receptive field, summed over voxels."""

    location: Location
    receptive_field: Box
    code: int | None
    error: float


def check_size(layer: str, locations: int, slices: int) -> None:
    """Raise UsageError for a sweep too large to be drawn, with what to ask for instead."""
    if locations > MOST_LOCATIONS:
        raise UsageError(
            f"{layer} has {locations} locations, and at most {MOST_LOCATIONS} are drawn at once. "
            f"Choose some of its slices 0 to {slices - 1} with --slices, such as --slices {slices // 2}."
        )


def write_sweep(
    probes: Iterable[Probe],
    volume: Float[np.ndarray, "channel x y z"],
    folder: Path,
    *,
    sample: str,
    by: str,
    view: View | None = None,
) -> tuple[list[Path], list[Probed]]:
    """Draw probes of one layer of the input `volume` into `folder`; the pictures' paths, and what each location gave.

    Grey values have a `view`, and are drawn as slices.

    Raises ResourceError where that cannot be written or drawn.
    """
    found: list[Probed] = []
    scenes: dict[Location, Scene | None] = {}
    images: dict[Location, Image] = {}
    layer, shape = "", (0, 0, 0)
    for probed in probes:
        layer, shape = probed.layer, probed.map_shape
        crop, own = probed.crop, probed.cut(volume)
        grids = flat(crop), flat(own)
        empty = view is not None or not any(occupied(grid).any() for grid in grids)
        scenes[probed.location] = None if empty else overlay_scene(*grids)
        if view is not None:
            images[probed.location] = draw_slice(crop[0], view, size=2 * _PANEL)
        error = float(np.square(crop.astype(np.float64) - own).sum())
        found.append(Probed(probed.location, probed.receptive_field, probed.code, error))
    drawn = [place for place, scene in scenes.items() if scene is not None]
    panel = _PANEL if max(shape) > 4 else _LARGE_PANEL
    pictures = render.render_scenes([scene for scene in scenes.values() if scene is not None], size=2 * panel)
    images |= dict(zip(drawn, pictures, strict=True))
    labels = {one.location: "" if one.code is None else f" #{one.code}" for one in found}
    paths = []
    for height in sorted({z for _, _, z in scenes}):
        rows = [
            Row(
                "",
                [Panel(images.get((x, y, height)), f"{x},{y},{height}{labels[x, y, height]}") for x in range(shape[0])],
            )
            for y in reversed(range(shape[1]))
        ]
        note = (
            f"Slice z = {height} of 0 to {shape[2] - 1}; x to the right, y upwards; panels are named x,y,z"
            + (" and by their code. " if by == "centroid" else ". ")
            + "Each is the receptive field of a location, reconstructed from its response field "
            + ("of centroids" if by == "centroid" else "alone")
            + (
                ", over the input; empty frames are empty in both."
                if view is None
                else f": its middle {view.orientation.planes[0].name}. {view.orientation.words}"
            )
        )
        legend = LEGEND if view is None else ()
        sheet = mount(f"{sample}: {layer}, by {by}", rows, note=note, legend=legend, panel=panel)
        paths.append(folder / f"slice-{height:02}.png")
        render.write_png(sheet, paths[-1])
    return paths, found
