"""The seam: what the project knows of a frozen classifier, whatever its architecture.

A `Backbone` taps some activations (`Level`s) of a classifier, runs it, and runs it with some of them replaced
(activation patching). Everything above this package uses the members declared here and names no architecture.
`fer_cnn` holds the paper's network as one backbone.

Features have axes (sample, filter, x, y, z); a level without a map has a 1×1×1 map. Volumes have axes
(sample, channel, x, y, z). `OUTPUT` names the class probabilities, which come after the last level.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from fer_cli.data.places import Box, Location
from fer_cli.data.volumes import InputSpec, Volumes
from fer_cli.errors import UsageError

OUTPUT = "output"
_RESERVED = (OUTPUT, "all", "softmax")
NO_PATCH: Mapping[str, Tensor] = MappingProxyType({})

Feature = Float[Tensor, "sample filter x y z"]
Features = dict[str, Tensor]
"""Feature of each level by its name, lowest level first. `OUTPUT`, where it is wanted, is last: class probabilities."""


class LocationError(UsageError):
    """A location lies outside its layer's feature map."""


def is_utf8(name: str) -> bool:
    """Whether a name can be one in a file: UTF-8 without NUL."""
    return "\0" not in name and not any("\ud800" <= letter <= "\udfff" for letter in name)


def is_level_name(name: str) -> bool:
    """Whether a level may be called so: without `/` and `:`, none of `output`, `all`, `softmax`, `nearest_…`."""
    plain = bool(name) and not set("/:") & set(name) and is_utf8(name)
    return plain and name not in (*_RESERVED, ".", "..") and not name.startswith("nearest_")


FoundBy = Literal["exact", "gradient", "noise", "whole"]
"""How receptive fields were found; see `Level`."""


@dataclass(frozen=True)
class Level:
    """One tapped activation.

    A module may be called several times in one forward pass: `call` is the number of this call, from 0. `shape` is
    (x, y, z) of the feature map. `is_cut` says whether the logits depend on the input through this level alone; with a
    skip connection around it, they do not. `signed` features may be negative. `field` says where the receptive fields
    come from: computed (`exact`), estimated from gradients (`gradient`) or by noise (`noise`), or the `whole` input.
    """

    name: str
    filters: int
    shape: Location
    call: int = 0
    is_cut: bool = True
    signed: bool = False
    field: FoundBy = "exact"

    @property
    def locations(self) -> int:
        """Number of cells of the feature map."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class NetworkSpec:
    """What is known of a network without running it: its levels in order of computation, its input, its classes.

    Names of levels become names of datasets and scores: they are unique, and `is_level_name` holds.

    Raises UsageError for other names, or without any level.
    """

    levels: tuple[Level, ...]
    input: InputSpec
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        names = [level.name for level in self.levels]
        if not names:
            raise UsageError("a network needs at least one level below its output.")
        for name in names:
            if not is_level_name(name):
                raise UsageError(f"a level cannot be called {name!r}.")
            if names.count(name) > 1:
                raise UsageError(f"two levels are called {name!r}.")

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Names of all levels from the input up, `output` last."""
        return (*(level.name for level in self.levels), OUTPUT)

    @property
    def local_layer(self) -> str:
        """Where local reconstructions start."""
        return middle_layer([(level.name, level.locations) for level in self.levels])

    @property
    def map_layers(self) -> tuple[str, ...]:
        """Names of the levels with several locations."""
        return tuple(level.name for level in self.levels if level.locations > 1)

    @property
    def upper_layers(self) -> tuple[str, ...]:
        """Names of the levels above the local layer, which are small enough to compare samples by; at least the last.

        Without `output`.
        """
        names = self.layer_names[:-1]
        return names[names.index(self.local_layer) + 1 :] or names[-1:]

    def index(self, layer: str) -> int:
        """Position of a layer, `output` included. Raises UsageError for an unknown name."""
        if layer not in self.layer_names:
            raise UsageError(f"there is no layer {layer!r}; the layers are {', '.join(self.layer_names)}.")
        return self.layer_names.index(layer)

    def level_shape(self, layer: str) -> tuple[int, int, int, int]:
        """(filter, x, y, z) of a layer's feature; of `output`, the number of classes and a single location."""
        index = self.index(layer)
        if index == len(self.levels):
            return (len(self.classes), 1, 1, 1)
        return (self.levels[index].filters, *self.levels[index].shape)

    def map_shape(self, layer: str) -> Location:
        """(x, y, z) of a layer's feature map."""
        return self.level_shape(layer)[1:]

    def locations(self, layer: str) -> int:
        """Number of locations of a layer."""
        return math.prod(self.map_shape(layer))

    def require_location(self, layer: str, location: Sequence[int]) -> None:
        """Raise LocationError if `location` is not three indices, or lies outside the feature map of `layer`."""
        shape = self.map_shape(layer)
        if len(location) != len(shape):
            raise LocationError(f"a location has three indices x, y, z; got {','.join(map(str, location))}.")
        if not all(0 <= index < length for index, length in zip(location, shape, strict=True)):
            raise LocationError(
                f"location {','.join(map(str, location))} lies outside {layer}, whose feature map is "
                f"{'×'.join(map(str, shape))} (indices from 0)."
            )


