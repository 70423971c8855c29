"""A probe → its picture and its reconstruction.

Source: Fig. 2.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from fer_cli.diagnosis.probe import Probe
from fer_cli.pictures import render, scene
from fer_cli.pictures.probe_slices import draw_probe_slices
from fer_cli.pictures.slices import View, encode_slices
from fer_cli.storage.disk import write_whole


@dataclass(frozen=True)
class ProbeFiles:
    """Where a probe was written: the four-panel picture, and the reconstruction as a .npy.

    Of one channel the array has axes (x, y, z), of several (channel, x, y, z).
    """

    picture: Path
    reconstruction: Path


def write_probe(
    probed: Probe, volume: Float[np.ndarray, "channel x y z"], folder: Path, view: View | None = None
) -> ProbeFiles:
    """Draw a probe of the input `volume` into `folder`; grey values have a `view`, and are drawn as slices.

    Raises ResourceError where that cannot be written.
    """
    files = ProbeFiles(folder / "probe.png", folder / "reconstruction.npy")
    array = io.BytesIO()
    reconstruction = probed.reconstruction[0] if len(probed.reconstruction) == 1 else probed.reconstruction
    np.save(array, reconstruction, allow_pickle=False)
    write_whole(files.reconstruction, array.getvalue())
    source = f"of centroids, code {probed.code} there"
    if probed.code is None:
        beside = len(probed.kept) - len(probed.response_field)
        source = f"from it and {beside} locations beside it" if beside > 0 else "from the response field alone"
    if view is not None:
        write_whole(files.picture, encode_slices(draw_probe_slices(probed, volume, view, source)))
        return files
    picture = render.render_probe(
        probed.layer,
        feature_map=probed.map_shape,
        location=probed.location,
        response_field=probed.response_field,
        reconstruction=scene.flat(probed.reconstruction),
        receptive_field=probed.receptive_field,
        input_grid=scene.flat(volume),
        source=source,
    )
    render.write_png(picture, files.picture)
    return files
