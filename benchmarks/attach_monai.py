"""Train MONAI's ResNet on grey volumes with splits of their own: a stranger's classifier to try `fer attach` on.

Run: fer voxelize msd-hippocampus-patches.npz --kind intensity --run RUN
     .venv/bin/python benchmarks/attach_monai.py RUN/voxels.h5 resnet.pt [--epochs 30] [--seed 0]
Then: fer attach benchmarks/attach_monai.py:build --weights resnet.pt --run RUN

Needs monai (pip install -c constraints.txt monai==1.6.0). One block a level; widths 16, 32, 64, 128; a stem of 3³ with
stride 2 along x and y. AdamW, one cycle, shifts of up to two voxels, changes of contrast and brightness, mirrored in x: there are left
and right hippocampi. The weights of the epoch with the best accuracy on the split `val` are written. The test split is
read once, at the end.
"""

import argparse
import copy
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from fer_cli.data.augmentation import Augmentation
from fer_cli.data.dataset import VoxelSet, open_voxels


def build(classes: int = 3) -> nn.Module:
    """MONAI's ResNet-10 with a quarter of its filters."""
    from monai.networks.nets import ResNet

    network: nn.Module = ResNet(
        "basic",
        [1, 1, 1, 1],
        [16, 32, 64, 128],
        spatial_dims=3,
        n_input_channels=1,
        conv1_t_size=3,
        conv1_t_stride=(2, 2, 1),
        no_max_pool=True,
        num_classes=classes,
    )
    return network


@torch.no_grad()
def right(network: nn.Module, voxels: VoxelSet, split: str) -> tuple[int, int]:
    """How many samples of a split the network classifies correctly, and of how many."""
    network.eval()
    indices = voxels.indices(split)
    parts = np.array_split(indices, max(1, len(indices) // 64))
    found = [network(voxels.tensor(part)).argmax(1).numpy() == voxels.labels[part] for part in parts]
    return int(np.concatenate(found).sum()), len(indices)


def train(network: nn.Module, voxels: VoxelSet, epochs: int, seed: int) -> None:
    """Train on the split `train`, and leave the network as it was after the epoch that was best on `val`."""
    kept = voxels.indices("train")
    steps = len(kept) // 32
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, epochs=epochs, steps_per_epoch=steps)
    generator = torch.Generator().manual_seed(seed)
    varied = Augmentation(shift=2, mirror="x", contrast=0.1, brightness=0.1, edge=True)
    best, state = -1, network.state_dict()
    for epoch in range(epochs):
        started, total = time.monotonic(), 0.0
        network.train()
        order = kept[torch.randperm(len(kept), generator=generator).numpy()]
        for part in np.array_split(order, steps):
            volumes = varied.draw(len(part), generator).apply(voxels.tensor(part))
            loss = functional.cross_entropy(
                network(volumes), torch.from_numpy(voxels.labels[part]), label_smoothing=0.1
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        found, of = right(network, voxels, "val")
        if found >= best:
            best, state = found, copy.deepcopy(network.state_dict())
        seconds = time.monotonic() - started
        print(f"epoch {epoch + 1}: loss {total / steps:.3f}, val {found}/{of}, {seconds:.0f} s", flush=True)
    network.load_state_dict(state)


def main() -> None:
    """Train, and write the state dict."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("voxels", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    voxels = open_voxels(options.voxels, in_memory=True)
    torch.manual_seed(options.seed)
    network = build(len(voxels.classes))
    train(network, voxels, options.epochs, options.seed)
    torch.save(network.state_dict(), options.output)
    found, of = right(network, voxels, "test")
    print(f"test {found}/{of} = {found / of:.4f}; {options.output}")


if __name__ == "__main__":
    main()
