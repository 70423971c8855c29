"""Procedural furniture of the ten ModelNet10 classes, as triangle meshes for the demo and the tests.

Lengths are in metres, z is up, the front faces −y, and x runs along the width. A piece of furniture is a list of
named parts, each a closed shell, so that a part can be taken from one piece and put on another. Some pairs of
classes overlap on purpose (desk and table, dresser and night stand, sofa and bed, chair and toilet), so that a
small network makes real mistakes. Not from the paper.
"""

from collections.abc import Callable

import numpy as np

from fer_cli.data.fittings import chair_back, chest, drawers, legs
from fer_cli.data.solids import (
    RECTANGLE,
    Faces,
    Part,
    Vertices,
    both,
    bowl,
    box,
    curved_wall,
    cushion,
    cylinder,
    merge,
    oval,
    skin,
    tub,
    tube,
)
from fer_cli.errors import UsageError

CLASSES: tuple[str, ...] = (
    "bathtub",
    "bed",
    "chair",
    "desk",
    "dresser",
    "monitor",
    "night_stand",
    "sofa",
    "table",
    "toilet",
)
"""The classes of ModelNet10 in label order."""


def furniture(class_name: str, rng: np.random.Generator) -> tuple[Vertices, Faces]:
    """A random piece of furniture of the class, as one mesh that stands on z = 0.

    Raises UsageError if the class is not one of `CLASSES`.
    """
    return merge(furniture_parts(class_name, rng))


def furniture_parts(class_name: str, rng: np.random.Generator) -> list[Part]:
    """The parts of a random piece of furniture; the lowest vertex of all of them is at z = 0.

    Raises UsageError if the class is not one of `CLASSES`.
    """
    if class_name not in _MAKERS:
        raise UsageError(f"No class {class_name!r} of synthetic furniture; known are {', '.join(CLASSES)}.")
    parts = _MAKERS[class_name](rng)
    # Proportions vary beyond each style's own, or telling two classes apart would be reading off one number.
    stretch = np.exp(rng.normal(0.0, 0.08, size=3))
    floor = np.array([0.0, 0.0, min(part.vertices[:, 2].min() for part in parts)])
    return [Part(part.name, (part.vertices - floor) * stretch, part.faces) for part in parts]


# One maker for each class.


def _bathtub(rng: np.random.Generator) -> list[Part]:
    u = rng.uniform
    width, depth, height = u(1.35, 1.85), u(0.68, 1.0), u(0.42, 0.65)
    style = rng.choice(["built-in", "oval", "clawfoot"])
    wall, bottom, squareness = u(0.03, 0.06), u(0.6, 0.9), u(2, 3.5)
    if style == "built-in":
        wall, bottom, squareness = u(0.05, 0.16), u(0.88, 1), u(3, 9)
    parts = [tub("tub", (0, 0, 0), (width, depth, height), wall=wall, bottom=bottom, squareness=squareness)]
    if style == "clawfoot":
        foot = cylinder("foot", (width * 0.22, depth * 0.2, -0.12), (0.08, 0.08, 0.2), top=1.6)
        parts += [foot for half in both(foot) for foot in both(half, axis=1)]
    if rng.random() < 0.5:
        path = [(0.45, height - 0.05), (0.45, height + 0.15), (0.41, height + 0.2), (0.34, height + 0.18)]
        parts.append(tube("tap", [(x * width, 0, z) for x, z in path], 0.04))
    return parts


