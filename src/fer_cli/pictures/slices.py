"""Grey values as still pictures: three orthogonal slices through one voxel, in a window, with cross-hair and letters.

Coronal above axial, sagittal beside coronal, all in one scale, as voxels are in the world; without an affine map the y,
z and x slices. Drawn by NumPy and Pillow.
"""

import io
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Shaped, UInt8

from fer_cli.data.formats.volume import spacing_of
from fer_cli.data.places import Box, Location
from fer_cli.data.sample_input import Sample
from fer_cli.data.volumes import InputSpec
from fer_cli.diagnosis.blame import weigh_voxels
from fer_cli.pictures.planes import Orientation, Plane, orientation_of
from fer_cli.pictures.scene import Colour

Image = UInt8[np.ndarray, "height width 3"]
Grid = Shaped[np.ndarray, "x y z"]
Window = tuple[float, float]
"""Values drawn black and white."""

BLAMED: Colour = (213, 94, 0)
ERROR: Colour = (86, 180, 233)
CROSS: Colour = (240, 190, 0)
PANEL = 420
"""Side of a picture in pixels."""
CUBE = (1.0, 1.0, 1.0)
"""Edges of voxels whose size is not known."""
_GAP = 6
_TINT = 0.6


@dataclass(frozen=True)
class View:
    """How volumes are cut and shown: planes, edges of a voxel, the voxel that the slices go through, the window."""

    orientation: Orientation
    spacing: tuple[float, float, float]
    cursor: Location
    window: Window

    def with_window(self, window: Window) -> "View":
        """The same slices in another window."""
        return replace(self, window=window)

    def through(self, voxel: Location) -> "View":
        """Slices through another voxel."""
        return replace(self, cursor=voxel)


def view_of(sample: Sample, read: InputSpec) -> View | None:
    """How a sample of grey values is cut through its middle, in the window of its first channel; None of occupancy."""
    if read.kind == "occupancy":
        return None
    x, y, z = read.shape
    return View(
        orientation_of(sample.index_to_world if sample.is_placed else None),
        spacing_of(sample.index_to_world) if sample.is_placed else read.spacing or CUBE,
        middle_of(((0, x), (0, y), (0, z))),
        default_window(sample.volume[0]),
    )


def default_window(grid: Grid) -> Window:
    """From the 1st to the 99th percentile; from the least to the largest value where these are one."""
    for low, high in (np.percentile(grid, (1, 99)).tolist(), (float(grid.min()), float(grid.max()))):
        if high > low:
            return float(low), float(high)
    return float(low) - 0.5, float(low) + 0.5


def error_window(*differences: Grid) -> Window:
    """From 0 to the largest of the differences' 99th percentiles; one window for pictures that are to be compared."""
    high = max((float(np.percentile(difference, 99)) for difference in differences), default=0.0)
    return 0.0, high or 1.0


def blamed_share(
    shape: tuple[int, int, int], boxes: tuple[Box, ...], weights: tuple[float, ...]
) -> Float[np.ndarray, "x y z"]:
    """Of each voxel, the weights of the blamed boxes that hold it, over the largest such sum; 0 without any box."""
    share = weigh_voxels(shape, boxes, weights)
    return share / (share.max() or 1.0)


