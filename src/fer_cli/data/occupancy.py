"""Shapes → occupancy grids: the voxels that a mesh's surface or points lie in, and grids made to fit.

A voxel is occupied where any triangle passes through it, by the separating-axis test of Akenine-Möller ("Fast 3D
triangle–box overlap testing", 2001). The aspect of the shape is kept: the longest side of its bounding box spans the
voxels within the padding, and its centre is the grid's. z is up; a shape whose file has another axis up is turned.

Every point lies in one voxel: on the border between two it lies in the later one, unless that is padding. So a wall is
one voxel thick wherever it stands. Borders lie `TIE` of the shape's longest side below the whole numbers, so that
rounding does not decide where a wall on a border goes.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from fer_cli.data.formats.registry import Grid, Mesh, PointCloud, index_to_world
from fer_cli.data.turning import Axis, file_from_turned, turned_grid, turned_points
from fer_cli.errors import ArtifactError, InputError, UsageError

Fill = Literal["surface", "solid"]
Bounds = Literal["used", "all"]

TIE = 1.1e-6
"""Share of a shape's longest side: above the precision of files, below what a shape is meant to show."""


@dataclass(frozen=True)
class VoxelSettings:
    """How meshes become grids of `resolution`³ voxels, of which `padding` on every side stay empty.

    `bounds` are the vertices that place a mesh in the grid: those of its faces (`used`), or `all` as binvox has it.
    `up` is the axis of the files that points up.

    Raises UsageError if `resolution` is not within 8 to 128, `padding` leaves no room, or a word is unknown.
    """

    resolution: int = 32
    padding: int = 1
    fill: Fill = "surface"
    bounds: Bounds = "used"
    up: Axis = "z"

    def __post_init__(self) -> None:
        if not 8 <= self.resolution <= 128:
            raise UsageError(f"resolution {self.resolution} is out of range; give 8 to 128.")
        if not 0 <= 2 * self.padding < self.resolution:
            most = (self.resolution - 1) // 2
            raise UsageError(f"padding {self.padding} leaves no room in {self.resolution} voxels; give 0 to {most}.")
        if self.fill not in ("surface", "solid"):
            raise UsageError(f"there is no fill {self.fill!r}; known are surface, solid.")
        if self.bounds not in ("used", "all"):
            raise UsageError(f"there are no bounds {self.bounds!r}; known are used, all.")
        if self.up not in ("x", "y", "z"):
            raise UsageError(f"there is no axis {self.up!r}; known are x, y, z.")

    @property
    def inner(self) -> int:
        """Voxels along each side within the padding."""
        return self.resolution - 2 * self.padding

    def to_json(self) -> dict[str, object]:
        """As recorded in artifacts."""
        return asdict(self)

    @classmethod
    def from_json(cls, recorded: Mapping[str, Any]) -> "VoxelSettings":
        """Settings recorded in an artifact; older ones lack bounds and up. Raises ArtifactError if they are none."""
        try:
            return cls(
                resolution=int(recorded["resolution"]),
                padding=int(recorded["padding"]),
                fill=recorded["fill"],
                bounds=recorded.get("bounds", "all"),
                up=recorded.get("up", "z"),
            )
        except (KeyError, TypeError, ValueError, AttributeError, UsageError) as error:
            raise ArtifactError(
                f"the recorded voxelization {str(recorded)[:200]} is not usable: {str(error)[:200]}"
            ) from error


def voxelize_shape(shape: Mesh | PointCloud | Grid, settings: VoxelSettings) -> Grid:
    """A grid of `settings.resolution`³: meshes and points are voxelized, grids centred or reduced without padding.

    The shape is turned first, so that the axis `settings.up` of its file becomes z; `index_to_world` still leads to the
    coordinates of the file.

    Raises InputError if the mesh has no surface, or there is no point.
    """
    if isinstance(shape, Grid):
        grid = fit_grid(turned_grid(shape, settings.up), settings.resolution)
        return fill_enclosed(grid) if settings.fill == "solid" else grid
    up = settings.up
    if isinstance(shape, Mesh):
        upright = shape if up == "z" else replace(shape, vertices=turned_points(shape.vertices, up))
        grid = voxelize_mesh(upright, settings)
    else:
        grid = occupy_points(replace(shape, points=turned_points(shape.points, up)), settings)
    return grid if up == "z" else Grid(grid.occupancy, file_from_turned(up) @ grid.index_to_world)


