"""A network that costs next to nothing, for `benchmarks/scale.py`: what is left is what fer itself does with a sample.

Run: python benchmarks/attach_small.py RUN
     fer attach benchmarks/attach_small.py:Small --weights RUN/small.pt --feedback-epochs 1 --run RUN

RUN holds the voxels, of 16³. Trains for one epoch, and writes RUN/small.pt.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

BATCH = 64


class Small(nn.Module):
    """Two convolutions and a dense layer; 16³ → 4³ → 2³ → 10 logits."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2, self.fc = nn.Conv3d(1, 8, 4, 4), nn.Conv3d(8, 16, 2, 2), nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (sample, klass) of volumes (sample, 1, 16, 16, 16)."""
        logits: Tensor = self.fc(functional.relu(self.c2(functional.relu(self.c1(x)))).flatten(1))
        return logits


def main(run: Path) -> None:
    from fer_cli.data.dataset import open_voxels

    voxels = open_voxels(run / "voxels.h5", in_memory=True)
    torch.manual_seed(0)
    network = Small()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    order = np.random.default_rng(0).permutation(voxels.indices("train"))
    for start in range(0, len(order), BATCH):
        part = order[start : start + BATCH]
        loss = functional.cross_entropy(network(voxels.tensor(part)), torch.from_numpy(voxels.labels[part]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.save(network.state_dict(), run / "small.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
