"""Polygons → triangles, whatever the format they come from: fans where a fan covers the polygon, else clipped ears.

A fan around the first corner is right for every convex polygon. Of others it also covers what lies outside: the opening
of a window, the notch of an L. Those few go through mapbox_earcut one by one, in the plane of their own normal.
"""

import numpy as np
from jaxtyping import Float64, Int64

_FLAT = 1e-9
"""A triangle of a fan that lies outside by less than this share of the polygon's area is taken for rounding."""


def fan_corners(
    first: Int64[np.ndarray, " polygon"], corners: Int64[np.ndarray, " polygon"]
) -> tuple[Int64[np.ndarray, " triangle"], Int64[np.ndarray, "triangle 3"]]:
    """For each triangle its polygon, and where its corners stand in the list that holds all polygons' corners.

    Polygon i has `corners[i]` corners, at least one, from position `first[i]` on. One of one or two corners becomes a
    triangle without area. Triangles of one polygon follow each other; `cover_concave` then mends those of concave ones.
    """
    triangles = np.maximum(corners - 2, 1)
    polygon = np.repeat(np.arange(len(first)), triangles)
    step = np.arange(len(polygon)) - np.repeat(np.cumsum(triangles) - triangles, triangles)
    last = corners[polygon] - 1
    fan = np.stack([np.zeros_like(step), np.minimum(step + 1, last), np.minimum(step + 2, last)], axis=1)
    return polygon, first[polygon][:, None] + fan


def cover_concave(
    vertices: Float64[np.ndarray, "vertex 3"],
    polygon: Int64[np.ndarray, " triangle"],
    fans: Int64[np.ndarray, "triangle 3"],
) -> Int64[np.ndarray, "face 3"]:
    """The triangles of `fan_corners`, as rows of `vertices`, those of concave polygons cut anew.

    Every edge of a polygon is an edge of its triangles. Polygons need not be planar: they are cut as they look along
    their normal. A polygon that crosses itself is covered as well as that can be.
    """
    if (polygon[1:] != polygon[:-1]).all():  # triangles alone
        return fans
    starts = np.flatnonzero(np.diff(polygon, prepend=-1))
    several = np.flatnonzero(np.diff(starts, append=len(fans)) > 1)
    sizes = np.diff(starts, append=len(fans))[several]
    rows = np.repeat(starts[several] - (np.cumsum(sizes) - sizes), sizes) + np.arange(sizes.sum())
    begins = np.cumsum(sizes) - sizes
    with np.errstate(all="ignore"):  # coordinates that are not finite are refused later, by name
        across = _across(vertices, fans[rows])
        normals = np.add.reduceat(across, begins)
        within = (across * np.repeat(normals, sizes, axis=0)).sum(axis=1)
        area = (normals**2).sum(axis=1)
        concave = np.flatnonzero(np.minimum.reduceat(within, begins) < -_FLAT * area)
    if not len(concave):
        return fans
    kept = np.ones(len(fans), bool)
    ears = []
    for index in concave.tolist():
        start, size = int(starts[several[index]]), int(sizes[index])
        fan = fans[start : start + size]
        corners = np.concatenate([fan[0, :2], fan[:, 2]])
        ears.append(corners[_clip_ears(vertices[corners], normals[index])])
        kept[start : start + size] = False
    return np.concatenate([fans[kept], *ears])


def _across(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Normals of triangles, twice their area long, in units that neither overflow nor vanish."""
    a, b, c = (vertices[triangles[:, corner]] for corner in range(3))
    scale = max(float(np.abs(b - a).max()), float(np.abs(c - a).max()))
    normals: np.ndarray = np.cross((b - a) / scale, (c - a) / scale)
    return normals


def _clip_ears(corners: Float64[np.ndarray, "corner 3"], normal: np.ndarray) -> Int64[np.ndarray, "triangle 3"]:
    """Triangles, as rows of the corners, that cover a polygon seen along its normal."""
    from mapbox_earcut import triangulate_float64

    axis = int(np.abs(normal).argmax())
    ring = np.delete(corners - corners[0], axis, axis=1)
    ring /= np.abs(ring).max()
    found = triangulate_float64(np.ascontiguousarray(ring), np.array([len(ring)], np.uint32))
    triangles = found.reshape(-1, 3).astype(np.int64)
    return np.concatenate([triangles, _left_out(triangles, len(ring))])


def _left_out(triangles: np.ndarray, n_corners: int) -> np.ndarray:
    """Triangles without area for the corners on a straight line that were left out, so that no edge is lost.

    Of a polygon of which nothing is left, the fan.
    """
    used = np.unique(triangles) if len(triangles) else np.zeros(1, np.int64)
    added = []
    for low, high in zip(used.tolist(), np.append(used[1:], used[0] + n_corners).tolist(), strict=True):
        added += [(low, corner, (corner + 1) % n_corners) for corner in range(low + 1, high - (not len(triangles)))]
    return np.array(added, np.int64).reshape(-1, 3) % n_corners
