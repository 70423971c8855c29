"""Attribution at one layer: rankings of locations, one score each.

All explain the same quantity, the log odds of the class given against the one wanted. So rankings without a donor
know as much about the classes as those with one. Gradients are integrated as Riemann sums, at the middle of every step.

Sources: Selvaraju et al., "Grad-CAM", ICCV 2017 (the summand at one location); Sundararajan et al., "Axiomatic
attribution for deep networks", ICML 2017 (integrated gradients); Dhamdhere et al., "How important is a neuron", ICLR
2019 (conductance); Zeiler and Fergus, "Visualizing and understanding convolutional networks", ECCV 2014 (occlusion).
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fer_cli.codebooks.codebook import Codebook
from fer_cli.diagnosis.donor_path import Score, donor_path, summed
from fer_cli.diagnosis.replacement import Replacement
from fer_cli.execution.transfer import moved
from fer_cli.network.activations import BATCH, FEEDFORWARD

STEPS = 16
_BLOCKS = 64
"""Number of cubes to occlude where a layer has more locations."""


def donor_gradient(edit: Replacement) -> Score:
    """The first-order effect of the very replacement: gradient times (donor − feature)."""
    return summed(edit.gradient(edit.feature) * (edit.donor - edit.feature))


def donor_distance(edit: Replacement) -> Score:
    """Squared distance to the donor."""
    return summed((edit.donor - edit.feature).square())


def activation_norm(edit: Replacement) -> Score:
    """Squared length of the feature."""
    return summed(edit.feature.square())


def grad_cam(edit: Replacement) -> Score:
    """Gradient times feature, Grad-CAM's summand without the mean over locations."""
    return -summed(edit.gradient(edit.feature) * edit.feature)


def integrated_gradients(edit: Replacement, baseline: Float[Tensor, "1 filter x y z"], steps: int = STEPS) -> Score:
    """Along the straight way of the layer's feature from that of the empty volume, `baseline`."""
    difference = edit.feature - baseline
    mean = torch.zeros_like(difference)
    for gradient in edit.gradients(baseline + (step + 0.5) / steps * difference for step in range(steps)):
        mean += gradient / steps
    return -summed(mean * difference)


def conductance(edit: Replacement, steps: int = STEPS) -> Score:
    """Along the straight way of the input from the empty volume, what passes through each location of the layer."""
    reached = _reached(edit, [half / (2 * steps) for half in range(2 * steps + 1)])
    ways, middles = reached[::2], reached[1::2]
    total = torch.zeros_like(ways[0])
    for before, after, gradient in zip(ways[:-1], ways[1:], edit.gradients(middles), strict=True):
        total += gradient * (after - before)
    return -summed(total)


@torch.inference_mode()
def _reached(edit: Replacement, shares: list[float]) -> list[Float[Tensor, "sample filter x y z"]]:
    """The layer's features on the way from the empty volume, at each of some shares of the volumes."""
    together = max(1, BATCH // max(1, len(edit)))
    reached: list[Tensor] = []
    for start in range(0, len(shares), together):
        volumes = torch.cat([edit.volumes * share for share in shares[start : start + together]])
        reached += edit.backbone.features(volumes, [edit.layer])[edit.layer].split(max(1, len(edit)))
    return reached


def evidence_difference(edit: Replacement, codebook: Codebook) -> Score:
    """Cluster evidence for the class given less that for the one wanted."""
    codes = codebook.layer(FEEDFORWARD, edit.layer).assign(edit.feature)
    evidence = codebook.evidence(FEEDFORWARD, edit.layer, codes)
    rows = np.arange(len(evidence))
    given, wanted = edit.given.cpu().numpy(), edit.wanted.cpu().numpy()
    return torch.from_numpy(evidence[rows, :, given] - evidence[rows, :, wanted]).to(edit.feature.device)


def evidence_and_path(edit: Replacement, codebook: Codebook) -> Score:
    """Cluster evidence joined with `donor_path`: each in its standard deviations over the locations, summed."""
    parts = (evidence_difference(edit, codebook), donor_path(edit))
    return sum((part / part.std(dim=1, keepdim=True).clamp(min=1e-9) for part in parts), torch.zeros(()))


def occlusion(edit: Replacement, filling: Float[Tensor, "1 filter x y z"]) -> Score:
    """What the log odds gain when `filling` takes the place of a location, or of a cube of them in a large layer."""
    blocks, device = _cubes(edit.feature.shape[2:]), edit.feature.device
    count = int(blocks.max()) + 1
    blocks, filling = moved(blocks, device), moved(filling, device)
    rows = torch.arange(len(edit), device=device).repeat_interleave(count)
    cubes = torch.arange(count, device=device).repeat(len(edit))
    odds = []
    for row, cube in zip(rows.split(BATCH), cubes.split(BATCH), strict=True):
        some = edit.rows(row)
        filled = replace(some, donor=filling.expand_as(some.feature))
        odds.append(filled.log_odds(filled.logits(filled.replaced(blocks == cube[:, None]))))
    gains = torch.cat(odds).view(len(edit), count) - edit.log_odds(edit.logits(edit.feature))[:, None]
    return gains[:, blocks]


def mean_feature(codebook: Codebook, layer: str) -> Float[Tensor, "1 filter x y z"]:
    """Mean of the clustered training samples' features at each location of a layer, from its centroids."""
    book = codebook.layer(FEEDFORWARD, layer)
    counts = book.histogram.sum(axis=2)[..., None]
    mean = (book.centroids * counts).sum(axis=1) / counts.sum(axis=1)
    return torch.from_numpy(mean.astype(np.float32).T.reshape(1, *codebook.spec.level_shape(layer)))


def rankings(codebook: Codebook, empty: Float[Tensor, "1 filter x y z"]) -> dict[str, Callable[[Replacement], Score]]:
    """Every ranking by name; `empty` is the layer's feature of the empty volume."""
    return {
        "donor_path": donor_path,
        "evidence_and_path": lambda edit: evidence_and_path(edit, codebook),
        "donor_gradient": donor_gradient,
        "donor_distance": donor_distance,
        "evidence": lambda edit: evidence_difference(edit, codebook),
        "activation_norm": activation_norm,
        "grad_cam": grad_cam,
        "integrated_gradients": lambda edit: integrated_gradients(edit, empty),
        "conductance": conductance,
        "occlusion_zero": lambda edit: occlusion(edit, torch.zeros_like(empty)),
        "occlusion_mean": lambda edit: occlusion(edit, mean_feature(codebook, edit.layer)),
    }


OURS = "donor_path"
"""The ranking that blame uses."""


def _cubes(sides: tuple[int, ...]) -> Tensor:
    """The number of the cube that each location lies in; as large as it takes for at most `_BLOCKS` cubes."""
    edge = 1
    while np.prod([-(-side // edge) for side in sides]) > _BLOCKS:
        edge += 1
    places = np.stack(np.meshgrid(*(np.arange(side) // edge for side in sides), indexing="ij"))
    counts = tuple(-(-side // edge) for side in sides)
    return torch.from_numpy(np.ravel_multi_index(tuple(places), counts).ravel())
