"""Receptive fields of a stack of convolutions: pure integer geometry.

A layer's location (x, y, z) sees a box of input voxels. Dense layers have one location, (0, 0, 0), which sees
everything. Source: Algorithm 1, step 2.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from fer_cli.data.places import Location

UNIT_KERNEL = 3
"""Of both convolutions of a residual unit, which keep the map's size."""


@dataclass(frozen=True)
class LayerSpec:
    """One layer: a convolution (`kernel`, `stride`, `padding` in cells of its input) or dense (`kernel` 0).

    `units` residual units follow a convolution, at its own resolution.
    """

    name: str
    filters: int
    kernel: int = 0
    stride: int = 1
    padding: int = 0
    units: int = 0

    @property
    def is_dense(self) -> bool:
        """Whether the layer sees its whole input at its one location."""
        return self.kernel == 0

    @property
    def reach(self) -> int:
        """How many cells of its own map to each side the layer's units see."""
        return 2 * self.units * (UNIT_KERNEL // 2)

    def output_length(self, length: int) -> int:
        """Cells along one axis of the feature map for `length` cells of input; 0 where the kernel does not fit."""
        if self.is_dense:
            return 1
        return max(0, (length + 2 * self.padding - self.kernel) // self.stride + 1)


def feature_map_shape(layers: Sequence[LayerSpec], layer: int, input_shape: Location) -> Location:
    """Cells of `layer`'s feature map along x, y, z for an input of `input_shape` voxels."""
    shape = input_shape
    for spec in layers[: layer + 1]:
        shape = (spec.output_length(shape[0]), spec.output_length(shape[1]), spec.output_length(shape[2]))
    return shape


def receptive_fields(layers: Sequence[LayerSpec], layer: int, input_shape: Location) -> Int[np.ndarray, "x y z 3 2"]:
    """Box of input voxels that each location of `layer` can see, clipped at the border: half-open ranges by axis."""
    shape = feature_map_shape(layers, layer, input_shape)
    fields = np.empty((*shape, 3, 2), np.int64)
    for axis, (count, length) in enumerate(zip(shape, input_shape, strict=True)):
        ranges = np.array([_interval(layers, layer, index, length) for index in range(count)])
        fields[..., axis, :] = np.expand_dims(ranges, [other for other in range(3) if other != axis])
    return fields


def _interval(layers: Sequence[LayerSpec], layer: int, index: int, length: int) -> tuple[int, int]:
    """Input voxels along one axis, half-open, that cell `index` of `layer` sees, clipped to [0, length)."""
    lengths = [length]
    for spec in layers[: layer + 1]:
        lengths.append(spec.output_length(lengths[-1]))
    low, high = index, index + 1
    for spec, above, below in zip(
        reversed(layers[: layer + 1]), reversed(lengths[1:]), reversed(lengths[:-1]), strict=True
    ):
        if spec.is_dense:
            low, high = 0, below
        else:
            low, high = max(low - spec.reach, 0), min(high + spec.reach, above)
            low, high = (
                low * spec.stride - spec.padding,
                (high - 1) * spec.stride - spec.padding + spec.kernel,
            )
        # A padded cell holds a constant: what it would see beyond the border of its own map is nothing.
        low, high = max(low, 0), min(high, below)
    return low, high
