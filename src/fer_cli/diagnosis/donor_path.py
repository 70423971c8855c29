"""Which locations of a layer make the network say the wrong class: the ranking that blame uses.

The network's log odds are integrated along the straight path from the sample's feature to a donor's. Other rankings, to
compare with, are in `studies.rankings`.

Source: Sundararajan et al., "Axiomatic attribution for deep networks", ICML 2017, with the donor as the other end.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from fer_cli.diagnosis.replacement import Replacement

PATH_STEPS = 8

Score = Float[Tensor, "sample location"]


def donor_path(edit: Replacement, steps: int = PATH_STEPS) -> Score:
    """What each location adds to the log odds on the straight way from the sample's feature to the donor's.

    Integrated gradients with the donor as the other end: over all locations they sum to what replacing everything
    gains. It is what blame ranks locations by.
    """
    difference = edit.donor - edit.feature
    shares = [(step + 0.5) / steps for step in range(steps)]
    mean = torch.zeros_like(difference)
    for gradient in edit.gradients(edit.feature + share * difference for share in shares):
        mean += gradient / steps
    return summed(mean * difference)


def summed(product: Float[Tensor, "sample filter x y z"]) -> Score:
    """Sum over filters, locations flattened."""
    return product.sum(dim=1).flatten(1)
