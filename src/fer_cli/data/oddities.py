"""Samples that may not be what they should: with stray vertices, shrunk, nearly empty or full, flat, of another size.

Nothing is changed or left out for it. Figures come from what voxels.h5 records, so that `fer voxelize`, `fer info` and
`fer explain` say the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from fer_cli.data.places import occupied_bounds

NEARLY_EMPTY = 1 / 500
NEARLY_FULL = 0.9
"""Shares of the voxels within the padding; a closed box of the fill `solid` can have all."""
SHRUNK = 0.5
"""Share of the voxels along a side; a mesh spans them all unless vertices of no face enlarge its bounds."""
OTHER_SIZE = 10.0
"""Times the class's median size, or as many times smaller."""
_FEWEST_OF_CLASS = 5


@dataclass(frozen=True)
class Oddity:
    """A sample by its index, the kind of what is odd, and figures in words."""

    sample: int
    kind: str
    remark: str


@dataclass(frozen=True)
class Measured:
    """What is known of samples: occupied voxels, the voxels they span, stray vertices, and the edge of a voxel.

    `inner` is the number of voxels along each side within the padding.
    """

    n_occupied: Int64[np.ndarray, " sample"]
    extent: Int64[np.ndarray, "sample 3"]
    n_stray: Int64[np.ndarray, " sample"]
    edge: Float64[np.ndarray, " sample"]
    inner: int

    @property
    def size(self) -> Float64[np.ndarray, " sample"]:
        """The longest side in the units of the source."""
        size: np.ndarray = self.edge * self.extent.max(axis=1)
        return size


def extent_of(occupancy: UInt8[np.ndarray, "x y z"]) -> tuple[int, int, int]:
    """How many voxels the occupied ones span along each axis; zeros where there are none."""
    low, high = occupied_bounds(occupancy)
    x, y, z = (high - low).tolist()
    return x, y, z


def find_oddities(measured: Measured, classes: Sequence[str | None]) -> list[Oddity]:
    """What is odd about samples, kind by kind; `classes` are theirs, None where unknown.

    Sizes are compared within a class of at least five samples.
    """
    inner, longest = measured.inner, measured.extent.max(axis=1, initial=0)
    share = measured.n_occupied / inner**3
    found: list[Oddity] = []
    kinds: tuple[tuple[str, np.ndarray, Callable[[int], str]], ...] = (
        ("stray vertices", measured.n_stray > 0, lambda i: f"{measured.n_stray[i]} vertices of no face lie outside it"),
        ("shrunk", longest < SHRUNK * inner, lambda i: f"its longest side spans {longest[i]} of {inner} voxels"),
        ("nearly empty", share < NEARLY_EMPTY, lambda i: f"{measured.n_occupied[i]} voxels are occupied"),
        ("nearly full", share > NEARLY_FULL, lambda i: f"{measured.n_occupied[i]} of {inner}³ voxels are occupied"),
        ("flat", (measured.extent == 1).sum(axis=1) == 1, lambda i: f"one voxel thick along {_thin(measured, i)}"),
    )
    for kind, chosen, words in kinds:
        found += [Oddity(i, kind, words(i)) for i in np.flatnonzero(chosen).tolist()]
    return found + _of_other_size(measured.size, classes)


def remarks_of(oddities: Sequence[Oddity], names: Sequence[str]) -> list[dict[str, str]]:
    """Oddities with the names of their samples, as answers have them."""
    return [{"sample": names[odd.sample], "kind": odd.kind, "remark": odd.remark} for odd in oddities]


def remarks_on_sample(
    occupancy: UInt8[np.ndarray, "x y z"], edge: float, inner: int, usual: Float64[np.ndarray, " sample"]
) -> tuple[str, ...]:
    """What is odd about one shape, in words; `usual` are sizes of its class."""
    extent = extent_of(occupancy)
    count = np.array([np.count_nonzero(occupancy)], np.int64)
    one = Measured(count, np.array([extent], np.int64), np.zeros(1, np.int64), np.array([edge], np.float64), inner)
    said = [f"{odd.kind}: {odd.remark}" for odd in find_oddities(one, [None])]
    if remark := size_remark(edge * max(extent), usual):
        said.append(f"size: {remark}")
    return tuple(said)


def size_remark(size: float, usual: Sequence[float] | Float64[np.ndarray, " sample"]) -> str | None:
    """How far a size is from the median of the usual ones, None where it is near or too few are known."""
    return _beside_median(size, float(np.median(usual))) if len(usual) >= _FEWEST_OF_CLASS else None


def _beside_median(size: float, median: float) -> str | None:
    if size <= 0 or not median > 0:
        return None
    times = size / median
    if 1 / OTHER_SIZE < times < OTHER_SIZE:
        return None
    return f"{max(times, 1 / times):.3g} times {'larger' if times > 1 else 'smaller'} than the median of its class"


def _of_other_size(size: np.ndarray, classes: Sequence[str | None]) -> list[Oddity]:
    members: dict[str, list[int]] = {}
    for sample, name in enumerate(classes):
        if name is not None:
            members.setdefault(name, []).append(sample)
    remarks: dict[int, str | None] = {}
    for of_class in members.values():
        if len(of_class) >= _FEWEST_OF_CLASS:
            median = float(np.median(size[of_class]))
            remarks |= {i: _beside_median(float(size[i]), median) for i in of_class}
    return [Oddity(i, "size", remark) for i, remark in sorted(remarks.items()) if remark]


def _thin(measured: Measured, sample: int) -> str:
    return "xyz"[int(measured.extent[sample].argmin())]
