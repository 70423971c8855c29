"""Two architectures of others for the zoo, written again: their packages bring more than they need.

`R3D18` is torchvision's r3d_18 (Tran et al., "A Closer Look at Spatiotemporal Convolutions for Action Recognition",
CVPR 2018), without the weights of Kinetics. `GninaDense` is gnina's dense network (Francoeur et al., J. Chem. Inf. Model.
2020), with the names of its weights; between its blocks it pools by two.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional


class _Block(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, inside: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(_conv(inside, planes, stride), nn.BatchNorm3d(planes), nn.ReLU(inplace=True))
        self.conv2 = nn.Sequential(_conv(planes, planes, 1), nn.BatchNorm3d(planes))
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride > 1 or inside != planes:
            self.downsample = nn.Sequential(nn.Conv3d(inside, planes, 1, stride, bias=False), nn.BatchNorm3d(planes))

    def forward(self, x: Tensor) -> Tensor:
        """Half the sides where the stride is 2."""
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.conv2(self.conv1(x)) + shortcut)


class R3D18(nn.Module):
    """Four stages of two blocks; three channels, time first: (sample, 3, time, y, x)."""

    def __init__(self, num_classes: int = 400) -> None:
        super().__init__()
        first = nn.Conv3d(3, 64, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False)
        self.stem = nn.Sequential(first, nn.BatchNorm3d(64), nn.ReLU(inplace=True))
        widths = (64, 64, 128, 256, 512)
        for at, (inside, planes) in enumerate(pairwise(widths), 1):
            stage = nn.Sequential(_Block(inside, planes, 1 if at == 1 else 2), _Block(planes, planes, 1))
            setattr(self, f"layer{at}", stage)
        self.avgpool = nn.AdaptiveAvgPool3d(1)
        self.fc = nn.Linear(512, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (sample, klass)."""
        x = self.stem(x)
        for at in range(1, 5):
            x = getattr(self, f"layer{at}")(x)
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


class _DenseBlock(nn.Module):
    """Four convolutions, each of all that came before."""

    def __init__(self, level: int, inside: int) -> None:
        super().__init__()
        self.level = level
        for at in range(4):
            self.add_module(f"data_enc_level{level}_batchnorm_conv{at}", nn.BatchNorm3d(inside + 16 * at))
            self.add_module(f"data_enc_level{level}_conv{at}", nn.Conv3d(inside + 16 * at, 16, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """64 filters more."""
        for at in range(4):
            normed = self.get_submodule(f"data_enc_level{self.level}_batchnorm_conv{at}")(x)
            new = functional.relu(self.get_submodule(f"data_enc_level{self.level}_conv{at}")(normed))
            x = torch.cat([x, new], dim=1)
        return x


class GninaDense(nn.Module):
    """28 channels of atom densities, 48³ → class of the pose (sample, 2) and affinity (sample,)."""

    def __init__(self) -> None:
        super().__init__()
        self.data_enc_init_conv = nn.Conv3d(28, 32, 3, padding=1)
        for level, inside in enumerate((32, 96, 160)):
            self.add_module(f"dense_block_{level}", _DenseBlock(level, inside))
            if level < 2:
                self.add_module(f"data_enc_level{level}_bottleneck", nn.Conv3d(inside + 64, inside + 64, 1))
        self.affinity_output = nn.Linear(224, 1)
        self.pose_output = nn.Linear(224, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of a bad and a good pose, and the affinity."""
        x = functional.relu(self.data_enc_init_conv(functional.max_pool3d(x, 2)))
        for level in range(3):
            x = self.get_submodule(f"dense_block_{level}")(x)
            if level < 2:
                x = functional.relu(self.get_submodule(f"data_enc_level{level}_bottleneck")(x))
                x = functional.max_pool3d(x, 2)
        x = x.amax(dim=(2, 3, 4))
        return self.pose_output(x), self.affinity_output(x)[:, 0]


def _conv(inside: int, planes: int, stride: int) -> nn.Conv3d:
    return nn.Conv3d(inside, planes, 3, stride, 1, bias=False)
