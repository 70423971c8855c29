"""What a picture shows, as plain geometry: solids, boxes and shadows in a grid of cells, and their faces and lines.

One visual language: occupied voxels are cubes lit from above, in colours of Okabe and Ito that stay apart
for colour-blind readers, seen from the front left by the same parallel camera, in the thin outline of
their grid. `render` draws what is described here; nothing here draws.

Source: the panels of Figs 2 to 7.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped, UInt8

from fer_cli.data.places import Box, Location

Grid = Shaped[np.ndarray, "x y z"]
"""Occupancy probabilities in [0, 1], or 0 and 1; z is up."""
Colour = tuple[int, int, int]

OCCUPIED = 0.5

# Okabe and Ito's palette, and neutral greys. A shape has a colour where it stands for the predicted class or the true
# one. Missing voxels are also drawn small, and grey is much lighter than the other two, so that an overlay can be read
# without colour.
SHAPE: Colour = (178, 185, 193)
PREDICTED: Colour = (240, 142, 82)
TRUE: Colour = (86, 180, 233)
MATCHING: Colour = (190, 194, 198)
MISSING: Colour = (213, 94, 0)
EXTRA: Colour = (0, 114, 178)
LEGEND: tuple[tuple[str, Colour], ...] = (("matching", MATCHING), ("missing", MISSING), ("extra", EXTRA))
CHOSEN: Colour = (213, 94, 0)
FIELD: Colour = (230, 159, 0)
SEEN: tuple[Colour, Colour] = ((243, 214, 150), (213, 94, 0))
OUTLINE: Colour = (150, 150, 150)
RULING: Colour = (222, 222, 222)
BOX_LINE: Colour = (60, 30, 0)

# Of ModelNet10's shapes chairs, beds and toilets face −y; sofas, desks and monitors face −x.
TO_CAMERA = np.array([-0.8, -1.0, 0.7]) / np.linalg.norm([-0.8, -1.0, 0.7])
RIGHT = np.cross([0.0, 0.0, 1.0], TO_CAMERA) / np.linalg.norm(np.cross([0.0, 0.0, 1.0], TO_CAMERA))
UP = np.cross(TO_CAMERA, RIGHT)
# The three sides of a cube that this camera sees (axis, outward step), with the light they get.
_SIDES = ((0, -1, 0.84), (1, -1, 0.66), (2, 1, 1.0))
_DARKEST_CORNER = 0.62


@dataclass(frozen=True)
class Solid:
    """Cells drawn as cubes: where, in which colour (one, or one per cell), and how large (1 fills the cell)."""

    cells: Bool[np.ndarray, "x y z"]
    colour: Colour | UInt8[np.ndarray, "x y z 3"]
    size: float = 1.0


@dataclass(frozen=True)
class Scene:
    """What one picture shows: solids and wireframe boxes in a grid of `shape` cells.

    `shadows` are cells cast in a pale colour onto the floor and the two back walls, which are then ruled
    like graph paper, so that a cell's place in depth can be read off; later ones cover earlier ones.
    """

    shape: Location
    solids: tuple[Solid, ...] = ()
    boxes: tuple[Box, ...] = ()
    shadows: tuple[tuple[tuple[Location, ...], Colour], ...] = ()


def occupied(grid: Grid) -> Bool[np.ndarray, "x y z"]:
    """Voxels that count as occupied: probability at least 0.5."""
    return np.asarray(grid) >= OCCUPIED


def flat(volume: Shaped[np.ndarray, "channel x y z"]) -> Grid:
    """Maximum over channels: the grid to draw of a volume."""
    return np.asarray(volume.max(axis=0))


def shape_of(grid: Grid) -> Location:
    """Number of cells along x, y and z."""
    x, y, z = grid.shape
    return (x, y, z)


def grid_scene(grid: Grid, *, colour: Colour = SHAPE) -> Scene:
    """The occupied voxels of `grid`."""
    return Scene(shape_of(grid), (Solid(occupied(grid), colour),))


def count_differences(reconstruction: Grid, reference: Grid) -> dict[str, int]:
    """Voxels of `reconstruction` that are matching, missing and extra beside `reference`, in that order."""
    drawn, wanted = occupied(reconstruction), occupied(reference)
    masks = {"matching": drawn & wanted, "missing": wanted & ~drawn, "extra": drawn & ~wanted}
    return {kind: int(mask.sum()) for kind, mask in masks.items()}


def overlay_scene(reconstruction: Grid, reference: Grid) -> Scene:
    """Where `reconstruction` agrees with `reference`: matching, missing (small cubes) and extra voxels."""
    drawn, wanted = occupied(reconstruction), occupied(reference)
    return Scene(
        shape_of(reconstruction),
        (
            Solid(drawn & wanted, MATCHING),
            Solid(drawn & ~wanted, EXTRA),
            Solid(wanted & ~drawn, MISSING, size=0.6),
        ),
    )


def boxes_scene(grid: Grid, boxes: Sequence[Box]) -> Scene:
    """`boxes` (voxel units) as wireframes; voxels are the darker, the more of the boxes they lie in."""
    seen = np.zeros(shape_of(grid))
    for (x0, x1), (y0, y1), (z0, z1) in boxes:
        seen[x0:x1, y0:y1, z0:z1] += 1
    share = np.clip((seen - 1) / max(1.0, seen.max() - 1), 0, 1)[..., None]
    pale, dark = (np.array(colour, float) for colour in SEEN)
    colours = np.where(seen[..., None] > 0, pale + (dark - pale) * share, np.array(MATCHING, float))
    return Scene(shape_of(grid), (Solid(occupied(grid), colours.round().astype(np.uint8)),), tuple(boxes))


def cells_scene(shape: Location, cells: Sequence[Location], chosen: Location) -> Scene:
    """`cells` of a feature map of `shape` locations, `chosen` among them in another colour."""
    field, one = np.zeros(shape, bool), np.zeros(shape, bool)
    for cell in cells:
        field[cell] = True
    one[chosen] = True
    # Small cubes, so that the chosen one can be seen among them.
    solids = (Solid(field & ~one, FIELD, size=0.4), Solid(one, CHOSEN, size=0.8))
    return Scene(shape, solids, shadows=((tuple(cells), FIELD), ((chosen,), CHOSEN)))


def half_height(shape: Float[np.ndarray, "3"]) -> float:
    """Half of what the picture spans, in cells: the outline of the grid and a hair's breadth around it."""
    return 1.02 * float(max(np.abs(direction) @ shape / 2 for direction in (RIGHT, UP)))