def _bed(rng: np.random.Generator) -> list[Part]:
    u = rng.uniform
    width, length, seat, thick = u(0.9, 1.9), u(1.95, 2.15), u(0.3, 0.55), u(0.04, 0.1)
    style = rng.choice(["panels", "panels", "bars", "posts", "day"])
    if style == "day":  # It lies across like a sofa, with a back and two ends.
        depth, rise, ends = u(0.85, 1.05), u(0.25, 0.45), u(0.1, 0.4)
        return [
            box("base", (0, 0, 0.1), (length, depth, seat - 0.2)),
            cushion("mattress", (0, -thick / 2, seat - 0.1), (length - 2 * thick, depth - thick, 0.2)),
            box("back", (0, (depth - thick) / 2, 0.1), (length, thick, seat + rise - 0.1)),
            *both(box("end", ((length - thick) / 2, 0, 0.1), (thick, depth, seat + ends - 0.1))),
            *legs((length, depth, 0.11), 0.07),
        ]
    under = rng.choice([0.0, 0.15])
    parts = [
        box("base", (0, 0, under), (width, length, seat - 0.15 - under)),
        cushion("mattress", (0, 0, seat - 0.2), (width * 0.97, length * 0.98, 0.25)),
    ]
    for y, high in ((length / 2, seat + u(0.3, 0.75)), (-length / 2, seat + u(-0.1, 0.25))):
        if style == "panels":
            parts.append(box("board", (0, y, 0), (width, thick, high), top=u(0.9, 1)))
            continue
        xs = np.linspace(-0.5, 0.5, rng.integers(5, 9)) * width
        parts += [box("bar", (x, y, seat - 0.2), (0.03, 0.03, high - seat + 0.18)) for x in xs.tolist()]
        parts.append(box("rail", (0, y, high - 0.05), (width, 0.05, 0.05)))
        parts += both(box("post", (width / 2, y, 0), (0.07, 0.07, 1.9 if style == "posts" else high)))
        if style == "posts" and width > 1.2:
            parts.append(box("canopy", (0, y, 1.84), (width, 0.06, 0.06)))
    if style == "posts" and width > 1.2:
        parts += both(box("canopy", (width / 2, 0, 1.84), (0.06, length, 0.06)))
    pillow = (width * 0.4, 0.4, u(0.08, 0.15))
    return parts + both(cushion("pillow", (width * 0.23, length * 0.36, seat + 0.03), pillow, squareness=3.0))


def _chair(rng: np.random.Generator) -> list[Part]:
    u = rng.uniform
    width, depth, seat, rise, thick = u(0.4, 0.55), u(0.4, 0.55), u(0.4, 0.5), u(0.32, 0.6), u(0.03, 0.08)
    style = rng.choice(["legs", "legs", "office", "pedestal", "cantilever", "cube", "padded"])
    if style == "padded":
        width, depth, arm = u(0.7, 1.0), u(0.7, 0.9), u(0.1, 0.2)
        return [
            box("base", (0, 0, 0.06), (width, depth, seat - 0.18)),
            cushion("seat", (0, -0.05, seat - 0.13), (width - 2 * arm, depth - 0.1, 0.16)),
            cushion("back", (0, depth / 2 - 0.12, seat - 0.1), (width - arm, 0.2, rise + 0.1), lean=u(0, 0.12)),
            *both(cushion("arm", ((width - arm) / 2, 0, 0.06), (arm, depth, seat + u(0.1, 0.2)))),
            *legs((width, depth, 0.1), 0.06),
        ]
    under = seat - thick
    parts = chair_back(rng, width=width * 0.95, y=depth / 2 - 0.03, z=seat - 0.01, height=rise)
    parts.append(cushion("seat", (0, 0, under), (width, depth, thick), squareness=8.0 if style == "legs" else u(2, 8)))
    match style:
        case "legs":
            parts += legs((width * 0.96, depth * 0.96, under), u(0.03, 0.055), top=u(1, 1.4), splay=u(0, 0.05))
        case "office":
            parts.append(cylinder("column", (0, 0, 0.08), (0.06, 0.06, under - 0.08)))
            for angle in np.radians(90 + 72 * np.arange(5)):
                x, y = 0.3 * np.cos(angle), 0.3 * np.sin(angle)
                parts.append(tube("leg", [(0, 0, 0.11), (x, y, 0.07)], 0.05))
                parts.append(cylinder("wheel", (x, y, 0), (0.06, 0.06, 0.08)))
        case "pedestal":
            foot = u(0.34, 0.5)
            parts.append(cylinder("foot", (0, 0, 0), (foot, foot, 0.03)))
            parts.append(cylinder("pedestal", (0, 0, 0.02), (0.3, 0.3, under - 0.02), top=u(0.3, 1.2)))
            parts.append(bowl("shell", (0, 0, under - 0.1), (width * 0.95, depth * 0.95, 0.11)))
        case "cantilever":
            path = [(0.5, 0.02), (-0.4, 0.02), (-0.5, 0.06), (-0.5, under - 0.05), (-0.4, under), (0.5, under)]
            parts += both(tube("leg", [(width * 0.48, y * depth, z) for y, z in path], 0.035))
            parts.append(box("leg", (0, depth / 2, 0), (width, 0.035, 0.035)))
        case _:
            parts.append(box("base", (0, 0, 0), (width * u(0.7, 1), depth * u(0.7, 1), under), top=u(0.85, 1.1)))
    if style != "cube" and rng.random() < 0.35:
        parts += both(box("arm", (width / 2 + 0.02, 0, seat + 0.18), (0.05, depth * 0.9, 0.03)))
        parts += both(box("arm", (width / 2, -depth * 0.35, seat - 0.03), (0.035, 0.04, 0.22)))
    return parts


