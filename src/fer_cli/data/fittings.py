"""Parts that several classes of synthetic furniture share: legs, backs, drawers, cabinets. Lengths in metres."""

import numpy as np

from fer_cli.data.solids import Part, Point, both, box, curved_wall


def legs(size: Point, thick: float, *, top: float = 1.0, splay: float = 0.0) -> list[Part]:
    """Four legs under the corners of a block of that size; `splay` sets their feet outwards."""
    x, y = (size[0] - thick) / 2 + splay, (size[1] - thick) / 2 + splay
    leg = box("leg", (x, y, 0), (thick / top, thick / top, size[2]), top=top, lean=(-splay, -splay))
    return [leg for half in both(leg) for leg in both(half, axis=1)]


def chair_back(rng: np.random.Generator, *, width: float, y: float, z: float, height: float) -> list[Part]:
    """A chair's back in one of four styles, rising by `height` from (0, y, z); each of its parts is named `back`."""
    u, thick, tilt = rng.uniform, rng.uniform(0.025, 0.05), rng.uniform(0.0, 0.14)
    style = rng.choice(["panel", "slats", "ladder", "curved"])
    if style == "panel":
        return [box("back", (0, y, z), (width, u(0.03, 0.12), height), top=u(0.75, 1.0), lean=(0, tilt))]
    if style == "curved":
        size = (width * 1.05, width * u(0.5, 0.9), height)
        return [curved_wall("back", (0, y - size[1] / 2, z), size, thickness=thick, arc=u(120, 190))]
    parts = both(box("back", ((width - thick) / 2, y, z), (thick, thick, height), lean=(0, tilt)))
    if style == "slats":
        xs = np.linspace(-0.5, 0.5, rng.integers(4, 7))[1:-1] * width
        parts += [box("back", (x, y, z), (0.03, 0.02, height), lean=(0, tilt)) for x in xs.tolist()]
    rails = (1.0,) if style == "slats" else (0.4, 0.7, 1.0)
    return parts + [box("back", (0, y + tilt * h, z + height * h - 0.06), (width, thick, 0.06)) for h in rails]


def drawers(rng: np.random.Generator, base: Point, width: float, height: float, columns: int, rows: int) -> list[Part]:
    """A grid of drawers with handles on a face that looks to −y; `base` is the middle of the face's lower edge."""
    gap, thick = rng.uniform(0.015, 0.03), rng.uniform(0.015, 0.03)
    wide, tall = width / columns - gap, height / rows - gap
    handle = (wide * 0.4, 0.025, 0.02) if rng.random() < 0.5 else (0.03, 0.03, 0.03)
    parts = []
    for cell in range(columns * rows):
        x = base[0] + ((cell % columns + 0.5) / columns - 0.5) * width
        z = base[2] + cell // columns * height / rows + gap / 2
        parts.append(box("drawer", (x, base[1] - thick / 2, z), (wide, thick, tall)))
        parts.append(box("handle", (x, base[1] - thick - 0.012, z + tall / 2), handle))
    return parts


def chest(rng: np.random.Generator, size: Point, *, columns: int, rows: int) -> list[Part]:
    """A cabinet with drawers, on the floor, a plinth or legs, and sometimes with an open shelf above the drawers."""
    u, (width, depth, height) = rng.uniform, size
    foot = rng.choice([0.0, u(0.03, 0.08), u(0.1, 0.2)])
    room = height - foot
    body = room * (u(0.5, 0.7) if rng.random() < 0.3 else 1.0)
    parts = [
        box("top", (0, 0, height), (width * u(1, 1.06), depth * u(1, 1.08), 0.03)),
        box("body", (0, 0, foot), (width, depth, body)),
    ]
    if foot > 0.09:
        parts += legs((width, depth, foot), 0.045, top=u(1, 1.5))
    elif foot:
        parts.append(box("plinth", (0, 0.02, 0), (width * 0.95, depth * 0.9, foot)))
    if body < room:
        parts += both(box("side", (width / 2 - 0.0125, 0, foot + body), (0.025, depth, room - body)))
        parts.append(box("rear", (0, depth / 2 - 0.0125, foot + body), (width, 0.025, room - body)))
    return parts + drawers(rng, (0, -depth / 2, foot), width, body, columns, rows)
