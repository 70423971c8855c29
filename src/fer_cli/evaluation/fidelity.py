"""How faithfully the feedback network gives the input back from each level, with gates shut and open."""

import torch

from fer_cli.data.volumes import Volumes
from fer_cli.execution.transfer import moved
from fer_cli.network.backbone import Features
from fer_cli.network.explained import ExplainedNetwork


class Fidelity:
    """Scores and squared error of reconstructions from every entry level, added up batch by batch.

    With the gates shut a reconstruction depends on the entry's feature alone. With the gates open every level below
    the entry is given the backbone's feature too; from the lowest layer, which has none below, both are the same.
    """

    def __init__(self, network: ExplainedNetwork) -> None:
        self._network = network
        self._sums: dict[tuple[str, str], dict[str, float]] = {
            (layer, gates): {} for layer in network.spec.layer_names for gates in ("shut", "open")
        }
        self._samples = 0

    @torch.inference_mode()
    def add(self, volumes: Volumes, features: Features) -> None:
        """Reconstruct a batch from the backbone's `features` of it."""
        device = self._network.backbone.device
        truth = moved(volumes, device)
        features = {layer: feature.to(device) for layer, feature in features.items()}
        self._samples += len(volumes)
        lowest, *_ = features
        for (layer, gates), sums in self._sums.items():
            if gates == "shut" or layer != lowest:  # else it is what the loop has just made
                skips = features if gates == "open" else None
                value = self._network.reconstruct(features[layer], layer, skips=skips)
            for name, score in self._network.signal.scores(value, truth).items():
                sums[name] = sums.get(name, 0.0) + float(score.sum())
            error = float((value - truth).square().sum(dtype=torch.float64)) / truth[0].numel()
            sums["mse"] = sums.get("mse", 0.0) + error

    def means(self) -> dict[str, dict[str, dict[str, float]]]:
        """By layer and gates (`shut`, `open`): means of the signal's scores, and `mse`, the squared error a voxel."""
        result: dict[str, dict[str, dict[str, float]]] = {}
        for (layer, gates), sums in self._sums.items():
            result.setdefault(layer, {})[gates] = {name: total / self._samples for name, total in sums.items()}
        return result
