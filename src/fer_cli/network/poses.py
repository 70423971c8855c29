"""Poses of a volume: turned by right angles about its axes, so that no voxel is interpolated.

A cube has 24 poses. A volume with unequal sides has those of them that keep its shape.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations, product

import numpy as np
import torch
from jaxtyping import Float, Int

from fer_cli.data.places import Location
from fer_cli.data.volumes import Volumes
from fer_cli.network.activations import predict
from fer_cli.network.explained import ExplainedNetwork

AXES = "xyz"
_ANGLES = (0, 90, -90, 180)
_AT_ONCE = 8
"""Poses that go through the network together: twice as quick as one by one, and more together are no quicker."""


@dataclass(frozen=True)
class Pose:
    """A rotation: the new axis i is the old axis `order[i]`, in reverse where `signs[i]` is −1."""

    order: tuple[int, int, int] = (0, 1, 2)
    signs: tuple[int, int, int] = (1, 1, 1)

    def apply(self, volumes: Volumes) -> Volumes:
        """The turned volumes."""
        turned = volumes.permute(0, 1, *(2 + axis for axis in self.order))
        backwards = [2 + axis for axis, sign in enumerate(self.signs) if sign < 0]
        return (turned.flip(backwards) if backwards else turned).contiguous()

    @property
    def keeps_vertical(self) -> bool:
        """Whether up stays up."""
        return self.order[2] == 2 and self.signs[2] == 1

    @property
    def words(self) -> str:
        """The turns, such as `90° about x, then 180° about z`; at most one about x or y, then one about z."""
        return ", then ".join(f"{angle}° about {axis}" for axis, angle in self._turns) or "as it is"

    @property
    def turns(self) -> int:
        """Number of turns that `words` names."""
        return len(self._turns)

    @property
    def _turns(self) -> list[tuple[str, int]]:
        tips = [("x", 0), ("x", 90), ("x", -90), ("x", 180), ("y", 90), ("y", -90), ("y", 180)]
        ways = [
            [(about, angle) for about, angle in ((axis, tip), ("z", spin)) if angle]
            for (axis, tip), spin in product(tips, _ANGLES)
            if (_rotation("z", spin) @ _rotation(axis, tip) == self.matrix).all()
        ]
        return min(ways, key=len)

    @property
    def matrix(self) -> Int[np.ndarray, "3 3"]:
        """What coordinates are multiplied by, of points as columns."""
        matrix = np.zeros((3, 3), int)
        for new, (old, sign) in enumerate(zip(self.order, self.signs, strict=True)):
            matrix[new, old] = sign
        return matrix


@lru_cache
def poses(shape: Location) -> tuple[Pose, ...]:
    """The poses that keep a volume's shape, those of fewest turns first."""
    orders: list[tuple[int, int, int]] = list(permutations(range(3)))  # type: ignore[arg-type]
    signs: list[tuple[int, int, int]] = list(product((1, -1), repeat=3))  # type: ignore[arg-type]
    found = [
        pose
        for pose in (Pose(order, sign) for order in orders for sign in signs)
        if round(np.linalg.det(pose.matrix)) == 1
        and all(shape[old] == shape[new] for new, old in enumerate(pose.order))
    ]
    return tuple(sorted(found, key=lambda pose: (pose.turns, not pose.keeps_vertical)))


def probabilities_by_pose(
    network: ExplainedNetwork, volume: Volumes
) -> tuple[tuple[Pose, ...], Float[np.ndarray, "pose klass"]]:
    """Class probabilities of one volume in each of its poses."""
    every = poses(network.spec.input.shape)
    posed = torch.cat([pose.apply(volume) for pose in every])
    return every, np.concatenate([predict(network, part) for part in posed.split(_AT_ONCE)])


def _rotation(axis: str, angle: int) -> Int[np.ndarray, "3 3"]:
    """About an axis, by the right hand, in degrees that are a multiple of 90."""
    first, second = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix = np.eye(3, dtype=int)
    cos, sin = {0: (1, 0), 90: (0, 1), 180: (-1, 0), -90: (0, -1)}[angle]
    matrix[[first, first, second, second], [first, second, first, second]] = [cos, -sin, sin, cos]
    return matrix
