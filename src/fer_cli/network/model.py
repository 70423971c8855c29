"""The whole network: the feedforward encoder, and the feedback network that mirrors it.

Read it top to bottom: presets, configuration, `Encoder`, `FeedbackNetwork`, `FERNet`. The way to and
from an artifact is `weights`. Both networks are built from a list of layer specifications; no constant of
FER-CNN's appears outside `PRESETS`. Source: section 2 and Fig. 1 of the paper.

Every feature has axes (sample, filter, x, y, z); dense layers have a 1×1×1 map. The level `output` holds
the class probabilities.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from fer_cli.errors import UsageError
from fer_cli.execution.world import SharedDropout
from fer_cli.network.patches import PatchConv3d, PatchConvTranspose3d
from fer_cli.network.receptive import LayerSpec, Location, feature_map_shape
from fer_cli.network.subpixel import SubpixelTransposedConv3d

OUTPUT = "output"
LOCAL_LAYER = "conv3"
"""Where local reconstructions start unless asked otherwise, in a network that has it."""
_CONVOLUTIONS = ((6, 2, 2), (5, 2, 2), (4, 2, 1), (3, 2, 1), (2, 2, 0))
_MOST_HEAD_FILTERS = 32
"""Of a new network; measured, `docs/adr/0021`."""
_FEW_LOCATIONS = 8
"""Up to so many locations of the smaller map a convolution is computed by patches; measured, `docs/adr/0009`."""
_WIDTHS = {
    "paper": (64, 196, 512, 1024, 2048, 1500, 500),
    "compact": (16, 49, 128, 256, 512, 375, 125),
    "smoke": (8, 16, 32, 48, 64, 48, 32),
}

Feature = Float[Tensor, "sample filter x y z"]
Features = dict[str, Tensor]
Edit = Callable[[str, Tensor], Tensor]


def fer_cnn_layers(widths: Sequence[int]) -> tuple[LayerSpec, ...]:
    """FER-CNN's five convolutions and two dense layers, with the given numbers of filters."""
    convolutions = [
        LayerSpec(f"conv{i}", width, kernel, stride, padding)
        for i, (width, (kernel, stride, padding)) in enumerate(zip(widths, _CONVOLUTIONS, strict=False), start=1)
    ]
    return (*convolutions, LayerSpec("fc6", widths[5]), LayerSpec("fc7", widths[6]))


PRESETS = {name: fer_cnn_layers(widths) for name, widths in _WIDTHS.items()}


