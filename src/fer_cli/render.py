"""Voxel grids, boxes and feature-map cells as pictures, off-screen; the one door to PyVista.

One visual language: occupied voxels are cubes lit from above, in colours of Okabe and Ito that stay apart
for colour-blind readers, seen from the front left by the same parallel camera, in the thin outline of
their grid, on white. A picture is described as a `Scene`; `render_scenes` draws a batch of them with one
plotter. Importing this module is cheap: PyVista and Pillow come with the first picture.

Source: the panels of Figs 2 to 7.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped, UInt8

from fer_cli.errors import ResourceError
from fer_cli.receptive import Box, Location

Grid = Shaped[np.ndarray, "x y z"]
"""Occupancy probabilities in [0, 1], or 0 and 1; z is up."""
Image = UInt8[np.ndarray, "height width 3"]
Colour = tuple[int, int, int]

OCCUPIED = 0.5

# Okabe and Ito's palette, and a neutral grey. Missing voxels are also drawn small, and grey is much lighter
# than the other two, so that an overlay can be read without colour.
SHAPE: Colour = (86, 180, 233)
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
_TO_CAMERA = np.array([-0.8, -1.0, 0.7]) / np.linalg.norm([-0.8, -1.0, 0.7])
_RIGHT = np.cross([0.0, 0.0, 1.0], _TO_CAMERA) / np.linalg.norm(np.cross([0.0, 0.0, 1.0], _TO_CAMERA))
_UP = np.cross(_TO_CAMERA, _RIGHT)
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


def grid_scene(grid: Grid, *, colour: Colour = SHAPE) -> Scene:
    """The occupied voxels of `grid`."""
    return Scene(_shape(grid), (Solid(occupied(grid), colour),))


def count_differences(reconstruction: Grid, reference: Grid) -> dict[str, int]:
    """Voxels of `reconstruction` that are matching, missing and extra beside `reference`, in that order."""
    drawn, wanted = occupied(reconstruction), occupied(reference)
    masks = {"matching": drawn & wanted, "missing": wanted & ~drawn, "extra": drawn & ~wanted}
    return {kind: int(mask.sum()) for kind, mask in masks.items()}


def overlay_scene(reconstruction: Grid, reference: Grid) -> Scene:
    """Where `reconstruction` agrees with `reference`: matching, missing (small cubes) and extra voxels."""
    drawn, wanted = occupied(reconstruction), occupied(reference)
    return Scene(
        _shape(reconstruction),
        (
            Solid(drawn & wanted, MATCHING),
            Solid(drawn & ~wanted, EXTRA),
            Solid(wanted & ~drawn, MISSING, size=0.6),
        ),
    )


def boxes_scene(grid: Grid, boxes: Sequence[Box]) -> Scene:
    """`boxes` (voxel units) as wireframes; voxels are the darker, the more of the boxes they lie in."""
    seen = np.zeros(_shape(grid))
    for (x0, x1), (y0, y1), (z0, z1) in boxes:
        seen[x0:x1, y0:y1, z0:z1] += 1
    share = np.clip((seen - 1) / max(1.0, seen.max() - 1), 0, 1)[..., None]
    pale, dark = (np.array(colour, float) for colour in SEEN)
    colours = np.where(seen[..., None] > 0, pale + (dark - pale) * share, np.array(MATCHING, float))
    return Scene(_shape(grid), (Solid(occupied(grid), colours.round().astype(np.uint8)),), tuple(boxes))


def cells_scene(shape: Location, cells: Sequence[Location], chosen: Location) -> Scene:
    """`cells` of a feature map of `shape` locations, `chosen` among them in another colour."""
    field, one = np.zeros(shape, bool), np.zeros(shape, bool)
    for cell in cells:
        field[cell] = True
    one[chosen] = True
    # Small cubes, so that the chosen one can be seen among them.
    solids = (Solid(field & ~one, FIELD, size=0.4), Solid(one, CHOSEN, size=0.8))
    return Scene(shape, solids, shadows=((tuple(cells), FIELD), ((chosen,), CHOSEN)))


def render_scenes(scenes: Sequence[Scene], *, size: int = 420) -> list[Image]:
    """One picture of `size` × `size` pixels per scene, all drawn by one off-screen plotter.

    Scenes whose grids have the same shape share the camera.

    Raises ResourceError if the machine offers no off-screen OpenGL.
    """
    if not scenes:
        return []
    plotter = _open_plotter(size)
    try:
        return [_draw(plotter, scene) for scene in scenes]
    finally:
        plotter.close()


def render_grids(grids: Sequence[Grid], *, size: int = 420) -> list[Image]:
    """One picture per grid, as `render_scenes` draws them."""
    return render_scenes([grid_scene(grid) for grid in grids], size=size)


def render_probe(
    layer: str,
    *,
    feature_map: Location,
    location: Location,
    response_field: Sequence[Location],
    reconstruction: Grid,
    receptive_field: Box,
    input_grid: Grid,
    size: int = 420,
) -> Image:
    """Algorithm 1's four panels side by side, with captions.

    The location in the layer's feature map; its response field; the reconstruction from the response field,
    with the receptive field as a wireframe; the receptive field cut out of it, laid over the input.

    Source: Fig. 2.
    """
    (x0, x1), (y0, y1), (z0, z1) = receptive_field
    cut = np.s_[x0:x1, y0:y1, z0:z1]
    full = grid_scene(reconstruction)
    panels = render_scenes(
        [
            cells_scene(feature_map, [location], location),
            cells_scene(feature_map, response_field, location),
            Scene(full.shape, full.solids, (receptive_field,)),
            overlay_scene(reconstruction[cut], input_grid[cut]),
        ],
        size=size,
    )
    count, total = len(response_field), int(np.prod(feature_map))
    spans = " ".join(f"{axis} {low}–{high - 1}" for axis, (low, high) in zip("xyz", receptive_field, strict=True))
    captions = [
        (f"1  Location {','.join(map(str, location))}", f"in {layer}, {'×'.join(map(str, feature_map))}"),
        ("2  Response field", f"{count} of {total} location{'s' if total > 1 else ''}"),
        ("3  Reconstruction", "from the response field alone"),
        ("4  Receptive field, against the input", f"voxels {spans}"),
    ]
    return _mount(panels, captions, {3: LEGEND}, {0: feature_map, 1: feature_map, 2: full.shape})


def encode_png(image: Image, *, colours: int = 256) -> bytes:
    """`image` as a PNG with a palette of at most `colours`."""
    from PIL import Image as Pillow

    palette = Pillow.fromarray(image).quantize(colours, method=Pillow.Quantize.MEDIANCUT, dither=Pillow.Dither.NONE)
    file = io.BytesIO()
    palette.save(file, "PNG")
    return file.getvalue()


def write_png(image: Image, path: Path) -> None:
    """Write `image` to `path`, whose folder exists.

    Raises ResourceError if the file cannot be written.
    """
    try:
        path.write_bytes(encode_png(image))
    except OSError as error:
        raise ResourceError(f"cannot write {path}: {error.strerror or error}.") from error


def _shape(grid: Grid) -> Location:
    x, y, z = grid.shape
    return (x, y, z)


def _open_plotter(size: int) -> Any:
    import pyvista
    from vtkmodules.vtkCommonCore import vtkLogger

    # Without a display VTK warns on file descriptor 2 and then draws by EGL or OSMesa all the same. Python's
    # exceptions do not go through this logger.
    vtkLogger.SetStderrVerbosity(vtkLogger.VERBOSITY_OFF)
    plotter = pyvista.Plotter(off_screen=True, window_size=(size, size))
    plotter.render_window.Initialize()
    # Drawing in a window that did not initialize ends the process, not the call.
    if not plotter.render_window.GetInitialized():
        plotter.close()
        raise ResourceError(
            "this machine cannot draw without a screen: neither EGL nor OSMesa works "
            "(on Debian: apt-get install libegl1 libgl1-mesa-dri)."
        )
    plotter.set_background("white")
    plotter.enable_parallel_projection()
    return plotter


def _draw(plotter: Any, scene: Scene) -> Image:
    plotter.clear_actors()
    _aim(plotter.camera, np.array(scene.shape, float))
    for height, (cells, colour) in enumerate(scene.shadows):
        points = _cast(scene.shape, cells, height=0.01 * height)
        _add_quads(plotter, points, np.broadcast_to(0.4 * np.array(colour) + 0.6 * 255, points.shape), edges=False)
    if scene.shadows:
        _add_lines(plotter, _ruling(scene.shape, height=0.02), RULING, 1.0)
    corners = ((0, scene.shape[0]), (0, scene.shape[1]), (0, scene.shape[2]))
    _add_lines(plotter, _box_edges(corners)[:9], OUTLINE, 1.5)
    shading = np.zeros(scene.shape, bool)
    for solid in scene.solids:
        shading |= solid.cells & (solid.size == 1)
    for solid in scene.solids:
        points, colours = _faces(solid, shading)
        _add_quads(plotter, points, colours, edges=True)
    if scene.boxes:
        lines = np.unique(np.concatenate([_box_edges(box) for box in scene.boxes]), axis=0)
        _add_lines(plotter, lines, BOX_LINE, 1.0, opacity=0.35, on_top=True)
        few = len(scene.boxes) <= 4
        _add_lines(plotter, lines, BOX_LINE, 2.0 if few else 1.0, opacity=1.0 if few else 0.5)
    plotter.render()
    image: Image = np.ascontiguousarray(plotter.screenshot(return_img=True)[..., :3])
    return image


def _aim(camera: Any, shape: Float[np.ndarray, "3"]) -> None:
    """Look at the middle of a grid of `shape` cells, as near as its outline allows."""
    middle, distance = shape / 2, 4 * float(np.linalg.norm(shape))
    camera.focal_point = tuple(middle)
    camera.position = tuple(middle + _TO_CAMERA * distance)
    camera.up = (0.0, 0.0, 1.0)
    camera.parallel_scale = _half_height(shape)
    camera.clipping_range = (distance / 4, 2 * distance)


def _half_height(shape: Float[np.ndarray, "3"]) -> float:
    """Half of what the picture spans, in cells: the outline of the grid and a hair's breadth around it."""
    return 1.02 * float(max(np.abs(direction) @ shape / 2 for direction in (_RIGHT, _UP)))


