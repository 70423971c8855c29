"""Networks with random weights, and volumes for them."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fer_cli.data.dataset import Indices, VolumeSet
from fer_cli.data.volumes import InputSpec
from fer_cli.network.backbone import NO_PATCH, OUTPUT, Backbone, Features, Level, NetworkSpec
from fer_cli.network.explained import ExplainedNetwork
from fer_cli.network.feedback import FeedbackNetwork, steps_from_shapes
from fer_cli.network.fer_cnn import PRESETS, NetworkConfig, build

CLASSES = ("bed", "chair", "sofa")


def cube(side: int) -> InputSpec:
    return InputSpec(1, (side, side, side))


SMOKE = NetworkConfig.to_train(PRESETS["smoke"], CLASSES, cube(32))


def network(config: NetworkConfig = SMOKE, seed: int = 0) -> ExplainedNetwork:
    torch.manual_seed(seed)
    built = build(config)
    with torch.no_grad():
        # Statistics that are not those of a fresh batch norm, and let signals through all levels.
        for name, tensor in built.state_dict().items():
            if name.endswith("running_mean"):
                tensor.uniform_(-0.5, 0.1)
            if name.endswith("running_var"):
                tensor.uniform_(0.02, 0.1)
    return built.eval()


def grids(config: NetworkConfig = SMOKE, seed: int = 1, count: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(count, *config.input.volume, generator=generator) < 0.2).float()


class ArrayVolumes(VolumeSet):
    """Volumes in an array, for what needs no artifact."""

    def __init__(
        self,
        array: Float[np.ndarray, "sample channel x y z"],
        labels: Int[np.ndarray, " sample"],
        splits: list[str],
        classes: tuple[str, ...],
        read: InputSpec,
    ) -> None:
        super().__init__([f"volume_{i:03}" for i in range(len(array))], labels, splits, classes, read)
        object.__setattr__(self, "array", array)

    @property
    def id(self) -> str:
        return "array"

    @property
    def source(self) -> Path:
        return Path("array")

    def volumes(self, indices: Indices) -> Float[np.ndarray, "chosen channel x y z"]:
        return self.array[np.asarray(indices, dtype=np.int64)]

    def repeats_training(self, indices: Int[np.ndarray, " chosen"]) -> Bool[np.ndarray, " chosen"]:
        return np.zeros(len(indices), dtype=bool)


class Residual(torch.nn.Module, Backbone):
    """A small residual classifier that is no stack of layers: signed features, a skip, no dropout, no linear head.

    Levels `stem.norm` (signed), `stage` and `pool`; every one a cut.
    """

    def __init__(self, read: InputSpec, classes: tuple[str, ...], seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.stem = torch.nn.Sequential(
                torch.nn.Conv3d(read.channels, 6, 3, 2, 1), torch.nn.GroupNorm(1, 6), torch.nn.Identity()
            )
            self.block = torch.nn.Conv3d(6, 6, 3, padding=1)
            self.down = torch.nn.Conv3d(6, 10, 2, 2)
            self.head = torch.nn.Sequential(torch.nn.Linear(10, 12), torch.nn.Tanh(), torch.nn.Linear(12, len(classes)))
        halves, quarters = (tuple(side // step for side in read.shape) for step in (2, 4))
        self._spec = NetworkSpec(
            (
                Level("stem.norm", 6, halves, signed=True, field="whole"),
                Level("stage", 10, quarters, field="whole"),
                Level("pool", 10, (1, 1, 1), field="whole"),
            ),
            read,
            classes,
        )
        self.eval()

    @property
    def spec(self) -> NetworkSpec:
        return self._spec

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def fingerprint(self) -> str:
        return "residual"

    def _run(self, volumes: Tensor, patch: Mapping[str, Tensor]) -> Features:
        found: Features = {}

        def hold(name: str, feature: Tensor) -> Tensor:
            found[name] = patch.get(name, feature)
            return found[name]

        feature = hold("stem.norm", self.stem(volumes))
        feature = hold("stage", torch.relu(self.down(feature + torch.relu(self.block(feature)))))
        feature = hold("pool", feature.mean(dim=(2, 3, 4), keepdim=True))
        found["logits"] = self.head(feature.flatten(1))
        return found

    def features(
        self, volumes: Tensor, levels: Sequence[str] | None = None, *, patch: Mapping[str, Tensor] = NO_PATCH
    ) -> Features:
        found = self._run(volumes, patch)
        found[OUTPUT] = torch.softmax(found.pop("logits"), 1)[:, :, None, None, None]
        return {name: found[name] for name in self.spec.layer_names if levels is None or name in levels}

    def logits(self, volumes: Tensor, *, patch: Mapping[str, Tensor] = NO_PATCH) -> Tensor:
        return self._run(volumes, patch)["logits"]

    def receptive_fields(self, level: str) -> Int[np.ndarray, "x y z 3 2"]:
        """Everything: group norm looks at the whole volume."""
        fields = np.zeros((*self.spec.map_shape(level), 3, 2), np.int64)
        fields[..., 1] = self.spec.input.shape
        return fields

    def weights_of(self, level: str) -> list[torch.nn.Parameter]:
        parts = {"stem.norm": [self.stem], "stage": [self.block, self.down], "pool": [], OUTPUT: [self.head]}
        return [parameter for part in parts[level] for parameter in part.parameters()]

    def linear_head(self) -> None:
        return None

    @property
    def below_dropout(self) -> None:
        return None

    def dropout(self, rate: float, generator: torch.Generator) -> AbstractContextManager[None]:
        raise NotImplementedError


def explained(backbone: Residual, seed: int = 0) -> ExplainedNetwork:
    """A backbone with a fresh feedback network made from its shapes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        feedback = FeedbackNetwork(steps_from_shapes(backbone.spec))
    fresh = lambda: explained(Residual(backbone.spec.input, backbone.spec.classes, seed=9), seed=9)  # noqa: E731
    return ExplainedNetwork(backbone, feedback, fresh).eval()
