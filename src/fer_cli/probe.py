"""Algorithm 1: what one location of one layer stands for, reconstructed from its response field."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8

from fer_cli.activations import encode
from fer_cli.errors import UsageError
from fer_cli.model import OUTPUT, FERNet
from fer_cli.receptive import Box, Location, receptive_field, response_field


@dataclass(frozen=True)
class Probe:
    """The four things of Fig. 2: location, response field, reconstruction, receptive field.

    `reconstruction` is what the feedback network makes of the response field alone, as occupancy probabilities of
    the whole grid; `crop` is its part inside the receptive field.
    """

    layer: str
    map_shape: Location
    location: Location
    response_field: list[Location]
    receptive_field: Box
    reconstruction: Float[np.ndarray, "x y z"]

    @property
    def crop(self) -> Float[np.ndarray, "cx cy cz"]:
        """The reconstruction inside the receptive field (step 6)."""
        (x0, x1), (y0, y1), (z0, z1) = self.receptive_field
        return self.reconstruction[x0:x1, y0:y1, z0:z1]


@torch.inference_mode()
def probe(network: FERNet, grid: UInt8[np.ndarray, "x y z"], layer: str, location: Location) -> Probe:
    """Run Algorithm 1 on one grid.

    Raises UsageError for an unknown layer, LocationError for a location outside it.
    """
    config = network.config
    index = config.index(layer)
    if layer == OUTPUT:
        raise UsageError(f"{OUTPUT} has no features of the input; probe one of {', '.join(config.layer_names[:-1])}.")
    box = receptive_field(config.specs, index, location, config.input_shape)
    field = response_field(config.specs, index, location, config.input_shape)
    feature = encode(network, torch.from_numpy(grid).float()[None, None])[layer]
    mask = torch.zeros(config.level_shape(layer)[1:], device=feature.device)
    for x, y, z in field:
        mask[x, y, z] = 1
    decoding = network.decode(feature * mask, layer)
    return Probe(
        layer=layer,
        map_shape=config.level_shape(layer)[1:],
        location=location,
        response_field=field,
        receptive_field=box,
        reconstruction=decoding.occupancy[0].cpu().numpy(),
    )