def voxelize_mesh(mesh: Mesh, settings: VoxelSettings) -> Grid:
    """Voxels that a point of a triangle lies in; with fill `solid`, also what they enclose.

    Triangles may be degenerate. A mesh whose bounds are one point is the one voxel (R//2, R//2, R//2), of side 1.

    Raises InputError if there is no vertex or face, a coordinate is not finite, or a face's vertex does not exist.
    Source: Akenine-Möller 2001.
    """
    if not (len(mesh.vertices) and len(mesh.faces)):
        raise InputError(f"a mesh of {len(mesh.vertices)} vertices and {len(mesh.faces)} faces has no surface.")
    if mesh.faces.min() < 0 or mesh.faces.max() >= len(mesh.vertices):
        raise InputError(f"faces name vertices {mesh.faces.min()} to {mesh.faces.max()} of {len(mesh.vertices)}.")
    from fer_cli.data.triangles import bounds_of_faces, occupy_touched  # Numba, a third of a second, only for meshes

    occupancy = np.zeros((settings.resolution,) * 3, np.uint8)
    vertices = mesh.vertices
    bounds = bounds_of_faces(vertices, mesh.faces) if settings.bounds == "used" else _extremes(vertices)
    placed, matrix = _place(vertices, bounds, settings)
    if placed is None:
        occupancy[(settings.resolution // 2,) * 3] = 1
    else:
        occupy_touched(placed, mesh.faces, settings.padding, occupancy)  # `TIE` can push a point past the last voxel
    grid = Grid(occupancy, matrix)
    return fill_enclosed(grid) if settings.fill == "solid" else grid


def occupy_points(cloud: PointCloud, settings: VoxelSettings) -> Grid:
    """Voxels that a point lies in, placed as a mesh of these vertices would be; with fill `solid`, also enclosed ones.

    Points that all coincide are the one voxel (R//2, R//2, R//2), of side 1.

    Raises InputError if there is no point, or a coordinate is not finite.
    """
    if not len(cloud.points):
        raise InputError("a cloud of 0 points has no shape.")
    occupancy = np.zeros((settings.resolution,) * 3, np.uint8)
    placed, matrix = _place(cloud.points, _extremes(cloud.points), settings)
    if placed is None:
        occupancy[(settings.resolution // 2,) * 3] = 1
    else:
        voxels = np.clip(np.floor(placed), 0, settings.inner - 1).astype(np.int64) + settings.padding
        occupancy[tuple(voxels.T)] = 1
    grid = Grid(occupancy, matrix)
    return fill_enclosed(grid) if settings.fill == "solid" else grid


def _extremes(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return points.min(axis=0), points.max(axis=0)


def _place(
    vertices: np.ndarray, bounds: tuple[np.ndarray, np.ndarray], settings: VoxelSettings
) -> tuple[np.ndarray | None, np.ndarray]:
    """Vertices in units of voxels, and the map from the grid's indices to the world.

    Voxel i within the padding spans [i, i + 1) of them, so that they are `TIE` further on than the map says. None
    if the bounds are a point.
    """
    resolution = settings.resolution
    lower, upper = bounds
    if not (np.isfinite(lower).all() and np.isfinite(upper).all()):
        raise InputError(f"the shape extends from {lower.min():g} to {upper.max():g}; give finite coordinates.")
    # Halves first: the extent of finite coordinates can be beyond what a float holds.
    centre = lower / 2 + upper / 2
    side = float((upper / 2 - lower / 2).max()) / settings.inner * 2
    if side == 0.0:
        return None, index_to_world(centre - resolution // 2, 1.0)
    with np.errstate(over="ignore"):  # of vertices of no face, wherever they are
        placed = (vertices - centre) / side + (0.5 + TIE) * settings.inner
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