def _desk(rng: np.random.Generator) -> list[Part]:
    u = rng.uniform
    width, depth, height, thick = u(1.1, 1.8), u(0.55, 0.85), u(0.7, 0.78), u(0.025, 0.05)
    under, rear, side = height - thick, depth / 2 - 0.04, u(0.03, 0.05)
    style = rng.choice(["pedestals", "pedestal", "corner", "panel", "writing"])
    parts = [box("top", (0, 0, under), (width, depth, thick))]
    if style == "writing":  # A table but for the drawers under its top.
        tall, columns = u(0.08, 0.18), int(rng.integers(2, 4))
        parts += legs((width * 0.97, depth * 0.95, under), u(0.045, 0.07), top=u(1, 1.3))
        parts.append(box("apron", (0, 0, under - tall), (width * 0.9, depth * 0.88, tall)))
        parts += drawers(rng, (0, -depth * 0.44, under - tall), width * 0.85, tall, columns, 1)
    else:
        screen = under * u(0.3, 0.9)
        parts.append(box("screen", (0, rear, under - screen), (width * 0.95, 0.025, screen)))
        stand = box("side", (-(width * 0.97 - side) / 2, 0, 0), (side, depth * 0.95, under))
        parts += both(stand) if style == "panel" else [stand]
    if style in ("pedestals", "pedestal", "corner"):
        wide, rows = u(0.32, 0.45), int(rng.integers(2, 5))
        x = (width * 0.97 - wide) / 2
        pedestal = [box("pedestal", (x, 0, 0), (wide, depth * 0.92, under))]
        pedestal += drawers(rng, (x, -depth * 0.46, 0.05), wide, under - 0.05, 1, rows)
        parts += [half for part in pedestal for half in both(part)] if style == "pedestals" else pedestal
    if style == "corner":
        reach, wing = u(0.5, 0.9), u(0.45, 0.6)
        x, y = (wing - width) / 2, -(depth + reach) / 2
        parts.append(box("top", (x, y, under), (wing, reach, thick)))
        parts.append(box("side", (x, y - reach / 2 + 0.03, 0), (wing * 0.95, 0.03, under)))
    elif rng.random() < 0.25:
        tall, deep = u(0.15, 0.6), u(0.2, 0.3)
        xs = np.linspace(-0.5, 0.5, rng.integers(2, 5)) * (width - 0.03)
        parts += [box("hutch", (x, (depth - deep) / 2, height), (0.03, deep, tall)) for x in xs.tolist()]
        parts.append(box("hutch", (0, (depth - deep) / 2, height + tall), (width, deep, 0.03)))
    return parts


def _dresser(rng: np.random.Generator) -> list[Part]:
    u = rng.uniform
    style = rng.choice(["low", "low", "tall", "mirror"])
    if style == "tall":
        return chest(rng, (u(0.6, 0.95), u(0.4, 0.52), u(0.85, 1.3)), columns=1, rows=int(rng.integers(3, 7)))
    width, depth, height = u(0.7, 1.6), u(0.4, 0.55), u(0.7, 0.95)
    parts = chest(rng, (width, depth, height), columns=int(rng.integers(1, 4)), rows=int(rng.integers(2, 5)))
    if style == "mirror":
        size = (width * u(0.5, 0.9), 0.03, u(0.5, 0.9))
        parts.append(box("mirror", (0, depth * 0.42, height), size, lean=(0, 0.04)))
    return parts


