"""Geometry of pictures, without drawing any."""

import numpy as np

from fer_cli.pictures import scene


def grid_of(shape, *filled):
    grid = np.zeros(shape, np.float32)
    for place in filled:
        grid[place] = 1
    return grid


def test_hidden_faces_are_not_built():
    points, _ = scene.visible_faces(scene.Solid(np.ones((8, 4, 2), bool), scene.SHAPE), np.ones((8, 4, 2), bool))
    assert len(points) == 4 * (4 * 2 + 8 * 2 + 8 * 4)


def test_corners_beside_a_wall_are_darker_than_open_ones():
    floor = grid_of((3, 3, 3), np.s_[:, :, 0]).astype(bool)
    corner = floor | grid_of((3, 3, 3), np.s_[2, :, :]).astype(bool)
    _, open_colours = scene.visible_faces(scene.Solid(floor, (200, 200, 200)), floor)
    points, colours = scene.visible_faces(scene.Solid(corner, (200, 200, 200)), corner)
    at_wall = (points == (2, 1, 1)).all(axis=1)
    assert open_colours.max() == 200
    assert at_wall.any()
    assert colours[at_wall].min() < 150


def test_differences_are_counted_from_either_side():
    reference = grid_of((8, 4, 2), np.s_[0:4, :, :])
    reconstruction = grid_of((8, 4, 2), np.s_[3:6, :, :])
    assert scene.count_differences(reconstruction, reference) == {"matching": 8, "missing": 24, "extra": 16}
    assert scene.count_differences(reference, reconstruction) == {"matching": 8, "missing": 16, "extra": 24}
    solids = scene.overlay_scene(reconstruction, reference).solids
    assert [int(solid.cells.sum()) for solid in solids] == [8, 16, 24]


def test_voxels_at_half_are_occupied_and_below_half_are_not():
    assert scene.occupied(np.array([[[0.499, 0.5], [0.0, 1.0]]])).tolist() == [[[False, True], [False, True]]]


def test_voxels_are_the_darker_the_more_boxes_they_lie_in():
    boxes = [((0, 2), (0, 4), (0, 2)), ((1, 3), (0, 4), (0, 2)), ((1, 2), (0, 1), (0, 1))]
    (solid,) = scene.boxes_scene(np.ones((8, 4, 2)), boxes).solids
    pale, dark = scene.SEEN
    assert solid.colour[7, 0, 0].tolist() == list(scene.MATCHING)
    assert solid.colour[0, 0, 0].tolist() == list(pale)
    assert solid.colour[1, 0, 0].tolist() == list(dark)
    assert solid.colour[1, 1, 0].tolist() == [round((p + d) / 2) for p, d in zip(pale, dark, strict=True)]


def test_location_and_its_field_are_drawn_apart():
    cells = [(0, 1, 0), (1, 1, 0), (1, 1, 1)]
    drawn = scene.cells_scene((8, 4, 2), cells, (1, 1, 0))
    field, chosen = drawn.solids
    assert [tuple(cell) for cell in np.argwhere(field.cells).tolist()] == [(0, 1, 0), (1, 1, 1)]
    assert np.argwhere(chosen.cells).tolist() == [[1, 1, 0]]
    assert field.size < chosen.size < 1
    assert drawn.shadows == ((tuple(cells), scene.FIELD), (((1, 1, 0),), scene.CHOSEN))


def test_box_has_its_twelve_edges_and_the_nearest_corner_last():
    lines = scene.box_edges(((0, 8), (0, 4), (0, 2)))
    lengths = np.abs(lines[:, 1] - lines[:, 0]).sum(axis=1)
    assert sorted(lengths.tolist()) == [2.0] * 4 + [4.0] * 4 + [8.0] * 4
    # Seen from −x, −y and above.
    assert all([0.0, 0.0, 2.0] in line for line in lines[9:].tolist())
    assert not any([0.0, 0.0, 2.0] in line for line in lines[:9].tolist())


def test_shadows_lie_on_the_floor_and_the_two_back_walls():
    squares = scene.cast_shadows((8, 4, 2), [(1, 2, 1)], height=0.0).reshape(3, 4, 3)
    spans = [list(zip(square.min(axis=0).tolist(), square.max(axis=0).tolist(), strict=True)) for square in squares]
    assert spans == [
        [(8, 8), (2, 3), (1, 2)],
        [(1, 2), (4, 4), (1, 2)],
        [(1, 2), (2, 3), (0, 0)],
    ]


def test_axes_are_named_within_the_picture_and_the_gap_around_it():
    for shape in ((8, 4, 2), (1, 1, 1), (2, 4, 8)):
        places = scene.axis_places(shape)
        assert list(places) == ["x", "y", "z"]
        assert all(-1 / 12 < share < 13 / 12 for place in places.values() for share in place)
