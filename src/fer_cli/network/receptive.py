"""Receptive and response fields of a stack of convolutions: pure integer geometry.

A layer's location (x, y, z) sees a box of input voxels; two locations of one layer that see a common
voxel lie in each other's response field. Source: Algorithm 1, steps 2 and 3. Dense layers have one
location, (0, 0, 0), that sees everything.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from fer_cli.errors import UsageError

Location = tuple[int, int, int]
Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""Half-open ranges of voxel indices, ((x0, x1), (y0, y1), (z0, z1))."""


class LocationError(UsageError):
    """A location lies outside its layer's feature map."""


@dataclass(frozen=True)
class LayerSpec:
    """One layer: a convolution (`kernel`, `stride`, `padding` in cells of its input) or dense (`kernel` 0)."""

    name: str
    filters: int
    kernel: int = 0
    stride: int = 1
    padding: int = 0

    @property
    def is_dense(self) -> bool:
        """Whether the layer sees its whole input at its one location."""
        return self.kernel == 0

    def output_length(self, length: int) -> int:
        """Cells along one axis of the feature map for `length` cells of input; 0 where the kernel does not fit."""
        if self.is_dense:
            return 1
        return max(0, (length + 2 * self.padding - self.kernel) // self.stride + 1)


def feature_map_shape(layers: Sequence[LayerSpec], layer: int, input_shape: Location) -> Location:
    """Cells of `layer`'s feature map along x, y, z for an input grid of `input_shape` voxels."""
    shape = input_shape
    for spec in layers[: layer + 1]:
        shape = (spec.output_length(shape[0]), spec.output_length(shape[1]), spec.output_length(shape[2]))
    return shape


def receptive_field(layers: Sequence[LayerSpec], layer: int, location: Location, input_shape: Location) -> Box:
    """Box of input voxels that `location` of `layer` can see, clipped at the grid's border.

    Raises LocationError if `location` lies outside the feature map.
    Source: Algorithm 1, step 2.
    """
    _check_location(layers, layer, location, input_shape)
    x, y, z = (_interval(layers, layer, location[axis], input_shape[axis]) for axis in range(3))
    return (x, y, z)


def response_field(
    layers: Sequence[LayerSpec], layer: int, location: Location, input_shape: Location
) -> list[Location]:
    """Locations of `layer` that share an input voxel with `location`.

    Locations are (x, y, z) indices of the layer's feature map, in ascending order; `location` itself
    is among them.

    Raises LocationError if `location` lies outside the feature map.
    Source: Algorithm 1, step 3.
    """
    field = receptive_field(layers, layer, location, input_shape)
    shape = feature_map_shape(layers, layer, input_shape)
    near = []
    for axis, (low, high) in enumerate(field):
        intervals = [_interval(layers, layer, index, input_shape[axis]) for index in range(shape[axis])]
        near.append([i for i, (other_low, other_high) in enumerate(intervals) if other_low < high and low < other_high])
    return list(product(near[0], near[1], near[2]))


def _interval(layers: Sequence[LayerSpec], layer: int, index: int, length: int) -> tuple[int, int]:
    """Input voxels along one axis, half-open, that cell `index` of `layer` sees, clipped to [0, length)."""
    lengths = [length]
    for spec in layers[: layer + 1]:
        lengths.append(spec.output_length(lengths[-1]))
    low, high = index, index + 1
    for spec, below in zip(reversed(layers[: layer + 1]), reversed(lengths[:-1]), strict=True):
        if spec.is_dense:
            low, high = 0, below
        else:
            low, high = (
                low * spec.stride - spec.padding,
                (high - 1) * spec.stride - spec.padding + spec.kernel,
            )
        # A padded cell holds a constant: what it would see beyond the border of its own map is nothing.
        low, high = max(low, 0), min(high, below)
    return low, high


def _check_location(layers: Sequence[LayerSpec], layer: int, location: Location, input_shape: Location) -> None:
    shape = feature_map_shape(layers, layer, input_shape)
    if not all(0 <= index < length for index, length in zip(location, shape, strict=True)):
        raise LocationError(
            f"location {','.join(map(str, location))} lies outside {layers[layer].name}, whose feature map is "
            f"{'×'.join(map(str, shape))} (indices from 0)."
        )
