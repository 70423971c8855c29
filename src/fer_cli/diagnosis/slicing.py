"""What slices through a volume of grey values need beside the diagnosis: what every layer keeps of it, and sees."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

AxisFields = tuple[tuple[tuple[int, int], ...], ...]
"""For x, y and z, the half-open range of voxels that each index of a feature map sees along that axis."""


@dataclass(frozen=True)
class Slicing:
    """What a report on grey values shows beside the four volumes of a diagnosis.

    `spacing` is the edges of a voxel in mm, None if unknown. `reconstructions` are decoded from the
    sample's own features at each layer below the output, lowest first. `fields` are the receptive fields of each layer
    that has a map, without those whose fields are no grid of boxes. `prepared` says what was done to the volumes of
    files, empty if nothing or not known.
    """

    spacing: tuple[float, float, float] | None = None
    reconstructions: Mapping[str, Float[np.ndarray, "channel x y z"]] = field(default_factory=dict)
    fields: Mapping[str, AxisFields] = field(default_factory=dict)
    prepared: str = ""


def axis_fields(fields: Int[np.ndarray, "x y z 3 2"]) -> AxisFields | None:
    """A layer's receptive fields axis by axis; None unless a range along an axis depends on the index there alone."""
    found = []
    for axis in range(3):
        ranges = np.moveaxis(fields[..., axis, :], axis, 0).reshape(fields.shape[axis], -1, 2)
        if (ranges != ranges[:, :1]).any():
            return None
        found.append(tuple((int(low), int(high)) for low, high in ranges[:, 0]))
    return tuple(found)