class Backbone(ABC):
    """A frozen classifier, tapped at its levels."""

    @property
    @abstractmethod
    def spec(self) -> NetworkSpec:
        """Levels, input and classes."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the weights are."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 of weights, buffers and structure, in hexadecimal digits: equal for equal functions of one design."""

    @abstractmethod
    def features(
        self, volumes: Volumes, levels: Sequence[str] | None = None, *, patch: Mapping[str, Tensor] = NO_PATCH
    ) -> Features:
        """Features of the given levels, of all levels and `OUTPUT` if None, by one forward pass; see `logits`."""

    @abstractmethod
    def logits(self, volumes: Volumes, *, patch: Mapping[str, Tensor] = NO_PATCH) -> Float[Tensor, "sample klass"]:
        """Class logits; with `patch`, those of the network whose named levels are made to hold these features.

        Gradients pass through the features. Raises UsageError for an unknown level, ValueError for a feature of another
        shape than the level's, or of another number of samples.
        """

    @abstractmethod
    def receptive_fields(self, level: str) -> Int[np.ndarray, "x y z 3 2"]:
        """Box of input voxels that each location of a level (`OUTPUT` too) can see, clipped at the border.

        The last axis is a half-open range. Source: Algorithm 1, step 2.
        """

    @abstractmethod
    def weights_of(self, level: str) -> Sequence[torch.nn.Parameter]:
        """Parameters between the level below and this one (`OUTPUT` too), in order."""

    @abstractmethod
    def linear_head(self) -> tuple[Tensor, Tensor] | None:
        """Weight and bias of the logits as a linear map of the last level's feature, flattened; None if they are not.

        The weight has axes (class, filter · x · y · z).
        """

    @property
    def takes_mixed_precision(self) -> bool:
        """Whether the network may be read in mixed precision, as in training; False where nobody knows."""
        return False

    @property
    @abstractmethod
    def below_dropout(self) -> str | None:
        """The highest level below every dropout; None for a network without dropout."""

    @abstractmethod
    def dropout(self, rate: float, generator: torch.Generator) -> AbstractContextManager[None]:
        """Within the block every dropout layer drops at this rate, even in evaluation mode, drawn by `generator`."""


def middle_layer(layers: Sequence[tuple[str, int]]) -> str:
    """Of layers by name and number of locations, the middle one with several locations, the upper of two.

    Where no layer has several locations, the middle one.
    """
    names = [name for name, locations in layers if locations > 1] or [name for name, _ in layers]
    return names[len(names) // 2]


def as_box(bounds: Int[np.ndarray, "3 2"]) -> Box:
    """One box of `Backbone.receptive_fields` as plain numbers."""
    (x0, x1), (y0, y1), (z0, z1) = bounds.tolist()
    return ((x0, x1), (y0, y1), (z0, z1))


def receptive_field(backbone: Backbone, layer: str, location: Location) -> Box:
    """Box of input voxels that `location` of `layer` can see. Raises LocationError if it is outside the map."""
    backbone.spec.require_location(layer, location)
    return as_box(backbone.receptive_fields(layer)[location])


def response_field(backbone: Backbone, layer: str, location: Location) -> list[Location]:
    """Locations of `layer` whose receptive fields share a voxel with that of `location`, itself included; ascending.

    Raises LocationError if `location` lies outside the feature map. Source: Algorithm 1, step 3.
    """
    return locations_near(backbone, layer, receptive_field(backbone, layer, location))


def locations_near(backbone: Backbone, layer: str, box: Box, *, margin: int = 0) -> list[Location]:
    """Locations of `layer` whose receptive fields meet a box grown by `margin` voxels to each side; ascending."""
    fields, bounds = backbone.receptive_fields(layer), np.array(box)
    low, high = fields[..., 0], fields[..., 1]
    near = ((low < bounds[:, 1] + margin) & (bounds[:, 0] - margin < high)).all(axis=-1)
    return [(int(x), int(y), int(z)) for x, y, z in np.argwhere(near)]
