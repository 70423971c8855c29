"""A probe of grey values as one picture: Algorithm 1's panels, with slices in the place of shapes.

Source: Fig. 2.
"""

import numpy as np
from jaxtyping import Float

from fer_cli.diagnosis.probe import Probe
from fer_cli.pictures.render import render_scenes
from fer_cli.pictures.scene import CHOSEN, FIELD, cells_scene
from fer_cli.pictures.sheet import Image, Panel, Row, mount
from fer_cli.pictures.slices import BLAMED, PANEL, View, box_share, draw_slices, error_window, middle_of


def draw_probe_slices(probed: Probe, volume: Float[np.ndarray, "channel x y z"], view: View, source: str) -> Image:
    """Location, response field, input with the receptive field, reconstruction, and their difference inside the field.

    Slices go through the middle of the receptive field; `source` says what the reconstruction is made from. Raises
    ResourceError where the machine cannot draw.
    """
    box = probed.receptive_field
    view = view.through(middle_of(box))
    inside = box_share(volume.shape[1:], box)
    difference = np.abs(probed.reconstruction[0] - volume[0]) * inside
    errors = view.with_window(error_window(np.abs(probed.crop[0] - probed.cut(volume)[0])))
    cells = render_scenes(
        [
            cells_scene(probed.map_shape, chosen, probed.location)
            for chosen in ([probed.location], probed.response_field)
        ],
        size=PANEL,
    )
    count, total = len(probed.response_field), int(np.prod(probed.map_shape))
    spans = " ".join(f"{axis} {low}–{high - 1}" for axis, (low, high) in zip("xyz", box, strict=True))
    at = ",".join(map(str, probed.location))
    panels = [
        Panel(cells[0], f"1  Location {at}", f"in {probed.layer}, {'×'.join(map(str, probed.map_shape))}"),
        Panel(cells[1], "2  Response field", f"{count} of {total} location{'s' if total > 1 else ''}"),
        Panel(draw_slices(volume[0], view, tint=inside), "3  Receptive field, on the input", f"voxels {spans}"),
        Panel(draw_slices(probed.reconstruction[0], view), "4  Reconstruction", source),
        Panel(draw_slices(difference, errors), "5  Difference in the field", f"white from {errors.window[1]:.3g}"),
    ]
    low, high = view.window
    note = f"Window {low:.3g} to {high:.3g}. {view.orientation.words}"
    legend = (("location", CHOSEN), ("response field", FIELD), ("receptive field", BLAMED))
    return mount(f"{probed.layer} at {at}", [Row("", panels)], note=note, legend=legend, panel=PANEL)
