"""What a network reads: the type of a batch of volumes, and the description of one volume."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from fer_cli.data.places import Kind, Location

Volumes = Float[Tensor, "sample channel width depth height"]
"""Axes x, y and z, under names that tell them from those of a feature map."""


@dataclass(frozen=True)
class InputSpec:
    """What the network reads: `channels` volumes of `shape` (x, y, z) voxels.

    `occupancy` is 0 or 1 in every voxel, `intensity` any number. `spacing` is the edges of a voxel in millimetres, None
    if unknown.
    """

    channels: int
    shape: Location
    kind: Kind = "occupancy"
    spacing: tuple[float, float, float] | None = None

    @property
    def volume(self) -> tuple[int, int, int, int]:
        """(channel, x, y, z) of one volume."""
        return (self.channels, *self.shape)

    @property
    def is_cube(self) -> bool:
        """Whether all three sides have one length."""
        return len(set(self.shape)) == 1

    def __str__(self) -> str:
        sides = f"{self.shape[0]}³" if self.is_cube else "×".join(map(str, self.shape))
        return sides if self.channels == 1 else f"{self.channels} channels of {sides}"

    def to_json(self) -> dict[str, object]:
        """The specification as plain JSON values."""
        spacing = {} if self.spacing is None else {"spacing": list(self.spacing)}
        return {"channels": self.channels, "shape": list(self.shape), "kind": self.kind, **spacing}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "InputSpec":
        """The specification from JSON values. Raises KeyError, TypeError or ValueError where they do not fit."""
        x, y, z = value["shape"]
        if not all(type(number) is int and number > 0 for number in (x, y, z, value["channels"])):
            raise ValueError(f"{value['channels']} channels of shape {value['shape']} are no volume")
        if value["kind"] not in ("occupancy", "intensity"):
            raise ValueError(f"input kind {value['kind']!r} is unknown")
        spacing = value.get("spacing")
        if spacing is not None:
            along_x, along_y, along_z = (float(step) for step in spacing)
            if not min(along_x, along_y, along_z) > 0:
                raise ValueError(f"a spacing of {spacing} is none")
            spacing = (along_x, along_y, along_z)
        return cls(value["channels"], (x, y, z), value["kind"], spacing)