def _faces(
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


def _square(axis: int) -> Int[np.ndarray, "4 3"]:
    """Corners of a unit square across `axis`, in order around it."""
    return np.insert(np.array([[0, 0], [1, 0], [1, 1], [0, 1]]), axis, 0, axis=1)


def _cast(shape: Location, cells: Sequence[Location], *, height: float) -> Float[np.ndarray, "corner 3"]:
    """The squares that `cells` cast straight onto the floor and the two back walls, `height` in front of them."""
    points = [np.zeros((0, 3))]
    for axis, step, _ in _SIDES:
        flat = np.array(cells, float).reshape(-1, 3)
        flat[:, axis] = _far_side(shape, axis, step, height)
        points.append((np.unique(flat, axis=0)[:, None, :] + _square(axis)).reshape(-1, 3))
    return np.concatenate(points)


def _ruling(shape: Location, *, height: float) -> Float[np.ndarray, "line 2 3"]:
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


def _far_side(shape: Location, axis: int, step: int, height: float) -> float:
    return height if step > 0 else shape[axis] - height


def _box_edges(box: Box) -> Float[np.ndarray, "12 2 3"]:
    """The twelve edges of `box`, those that meet at the corner nearest to the camera last."""
    corners = np.array([[x, y, z] for x in box[0] for y in box[1] for z in box[2]], float)
    edges = [(a, b) for a in range(8) for b in range(a + 1, 8) if (a ^ b).bit_count() == 1]
    nearest = int(np.argmax(corners @ _TO_CAMERA))
    edges.sort(key=lambda edge: nearest in edge)
    lines: Float[np.ndarray, "12 2 3"] = corners[np.array(edges)]
    return lines


def _add_quads(
    plotter: Any, points: Float[np.ndarray, "corner 3"], colours: Float[np.ndarray, "corner 3"], *, edges: bool
) -> None:
    import pyvista

    if not len(points):
        return
    quads = np.arange(len(points)).reshape(-1, 4)
    mesh = pyvista.PolyData(points, np.insert(quads, 0, 4, axis=1).ravel())
    mesh.point_data["colour"] = np.asarray(colours).round().astype(np.uint8)
    plotter.add_mesh(
        mesh, scalars="colour", rgb=True, lighting=False, show_edges=edges, edge_color="black", edge_opacity=0.35,
        line_width=1.0, reset_camera=False, render=False,
    )  # fmt: skip


def _add_lines(
    plotter: Any,
    lines: Float[np.ndarray, "line 2 3"],
    colour: Colour,
    width: float,
    *,
    opacity: float = 1.0,
    on_top: bool = False,
) -> None:
    import pyvista

    pairs = np.arange(2 * len(lines)).reshape(-1, 2)
    mesh = pyvista.PolyData(lines.reshape(-1, 3), lines=np.insert(pairs, 0, 2, axis=1).ravel())
    actor = plotter.add_mesh(
        mesh, color=colour, line_width=width, opacity=opacity, lighting=False, reset_camera=False, render=False
    )
    if on_top:
        actor.mapper.SetResolveCoincidentTopologyToPolygonOffset()
        actor.mapper.SetRelativeCoincidentTopologyLineOffsetParameters(0, -66000)


def _mount(
    panels: Sequence[Image],
    captions: Sequence[tuple[str, str]],
    legends: Mapping[int, Sequence[tuple[str, Colour]]],
    axes: Mapping[int, Location],
) -> UInt8[np.ndarray, "canvas_height canvas_width 3"]:
    """Square panels in a row, each with a bold and a plain line of caption above.

    By a panel's index, a legend below it, or the axes' names at the edges of its grid.
    """
    import matplotlib
    from PIL import Image as Pillow
    from PIL import ImageDraw, ImageFont

    size = panels[0].shape[0]
    letter, gap = round(size / 22), round(size / 12)
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    bold = ImageFont.truetype(fonts / "DejaVuSans-Bold.ttf", letter)
    plain = ImageFont.truetype(fonts / "DejaVuSans.ttf", letter)
    top, bottom = 4 * letter, 2 * letter
    canvas = Pillow.new("RGB", (len(panels) * (size + gap) + gap, top + size + bottom), "white")
    pen = ImageDraw.Draw(canvas)
    for index, (panel, (head, line)) in enumerate(zip(panels, captions, strict=True)):
        left = gap + index * (size + gap)
        canvas.paste(Pillow.fromarray(panel), (left, top))
        pen.text((left, letter * 0.8), head, fill="black", font=bold)
        pen.text((left, letter * 2.3), line, fill=(70, 70, 70), font=plain)
        for name, place in _axis_places(axes[index]).items() if index in axes else ():
            pen.text(tuple(np.array((left, top)) + place * size), name, fill=(70, 70, 70), font=plain, anchor="mm")
        x = float(left)
        for name, colour in legends.get(index, ()):
            pen.rectangle((x, top + size, x + letter, top + size + letter), fill=colour, outline=(90, 90, 90))
            pen.text((x + 1.4 * letter, top + size - letter * 0.15), name, fill="black", font=plain)
            x += 2.6 * letter + pen.textlength(name, font=plain)
    return np.asarray(canvas)


def _axis_places(shape: Location) -> dict[str, Float[np.ndarray, "2"]]:
    """Where to name the axes, beside the outline's lower and right edges, in shares of the picture."""
    x, y, z = shape
    half = np.array(shape, float) / 2
    places = {}
    for name, corner in {"x": (x / 2, 0, 0), "y": (0, y / 2, 0), "z": (x, 0, z / 2)}.items():
        offset = np.array(corner, float) - half
        across, up = (_RIGHT @ offset, _UP @ offset) / np.array(2 * _half_height(2 * half))
        down = 0.0 if name == "z" else 0.04
        places[name] = np.array([0.5 + across + 0.04 * np.sign(across), 0.5 - up + down])
    return places
