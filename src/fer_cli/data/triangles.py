"""Which voxels triangles pass through: the compiled test, for `occupancy`.

The separating-axis test of Akenine-Möller ("Fast 3D triangle–box overlap testing", 2001). Apart from `occupancy`,
because Numba takes a third of a second to import, which only meshes are worth.
"""

from collections.abc import Callable
from typing import no_type_check

import numpy as np

from fer_cli.data.formats.compiling import compiled

# Cubes are this much larger than a voxel (in voxels), lest rounding should open gaps between them.
TOUCH = 1e-9


@no_type_check
def _occupy(points, faces, padding, occupancy):
    """Set every voxel of a cube's grid that a triangle passes through.

    Counted without the padding, voxel i spans [i, i + 1) of `points`. The last voxel also gets what lies up to one
    voxel beyond it, where `TIE` of `occupancy` may put a point of the surface.
    """
    inner = occupancy.shape[0] - 2 * padding
    high = inner + 1
    last = padding + inner - 1
    half = 0.5 + TOUCH
    for face in range(faces.shape[0]):
        ax, ay, az = points[faces[face, 0]]
        bx, by, bz = points[faces[face, 1]]
        cx, cy, cz = points[faces[face, 2]]
        x0, x1 = _span(min(ax, bx, cx), max(ax, bx, cx), high)
        y0, y1 = _span(min(ay, by, cy), max(ay, by, cy), high)
        z0, z1 = _span(min(az, bz, cz), max(az, bz, cz), high)
        ux, uy, uz = bx - ax, by - ay, bz - az
        vx, vy, vz = cx - bx, cy - by, cz - bz
        wx, wy, wz = ax - cx, ay - cy, az - cz
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        # What rounding can do to the normal of a sliver: it must not separate by a normal that is noise.
        noise = 1e-15 * (abs(ux) + abs(uy) + abs(uz)) * (abs(vx) + abs(vy) + abs(vz)) * 3 * high
        reach = half * (abs(nx) + abs(ny) + abs(nz)) + noise
        for i in range(x0, x1):
            x = i + 0.5
            for j in range(y0, y1):
                y = j + 0.5
                if (
                    _apart(ax - x, ay - y, bx - x, by - y, cx - x, cy - y, ux, uy, half)
                    or _apart(ax - x, ay - y, bx - x, by - y, cx - x, cy - y, vx, vy, half)
                    or _apart(ax - x, ay - y, bx - x, by - y, cx - x, cy - y, wx, wy, half)
                ):
                    continue
                k0, k1 = z0, z1
                if abs(nz) > 1e-3 * (abs(nx) + abs(ny)):
                    # Only so much of the column as the plane passes through; one voxel to spare, tested below.
                    middle = az - (nx * (x - ax) + ny * (y - ay)) / nz
                    rise = (half * (abs(nx) + abs(ny)) + noise) / abs(nz) + 1.0
                    k0, k1 = max(z0, int(np.floor(middle - rise))), min(z1, int(np.ceil(middle + rise)))
                for k in range(k0, k1):
                    z = k + 0.5
                    at = min(i + padding, last), min(j + padding, last), min(k + padding, last)
                    if occupancy[at] or abs(nx * (ax - x) + ny * (ay - y) + nz * (az - z)) > reach:
                        continue
                    if not (
                        _apart(ay - y, az - z, by - y, bz - z, cy - y, cz - z, uy, uz, half)
                        or _apart(ay - y, az - z, by - y, bz - z, cy - y, cz - z, vy, vz, half)
                        or _apart(ay - y, az - z, by - y, bz - z, cy - y, cz - z, wy, wz, half)
                        or _apart(ax - x, az - z, bx - x, bz - z, cx - x, cz - z, ux, uz, half)
                        or _apart(ax - x, az - z, bx - x, bz - z, cx - x, cz - z, vx, vz, half)
                        or _apart(ax - x, az - z, bx - x, bz - z, cx - x, cz - z, wx, wz, half)
                    ):
                        occupancy[at] = 1


@no_type_check
def _extremes(points, faces):
    """Least and greatest coordinates of the corners of faces, NaN where one of them is."""
    lower, upper = np.full(3, np.inf), np.full(3, -np.inf)
    for face in range(faces.shape[0]):
        for corner in range(3):
            for axis in range(3):
                value = points[faces[face, corner], axis]
                if value < lower[axis] or value != value:
                    lower[axis] = value
                if value > upper[axis] or value != value:
                    upper[axis] = value
    return lower, upper


@no_type_check
def _first_and_last(least, most, high):
    """Half-open range of voxels below `high` whose extent meets least..most."""
    return max(0, int(np.ceil(least - 1 - TOUCH))), min(high, int(np.floor(most + TOUCH)) + 1)


@no_type_check
def _is_apart(a0, a1, b0, b1, c0, c1, edge0, edge1, half):
    """Whether, on two axes, the normal of an edge separates the triangle abc from the square of half side `half`."""
    p, q, r = a0 * edge1 - a1 * edge0, b0 * edge1 - b1 * edge0, c0 * edge1 - c1 * edge0
    reach = half * (abs(edge0) + abs(edge1))
    return min(p, q, r) > reach or max(p, q, r) < -reach


_span = compiled(_first_and_last)
_apart = compiled(_is_apart)
occupy_touched: Callable[..., None] = compiled(_occupy)
bounds_of_faces: Callable[..., tuple[np.ndarray, np.ndarray]] = compiled(_extremes)
