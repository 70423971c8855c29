"""FER-CNN, the paper's network, as a backbone: presets, configuration, classifier, and feedback network.

Read it top to bottom. Both networks are built from a list of layer specifications; no constant of FER-CNN's appears
outside `PRESETS`. The feedback network mirrors the classifier's kernels, the special case of what `feedback` makes from
shapes. The way to and from an artifact is `weights`. Source: section 2 and Fig. 1 of the paper.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from fer_cli.data.volumes import InputSpec, Volumes
from fer_cli.errors import UsageError
from fer_cli.execution.world import SharedDropout
from fer_cli.network.backbone import NO_PATCH, OUTPUT, Backbone, Features, Level, NetworkSpec
from fer_cli.network.blocks import ConvBlock, DenseBlock, Head, TransposedLayer
from fer_cli.network.explained import ExplainedNetwork
from fer_cli.network.feedback import FeedbackNetwork
from fer_cli.network.receptive import LayerSpec, feature_map_shape, receptive_fields

_CONVOLUTIONS = ((6, 2, 2), (5, 2, 2), (4, 2, 1), (3, 2, 1), (2, 2, 0))
_MOST_HEAD_FILTERS = 32
"""Of a new network; measured, `docs/adr/0021`."""
_MOST_UNITS = 64
"""Of one layer; a damaged file must not ask for millions."""
_WIDTHS = {
    "paper": (64, 196, 512, 1024, 2048, 1500, 500),
    "compact": (16, 49, 128, 256, 512, 375, 125),
    "smoke": (8, 16, 32, 48, 64, 48, 32),
}


def fer_cnn_layers(widths: Sequence[int]) -> tuple[LayerSpec, ...]:
    """FER-CNN's five convolutions and two dense layers, with the given numbers of filters."""
    convolutions = [
        LayerSpec(f"conv{i}", width, kernel, stride, padding)
        for i, (width, (kernel, stride, padding)) in enumerate(zip(widths, _CONVOLUTIONS, strict=False), start=1)
    ]
    return (*convolutions, LayerSpec("fc6", widths[5]), LayerSpec("fc7", widths[6]))


_RESIDUAL = (
    LayerSpec("conv1", 16, 6, 4, 1, units=1),
    LayerSpec("conv2", 32, 4, 2, 1, units=1),
    LayerSpec("conv3", 64, 3, 2, 1, units=1),
    LayerSpec("conv4", 128, 2, 2),
)
"""Not of the paper: a sixth of compact's operations (`docs/adr/0032`)."""
PRESETS = {**{name: fer_cnn_layers(widths) for name, widths in _WIDTHS.items()}, "residual": _RESIDUAL}


