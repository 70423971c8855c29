"""Contact sheet of a voxel set: small pictures of samples of each class and split, to check their pose before training.

A fixed seed chooses the samples. Shapes are drawn as in reports, grey values as slices through the middle.
"""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fer_cli.data.dataset import VoxelSet
from fer_cli.data.sample_input import Sample
from fer_cli.pictures import render
from fer_cli.pictures.scene import grid_scene
from fer_cli.pictures.slices import draw_slices, view_of

SIDE = 180
"""Pixels of a picture."""
MOST_OF_GROUP, MOST_PICTURES = 6, 360
"""Maximum number of pictures: of one class and split, and of the whole sheet."""
MOST_BYTES = 4_500_000
"""Maximum size of all pictures of a page together."""
_AT_ONCE = 60
_SPLITS = ("train", "val", "test", "unlabelled")


@dataclass(frozen=True)
class Drawn:
    """One picture of the sheet: the name of its sample, and the PNG as a data URI."""

    name: str
    uri: str


@dataclass(frozen=True)
class Group:
    """The pictures of one class and split, which holds `samples` samples."""

    klass: str | None
    split: str
    samples: int
    drawn: Sequence[Drawn]


def draw_groups(voxels: VoxelSet, *, seed: int = 0, progress: Callable[[int, int], None]) -> list[Group]:
    """Some samples of each class and split, in order; fewer of each where there are many groups.

    What would make a page larger than `MOST_BYTES` is left out, the same number of each group; groups that are too many
    even so have no picture. `progress` is told of (pictures drawn, pictures in all).

    Raises ResourceError where the machine cannot draw.
    """
    members = _members(voxels)
    of_each = min(MOST_OF_GROUP, max(1, MOST_PICTURES // max(1, len(members))))
    chosen = {
        group: np.random.default_rng([seed, number]).permutation(indices)[:of_each].tolist()
        for number, (group, indices) in enumerate(members.items())
    }
    rank = {index: place for indices in chosen.values() for place, index in enumerate(indices)}
    wanted = sorted(rank, key=lambda index: rank[index])[:MOST_PICTURES]  # the first of each group come first
    drawn: dict[int, Drawn] = {}
    for start in range(0, len(wanted), _AT_ONCE):
        part = wanted[start : start + _AT_ONCE]
        drawn |= dict(zip(part, _draw(voxels, part), strict=True))
        progress(len(drawn), len(wanted))
    kept = _fitting(drawn, wanted)
    return [
        Group(klass, split, len(indices), [drawn[i] for i in sorted(chosen[klass, split]) if i in kept])
        for (klass, split), indices in members.items()
    ]


def _members(voxels: VoxelSet) -> dict[tuple[str | None, str], list[int]]:
    """Indices of the samples by class and split; classes in order, the training samples of each first."""
    order = {split: place for place, split in enumerate(_SPLITS)}
    groups: dict[tuple[str | None, str], list[int]] = {}
    labels = voxels.labels.tolist()
    for index in sorted(range(len(voxels)), key=lambda i: (labels[i] < 0, labels[i], order[voxels.splits[i]], i)):
        klass = voxels.classes[labels[index]] if labels[index] >= 0 else None
        groups.setdefault((klass, voxels.splits[index]), []).append(index)
    return groups


def _fitting(drawn: Mapping[int, Drawn], wanted: Sequence[int]) -> set[int]:
    """The pictures that there is room for, the first ones first."""
    sizes = np.cumsum([len(drawn[index].uri) for index in wanted])
    return set(wanted[: int((sizes <= MOST_BYTES).sum())])


def _draw(voxels: VoxelSet, indices: Sequence[int]) -> list[Drawn]:
    names = [voxels.names[index] for index in indices]
    if voxels.input.kind == "occupancy":
        images = render.render_scenes([grid_scene(grid) for grid in voxels.grids(indices)], size=SIDE)
    else:
        images = [_slices(voxels, index) for index in indices]
    pictures = (base64.b64encode(render.encode_png(image)).decode() for image in images)
    return [Drawn(name, f"data:image/png;base64,{one}") for name, one in zip(names, pictures, strict=True)]


def _slices(voxels: VoxelSet, index: int) -> render.Image:
    """Slices through the middle of a volume's first channel."""
    volume, world = voxels.volumes([index])[0], voxels.index_to_world(index)
    sample = Sample(voxels.names[index], volume, None, index, world, voxels.is_placed(index))
    view = view_of(sample, voxels.input)
    if view is None:
        raise TypeError("shapes have no slices")
    return draw_slices(volume[0], view, size=SIDE)
