"""Polygons → triangles, as fans around their first corner, whatever the format they come from."""

import numpy as np
from jaxtyping import Int64


def fan_corners(
    first: Int64[np.ndarray, " polygon"], corners: Int64[np.ndarray, " polygon"]
) -> tuple[Int64[np.ndarray, " triangle"], Int64[np.ndarray, "triangle 3"]]:
    """For each triangle its polygon, and where its corners stand in the list that holds all polygons' corners.

    Polygon i has `corners[i]` corners, at least one, from position `first[i]` on. One of one or two corners becomes a
    triangle without area. A fan covers convex polygons; of others it also covers part of the outside.
    """
    triangles = np.maximum(corners - 2, 1)
    polygon = np.repeat(np.arange(len(first)), triangles)
    step = np.arange(len(polygon)) - np.repeat(np.cumsum(triangles) - triangles, triangles)
    last = corners[polygon] - 1
    fan = np.stack([np.zeros_like(step), np.minimum(step + 1, last), np.minimum(step + 2, last)], axis=1)
    return polygon, first[polygon][:, None] + fan
