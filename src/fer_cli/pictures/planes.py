"""Three orthogonal planes through a volume: which voxel axes lie across and down a slice, mirrored or not.

With an affine map, slices follow radiological convention: the patient's right is on the left of axial and coronal
slices, anterior is on the left of sagittal ones and at the top of axial ones, superior is at the top. Without one,
axes are drawn as stored: x to the right, and y, or z, upwards.
"""

from dataclasses import dataclass
from itertools import permutations

import numpy as np
from jaxtyping import Float, Shaped

_OBLIQUE = 1.0
"""Degrees from which on axes are said to be oblique."""


@dataclass(frozen=True)
class Plane:
    """Slices across the voxel axis `normal`, with the axes `across` and `down` in the picture.

    `mirrored` says of `across` and `down` whether index 0 is at the right, or at the bottom. `edges` names the sides to
    the left, right, top and bottom.
    """

    name: str
    normal: int
    across: int
    down: int
    mirrored: tuple[bool, bool]
    edges: tuple[str, str, str, str]

    def cut(self, grid: Shaped[np.ndarray, "x y z"], index: int) -> Shaped[np.ndarray, "down across"]:
        """The slice of a grid at an index of the normal axis, as it is drawn, the top row first."""
        slice_ = np.take(grid, index, axis=self.normal)
        if self.across < self.down:
            slice_ = slice_.T
        return slice_[:: -1 if self.mirrored[1] else 1, :: -1 if self.mirrored[0] else 1]

    def place(self, voxel: tuple[int, int, int], shape: tuple[int, int, int]) -> tuple[int, int]:
        """Row and column of a voxel in the slice."""
        column, row = voxel[self.across], voxel[self.down]
        if self.mirrored[0]:
            column = shape[self.across] - 1 - column
        if self.mirrored[1]:
            row = shape[self.down] - 1 - row
        return row, column


@dataclass(frozen=True)
class Orientation:
    """Planes of a volume, in the order axial, coronal, sagittal, or by z, y and x; and what they follow, in words."""

    planes: tuple[Plane, Plane, Plane]
    words: str


def orientation_of(index_to_world: Float[np.ndarray, "4 4"] | None) -> Orientation:
    """The planes of a volume whose voxel centres lie where the map says, in mm along right, anterior and superior."""
    if index_to_world is None:
        planes = (_stored("z slice", 2, 0, 1), _stored("y slice", 1, 0, 2), _stored("x slice", 0, 1, 2))
        return Orientation(planes, "No orientation known: axes x, y, z as stored.")
    directions = index_to_world[:3, :3] / np.linalg.norm(index_to_world[:3, :3], axis=0)
    # The world's axis that each voxel axis is nearest to, no two the same.
    world = max(permutations(range(3)), key=lambda axes: float(sum(abs(directions[w, v]) for v, w in enumerate(axes))))
    right, anterior, superior = (world.index(axis) for axis in range(3))
    rising = [bool(directions[axis, voxel] > 0) for voxel, axis in enumerate(world)]
    planes = (
        Plane("axial", superior, right, anterior, (rising[right], rising[anterior]), ("R", "L", "A", "P")),
        Plane("coronal", anterior, right, superior, (rising[right], rising[superior]), ("R", "L", "S", "I")),
        Plane("sagittal", right, anterior, superior, (rising[anterior], rising[superior]), ("A", "P", "S", "I")),
    )
    words = (
        "Radiological convention: the patient's right is on the left of axial and coronal slices, anterior on the left "
        "of sagittal slices. R right, L left, A anterior, P posterior, S superior, I inferior."
    )
    nearest = min(abs(directions[axis, voxel]) for voxel, axis in enumerate(world))
    turned = float(np.degrees(np.arccos(min(1.0, nearest))))
    if turned >= _OBLIQUE:
        words += f" The volume is oblique: its axes are up to {turned:.0f}° off; letters name the nearest side."
    return Orientation(planes, words)


def axis_letters(index_to_world: Float[np.ndarray, "4 4"]) -> str:
    """The sides that the voxel axes point to most nearly, such as RAS."""
    letters = {}
    for plane in orientation_of(index_to_world).planes:
        left, right, top, bottom = plane.edges
        letters[plane.across] = left if plane.mirrored[0] else right
        letters[plane.down] = top if plane.mirrored[1] else bottom
    return "".join(letters[axis] for axis in range(3))


def spacing_words(spacing: tuple[float, float, float] | None) -> str:
    """The size of voxels in a sentence."""
    if spacing is None:
        return "The size of voxels is not known: they are drawn as cubes."
    return f"Voxels measure {' × '.join(f'{step:.4g}' for step in spacing)} mm (x, y, z) and are drawn so."


def _stored(name: str, normal: int, across: int, down: int) -> Plane:
    x, y = "xyz"[across], "xyz"[down]
    return Plane(name, normal, across, down, (False, True), (f"−{x}", f"+{x}", f"+{y}", f"−{y}"))
