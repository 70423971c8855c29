"""An oblique image made by SimpleITK, for tests of the readers of formats that ITK writes."""

import math

import numpy as np
import SimpleITK

GREY = np.random.default_rng(0).integers(-900, 900, (6, 5, 4)).astype(np.int16)


def image(values: np.ndarray = GREY) -> SimpleITK.Image:
    """An image of values (x, y, z), or (x, y, z, channel)."""
    made = SimpleITK.GetImageFromArray(values.swapaxes(0, 2), isVector=values.ndim == 4)
    made.SetSpacing((0.7, 1.1, 2.5))
    made.SetOrigin((3, -4, 5.5))
    c, s = math.cos(0.3), math.sin(0.3)
    made.SetDirection((c, -s, 0, 0, 0, 1, s, c, 0))
    return made


def affine_of(given: SimpleITK.Image) -> np.ndarray:
    """The affine map from voxel indices to RAS+ coordinates in mm; those of SimpleITK are LPS+."""
    corners = [given.TransformIndexToPhysicalPoint(index) for index in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))]
    origin, *ends = (np.array([-x, -y, z]) for x, y, z in corners)
    matrix = np.eye(4)
    matrix[:3] = np.stack([*(end - origin for end in ends), origin], 1)
    return matrix
