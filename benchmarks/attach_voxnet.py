"""The VoxNet of the shared weights: a classifier that nobody here trained, for `fer attach`.

Run: fer voxelize ../shared/data/modelnet10-voxnet30.npz --run RUN --classes bathtub,bed,chair,desk,dresser,monitor,night_stand,sofa,table,toilet
     fer attach benchmarks/attach_voxnet.py:VoxNet --weights ../shared/data/weights/voxnet30_state_dict.pt --run RUN
     fer cluster --run RUN
     fer evaluate RUN --repair --planted
     fer explain --errors --run RUN
"""

from torch import Tensor, nn
from torch.nn import functional


class VoxNet(nn.Module):
    """Three convolutions and a dense layer; 30³ → 13³ → 5³ → 1³ → 10 logits. The names are those of the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2, self.c3 = nn.Conv3d(1, 16, 6, 2), nn.Conv3d(16, 64, 5, 2), nn.Conv3d(64, 64, 5, 2)
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (sample, klass) of volumes (sample, 1, 30, 30, 30)."""
        for layer in (self.c1, self.c2, self.c3):
            x = functional.relu(layer(x))
        logits: Tensor = self.fc(x.flatten(1))
        return logits
