"""Scenes as pictures, drawn off-screen on white; the one door to PyVista, Pillow and Matplotlib's fonts.

`render_scenes` draws a batch of scenes with one plotter. Importing this module is cheap: the libraries come
with the first picture.

Source: the panels of Figs 2 to 7.
"""

import io
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from fer_cli.data.places import Box, Location
from fer_cli.errors import ResourceError
from fer_cli.pictures.scene import (
    BOX_LINE,
    LEGEND,
    OUTLINE,
    RULING,
    TO_CAMERA,
    Colour,
    Grid,
    Scene,
    axis_places,
    box_edges,
    cast_shadows,
    cells_scene,
    grid_scene,
    half_height,
    overlay_scene,
    ruling,
    visible_faces,
)
from fer_cli.storage.disk import write_whole

Image = UInt8[np.ndarray, "height width 3"]
SIZE = 420
"""Pixels along a picture's side."""


def render_scenes(scenes: Sequence[Scene], *, size: int = SIZE) -> list[Image]:
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


def draw_pngs(scenes: Mapping[str, Scene], *, sizes: Mapping[str, int] | None = None) -> dict[str, bytes]:
    """Each scene as `render_scenes` draws it, as a PNG; for other processes, to and from which no picture crosses.

    `sizes` are those of pictures that are not of the usual `SIZE`. Equal scenes of one size are drawn once.
    """
    by_size: dict[int, dict[bytes, list[str]]] = {}
    for name, scene in scenes.items():
        equal = by_size.setdefault((sizes or {}).get(name, SIZE), {})
        equal.setdefault(pickle.dumps(scene), []).append(name)
    drawn: dict[str, bytes] = {}
    for size, equal in by_size.items():
        images = render_scenes([scenes[names[0]] for names in equal.values()], size=size)
        for names, image in zip(equal.values(), images, strict=True):
            drawn |= dict.fromkeys(names, encode_png(image))
    return {name: drawn[name] for name in scenes}


def render_probe(
    layer: str,
    *,
    feature_map: Location,
    location: Location,
    response_field: Sequence[Location],
    reconstruction: Grid,
    receptive_field: Box,
    input_grid: Grid,
    source: str = "from the response field alone",
    size: int = SIZE,
) -> Image:
    """Algorithm 1's four panels side by side, with captions.

    The location in the layer's feature map; its response field; the reconstruction from the response field,
    with the receptive field as a wireframe and a caption that says its `source`; the receptive field cut out of it,
    laid over the input.

    Source: Fig. 2.
    """
    (x0, x1), (y0, y1), (z0, z1) = receptive_field
    cut = np.s_[x0:x1, y0:y1, z0:z1]
    full, overlay = grid_scene(reconstruction), overlay_scene(reconstruction[cut], input_grid[cut])
    panels = render_scenes(
        [
            cells_scene(feature_map, [location], location),
            cells_scene(feature_map, response_field, location),
            Scene(full.shape, full.solids, (receptive_field,)),
            overlay,
        ],
        size=size,
    )
    count, total = len(response_field), int(np.prod(feature_map))
    spans = " ".join(f"{axis} {low}–{high - 1}" for axis, (low, high) in zip("xyz", receptive_field, strict=True))
    drawn = any(solid.cells.any() for solid in overlay.solids)
    captions = [
        (f"1  Location {','.join(map(str, location))}", f"in {layer}, {'×'.join(map(str, feature_map))}"),
        ("2  Response field", f"{count} of {total} location{'s' if total > 1 else ''}"),
        ("3  Reconstruction", source),
        ("4  Receptive field, against the input", f"voxels {spans}" if drawn else f"{spans}, both empty"),
    ]
    return _mount(panels, captions, {3: LEGEND}, {0: feature_map, 1: feature_map, 2: full.shape})


def encode_png(image: Image) -> bytes:
    """`image` as a PNG with a palette of at most 256 colours."""
    from PIL import Image as Pillow

    palette = Pillow.fromarray(image).quantize(256, method=Pillow.Quantize.FASTOCTREE, dither=Pillow.Dither.NONE)
    file = io.BytesIO()
    palette.save(file, "PNG")
    return file.getvalue()


def write_png(image: Image, path: Path) -> None:
    """Write `image` to `path`, and make its folder if need be.

    Raises ResourceError if the file cannot be written.
    """
    write_whole(path, encode_png(image))


def try_drawing() -> tuple[str, str]:
    """Draw a small picture, and tell by which of VTK's windows and which OpenGL renderer.

    Raises ResourceError if the machine offers no off-screen OpenGL, or one that draws nothing.
    """
    plotter = _open_plotter(32)
    try:
        image = _draw(plotter, grid_scene(np.ones((4, 3, 2), bool)))
        window = plotter.render_window
        renderer = re.search(r"OpenGL renderer string:\s*(.+)", window.ReportCapabilities())
        if image.min() == 255:
            raise ResourceError(f"this machine's off-screen OpenGL ({window.GetClassName()}) draws empty pictures.")
        return window.GetClassName(), renderer[1].strip() if renderer else "unknown"
    finally:
        plotter.close()


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
        points = cast_shadows(scene.shape, cells, height=0.01 * height)
        _add_quads(plotter, points, np.broadcast_to(0.4 * np.array(colour) + 0.6 * 255, points.shape), edges=False)
    if scene.shadows:
        _add_lines(plotter, ruling(scene.shape, height=0.02), RULING, 1.0)
    corners = ((0, scene.shape[0]), (0, scene.shape[1]), (0, scene.shape[2]))
    _add_lines(plotter, box_edges(corners)[:9], OUTLINE, 1.5)
    shading = np.zeros(scene.shape, bool)
    for solid in scene.solids:
        shading |= solid.cells & (solid.size == 1)
    for solid in scene.solids:
        points, colours = visible_faces(solid, shading)
        _add_quads(plotter, points, colours, edges=True)
    if scene.boxes:
        lines = np.unique(np.concatenate([box_edges(box) for box in scene.boxes]), axis=0)
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
    camera.position = tuple(middle + TO_CAMERA * distance)
    camera.up = (0.0, 0.0, 1.0)
    camera.parallel_scale = half_height(shape)
    camera.clipping_range = (distance / 4, 2 * distance)


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
    below = top + size + letter // 2
    canvas = Pillow.new("RGB", (len(panels) * (size + gap) + gap, top + size + bottom), "white")
    pen = ImageDraw.Draw(canvas)
    for index, (panel, (head, line)) in enumerate(zip(panels, captions, strict=True)):
        left = gap + index * (size + gap)
        canvas.paste(Pillow.fromarray(panel), (left, top))
        pen.text((left, letter * 0.8), head, fill="black", font=bold)
        pen.text((left, letter * 2.3), line, fill=(70, 70, 70), font=plain)
        for name, place in axis_places(axes[index]).items() if index in axes else ():
            pen.text(tuple(np.array((left, top)) + place * size), name, fill=(70, 70, 70), font=plain, anchor="mm")
        x = float(left)
        for name, colour in legends.get(index, ()):
            pen.rectangle((x, below, x + letter, below + letter), fill=colour, outline=(90, 90, 90))
            pen.text((x + 1.4 * letter, below - letter * 0.15), name, fill="black", font=plain)
            x += 2.6 * letter + pen.textlength(name, font=plain)
    return np.asarray(canvas)
