"""Classifiers as somebody else would write them, for `fer attach`; this file is also given to it by its path."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Plain(nn.Module):
    """A stack of convolutions as in VoxNet: ReLUs are functions, not modules."""

    def __init__(self, classes: int = 3, channels: int = 1, pooled: int = 24) -> None:
        super().__init__()
        self.c1 = nn.Conv3d(channels, 6, 4, 2)
        self.c2 = nn.Conv3d(6, 8, 3, 2)
        self.fc = nn.Linear(pooled * 8, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.c1(x))
        return self.fc(functional.relu(self.c2(x)).flatten(1))


class Residual(nn.Module):
    """Skip connections, one in-place ReLU for all, batch norm, dropout, a pooled head; dictionaries as output."""

    def __init__(self, classes: int = 3, channels: int = 1) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv3d(channels, 6, 3, 2, 1, bias=False), nn.BatchNorm3d(6))
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool3d(3, 2, 1)
        self.conv1, self.conv2 = nn.Conv3d(6, 6, 3, padding=1), nn.Conv3d(6, 6, 3, padding=1)
        self.down = nn.Conv3d(6, 10, 2, 2)
        self.drop = nn.Dropout(0.3)
        self.fc = nn.Linear(10, classes)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.pool(self.relu(self.stem(x)))
        x = self.relu(x + self.conv2(self.relu(self.conv1(x))))
        x = self.relu(self.down(x))
        return {"scores": self.fc(self.drop(x.mean(dim=(2, 3, 4)))), "map": x}


class Dense(nn.Module):
    """Densely joined convolutions; a tuple as output, of which the first element is probabilities."""

    def __init__(self, classes: int = 3, channels: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv3d(channels, 4, 3, 2, 1)
        self.layers = nn.ModuleList(nn.Conv3d(4 + 3 * i, 3, 3, padding=1) for i in range(3))
        self.transition = nn.Sequential(nn.Conv3d(13, 6, 1), nn.AvgPool3d(2))
        self.fc = nn.Linear(6, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.first(x)
        for layer in self.layers:
            x = torch.cat([x, torch.relu(layer(torch.relu(x)))], dim=1)
        x = self.transition(x)
        return torch.softmax(self.fc(x.mean(dim=(2, 3, 4))), dim=1), x


class OneLogit(nn.Module):
    """Two classes by the logit, or the probability, of the second."""

    def __init__(self, sigmoid: bool = False, flat: bool = False) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv3d(1, 5, 4, 4), nn.Linear(5, 1)
        self.sigmoid, self.flat = sigmoid, flat

    def forward(self, x: Tensor) -> Tensor:
        z = 20 * self.fc(torch.relu(self.conv(x)).mean(dim=(2, 3, 4)))
        z = torch.sigmoid(z) if self.sigmoid else z
        return z[:, 0] if self.flat else z


class Counting(Residual):
    """Writes a buffer in every pass, also in evaluation mode, and one of another random number each time."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))
        self.register_buffer("noise", torch.rand(4))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        self.passes += 1
        self.noise.uniform_()
        return super().forward(x)


class Random(Plain):
    """Drops at random in evaluation mode too: functional.dropout does unless it is told not to."""

    def forward(self, x: Tensor) -> Tensor:
        x = functional.dropout(functional.relu(self.c1(x)))
        return self.fc(functional.relu(self.c2(x)).flatten(1))


class HidesNan(Plain):
    """Reads further than NaN shows."""

    def forward(self, x: Tensor) -> Tensor:
        x = x + functional.avg_pool3d(x, 5, 1, 2).nan_to_num()
        return super().forward(x)


class Segmenter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


def plain(classes: int = 3) -> nn.Module:
    return Plain(classes)


def needs(width: int, depth: int = 2) -> nn.Module:
    return nn.Sequential(nn.Conv3d(1, width, depth), nn.Flatten(), nn.LazyLinear(3))


def lazy() -> nn.Module:
    return needs(2)


def text() -> str:
    return "no module"


def prepare(path: Any) -> Any:
    """A transform: the volume of a text file of numbers."""
    import numpy as np

    return np.loadtxt(path).reshape(12, 8, 16)


def scaled(module: nn.Module, by: float = 3.0) -> nn.Module:
    """The module with larger weights, so that untrained logits of two volumes differ."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(by)
    return module.eval()


def state_of(module: nn.Module) -> Mapping[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}
