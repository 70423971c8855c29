"""What slices through a volume of grey values need: where it lies, what every layer keeps of it, and what it sees."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

AxisFields = tuple[tuple[tuple[int, int], ...], ...]
"""For x, y and z, the half-open range of voxels that each index of a feature map sees along that axis."""


@dataclass(frozen=True)
class Slicing:
    """What a report on grey values shows beside the four volumes of a diagnosis.

    `index_to_world` maps voxel centres to mm along right, anterior and superior, None where the volume's file did not
    say where it lies; `spacing` is the edges of a voxel in mm, None if unknown. `reconstructions` are decoded from the
    sample's own features at each layer below the output, lowest first. `fields` are the receptive fields of each layer
    that has a map, without those whose fields are no grid of boxes.
    """

    spacing: tuple[float, float, float] | None = None
    index_to_world: Float[np.ndarray, "4 4"] | None = None
    reconstructions: Mapping[str, Float[np.ndarray, "channel x y z"]] = field(default_factory=dict)
    fields: Mapping[str, AxisFields] = field(default_factory=dict)


def axis_fields(fields: Int[np.ndarray, "x y z 3 2"]) -> AxisFields | None:
    """A layer's receptive fields axis by axis; None unless a range along an axis depends on the index there alone."""
    found = []
    for axis in range(3):
        ranges = np.moveaxis(fields[..., axis, :], axis, 0).reshape(fields.shape[axis], -1, 2)
        if (ranges != ranges[:, :1]).any():
            return None
        found.append(tuple((int(low), int(high)) for low, high in ranges[:, 0]))
    return tuple(found)
