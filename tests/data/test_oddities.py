"""What is said of shapes that may not be what they should."""

import numpy as np
import pytest

from fer_cli.data.oddities import Measured, extent_of, find_oddities, remarks_on_sample, size_remark


def measured(occupancies: list[np.ndarray], *, edges: list[float] | None = None, stray: int = 0) -> Measured:
    return Measured(
        n_occupied=np.array([int(each.sum()) for each in occupancies]),
        extent=np.array([extent_of(each) for each in occupancies]),
        n_stray=np.full(len(occupancies), stray),
        edge=np.array(edges or [1.0] * len(occupancies)),
        inner=14,
    )


def block(*sides: int) -> np.ndarray:
    occupancy = np.zeros((16, 16, 16), np.uint8)
    occupancy[tuple(slice(1, 1 + side) for side in sides)] = 1
    return occupancy


def kinds(found: Measured) -> list[str]:
    return [odd.kind for odd in find_oddities(found, [None] * len(found.n_occupied))]


@pytest.mark.parametrize(
    ("occupancy", "expected"),
    [
        (block(14, 7, 3), []),
        (block(6, 3, 3), ["shrunk"]),
        (block(7, 3, 3), []),
        (block(14, 14, 14), ["nearly full"]),
        (block(14, 1, 7), ["flat"]),
        (block(14, 14, 1), ["flat"]),
        (block(1, 1, 1), ["shrunk", "nearly empty"]),
        (block(5, 1, 1), ["shrunk", "nearly empty"]),
    ],
)
def test_kinds(occupancy: np.ndarray, expected: list[str]) -> None:
    assert kinds(measured([occupancy])) == expected


def test_extent_is_by_axis_and_none_where_nothing_is_occupied() -> None:
    assert extent_of(block(3, 5, 2)) == (3, 5, 2)
    assert extent_of(block(0, 0, 0)) == (0, 0, 0)


def test_stray_vertices_are_counted() -> None:
    [odd] = find_oddities(measured([block(14, 7, 3)], stray=12), [None])
    assert (odd.kind, odd.remark) == ("stray vertices", "12 vertices of no face lie outside it")


def test_sizes_are_compared_within_a_class_of_five() -> None:
    edges = [1.0, 1.1, 0.9, 1.0, 0.05, 1.0, 40.0]
    found = measured([block(14, 7, 3)] * 7, edges=edges)
    chairs = find_oddities(found, ["chair"] * 7)
    assert [(odd.sample, odd.kind) for odd in chairs] == [(4, "size"), (6, "size")]
    assert [odd.remark for odd in chairs] == [
        "20 times smaller than the median of its class",
        "40 times larger than the median of its class",
    ]
    assert find_oddities(found, [None] * 7) == []
    assert find_oddities(found, ["a", "b"] * 3 + ["c"]) == []  # three, three and one


def test_one_sample_is_held_against_the_usual_sizes() -> None:
    usual = np.array([14.0] * 5)
    assert remarks_on_sample(block(14, 7, 3), 1.0, 14, usual) == ()
    assert remarks_on_sample(block(14, 7, 1), 100.0, 14, usual) == (
        "flat: one voxel thick along z",
        "size: 100 times larger than the median of its class",
    )
    assert size_remark(1e9, usual[:4]) is None
