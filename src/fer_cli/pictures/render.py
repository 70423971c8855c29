"""Scenes as pictures, drawn off-screen on white; the one door to PyVista, Pillow and Matplotlib's fonts.

A window stays open for the next pictures of its size, since opening one takes longer than drawing. Importing this
module is cheap: the libraries are imported with the first picture.

Source: the panels of Figs 2 to 7.
"""

import atexit
import gc
import io
import pickle
import re
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
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
_Corners = Float[np.ndarray, "corner 3"]
SIZE = 420
"""Pixels along a picture's side."""


def render_scenes(scenes: Sequence[Scene], *, size: int = SIZE) -> list[Image]:
    """One picture of `size` × `size` pixels per scene, drawn off-screen.

    Scenes whose grids have the same shape share the camera.

    Raises ResourceError if the machine offers no off-screen OpenGL.
    """
    return [_easel(size).draw(scene) for scene in scenes]


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
    easel = _easel(32)
    image = easel.draw(grid_scene(np.ones((4, 3, 2), bool)))
    window = easel.plotter.render_window
    renderer = re.search(r"OpenGL renderer string:\s*(.+)", window.ReportCapabilities())
    if image.min() == 255:
        raise ResourceError(f"this machine's off-screen OpenGL ({window.GetClassName()}) draws empty pictures.")
    return window.GetClassName(), renderer[1].strip() if renderer else "unknown"


@lru_cache(maxsize=4)
def _easel(size: int) -> "_Easel":
    """The window for pictures of `size`; opening one and compiling its shaders takes longer than several pictures."""
    return _Easel(size)


@atexit.register
def close_windows() -> None:
    """Close all windows, at the end too: PyVista's objects cannot be taken down once Python's modules are."""
    _easel.cache_clear()
    gc.collect()


class _Easel:
    """An off-screen window, and its actors: one for each way of drawing, which get the next scene's geometry."""

    def __init__(self, size: int) -> None:
        self.plotter = _open_plotter(size)
        weakref.finalize(self, self.plotter.close)  # PyVista itself keeps every window that was not closed
        self._actors: dict[_Manner, Any] = {}

    def draw(self, scene: Scene) -> Image:
        _aim(self.plotter.camera, np.array(scene.shape, float))
        pieces = _pieces(scene)
        for manner, (points, colours) in pieces.items():
            self._put(manner, points, colours)
        for manner, actor in self._actors.items():
            actor.SetVisibility(manner in pieces)
        self.plotter.render()
        image: Image = np.ascontiguousarray(self.plotter.screenshot(return_img=True)[..., :3])
        return image

    def _put(self, manner: "_Manner", points: _Corners, colours: _Corners) -> None:
        import pyvista

        cells = np.arange(len(points)).reshape(-1, manner.corners)
        connected = np.insert(cells, 0, manner.corners, axis=1).ravel()
        mesh = pyvista.PolyData(points, **{"lines" if manner.corners == 2 else "faces": connected})
        mesh.point_data["colour"] = np.asarray(colours).round().astype(np.uint8)
        if manner in self._actors:
            self._actors[manner].mapper.SetInputDataObject(mesh)
            return
        actor = self.plotter.add_mesh(
            mesh, scalars="colour", rgb=True, lighting=False, show_edges=manner.edges, edge_color="black",
            edge_opacity=0.35, line_width=manner.width, opacity=manner.opacity, reset_camera=False, render=False,
        )  # fmt: skip
        if manner.on_top:
            actor.mapper.SetResolveCoincidentTopologyToPolygonOffset()
            actor.mapper.SetRelativeCoincidentTopologyLineOffsetParameters(0, -66000)
        self._actors[manner] = actor


@dataclass(frozen=True)
class _Manner:
    """How a piece is drawn: lines (2 corners) or squares (4), and these with edges or without."""

    corners: int
    width: float = 1.0
    edges: bool = False
    opacity: float = 1.0
    on_top: bool = False


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


def _pieces(scene: Scene) -> "dict[_Manner, tuple[_Corners, _Corners]]":
    """Corners and their colours by the manner of drawing, in the order of drawing."""
    pieces: dict[_Manner, list[tuple[_Corners, _Corners]]] = {}

    def add(manner: _Manner, points: _Corners, colours: Colour | Sequence[float] | _Corners) -> None:
        if len(points):
            pieces.setdefault(manner, []).append((points, np.broadcast_to(np.asarray(colours, float), points.shape)))

    for height, (cells, colour) in enumerate(scene.shadows):
        add(
            _Manner(4),
            cast_shadows(scene.shape, cells, height=0.01 * height),
            [0.4 * value + 0.6 * 255 for value in colour],
        )
    if scene.shadows:
        add(_Manner(2), ruling(scene.shape, height=0.02).reshape(-1, 3), RULING)
    corners = ((0, scene.shape[0]), (0, scene.shape[1]), (0, scene.shape[2]))
    add(_Manner(2, width=1.5), box_edges(corners)[:9].reshape(-1, 3), OUTLINE)
    shading = np.zeros(scene.shape, bool)
    for solid in scene.solids:
        shading |= solid.cells & (solid.size == 1)
    for solid in scene.solids:
        add(_Manner(4, edges=True), *visible_faces(solid, shading))
    if scene.boxes:
        lines = np.unique(np.concatenate([box_edges(box) for box in scene.boxes]), axis=0).reshape(-1, 3)
        few = len(scene.boxes) <= 4
        add(_Manner(2, opacity=0.35, on_top=True), lines, BOX_LINE)
        add(_Manner(2, width=2.0 if few else 1.0, opacity=1.0 if few else 0.5), lines, BOX_LINE)
    return {
        manner: (np.concatenate([points for points, _ in parts]), np.concatenate([colours for _, colours in parts]))
        for manner, parts in pieces.items()
    }


def _aim(camera: Any, shape: Float[np.ndarray, "3"]) -> None:
    """Look at the middle of a grid of `shape` cells, as near as its outline allows."""
    middle, distance = shape / 2, 4 * float(np.linalg.norm(shape))
    camera.focal_point = tuple(middle)
    camera.position = tuple(middle + TO_CAMERA * distance)
    camera.up = (0.0, 0.0, 1.0)
    camera.parallel_scale = half_height(shape)
    camera.clipping_range = (distance / 4, 2 * distance)


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
