"""Shapes → occupancy grids: which voxels of a cube's grid a mesh touches or points lie in, and grids made to fit.

A voxel is occupied where any triangle touches its closed cube, by the separating-axis test of Akenine-Möller ("Fast
3D triangle–box overlap testing", 2001). The aspect of the shape is kept: the longest side of its bounding box (of all
vertices, as binvox has it) spans the voxels within the padding, and its centre is the grid's. Padding stays empty: a
face on the border between shape and padding belongs to the shape's side alone. Orientation is kept; z is up.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal, no_type_check

import numba
import numpy as np

from fer_cli.errors import ArtifactError, InputError, UsageError
from fer_cli.formats import Grid, Mesh, PointCloud, index_to_world

Fill = Literal["surface", "solid"]

# Cubes are closed, and this much larger than a voxel (in voxels), lest rounding should open them.
TOUCH = 1e-7


@dataclass(frozen=True)
class VoxelSettings:
    """How meshes become grids of `resolution`³ voxels, of which `padding` on every side stay empty.

    Raises UsageError if `resolution` is not within 8 to 128, `padding` leaves no room, or `fill` is unknown.
    """

    resolution: int = 32
    padding: int = 1
    fill: Fill = "surface"

    def __post_init__(self) -> None:
        if not 8 <= self.resolution <= 128:
            raise UsageError(f"resolution {self.resolution} is out of range; give 8 to 128.")
        if not 0 <= 2 * self.padding < self.resolution:
            most = (self.resolution - 1) // 2
            raise UsageError(f"padding {self.padding} leaves no room in {self.resolution} voxels; give 0 to {most}.")
        if self.fill not in ("surface", "solid"):
            raise UsageError(f"there is no fill {self.fill!r}; known are surface, solid.")

    def to_json(self) -> dict[str, Any]:
        """As recorded in artifacts."""
        return asdict(self)

    @classmethod
    def from_json(cls, recorded: dict[str, Any]) -> "VoxelSettings":
        """Settings recorded in an artifact. Raises ArtifactError if they are none."""
        try:
            return cls(resolution=int(recorded["resolution"]), padding=int(recorded["padding"]), fill=recorded["fill"])
        except (KeyError, TypeError, ValueError, UsageError) as error:
            raise ArtifactError(f"the recorded voxelization {recorded} is not usable: {error}") from error


def voxelize_shape(shape: Mesh | PointCloud | Grid, settings: VoxelSettings) -> Grid:
    """A grid of `settings.resolution`³: meshes and points are voxelized, grids centred or reduced without padding.

    Raises InputError if the mesh has no surface, or there is no point.
    """
    if isinstance(shape, Mesh):
        return voxelize_mesh(shape, settings)
    if isinstance(shape, PointCloud):
        return occupy_points(shape, settings)
    grid = fit_grid(shape, settings.resolution)
    return fill_enclosed(grid) if settings.fill == "solid" else grid


def voxelize_mesh(mesh: Mesh, settings: VoxelSettings) -> Grid:
    """Voxels whose closed cube a triangle touches; with fill `solid`, also what they enclose.

    Triangles may be degenerate. A mesh all of whose vertices coincide is the one voxel (R//2, R//2, R//2), of side 1.

    Raises InputError if there is no vertex or face, a coordinate is not finite, or a face's vertex does not exist.
    Source: Akenine-Möller 2001.
    """
    if not (len(mesh.vertices) and len(mesh.faces)):
        raise InputError(f"a mesh of {len(mesh.vertices)} vertices and {len(mesh.faces)} faces has no surface.")
    if mesh.faces.min() < 0 or mesh.faces.max() >= len(mesh.vertices):
        raise InputError(f"faces name vertices {mesh.faces.min()} to {mesh.faces.max()} of {len(mesh.vertices)}.")
    occupancy = np.zeros((settings.resolution,) * 3, np.uint8)
    placed, matrix = _place(mesh.vertices, settings)
    if placed is None:
        occupancy[(settings.resolution // 2,) * 3] = 1
    else:
        _occupy_touched(placed, mesh.faces, settings.padding, occupancy)
    grid = Grid(occupancy, matrix)
    return fill_enclosed(grid) if settings.fill == "solid" else grid


def occupy_points(cloud: PointCloud, settings: VoxelSettings) -> Grid:
    """Voxels that a point lies in, placed as a mesh of these vertices would be; with fill `solid`, also enclosed ones.

    A point on the border between two voxels lies in the later one, unless that is padding. Points that all coincide
    are the one voxel (R//2, R//2, R//2), of side 1.

    Raises InputError if there is no point, or a coordinate is not finite.
    """
    if not len(cloud.points):
        raise InputError("a cloud of 0 points has no shape.")
    occupancy = np.zeros((settings.resolution,) * 3, np.uint8)
    placed, matrix = _place(cloud.points, settings)
    if placed is None:
        occupancy[(settings.resolution // 2,) * 3] = 1
    else:
        inner = settings.padding, settings.resolution - settings.padding - 1
        occupancy[tuple(np.clip(np.floor(placed), *inner).astype(np.int64).T)] = 1
    grid = Grid(occupancy, matrix)
    return fill_enclosed(grid) if settings.fill == "solid" else grid


def _place(vertices: np.ndarray, settings: VoxelSettings) -> tuple[np.ndarray | None, np.ndarray]:
    """Vertices in units of voxels, voxel i spanning [i, i + 1] (None if all coincide), and the map to the world."""
    resolution = settings.resolution
    lower, upper = vertices.min(axis=0), vertices.max(axis=0)
    if not (np.isfinite(lower).all() and np.isfinite(upper).all()):
        raise InputError(f"the shape extends from {lower.min():g} to {upper.max():g}; give finite coordinates.")
    # Halves first: the extent of finite coordinates can be beyond what a float holds.
    centre = lower / 2 + upper / 2
    side = float((upper / 2 - lower / 2).max()) / (resolution - 2 * settings.padding) * 2
    if side == 0.0:
        return None, index_to_world(centre - resolution // 2, 1.0)
    placed = (vertices - centre) / side + resolution / 2
    return placed, index_to_world(centre + (0.5 - resolution / 2) * side, side)


def fill_enclosed(grid: Grid) -> Grid:
    """The same grid with every voxel occupied that no path of empty, face-adjacent voxels joins to the outside."""
    from scipy.ndimage import label  # a third of a second that surfaces do not need

    empty = np.pad(grid.occupancy == 0, 1, constant_values=True)
    regions, _ = label(empty)
    return Grid((regions != regions[0, 0, 0])[1:-1, 1:-1, 1:-1].view(np.uint8), grid.index_to_world)


def fit_grid(grid: Grid, resolution: int) -> Grid:
    """A grid as resolution³ voxels of the same shape: centred if it is smaller, reduced if it is larger.

    The longest side decides. A reduced voxel is occupied where any voxel is whose centre lies in it; voxels
    stay cubes, and shorter sides are centred. Where an axis cannot be centred exactly, the odd empty voxel
    comes last. `index_to_world` maps the new indices to the same world.
    """
    longest = max(resolution, *grid.occupancy.shape)
    occupancy = np.zeros((resolution,) * 3, np.uint8)
    pooled = grid.occupancy
    window = []
    offset = np.array([(longest - size) // 2 for size in grid.occupancy.shape])
    for axis, size in enumerate(grid.occupancy.shape):
        block = (2 * (np.arange(size) + offset[axis]) + 1) * resolution // (2 * longest)
        if longest > resolution:
            pooled = np.maximum.reduceat(pooled, np.flatnonzero(np.diff(block, prepend=-1)), axis=axis)
        window.append(slice(block[0], block[-1] + 1))
    occupancy[tuple(window)] = pooled
    ratio = longest / resolution
    return Grid(occupancy, grid.index_to_world @ index_to_world((ratio - 1) / 2 - offset, ratio))


@no_type_check
def _occupy(points, faces, margin, occupancy):
    """Set every voxel within `margin` of the border that a triangle touches; voxel i spans [i, i + 1] of `points`."""
    high = occupancy.shape[0] - margin
    half = 0.5 + TOUCH
    for face in range(faces.shape[0]):
        ax, ay, az = points[faces[face, 0]]
        bx, by, bz = points[faces[face, 1]]
        cx, cy, cz = points[faces[face, 2]]
        x0, x1 = _span(min(ax, bx, cx), max(ax, bx, cx), margin, high)
        y0, y1 = _span(min(ay, by, cy), max(ay, by, cy), margin, high)
        z0, z1 = _span(min(az, bz, cz), max(az, bz, cz), margin, high)
        ux, uy, uz = bx - ax, by - ay, bz - az
        vx, vy, vz = cx - bx, cy - by, cz - bz
        wx, wy, wz = ax - cx, ay - cy, az - cz
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        # What rounding can do to the normal of a sliver: it must not separate by a normal that is noise.
        noise = 1e-15 * (abs(ux) + abs(uy) + abs(uz)) * (abs(vx) + abs(vy) + abs(vz)) * 3 * occupancy.shape[0]
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
                    if occupancy[i, j, k] or abs(nx * (ax - x) + ny * (ay - y) + nz * (az - z)) > reach:
                        continue
                    if not (
                        _apart(ay - y, az - z, by - y, bz - z, cy - y, cz - z, uy, uz, half)
                        or _apart(ay - y, az - z, by - y, bz - z, cy - y, cz - z, vy, vz, half)
                        or _apart(ay - y, az - z, by - y, bz - z, cy - y, cz - z, wy, wz, half)
                        or _apart(ax - x, az - z, bx - x, bz - z, cx - x, cz - z, ux, uz, half)
                        or _apart(ax - x, az - z, bx - x, bz - z, cx - x, cz - z, vx, vz, half)
                        or _apart(ax - x, az - z, bx - x, bz - z, cx - x, cz - z, wx, wz, half)
                    ):
                        occupancy[i, j, k] = 1


@no_type_check
def _first_and_last(least, most, low, high):
    """Half-open range of voxels from `low` to `high` whose closed extent meets least..most."""
    return max(low, int(np.ceil(least - 1 - TOUCH))), min(high, int(np.floor(most + TOUCH)) + 1)


@no_type_check
def _is_apart(a0, a1, b0, b1, c0, c1, edge0, edge1, half):
    """Whether, on two axes, the normal of an edge separates the triangle abc from the square of half side `half`."""
    p, q, r = a0 * edge1 - a1 * edge0, b0 * edge1 - b1 * edge0, c0 * edge1 - c1 * edge0
    reach = half * (abs(edge0) + abs(edge1))
    return min(p, q, r) > reach or max(p, q, r) < -reach


_span = numba.njit(_first_and_last)
_apart = numba.njit(_is_apart)
_occupy_touched: Callable[..., None] = numba.njit(cache=True, nogil=True)(_occupy)
