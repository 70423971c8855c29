"""Closed shells as triangle meshes: boxes, cylinders, cushions, tubs and tubes, of which furniture is made.

Lengths are in metres and z is up. Faces look outwards. `base` is the centre of a shell's lower face, `size` its
extent in x, y and z, `top` the scale of its upper face. Not from the paper.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

Vertices = Float[np.ndarray, "vertex 3"]
Faces = Int[np.ndarray, "face 3"]
Outline = Float[np.ndarray, "point 2"]
Length = float | int
Shift = tuple[Length, Length]
Point = tuple[Length, Length, Length]

RECTANGLE = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])


@dataclass(frozen=True)
class Part:
    """One closed shell of a piece of furniture; parts that serve one purpose (four legs) share a name."""

    name: str
    vertices: Vertices
    faces: Faces


def merge(parts: Sequence[Part]) -> tuple[Vertices, Faces]:
    """All parts as one mesh; shells that touch or overlap stay separate shells."""
    starts = np.cumsum([0, *(len(part.vertices) for part in parts[:-1])])
    faces = [part.faces + start for part, start in zip(parts, starts, strict=True)]
    return np.concatenate([part.vertices for part in parts]), np.concatenate(faces)


def both(part: Part, *, axis: int = 0) -> list[Part]:
    """The part and its mirror image on the other side of x = 0, or of y = 0 with axis 1."""
    return [part, Part(part.name, part.vertices * (1.0 - 2.0 * np.eye(3)[axis]), part.faces[:, ::-1])]


def volume(part: Part) -> float:
    """Volume that the shell encloses; negative if its faces look inwards."""
    a, b, c = (part.vertices[part.faces[:, corner]] for corner in range(3))
    return float(np.sum(a * np.cross(b, c)) / 6)


def oval(squareness: float = 2.0, points: int = 20) -> Outline:
    """Outline of a superellipse in the unit square: an ellipse at squareness 2, nearly a rectangle at 8."""
    angle = (np.arange(points) + 0.5) * (2 * np.pi / points)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.asarray(0.5 * np.sign(circle) * np.abs(circle) ** (2.0 / squareness))


def skin(name: str, rings: Float[np.ndarray, "ring point 3"]) -> Part:
    """The closed shell through consecutive rings of points; the first and the last ring, convex, are its ends."""
    count, points = rings.shape[:2]
    here = np.arange(points)
    after = np.roll(here, -1)
    end = np.stack([np.zeros_like(here[2:]), here[2:], here[1:-1]], axis=1)
    faces = [end, end[:, ::-1] + (count - 1) * points]
    for low in range(0, (count - 1) * points, points):
        high = low + points
        faces.append(np.stack([low + here, low + after, high + after], axis=1))
        faces.append(np.stack([low + here, high + after, high + here], axis=1))
    part = Part(name, rings.reshape(-1, 3), np.concatenate(faces))
    return part if volume(part) > 0 else Part(name, part.vertices, part.faces[:, ::-1])


def loft(name: str, outline: Outline, levels: Sequence[Shift], base: Point, size: Point, lean: Shift = (0, 0)) -> Part:
    """A shell through copies of an outline, one for each level (height, scale), both as fractions of `size`.

    `lean` is how far, in x and y, the outline at full height lies from that at the base.
    """
    rings = [np.column_stack([outline * scale, np.full(len(outline), height)]) for height, scale in levels]
    leaning = [np.multiply((*lean, 0.0), height) for height, _ in levels]
    return skin(name, np.stack(rings) * size + np.array(leaning)[:, None] + np.array(base))


def box(name: str, base: Point, size: Point, *, top: float = 1.0, lean: Shift = (0, 0)) -> Part:
    """A box, whose upper face may be scaled and shifted."""
    return loft(name, RECTANGLE, [(0, 1), (1, top)], base, size, lean)


def cylinder(name: str, base: Point, size: Point, *, top: float = 1.0, squareness: float = 2.0) -> Part:
    """An upright elliptic cylinder or cone."""
    return loft(name, oval(squareness), [(0, 1), (1, top)], base, size)


def cushion(name: str, base: Point, size: Point, *, squareness: float = 8.0, lean: float = 0.0) -> Part:
    """A block with rounded corners and bevelled edges; `lean` shifts its upper face in y."""
    return loft(name, oval(squareness), [(0, 0.92), (0.2, 1), (0.8, 1), (1, 0.92)], base, size, (0.0, lean))


def bowl(name: str, base: Point, size: Point) -> Part:
    """The lower half of an ellipsoid, filled to the brim."""
    depths = np.linspace(0.98, 0.0, 6)
    return loft(name, oval(), [(float(1 - d), float(np.sqrt(1 - d * d))) for d in depths], base, size)


def tub(name: str, base: Point, size: Point, *, wall: float, bottom: float, squareness: float) -> Part:
    """An open vessel; `wall` is its thickness and `bottom` the scale of its outline at the floor."""
    inner = 1 - 2 * wall / min(size[:2])
    levels = [(0, bottom), (0.5, 0.54 + bottom / 2), (1, 1), (1, inner), (0.25, inner * bottom * 0.9)]
    return loft(name, oval(squareness), levels, base, size)


def tube(name: str, path: Sequence[Point], thickness: float) -> Part:
    """A round bar along a path that is straight or lies in a plane of two axes."""
    points = np.array(path)
    tangent = np.gradient(points, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    first = np.cross(tangent, np.eye(3)[np.argmin(np.abs(tangent).max(axis=0))])
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    circle = oval(points=8)[:, :, None] * thickness
    return skin(
        name, points[:, None] + circle[:, 0] * first[:, None] + circle[:, 1] * np.cross(tangent, first)[:, None]
    )


def curved_wall(name: str, base: Point, size: Point, *, thickness: float, arc: float) -> Part:
    """An upright wall along the rear `arc` degrees of the ellipse that `size` spans around `base`."""
    angle = np.radians(90 + np.linspace(-arc / 2, arc / 2, 13))
    direction = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    half = np.array(size[:2]) / 2
    corners = [(half, 0.0), (half - thickness, 0.0), (half - thickness, size[2]), (half, size[2])]
    rings = [np.column_stack([direction * reach, np.full(len(angle), height)]) for reach, height in corners]
    return skin(name, np.stack(rings, axis=1) + np.array(base))
