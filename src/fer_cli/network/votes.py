"""One shape seen from several sides: class probabilities averaged over turns about the vertical."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from fer_cli.errors import UsageError
from fer_cli.network.activations import encode
from fer_cli.network.augmentation import turn
from fer_cli.network.model import OUTPUT, FERNet

MAX_VOTES = 360


def voted_probabilities(
    network: FERNet, grids: Float[Tensor, "sample 1 x y z"], votes: int
) -> Float[Tensor, "sample klass"]:
    """Mean class probabilities over `votes` turns, evenly spaced over the full circle, the first by nothing.

    A network votes well only as far as it knows shapes in all these poses. Source: Maturana and Scherer, "VoxNet",
    IROS 2015, which uses 12.

    Raises UsageError unless there are 1 to 360 votes.
    """
    if not 1 <= votes <= MAX_VOTES:
        raise UsageError(f"{votes} votes cannot be taken; give 1 to {MAX_VOTES}.")
    total = torch.zeros(len(grids), len(network.config.classes))
    for vote in range(votes):
        turned = grids if vote == 0 else turn(grids, torch.full((len(grids),), 2 * math.pi * vote / votes))
        total += encode(network, turned)[OUTPUT].flatten(1).cpu()
    return total / votes
