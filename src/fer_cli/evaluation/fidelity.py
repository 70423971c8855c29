"""How faithfully the feedback network gives the input back from each level, with gates shut and open."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fer_cli.network.activations import device_of
from fer_cli.network.model import Features, FERNet, voxel_iou


@dataclass
class _Sums:
    iou: float = 0.0
    squared_error: float = 0.0


class Fidelity:
    """Voxel IoU and squared error of reconstructions from every entry level, added up batch by batch.

    With the gates shut a reconstruction depends on the entry's feature alone. With the gates open every level below
    the entry is given the encoder's feature too; from the lowest layer, which has none below, both are the same.
    """

    def __init__(self, network: FERNet) -> None:
        self._network = network
        self._sums = {(layer, gates): _Sums() for layer in network.config.layer_names for gates in ("shut", "open")}
        self._samples = self._voxels = 0

    @torch.inference_mode()
    def add(self, grids: Float[Tensor, "sample 1 x y z"], features: Features) -> None:
        """Reconstruct a batch from the encoder's `features` of it."""
        device = device_of(self._network)
        truth = grids[:, 0].to(device)
        features = {layer: feature.to(device) for layer, feature in features.items()}
        self._samples += len(grids)
        self._voxels = truth[0].numel()
        for (layer, gates), sums in self._sums.items():
            skips = features if gates == "open" else None
            occupancy = self._network.decode(features[layer], layer, skips=skips).occupancy
            sums.iou += float(voxel_iou(occupancy, truth).sum())
            sums.squared_error += float((occupancy - truth).square().sum(dtype=torch.float64))

    def means(self) -> dict[str, dict[str, dict[str, float]]]:
        """By layer and gates (`shut`, `open`): mean voxel `iou`, and `mse`, the squared error a voxel."""
        result: dict[str, dict[str, dict[str, float]]] = {}
        for (layer, gates), sums in self._sums.items():
            result.setdefault(layer, {})[gates] = {
                "iou": sums.iou / self._samples,
                "mse": sums.squared_error / self._samples / self._voxels,
            }
        return result
