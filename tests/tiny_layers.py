"""Layers of the tiny run's network, for processes that need nothing else of `tiny`: to import that takes seconds."""

from fer_cli.network.receptive import LayerSpec

TINY_LAYERS = (
    LayerSpec("conv1", 6, 4, 2, 1),
    LayerSpec("conv2", 8, 3, 2, 1),
    LayerSpec("conv3", 10, 2, 2, 0),
    LayerSpec("fc4", 9),
)
