"""Networks with random weights, and grids for them."""

import torch
from torch import Tensor

from fer_cli.network.model import PRESETS, FERNet, NetworkConfig

CLASSES = ("bed", "chair", "sofa")
SMOKE = NetworkConfig.to_train(PRESETS["smoke"], CLASSES, 32)


def network(config: NetworkConfig = SMOKE, seed: int = 0) -> FERNet:
    torch.manual_seed(seed)
    built = FERNet(config)
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
    return (torch.rand(count, 1, *config.input_shape, generator=generator) < 0.2).float()