def visible_faces(
    solid: Solid, shading: Bool[np.ndarray, "x y z"]
) -> tuple[Float[np.ndarray, "corner 3"], Float[np.ndarray, "corner 3"]]:
    """Corners of the visible faces, four to a face, and the light and colour of each corner.

    Corners with neighbours of `shading` in front of them are darker: ambient occlusion of a voxel grid.
    """
    # VTK varies x fastest; numpy varies z fastest. So no grid is ever flattened for VTK: faces are made from
    # cell indices, which have no order to mistake.
    colours = np.broadcast_to(np.asarray(solid.colour, float), (*solid.cells.shape, 3))
    near = np.pad(shading, 1)
    all_points, all_colours = [np.zeros((0, 3))], [np.zeros((0, 3))]
    for axis, step, light in _SIDES:
        outward = np.zeros(3, int)
        outward[axis] = step
        cells = np.argwhere(solid.cells)
        if solid.size == 1:
            front = cells + outward + 1
            cells = cells[~np.pad(solid.cells, 1)[tuple(front.T)]]
        face = _square(axis)
        corners = face + (outward + 1) // 2 * np.eye(3, dtype=int)[axis]
        points = cells[:, None, :] + 0.5 + (corners - 0.5) * solid.size
        first, second = np.eye(3, dtype=int)[[a for a in range(3) if a != axis]]
        front = (cells + outward + 1)[:, None, :]
        away_first = np.where((face @ first)[:, None], first, -first)
        away_second = np.where((face @ second)[:, None], second, -second)
        sides = [near[tuple(np.moveaxis(front + away, -1, 0))] for away in (away_first, away_second)]
        diagonal = near[tuple(np.moveaxis(front + away_first + away_second, -1, 0))]
        covered = np.where(sides[0] & sides[1], 3, sides[0] * 1 + sides[1] + diagonal)
        shade = light * (1 - (1 - _DARKEST_CORNER) * covered / 3)
        own = colours[tuple(cells.T)][:, None, :]
        all_points.append(points.reshape(-1, 3))
        all_colours.append((own * shade[..., None]).reshape(-1, 3))
    return np.concatenate(all_points), np.concatenate(all_colours)


def cast_shadows(shape: Location, cells: Sequence[Location], *, height: float) -> Float[np.ndarray, "corner 3"]:
    """The squares that `cells` cast straight onto the floor and the two back walls, `height` in front of them."""
    points = [np.zeros((0, 3))]
    for axis, step, _ in _SIDES:
        flat = np.array(cells, float).reshape(-1, 3)
        flat[:, axis] = _far_side(shape, axis, step, height)
        points.append((np.unique(flat, axis=0)[:, None, :] + _square(axis)).reshape(-1, 3))
    return np.concatenate(points)


def ruling(shape: Location, *, height: float) -> Float[np.ndarray, "line 2 3"]:
    """Cell borders on the floor and the two back walls, `height` in front of them."""
    lines = []
    for axis, step, _ in _SIDES:
        for along, across in permutations([other for other in range(3) if other != axis]):
            for position in range(shape[across] + 1):
                line = np.zeros((2, 3))
                line[:, axis] = _far_side(shape, axis, step, height)
                line[:, across] = position
                line[1, along] = shape[along]
                lines.append(line)
    return np.array(lines)


def box_edges(box: Box) -> Float[np.ndarray, "12 2 3"]:
    """The twelve edges of `box`, those that meet at the corner nearest to the camera last."""
    corners = np.array([[x, y, z] for x in box[0] for y in box[1] for z in box[2]], float)
    edges = [(a, b) for a in range(8) for b in range(a + 1, 8) if (a ^ b).bit_count() == 1]
    nearest = int(np.argmax(corners @ TO_CAMERA))
    edges.sort(key=lambda edge: nearest in edge)
    lines: Float[np.ndarray, "12 2 3"] = corners[np.array(edges)]
    return lines


def axis_places(shape: Location) -> dict[str, Float[np.ndarray, "2"]]:
    """Where to name the axes, beside the outline's lower and right edges, in shares of the picture."""
    x, y, z = shape
    half = np.array(shape, float) / 2
    places = {}
    for name, corner in {"x": (x / 2, 0, 0), "y": (0, y / 2, 0), "z": (x, 0, z / 2)}.items():
        offset = np.array(corner, float) - half
        across, up = (RIGHT @ offset, UP @ offset) / np.array(2 * half_height(2 * half))
        down = 0.0 if name == "z" else 0.04
        places[name] = np.array([0.5 + across + 0.04 * np.sign(across), 0.5 - up + down])
    return places


def _square(axis: int) -> Int[np.ndarray, "4 3"]:
    """Corners of a unit square across `axis`, in order around it."""
    return np.insert(np.array([[0, 0], [1, 0], [1, 1], [0, 1]]), axis, 0, axis=1)


def _far_side(shape: Location, axis: int, step: int, height: float) -> float:
    return height if step > 0 else shape[axis] - height