def _monitor(rng: np.random.Generator) -> list[Part]:
    u = rng.uniform
    width, thick, lift = u(0.42, 0.8), u(0.03, 0.07), u(0.06, 0.16)
    tall = width * u(0.52, 0.8)
    style = rng.choice(["flat", "tube", "feet", "curved"])
    if style == "tube":  # A frame around the recessed glass, and a body that narrows to the rear.
        depths = [(0.02, 0.82), (0.0, 0.88), (0.0, 1.0), (0.12, 1.0), (width * u(0.5, 0.8), 0.6)]
        lift, tall = lift / 2, width * 0.8
        rings = [[(x * s * width, y - width / 4, lift + tall * (0.5 + z * s)) for x, z in RECTANGLE] for y, s in depths]
        foot = cylinder("foot", (0, 0, 0), (width * 0.7, width * 0.6, lift + 0.03), top=0.6)
        return [skin("case", np.array(rings)), foot]
    if style == "curved":
        parts = [curved_wall("screen", (0, -0.2, lift), (width * 1.4, 0.5, tall), thickness=thick, arc=u(70, 100))]
    else:
        parts = [box("screen", (0, 0, lift), (width, thick, tall), lean=(0, u(0, 0.06)))]
    if style == "feet":
        return parts + both(box("foot", (width * 0.3, 0, 0), (0.05, u(0.16, 0.26), lift + 0.01), top=0.4))
    parts.append(box("neck", (0, thick / 2 + 0.025, 0.01), (u(0.05, 0.12), 0.05, lift + tall * u(0.2, 0.5))))
    base = (width * u(0.35, 0.6), u(0.18, 0.28), 0.02)
    return [*parts, cylinder("foot", (0, 0.01, 0), base, squareness=rng.choice([2.0, 8.0]))]


def _night_stand(rng: np.random.Generator) -> list[Part]:
    u = rng.uniform
    width, depth, height = u(0.4, 0.75), u(0.36, 0.5), u(0.45, 0.8)
    if rng.random() < 0.7:
        return chest(rng, (width, depth, height), columns=1, rows=int(rng.integers(1, 4)))
    tall = height * u(0.2, 0.4)
    return [  # A small table with a shelf, but for its drawer.
        *legs((width, depth, height), u(0.035, 0.05)),
        box("top", (0, 0, height), (width * 1.08, depth * 1.08, 0.025)),
        box("shelf", (0, 0, u(0.08, 0.18)), (width * 0.98, depth * 0.98, 0.025)),
        box("body", (0, 0, height - tall), (width, depth, tall)),
        *drawers(rng, (0, -depth / 2, height - tall), width, tall, 1, 1),
    ]


def _sofa(rng: np.random.Generator) -> list[Part]:
    u = rng.uniform
    style = rng.choice(["straight", "rolled", "armless", "sectional"])
    width, depth, seat, rise = u(1.25, 2.3), u(0.8, 1.1), u(0.36, 0.46), u(0.3, 0.5)
    arm, thick, foot, lean = u(0.1, 0.25) * (style != "armless"), u(0.12, 0.25), u(0.04, 0.14), u(0, 0.15)
    count = max(1, round(width / u(0.6, 1.2)))
    wide = (width - 2 * arm) / count
    xs = [(place + 0.5) * wide - (width / 2 - arm) for place in range(count)]
    parts = [box("base", (0, 0, foot), (width, depth, seat - 0.14 - foot)), *legs((width, depth, foot + 0.01), 0.07)]
    for x in xs:
        parts.append(cushion("seat", (x, -thick / 2, seat - 0.15), (wide, depth - thick, 0.17)))
        parts.append(cushion("back", (x, (depth - thick) / 2, seat - 0.1), (wide, thick, rise + 0.1), lean=lean))
    if arm:
        top = seat + u(0.1, 0.25)
        parts += both(box("arm", ((width - arm) / 2, 0, foot), (arm, depth, top - foot)))
    if style == "rolled":
        x = (width - arm) / 2
        parts += both(tube("arm", [(x, -depth / 2, top), (x, depth / 2, top)], arm * 1.3))
    if style == "sectional":
        reach = u(0.5, 1.0)
        x, y = rng.choice([xs[0], xs[-1]]), -(depth + reach) / 2
        parts.append(box("base", (x, y, foot), (wide, reach, seat - 0.14 - foot)))
        parts.append(cushion("seat", (x, y, seat - 0.15), (wide, reach, 0.17)))
    return parts


