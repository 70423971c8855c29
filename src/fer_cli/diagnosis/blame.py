"""Where in the network a wrong class came in: the layer at which calibrated evidence turns to it, and the locations.

Every layer's feedforward clusters say, in nats that proved their worth on validation samples (`temperature`), how much
more they speak for the predicted class than for the true one. Below the blamed layer they speak, on the whole, for the
true class, and from it on for the predicted one. Which locations of that layer matter is the network's own affair:
they are ranked by what they would change, were they those of a training sample of the true class (`attribution`).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from fer_cli.calibration.temperature import Temperatures
from fer_cli.codebooks.reading import Reading
from fer_cli.data.places import Box, Location
from fer_cli.network.activations import FEEDFORWARD
from fer_cli.network.backbone import OUTPUT, Backbone, receptive_field

_MOST_BLAMED = 16
_BLAMED_SHARE = 1 / 8


@dataclass(frozen=True)
class Blame:
    """The layer at which the evidence turns to the wrong class, and the locations that make it so most.

    `layer` and `margin` are None for a correctly classified sample. `boxes` are the receptive fields of `locations`,
    `weights` the share that each location has in the relevance of all of them; they sum to 1.
    `margin` says how sure the layer is: how many nats of calibrated evidence speak for it rather than for the next best
    layer.
    """

    layer: str | None
    locations: tuple[Location, ...]
    boxes: tuple[Box, ...]
    margin: float | None = None
    weights: tuple[float, ...] = ()


def weigh_voxels(shape: Location, boxes: Sequence[Box], weights: Sequence[float]) -> Float[np.ndarray, "x y z"]:
    """For each voxel, the sum of the weights of the boxes that hold it; without weights each box counts 1."""
    total = np.zeros(shape)
    for ((x0, x1), (y0, y1), (z0, z1)), weight in zip(boxes, weights or (1.0,) * len(boxes), strict=True):
        total[x0:x1, y0:y1, z0:z1] += weight
    return total


def find_blame(
    backbone: Backbone,
    reading: Reading,
    temperatures: Temperatures,
    relevance: Callable[[str], Float[np.ndarray, " location"]],
    *,
    predicted: int,
    label: int,
) -> Blame:
    """The layer at which a misclassified sample's feedforward evidence turns to the predicted class, and where in it.

    `relevance(layer)` says how much each location of a layer makes the network say the predicted class rather than the
    true one; it is asked for one layer, of several locations. Blamed are those where it is largest, the largest first,
    if above zero: an eighth of the layer, at most 16.
    """
    spec = backbone.spec
    below = spec.layer_names[:-1]
    evidence = reading.evidence[FEEDFORWARD]
    differences = [
        float(evidence[name][0, predicted] - evidence[name][0, label]) / temperatures.evidence[FEEDFORWARD][name]
        for name in below
    ]
    turn, margin = turning_point(differences)
    layer = [*below, OUTPUT][turn]
    shape = spec.map_shape(layer)
    locations: tuple[Location, ...] = ((0, 0, 0),)
    weights: tuple[float, ...] = (1.0,)
    if math.prod(shape) > 1:
        score = relevance(layer)
        locations = leading_locations(score, shape)
        relevant = np.array([score.reshape(shape)[location] for location in locations])
        weights = tuple((relevant / relevant.sum()).tolist())
    boxes = tuple(receptive_field(backbone, layer, location) for location in locations)
    return Blame(layer, locations, boxes, margin, weights)


def turning_point(differences: Sequence[float]) -> tuple[int, float]:
    """The layer from which on the differences sum highest, and by how much it is ahead of the next best one.

    `differences` are nats for the wrong class rather than the true one, from the lowest layer up. Their number, one
    past the last layer, stands for the output, where nothing is left to sum; the lowest layer wins a tie. This is the
    most likely place of a single turn from the true to the wrong class: the difference at the layer found is above
    zero, that just below it is not.
    """
    sums = np.append(np.cumsum(np.asarray(differences, dtype=np.float64)[::-1])[::-1], 0.0)
    best, next_best = np.sort(sums)[:-3:-1]
    return int(sums.argmax()), float(best - next_best)


def leading_locations(score: Float[np.ndarray, " location"], shape: tuple[int, int, int]) -> tuple[Location, ...]:
    """The locations of a layer of that shape with the highest scores, the highest first, if above zero.

    They are an eighth of the layer, at most 16.
    """
    most = min(_MOST_BLAMED, math.ceil(len(score) * _BLAMED_SHARE))
    return tuple(unravel(int(i), shape) for i in np.argsort(-score, kind="stable")[:most] if score[i] > 0)


def unravel(index: int, shape: tuple[int, int, int]) -> Location:
    """(x, y, z) of a flattened location (C order)."""
    x, y, z = (int(i) for i in np.unravel_index(index, shape))
    return (x, y, z)
