"""Test-time augmentation: class probabilities averaged over turns about the vertical."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from fer_cli.data.augmentation import turn
from fer_cli.data.volumes import Volumes
from fer_cli.errors import UsageError
from fer_cli.execution.transfer import moved
from fer_cli.network.activations import predict
from fer_cli.network.explained import ExplainedNetwork

MAX_VOTES = 360


def voted_probabilities(network: ExplainedNetwork, volumes: Volumes, votes: int) -> Float[Tensor, "sample klass"]:
    """Mean class probabilities over `votes` turns, evenly spaced over the full circle, the first by 0°.

    This helps only a network that was trained on all these poses. Source: Maturana and Scherer, "VoxNet",
    IROS 2015, which uses 12.

    Raises UsageError unless there are 1 to 360 votes.
    """
    if not 1 <= votes <= MAX_VOTES:
        raise UsageError(f"{votes} votes cannot be taken; give 1 to {MAX_VOTES}.")
    total = torch.zeros(len(volumes), len(network.spec.classes))
    volumes = moved(volumes, network.backbone.device)
    for vote in range(votes):
        turned = volumes if vote == 0 else turn(volumes, torch.full((len(volumes),), 2 * math.pi * vote / votes))
        total += torch.from_numpy(predict(network, turned))
    return total / votes