def _table(rng: np.random.Generator) -> list[Part]:
    u = rng.uniform
    width, depth, height, thick = u(0.9, 1.9), u(0.6, 1.0), u(0.68, 0.78), u(0.02, 0.06)
    style = rng.choice(["dining", "dining", "round", "low", "trestle", "panel"])
    if style == "round":
        width, foot = u(0.7, 1.3), u(0.3, 0.7)
        return [
            cylinder("top", (0, 0, height - thick), (width, width * u(0.7, 1), thick)),
            cylinder("column", (0, 0, 0.03), (0.16, 0.16, height - thick - 0.02), top=u(0.5, 1.2)),
            cylinder("foot", (0, 0, 0), (foot, foot, 0.05), top=0.7),
        ]
    if style == "low":
        height = u(0.38, 0.55)
    under = height - thick
    parts = [box("top", (0, 0, under), (width, depth, thick))]
    match style:
        case "trestle":
            parts += both(box("trestle", (width * 0.33, 0, 0), (0.07, depth * 0.8, 0.07)))
            parts += both(box("trestle", (width * 0.33, 0, 0.05), (0.06, depth * u(0.15, 0.7), under - 0.05)))
            parts.append(box("stretcher", (0, 0, under * 0.35), (width * 0.66, 0.04, 0.1)))
        case "panel":
            reach = width * u(0.84, 0.95)
            parts += both(box("side", (reach / 2, 0, 0), (0.05, depth * 0.95, under)))
            if rng.random() < 0.6:
                parts.append(box("stretcher", (0, 0, under - u(0.1, 0.4)), (reach, 0.03, 0.1)))
        case _:
            parts += legs((width * 0.96, depth * 0.94, under), u(0.045, 0.09), top=u(1, 1.4), splay=u(0, 0.03))
            if rng.random() < 0.7:
                tall = u(0.06, 0.16)
                parts.append(box("apron", (0, 0, under - tall), (width * 0.9, depth * 0.86, tall)))
            if style == "low" and rng.random() < 0.6:
                parts.append(box("shelf", (0, 0, height * 0.25), (width * 0.92, depth * 0.9, 0.025)))
    return parts


def _toilet(rng: np.random.Generator) -> list[Part]:
    u = rng.uniform
    width, depth, seat = u(0.34, 0.42), u(0.44, 0.56), u(0.36, 0.44)
    style = rng.choice(["two-piece", "two-piece", "skirted", "wall", "high"])
    y, rear, foot = -depth * 0.1, depth / 2 - 0.04, u(0.5, 0.75) if style != "skirted" else u(0.8, 0.95)
    deep, wide, tall, bottom, squareness = u(0.12, 0.22), width * u(0.95, 1.25), u(0.28, 0.45), u(0.65, 0.9), u(2, 4)
    parts = [
        tub("bowl", (0, y, seat * 0.35), (width, depth, seat * 0.65), wall=0.05, bottom=bottom, squareness=squareness),
        tub("seat", (0, y, seat), (width * 1.03, depth, 0.025), wall=0.07, bottom=1.0, squareness=2.3),
        cylinder("pedestal", (0, y + 0.05, 0), (width * foot, depth * foot, seat * 0.5), top=u(0.9, 1.1)),
        box("pedestal", (0, rear, 0), (width * foot, 0.2, seat)),
    ]
    if style == "wall":
        parts.append(box("panel", (0, rear + 0.12, 0), (width * u(1.1, 1.6), 0.1, u(0.75, 1.1))))
    elif style == "high":
        parts.append(box("tank", (0, rear + 0.08, 0.95), (wide, deep, tall * 0.8)))
        parts.append(tube("pipe", [(0, rear + 0.08, seat * 0.9), (0, rear + 0.08, 1.0)], 0.05))
    else:
        parts.append(cushion("tank", (0, rear + deep / 2, seat - 0.03), (wide, deep, tall)))
        parts.append(box("tank", (0, rear + deep / 2, seat - 0.05 + tall), (wide * 0.98, deep, 0.04)))
    lid = rng.choice(["closed", "open", "none"])
    if lid == "closed":
        parts.append(cylinder("lid", (0, y, seat + 0.02), (width, depth * 0.98, 0.03), squareness=2.3))
    elif lid == "open":
        face = oval() * [width, depth * 0.9] + [0, seat + depth * 0.45]
        parts.append(skin("lid", np.stack([np.insert(face, 1, rear - back, axis=1) for back in (0.06, 0.03)])))
    return parts


_IN_ORDER = (_bathtub, _bed, _chair, _desk, _dresser, _monitor, _night_stand, _sofa, _table, _toilet)
_MAKERS: dict[str, Callable[[np.random.Generator], list[Part]]] = dict(zip(CLASSES, _IN_ORDER, strict=True))