@dataclass(frozen=True)
class NetworkConfig:
    """What a network is built from: its layers below the output, its classes, and its input's side in voxels.

    `head_filters` are the hidden ones of the feedback network's last step; with 0 that step is linear.
    """

    layers: tuple[LayerSpec, ...]
    classes: tuple[str, ...]
    resolution: int
    head_filters: int = 0

    def __post_init__(self) -> None:
        if self.head_filters < 0:
            raise UsageError(f"the feedback network's head cannot have {self.head_filters} hidden filters.")
        reduction = math.prod(spec.stride for spec in self.layers if not spec.is_dense)
        if self.resolution < 1 or self.resolution % reduction:
            raise UsageError(
                f"the network needs a resolution that is a multiple of {reduction}, but the voxels are "
                f"{self.resolution}³. Run 'fer voxelize --resolution {self._nearest_multiple(reduction)}'."
            )

    def _nearest_multiple(self, step: int) -> int:
        return max(1, round(self.resolution / step)) * step

    @classmethod
    def to_train(cls, layers: tuple[LayerSpec, ...], classes: tuple[str, ...], resolution: int) -> "NetworkConfig":
        """A new network of these layers, with a head of twice as many hidden filters as the lowest has, up to 32."""
        return cls(layers, classes, resolution, min(2 * layers[0].filters, _MOST_HEAD_FILTERS))

    @property
    def input_shape(self) -> Location:
        """Voxels along x, y, z."""
        return (self.resolution, self.resolution, self.resolution)

    @property
    def layer_names(self) -> tuple[str, ...]:
        """All levels from the input up, `output` last."""
        return (*(spec.name for spec in self.layers), OUTPUT)

    @property
    def local_layer(self) -> str:
        """Where local reconstructions start: conv3, or the middle layer of a network without one."""
        names = self.layer_names[:-1]
        return LOCAL_LAYER if LOCAL_LAYER in names else names[len(names) // 2]

    def index(self, layer: str) -> int:
        """Position of a layer, `output` included. Raises UsageError for a name that is not there."""
        if layer not in self.layer_names:
            raise UsageError(f"there is no layer {layer!r}; the layers are {', '.join(self.layer_names)}.")
        return self.layer_names.index(layer)

    @property
    def specs(self) -> tuple[LayerSpec, ...]:
        """The layers with the dense output layer last."""
        return (*self.layers, LayerSpec(OUTPUT, len(self.classes)))

    def level_shape(self, layer: str) -> tuple[int, int, int, int]:
        """(filter, x, y, z) of a layer's feature."""
        index = self.index(layer)
        return (self.specs[index].filters, *feature_map_shape(self.specs, index, self.input_shape))

    def to_json(self) -> dict[str, Any]:
        """The configuration as plain JSON values."""
        return {
            "layers": [asdict(spec) for spec in self.layers],
            "classes": list(self.classes),
            "resolution": self.resolution,
            "head_filters": self.head_filters,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "NetworkConfig":
        """The configuration from JSON values. Raises KeyError, TypeError or ValueError where they do not fit."""
        return cls(
            layers=tuple(LayerSpec(**spec) for spec in value["layers"]),
            classes=tuple(value["classes"]),
            resolution=int(value["resolution"]),
            head_filters=int(value.get("head_filters", 0)),  # models made before there were any lack it
        )


class Encoder(nn.Module):
    """The feedforward network, a classifier of occupancy grids.

    Conv3d → batch norm → ReLU for a convolution; dense → ReLU for a dense layer; dense for the output.
    """

    def __init__(self, config: NetworkConfig, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleDict()
        below: tuple[int, ...] = (1, *config.input_shape)
        for spec in config.layers:
            above = config.level_shape(spec.name)
            self.blocks[spec.name] = (
                _DenseBlock(below, spec, dropout) if spec.is_dense else _ConvBlock(below[0], spec, above[1:])
            )
            below = above
        self.blocks[OUTPUT] = nn.Sequential(
            nn.Flatten(), SharedDropout(dropout), nn.Linear(int(np.prod(below)), len(config.classes))
        )

    def forward(self, occupancy: Float[Tensor, "sample 1 x y z"]) -> Float[Tensor, "sample klass"]:
        """Class logits of occupancy grids."""
        feature = occupancy
        for block in self.blocks.values():
            feature = block(feature)
        return feature

    def features(self, occupancy: Float[Tensor, "sample 1 x y z"]) -> Features:
        """Feature of every level, from the first layer to `output` (class probabilities)."""
        features: Features = {}
        feature = occupancy
        for name, block in self.blocks.items():
            feature = block(feature)
            features[name] = feature
        features[OUTPUT] = functional.softmax(feature.float(), dim=1)[:, :, None, None, None]
        return features

    def logits_from(self, layer: str, feature: Feature) -> Float[Tensor, "sample klass"]:
        """Class logits when `layer` is made to hold `feature`: the rest of the network above it."""
        names = list(self.blocks)
        for name in names[names.index(layer) + 1 :]:
            feature = self.blocks[name](feature)
        return feature


class _ConvBlock(nn.Sequential):
    def __init__(self, filters_below: int, spec: LayerSpec, sides: Sequence[int]) -> None:
        kind = PatchConv3d if np.prod(sides) <= _FEW_LOCATIONS else nn.Conv3d
        super().__init__(
            kind(filters_below, spec.filters, spec.kernel, spec.stride, spec.padding, bias=False),
            nn.BatchNorm3d(spec.filters),
            nn.ReLU(),
        )


class _DenseBlock(nn.Sequential):
    def __init__(self, below: tuple[int, ...], spec: LayerSpec, dropout: float) -> None:
        super().__init__(
            nn.Flatten(),
            SharedDropout(dropout),
            nn.Linear(int(np.prod(below)), spec.filters),
            nn.ReLU(),
            nn.Unflatten(1, (spec.filters, 1, 1, 1)),
        )


@dataclass(frozen=True)
class Decoding:
    """What a decode returns: the feedback feature of every level below the entry, and occupancy logits."""

    features: Features
    logits: Float[Tensor, "sample 1 x y z"]

    @property
    def occupancy(self) -> Float[Tensor, "sample x y z"]:
        """Reconstructed occupancy probabilities."""
        return torch.sigmoid(self.logits.float())[:, 0]


class FeedbackNetwork(nn.Module):
    """Mirrors an encoder level by level, from the class probabilities down to occupancy logits.

    It can be entered at any level. Encoder features may be added at levels below the entry (Fig. 1's skip
    connections); a gate is open exactly where such a feature is given.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.steps = nn.ModuleDict()
        for index, spec in reversed(list(enumerate(config.specs))):
            self.steps[spec.name] = _feedback_step(config, index)

    def forward(
        self,
        code: Feature,
        entry: str,
        *,
        skips: Mapping[str, Tensor] | None = None,
        edit: Edit | None = None,
    ) -> Decoding:
        """Decode from the feature `code` of level `entry` down to occupancy.

        `skips` maps levels below the entry to encoder features to add there; every other gate is shut, and
        with none given the result depends on `code` alone. `edit(level, feature)` may replace the feature of
        the entry and of each level below it before the next step sees it; the features returned are those
        before a skip is added and after the edit.
        """
        skips = skips or {}
        features: Features = {}
        names = list(self.steps)
        start = names.index(entry)
        feature = code if edit is None else edit(entry, code)
        for name, below in zip(names[start:], [*names[start + 1 :], None], strict=True):
            feature = self.steps[name](feature)
            if below is None:
                break
            if edit is not None:
                feature = edit(below, feature)
            features[below] = feature
            if below in skips:
                feature = feature + skips[below]
        return Decoding(features, feature)

    decode = forward

    def occupancies(self, codes: Features) -> Features:
        """Occupancy probabilities (sample, x, y, z) decoded from each of several levels, every gate shut.

        What `decode` gives level by level, but each step is taken once for all that has entered above it.
        """
        entered: list[str] = []
        counts: list[int] = []
        feature: Tensor | None = None
        for name, step in self.steps.items():
            if name in codes:
                entered.append(name)
                counts.append(len(codes[name]))
                feature = codes[name] if feature is None else torch.cat([feature, codes[name]])
            if feature is not None:
                feature = step(feature)
        parts = () if feature is None else torch.sigmoid(feature.float())[:, 0].split(counts)
        return dict(zip(entered, parts, strict=True))


def _feedback_step(config: NetworkConfig, index: int) -> nn.Module:
    """One level of the feedback network: the mirror of the encoder's layer `index`."""
    spec = config.specs[index]
    above = config.level_shape(spec.name)
    if index == 0:
        voxels = (1, *config.input_shape)
        if spec.is_dense or not config.head_filters:
            return _TransposedLayer(spec, above, voxels, head=True)
        return _Head(spec, above, voxels, config.head_filters)
    below = config.specs[index - 1]
    step = _TransposedLayer(spec, above, config.level_shape(below.name), head=False)
    # As in the encoder: batch norm at convolutions, none at dense layers.
    return (
        nn.Sequential(step, nn.ReLU())
        if below.is_dense
        else nn.Sequential(step, nn.BatchNorm3d(below.filters), nn.ReLU())
    )


class _TransposedLayer(nn.Module):
    """Maps the feature of one level to the shape of the level below it."""

    def __init__(self, spec: LayerSpec, above: tuple[int, ...], below: tuple[int, ...], *, head: bool) -> None:
        super().__init__()
        self.layer: nn.Module
        if spec.is_dense:
            self.layer = nn.Sequential(nn.Flatten(), nn.Linear(above[0], int(np.prod(below))), nn.Unflatten(1, below))
            return
        # What the encoder's strided convolution rounded away has to be given back.
        remainder = below[1] - ((above[1] - 1) * spec.stride - 2 * spec.padding + spec.kernel)
        scales = spec.kernel - 2 * spec.padding + remainder == spec.stride
        kind: type[nn.ConvTranspose3d] = nn.ConvTranspose3d
        if head and scales:
            kind = SubpixelTransposedConv3d
        elif np.prod(above[1:]) <= _FEW_LOCATIONS:
            kind = PatchConvTranspose3d
        self.layer = kind(above[0], below[0], spec.kernel, spec.stride, spec.padding, remainder, bias=head)

    def forward(self, feature: Tensor) -> Tensor:
        result: Tensor = self.layer(feature)
        return result


class _Head(nn.Module):
    """The last step: the mirror of the lowest convolution, and what hidden filters on that convolution's map add to it.

    A linear map cannot give back what a ReLU has cut off; hidden filters see it in the neighbourhood. The addition is
    nothing before training.
    """

    def __init__(self, spec: LayerSpec, above: tuple[int, ...], below: tuple[int, ...], filters: int) -> None:
        super().__init__()
        self.mirror = _TransposedLayer(spec, above, below, head=True)
        self.hidden = nn.Sequential(
            nn.Conv3d(above[0], filters, 3, padding=1, bias=False), nn.BatchNorm3d(filters), nn.ReLU()
        )
        self.addition = _TransposedLayer(spec, (filters, *above[1:]), below, head=True)
        for parameter in self.addition.parameters():
            nn.init.zeros_(parameter)

    def forward(self, feature: Tensor) -> Tensor:
        result: Tensor = self.mirror(feature) + self.addition(self.hidden(feature))
        return result


class FERNet(nn.Module):
    """A frozen encoder and the feedback network that explains it."""

    def __init__(self, config: NetworkConfig, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config, dropout=dropout)
        self.feedback = FeedbackNetwork(config)
        # Filters innermost: what a CPU's bfloat16 convolutions and `patches` read fastest.
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def decode(
        self,
        code: Feature,
        entry: str,
        *,
        skips: Mapping[str, Tensor] | None = None,
        edit: Edit | None = None,
    ) -> Decoding:
        """See `FeedbackNetwork.decode`."""
        return self.feedback.decode(code, entry, skips=skips, edit=edit)


def voxel_iou(
    occupancy: Float[Tensor, "sample x y z"], truth: Float[Tensor, "sample x y z"]
) -> Float[Tensor, " sample"]:
    """Intersection over union of the voxels at probability 0.5 or more with the true ones; 1 where both are empty."""
    found, wanted = occupancy >= 0.5, truth >= 0.5
    union = (found | wanted).flatten(1).sum(1)
    return torch.where(union > 0, (found & wanted).flatten(1).sum(1) / union.clamp(min=1), 1.0)