def middle_of(box: Box) -> Location:
    """The voxel in the middle of a box."""
    (x0, x1), (y0, y1), (z0, z1) = box
    return ((x0 + x1 - 1) // 2, (y0 + y1 - 1) // 2, (z0 + z1 - 1) // 2)


def draw_slices(
    grid: Grid,
    view: View,
    *,
    tint: Float[np.ndarray, "x y z"] | None = None,
    colour: Colour = BLAMED,
    size: int = PANEL,
) -> Image:
    """The three slices of a grid through the cursor in a square picture of `size` pixels; grey values in the window.

    `tint` in [0, 1] is laid over them in a colour.
    """
    from PIL import Image as Pillow
    from PIL import ImageDraw, ImageFont

    low, high = view.window
    grey = np.clip((np.asarray(grid, np.float64) - low) / (high - low), 0, 1)
    canvas = Pillow.new("RGB", (size, size), "white")
    pen = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(max(10, size // 32))
    for plane, (left, top, width, height) in _places(grid.shape, view, size).items():
        index = view.cursor[plane.normal]
        pixels = np.repeat(plane.cut(grey, index)[..., None] * 255, 3, axis=2)
        if tint is not None:
            share = _TINT * plane.cut(tint, index)[..., None]
            pixels = pixels * (1 - share) + np.array(colour) * share
        slice_ = Pillow.fromarray(np.ascontiguousarray(pixels.round().astype(np.uint8)))
        canvas.paste(slice_.resize((width, height), Pillow.Resampling.NEAREST), (left, top))
        row, column = plane.place(view.cursor, grid.shape)
        y = top + (row + 0.5) * height / pixels.shape[0]
        x = left + (column + 0.5) * width / pixels.shape[1]
        _cross(pen, (left, top, left + width - 1, top + height - 1), x, y, gap=size / 40)
        for name, (fx, fy), anchor in zip(plane.edges, _EDGES, _ANCHORS, strict=True):
            at = (left + 3 + fx * (width - 7), top + 3 + fy * (height - 7))
            # Pillow's font has no minus sign.
            pen.text(
                at, name.replace("−", "-"), fill="white", font=font, anchor=anchor, stroke_width=1, stroke_fill="black"
            )
    return np.asarray(canvas)


def draw_slice(grid: Grid, view: View, *, size: int = PANEL) -> Image:
    """A slice through the middle of a grid, in the first plane, as a square picture of `size` pixels without marks."""
    from PIL import Image as Pillow

    plane = view.orientation.planes[0]
    low, high = view.window
    grey = 255 * np.clip((plane.cut(grid, grid.shape[plane.normal] // 2) - low) / (high - low), 0, 1)
    extent = [grid.shape[axis] * view.spacing[axis] for axis in (plane.across, plane.down)]
    width, height = (max(1, round(size * side / max(extent))) for side in extent)
    canvas = Pillow.new("L", (size, size), 255)
    slice_ = Pillow.fromarray(grey.round().astype(np.uint8)).resize((width, height), Pillow.Resampling.NEAREST)
    canvas.paste(slice_, ((size - width) // 2, (size - height) // 2))
    return np.asarray(canvas.convert("RGB"))


def box_share(shape: tuple[int, int, int], box: Box) -> Float[np.ndarray, "x y z"]:
    """1 inside a box, 0 outside."""
    return blamed_share(shape, (box,), (1.0,))


def encode_slices(image: Image) -> bytes:
    """A picture as a PNG that keeps every grey level."""
    from PIL import Image as Pillow

    file = io.BytesIO()
    Pillow.fromarray(image).save(file, "PNG", compress_level=6)
    return file.getvalue()


_EDGES = ((0, 0.5), (1, 0.5), (0.5, 0), (0.5, 1))
_ANCHORS = ("lm", "rm", "ma", "md")


def _places(shape: tuple[int, int, int], view: View, size: int) -> dict[Plane, tuple[int, int, int, int]]:
    """Left, top, width and height of each plane's slice in a picture of `size` pixels."""
    first, second, third = view.orientation.planes
    extent = [side * step for side, step in zip(shape, view.spacing, strict=True)]
    scale = (size - _GAP) / max(extent[second.across] + extent[third.across], extent[second.down] + extent[first.down])

    def pixels(axis: int) -> int:
        return max(1, round(extent[axis] * scale))

    right, below = pixels(second.across) + _GAP, pixels(second.down) + _GAP
    corners = {second: (0, 0), third: (right, 0), first: (0, below)}
    return {plane: (*corner, pixels(plane.across), pixels(plane.down)) for plane, corner in corners.items()}


def _cross(pen: object, frame: tuple[int, int, int, int], x: float, y: float, *, gap: float) -> None:
    """Lines to a voxel from the four sides of a slice, which leave the voxel itself free."""
    left, top, right, bottom = frame
    for ends in (
        ((left, y), (x - gap, y)),
        ((x + gap, y), (right, y)),
        ((x, top), (x, y - gap)),
        ((x, y + gap), (x, bottom)),
    ):
        (x0, y0), (x1, y1) = ends
        if x1 > x0 or y1 > y0:
            pen.line(ends, fill=CROSS, width=1)  # type: ignore[attr-defined]