@dataclass(frozen=True)
class NetworkConfig:
    """What FER-CNN is built from: its layers below the output, its classes, and its input.

    `head_filters` are the hidden ones of the feedback network's last step; with 0 that step is linear.
    """

    layers: tuple[LayerSpec, ...]
    classes: tuple[str, ...]
    input: InputSpec
    head_filters: int = 0

    def __post_init__(self) -> None:
        if self.head_filters < 0:
            raise UsageError(f"the feedback network's head cannot have {self.head_filters} hidden filters.")
        for index, spec in enumerate(self.layers):
            if not spec.is_dense and not 1 <= spec.stride <= spec.kernel:
                raise UsageError(f"{spec.name} has kernel {spec.kernel} and stride {spec.stride}: it skips voxels.")
            if not 0 <= spec.units <= (0 if spec.is_dense else _MOST_UNITS):
                raise UsageError(f"{spec.name} cannot have {spec.units} residual units.")
            if min(feature_map_shape(self.layers, index, self.input.shape)) < 1:
                raise UsageError(f"the network is too deep for volumes of {self.input}: {spec.name} has no location.")

    @classmethod
    def to_train(cls, layers: tuple[LayerSpec, ...], classes: tuple[str, ...], read: InputSpec) -> "NetworkConfig":
        """A new network of these layers, with a head of twice as many hidden filters as the lowest has, up to 32.

        Where volumes are too small to be reduced so often, some layers keep the resolution (`unreduced`).
        """
        return cls(unreduced(layers, read), classes, read, min(2 * layers[0].filters, _MOST_HEAD_FILTERS))

    @property
    def spec(self) -> NetworkSpec:
        """The levels that the network is tapped at: every layer."""
        levels = [
            Level(
                spec.name,
                spec.filters,
                feature_map_shape(self.layers, index, self.input.shape),
                field="whole" if spec.is_dense else "exact",
            )
            for index, spec in enumerate(self.layers)
        ]
        return NetworkSpec(tuple(levels), self.input, self.classes)

    @property
    def layers_and_output(self) -> tuple[LayerSpec, ...]:
        """The layers with the dense output layer last."""
        return (*self.layers, LayerSpec(OUTPUT, len(self.classes)))

    @property
    def _reads_plain_cubes(self) -> bool:
        return self.input.is_cube and self.input == InputSpec(1, self.input.shape)

    def to_json(self) -> dict[str, object]:
        """The configuration as plain JSON values."""
        return {
            # Layers without units keep the keys that they always had.
            "layers": [{k: v for k, v in asdict(spec).items() if k != "units" or v} for spec in self.layers],
            "classes": list(self.classes),
            # Cubes of occupancy keep the key that they always had.
            **({"resolution": self.input.shape[0]} if self._reads_plain_cubes else {"input": self.input.to_json()}),
            "head_filters": self.head_filters,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "NetworkConfig":
        """The configuration from JSON values. Raises KeyError, TypeError or ValueError where they do not fit."""
        if "resolution" in value and "input" in value:
            raise ValueError("both 'resolution' and 'input' are given")
        if "resolution" in value:
            side = int(value["resolution"])
            read = InputSpec(1, (side, side, side))
        else:
            read = InputSpec.from_json(value["input"])
        return cls(
            layers=tuple(LayerSpec(**spec) for spec in value["layers"]),
            classes=tuple(value["classes"]),
            input=read,
            head_filters=int(value.get("head_filters", 0)),  # models made before there were any lack it
        )


def require_resolution(layers: Sequence[LayerSpec], read: InputSpec) -> None:
    """Raise UsageError for grids of shapes that the strides do not divide; another resolution is easily had."""
    reduction = math.prod(spec.stride for spec in layers if not spec.is_dense)
    if any(side % reduction for side in read.shape):
        nearest = max(1, round(read.shape[0] / reduction)) * reduction
        raise UsageError(
            f"the network needs a resolution that is a multiple of {reduction}, but the voxels are {read}. "
            f"Run 'fer voxelize --resolution {nearest}'."
        )


def unreduced(layers: Sequence[LayerSpec], read: InputSpec) -> tuple[LayerSpec, ...]:
    """The layers, of which as few as possible get stride 1, so that each has a location at least.

    The second lowest convolution first, then those above it, the lowest last: its map costs eight times as much at the
    volume's own resolution. An even kernel becomes the next smaller odd one, with the padding that keeps the size.
    Raises UsageError for volumes that are too small even so.
    """
    convolutions = [index for index, spec in enumerate(layers) if not spec.is_dense]
    order = [*convolutions[1:], *convolutions[:1]]
    for count in range(len(order) + 1):
        fitted = [
            replace(spec, kernel=odd, stride=1, padding=odd // 2)
            if index in order[:count] and (odd := spec.kernel - 1 + spec.kernel % 2)
            else spec
            for index, spec in enumerate(layers)
        ]
        if all(min(feature_map_shape(fitted, index, read.shape)) >= 1 for index in range(len(fitted))):
            return tuple(fitted)
    raise UsageError(f"volumes of {read} are too small for the network.")


def build(config: NetworkConfig, *, dropout: float = 0.0) -> ExplainedNetwork:
    """The classifier and its mirrored feedback network, with the weights that training starts from."""
    return explain_classifier(FERCNN(config, dropout=dropout))


def explain_classifier(classifier: "FERCNN", *, alone: bool = False) -> ExplainedNetwork:
    """A classifier with a fresh mirrored feedback network, or `alone`, without any."""
    config, dropout = classifier.config, classifier.dropout_rate
    if alone:
        return ExplainedNetwork(classifier, None, lambda: build(config, dropout=dropout))
    lowest = config.layers[0]
    # The hidden filters of the head read one cell to each side, which is a stride of voxels.
    overreach = lowest.stride if config.head_filters and not lowest.is_dense else 0
    feedback = FeedbackNetwork(mirrored_steps(config), overreach=overreach)
    return ExplainedNetwork(classifier, feedback, lambda: build(config, dropout=dropout))


class FERCNN(nn.Module, Backbone):
    """The feedforward network, a classifier of volumes.

    Conv3d → batch norm → ReLU for a convolution; dense → ReLU for a dense layer; dense for the output.
    """

    def __init__(self, config: NetworkConfig, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self._spec = config.spec
        self.dropout_rate = dropout
        self.blocks = nn.ModuleDict()
        below: tuple[int, ...] = config.input.volume
        for spec in config.layers:
            above = self._spec.level_shape(spec.name)
            self.blocks[spec.name] = (
                DenseBlock(below, spec, dropout) if spec.is_dense else ConvBlock(below[0], spec, above[1:])
            )
            below = above
        self.blocks[OUTPUT] = nn.Sequential(
            nn.Flatten(), SharedDropout(dropout), nn.Linear(int(np.prod(below)), len(config.classes))
        )
        # Filters innermost: what a CPU's bfloat16 convolutions and `patches` read fastest.
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    @property
    def spec(self) -> NetworkSpec:
        """Levels, input and classes."""
        return self._spec

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the configuration, the weights and the batch-norm statistics."""
        digest = hashlib.sha256(json.dumps(self.config.to_json(), sort_keys=True).encode())
        for name, tensor in self.state_dict().items():
            if not name.endswith("num_batches_tracked"):  # which no artifact keeps, and no result depends on
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def forward(self, volumes: Volumes) -> Float[Tensor, "sample klass"]:
        """Class logits."""
        return self.logits(volumes)

    def features(
        self, volumes: Volumes, levels: Sequence[str] | None = None, *, patch: Mapping[str, Tensor] = NO_PATCH
    ) -> Features:
        """See `Backbone.features`; nothing is computed above the highest level asked for, or below the patch."""
        wanted = self.spec.layer_names if levels is None else tuple(levels)
        features = {name: feature for name, feature in self._run(volumes, wanted, patch) if name in wanted}
        if OUTPUT in features:
            features[OUTPUT] = functional.softmax(features[OUTPUT].float(), dim=1)[:, :, None, None, None]
        return features

    def logits(self, volumes: Volumes, *, patch: Mapping[str, Tensor] = NO_PATCH) -> Float[Tensor, "sample klass"]:
        """See `Backbone.logits`; every level is a cut, so nothing below the highest patched level is computed."""
        *_, (_, logits) = self._run(volumes, (OUTPUT,), patch)
        return logits

    def _run(
        self, volumes: Volumes, wanted: Sequence[str], patch: Mapping[str, Tensor]
    ) -> Iterator[tuple[str, Tensor]]:
        """Features from the highest patched level that is not above a wanted one, or from the input; logits last."""
        if OUTPUT in patch:
            raise ValueError(f"{OUTPUT} is no level that can be patched")
        for level, feature in patch.items():
            shape = (len(volumes), *self.spec.level_shape(level))
            if tuple(feature.shape) != shape:
                raise ValueError(f"{level} holds features of shape {shape}, not {tuple(feature.shape)}")
        if not wanted:
            return
        positions = [self.spec.index(level) for level in wanted]
        start = max((at for level in patch if (at := self.spec.index(level)) <= min(positions)), default=0)
        feature = volumes
        for name in self.spec.layer_names[start : max(positions) + 1]:
            feature = patch[name] if name in patch else self.blocks[name](feature)
            yield name, feature

    def receptive_fields(self, level: str) -> Int[np.ndarray, "x y z 3 2"]:
        """See `Backbone.receptive_fields`; integer arithmetic from kernels, strides and paddings."""
        return receptive_fields(self.config.layers_and_output, self.spec.index(level), self.config.input.shape)

    def weights_of(self, level: str) -> list[nn.Parameter]:
        """See `Backbone.weights_of`."""
        return list(self.blocks[level].parameters())

    def linear_head(self) -> tuple[Tensor, Tensor]:
        """See `Backbone.linear_head`."""
        weight, bias = self.blocks[OUTPUT].parameters()
        return weight, bias

    @property
    def takes_mixed_precision(self) -> bool:
        """True: it is trained so where the hardware has it, see `phases.FeedforwardPhase`."""
        return True

    @property
    def below_dropout(self) -> str | None:
        """The last convolution: dropout lies before each dense layer."""
        convolutions = [spec.name for spec in self.config.layers if not spec.is_dense]
        return convolutions[-1] if convolutions else None

    @contextmanager
    def dropout(self, rate: float, generator: torch.Generator) -> Iterator[None]:
        """See `Backbone.dropout`."""

        def drop(_: nn.Module, inputs: tuple[Tensor, ...], __: Tensor) -> Tensor:
            [value] = inputs
            kept = torch.rand(value.shape, generator=generator) >= rate
            return value * kept.to(value) / (1 - rate)

        hooks = [module.register_forward_hook(drop) for module in self.modules() if isinstance(module, SharedDropout)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def mirrored_steps(config: NetworkConfig) -> dict[str, nn.Module]:
    """The steps of the feedback network, each the mirror of a layer, from the output down."""
    return {
        spec.name: _feedback_step(config, index) for index, spec in reversed(list(enumerate(config.layers_and_output)))
    }


def _feedback_step(config: NetworkConfig, index: int) -> nn.Module:
    """One step of the feedback network: the mirror of the classifier's layer `index`."""
    spec = config.layers_and_output[index]
    above = config.spec.level_shape(spec.name)
    if index == 0:
        voxels = config.input.volume
        if spec.is_dense or not config.head_filters:
            return TransposedLayer(spec, above, voxels, head=True)
        return Head(spec, above, voxels, config.head_filters)
    below = config.layers[index - 1]
    step = TransposedLayer(spec, above, config.spec.level_shape(below.name), head=False)
    # As in the classifier: batch norm at convolutions, none at dense layers.
    return (
        nn.Sequential(step, nn.ReLU())
        if below.is_dense
        else nn.Sequential(step, nn.BatchNorm3d(below.filters), nn.ReLU())
    )
