"""Small pictures of the mistakes of each group, and of correct samples like them, for the page of an evaluation.

Shapes are drawn by other processes, volumes of grey values as slices by this one.
"""

from collections.abc import Iterator
from pathlib import Path

from fer_cli.artifacts import RunArtifacts
from fer_cli.evaluation.study_results import Group
from fer_cli.pictures import scene
from fer_cli.pictures.drawing import open_drawing
from fer_cli.pictures.slices import draw_slices, encode_slices, view_of
from fer_cli.reports.site import PICTURES, picture_path
from fer_cli.storage.disk import make_folder, write_whole

PICTURED = 4
"""Mistakes of a group that are pictured."""
PICTURED_CORRECT = 2
"""Correct samples that are pictured beside them."""
_SIZE = 160


def pictured(groups: list[Group]) -> Iterator[str]:
    """Names of the samples that are pictured, each once."""
    names = (
        name
        for group in groups
        for name in (*group["samples"][:PICTURED], *group["counterexamples"][:PICTURED_CORRECT])
    )
    yield from dict.fromkeys(names)


def write_group_pictures(run: RunArtifacts, groups: list[Group], folder: Path) -> None:
    """Write a picture of each sample `pictured` into the folder `pictures` in `folder`.

    Raises ResourceError where a picture cannot be drawn or written.
    """
    names = list(pictured(groups))
    if not names:
        return
    make_folder(folder / PICTURES)
    samples = {name: run.sample(name) for name in names}
    views = {name: view_of(sample, run.network.spec.input) for name, sample in samples.items()}
    pngs = {
        name: encode_slices(draw_slices(samples[name].volume[0], view, size=_SIZE))
        for name, view in views.items()
        if view is not None
    }
    scenes = {name: scene.grid_scene(scene.flat(samples[name].volume)) for name in names if name not in pngs}
    if scenes:
        with open_drawing() as drawing:
            pngs |= drawing.begin(scenes, parts=drawing.processes, sizes=dict.fromkeys(scenes, _SIZE))()
    for name, png in pngs.items():
        write_whole(picture_path(folder, name), png)
