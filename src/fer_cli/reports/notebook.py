"""What a notebook shows of a diagnosis: the first screen of its report, without script."""

import base64

from fer_cli.diagnosis.diagnosis import Diagnosis
from fer_cli.network.activations import FEEDFORWARD
from fer_cli.pictures import render
from fer_cli.pictures.shape_pictures import shape_pictures
from fer_cli.pictures.slice_pictures import slice_pictures
from fer_cli.pictures.slices import encode_slices
from fer_cli.reports.page import environment, nearest_training_samples

_SIZE = 200


def notebook_panels(diagnosis: Diagnosis) -> str:
    """Verdict, cause and remedy, the way from the input to the prediction, and the nearest training samples, as HTML.

    Raises ResourceError if the machine cannot draw.
    """
    layers = [(f"{layer.name}-{FEEDFORWARD}", layer) for layer in diagnosis.pictured_layers]
    names = {"input", *(name for name, _ in layers), "class-code", "like-predicted", "like-true", "blame"}
    if diagnosis.slicing is not None:
        slices = slice_pictures(diagnosis, diagnosis.slicing)
        pngs = {name: encode_slices(picture.image) for name, picture in slices.items() if name in names}
        words = {name: picture.words for name, picture in slices.items()}
    else:
        shapes = {name: picture for name, picture in shape_pictures(diagnosis).items() if name in names}
        scenes = {name: picture.scene for name, picture in shapes.items()}
        pngs = render.draw_pngs(scenes, sizes=dict.fromkeys(scenes, _SIZE))
        words = {name: picture.words for name, picture in shapes.items()}
    images = {
        name: {"uri": "data:image/png;base64," + base64.b64encode(png).decode(), "words": words[name]}
        for name, png in pngs.items()
    }
    template = environment().get_template("notebook.html.j2")
    return template.render(
        diagnosis=diagnosis,
        images=images,
        layers=[(name, layer.name, layer.paths[FEEDFORWARD].speaks_for) for name, layer in layers],
        like=nearest_training_samples(diagnosis, images),
    )
