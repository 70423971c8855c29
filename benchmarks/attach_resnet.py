"""Train MONAI's ResNet of quarter width on a run's voxels: the classifier of somebody else that `fer attach` is tried on.

Run: .venv/bin/python benchmarks/attach_resnet.py RUN/voxels.h5 resnet.pt [--epochs 8] [--seed 0] [--augment shift=2,mirror=xy]
Then: fer attach benchmarks/attach_resnet.py:build --weights resnet.pt --run RUN [--kwargs '{"classes": 2}']

Needs monai (pip install -c constraints.txt monai==1.6.0). Widths 16, 32, 64, 128, a stem of 5³ with stride 2. AdamW,
one cycle. The test split is read once, at the end.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from fer_cli.data.augmentation import Augmentation
from fer_cli.data.dataset import VoxelSet, open_voxels, validation_split


def build(classes: int = 10) -> nn.Module:
    """MONAI's ResNet-18 with a quarter of its filters."""
    from monai.networks.nets import ResNet

    network: nn.Module = ResNet(
        "basic",
        [2, 2, 2, 2],
        [16, 32, 64, 128],
        spatial_dims=3,
        n_input_channels=1,
        conv1_t_size=5,
        conv1_t_stride=2,
        num_classes=classes,
    )
    return network


@torch.no_grad()
def accuracy(network: nn.Module, voxels: VoxelSet, indices: np.ndarray) -> float:
    """Share of the samples whose class the network finds."""
    network.eval()
    right = 0
    for part in np.array_split(indices, max(1, len(indices) // 64)):
        right += int((network(voxels.tensor(part)).argmax(1).numpy() == voxels.labels[part]).sum())
    return right / len(indices)


def main() -> None:
    """Train, and write the state dict of the last epoch."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("voxels", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--augment", type=Augmentation.parsed, default=Augmentation(shift=2, mirror=True))
    options = parser.parse_args()
    voxels = open_voxels(options.voxels, in_memory=True)
    kept, held = validation_split(voxels, "train", options.seed)
    torch.manual_seed(options.seed)
    network = build(len(voxels.classes))
    steps = len(kept) // 32
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, epochs=options.epochs, steps_per_epoch=steps)
    generator = torch.Generator().manual_seed(options.seed)
    for epoch in range(options.epochs):
        started, total = time.monotonic(), 0.0
        network.train()
        order = kept[torch.randperm(len(kept), generator=generator).numpy()]
        for part in np.array_split(order, steps):
            volumes = options.augment.draw(len(part), generator).apply(voxels.tensor(part))
            loss = functional.cross_entropy(network(volumes), torch.from_numpy(voxels.labels[part]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(
            f"epoch {epoch + 1}: loss {total / steps:.3f}, validation {accuracy(network, voxels, held):.4f}, "
            f"{time.monotonic() - started:.0f} s",
            flush=True,
        )
    torch.save(network.state_dict(), options.output)
    print(f"test accuracy {accuracy(network, voxels, voxels.indices('test')):.4f}; {options.output}")


if __name__ == "__main__":
    main()
