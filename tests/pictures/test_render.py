import gc
import io
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image as Pillow

from fer_cli.errors import ResourceError
from fer_cli.pictures import render, scene


def grid_of(shape, *filled):
    grid = np.zeros(shape, np.float32)
    for place in filled:
        grid[place] = 1
    return grid


def render_grids(grids, *, size=420):
    return render.render_scenes([scene.grid_scene(grid, colour=scene.TRUE) for grid in grids], size=size)


def share_near(image, colour, tolerance=14):
    """Share of pixels whose colour lies within `tolerance` of `colour` in every channel."""
    return (np.abs(image.astype(int) - np.array(colour)) <= tolerance).all(axis=-1).mean()


def drawn_box(image):
    """Rows and columns, as shares of the picture, that coloured (not grey or white) pixels span."""
    coloured = np.ptp(image.astype(int), axis=-1) > 30
    rows, columns = np.nonzero(coloured.any(axis=1))[0], np.nonzero(coloured.any(axis=0))[0]
    size = image.shape[0]
    return rows[0] / size, (rows[-1] + 1) / size, columns[0] / size, (columns[-1] + 1) / size


def project(points, shape):
    """Row and column, as shares of the picture, of points in a grid of `shape`.

    Written from the camera's definition: parallel, looking along −`to_camera` at the middle of the grid, z up.
    """
    to_camera = np.array([-0.8, -1.0, 0.7])
    to_camera /= np.linalg.norm(to_camera)
    right = np.cross([0, 0, 1.0], to_camera)
    right /= np.linalg.norm(right)
    up = np.cross(to_camera, right)
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)]) * np.array(shape)
    middle = np.array(shape) / 2
    half = 1.02 * max(np.abs((corners - middle) @ right).max(), np.abs((corners - middle) @ up).max())
    offsets = np.asarray(points, float) - middle
    return 0.5 - offsets @ up / (2 * half), 0.5 + offsets @ right / (2 * half)


@pytest.mark.parametrize("cell", [(0, 0, 0), (7, 0, 0), (0, 3, 0), (0, 0, 1), (7, 3, 1), (5, 2, 0)])
def test_a_voxel_is_drawn_where_its_indices_say_in_a_grid_with_three_different_sides(cell):
    shape = (8, 4, 2)
    (image,) = render_grids([grid_of(shape, cell)], size=200)
    corners = [np.add(cell, (x, y, z)) for x in (0, 1) for y in (0, 1) for z in (0, 1)]
    rows, columns = project(corners, shape)
    # Two pixels of 200: the edge's line is a pixel wide, and its rim is smoothed.
    expected = (rows.min(), rows.max(), columns.min(), columns.max())
    assert drawn_box(image) == pytest.approx(expected, abs=0.011)


def test_swapped_axes_give_another_picture():
    grid = grid_of((6, 6, 6), np.s_[0:6, 2:4, 0:1])
    pictures = render_grids([grid, grid.swapaxes(0, 1), grid.swapaxes(0, 2), grid.swapaxes(1, 2)], size=120)
    for other in pictures[1:]:
        assert (pictures[0] != other).mean() > 0.01


def test_pictures_of_one_batch_are_those_drawn_alone():
    grids = [grid_of((8, 4, 2), np.s_[2:5, 1:3, :]), grid_of((8, 4, 2), (7, 3, 1))]
    together = render_grids([grids[1], grids[0], grids[1]], size=100)
    for image, grid in zip(together, [grids[1], grids[0], grids[1]], strict=True):
        np.testing.assert_array_equal(image, render_grids([grid], size=100)[0])


def test_voxels_at_half_are_drawn_and_below_half_are_not():
    at, below = np.full((4, 4, 4), 0.5), np.full((4, 4, 4), 0.499)
    drawn, empty = render_grids([at, below], size=100)
    assert share_near(drawn, scene.TRUE) > 0.05
    assert np.ptp(empty.astype(int), axis=-1).max() == 0


def test_empty_grid_is_the_empty_outline():
    (image,) = render_grids([np.zeros((8, 4, 2))])
    assert image.shape == (420, 420, 3)
    assert share_near(image, (255, 255, 255), 0) > 0.9
    assert 0.001 < share_near(image, scene.OUTLINE, 60) < 0.05


def test_windows_stay_open_for_few_sizes_and_others_are_closed():
    opened = {size: render._easel(size).plotter for size in (41, 42, 43, 44, 45)}
    gc.collect()
    assert {size: plotter._closed for size, plotter in opened.items()} == {size: size == 41 for size in opened}
    assert render._easel(45).plotter is opened[45]
    render.close_windows()
    assert all(plotter._closed for plotter in opened.values())


def test_nothing_to_draw_is_no_picture():
    assert render.render_scenes([]) == []


def test_overlay_shows_matching_missing_and_extra_in_their_colours():
    reference = grid_of((8, 4, 2), np.s_[0:4, :, :])
    reconstruction = grid_of((8, 4, 2), np.s_[2:6, :, :])
    (image,) = render.render_scenes([scene.overlay_scene(reconstruction, reference)])
    for colour in (scene.MATCHING, scene.MISSING, scene.EXTRA):
        assert share_near(image, colour) > 0.005, colour
    (same,) = render.render_scenes([scene.overlay_scene(reference, reference)])
    assert share_near(same, scene.MATCHING) > 0.005
    assert share_near(same, scene.MISSING) == share_near(same, scene.EXTRA) == 0


def test_boxes_are_wireframes_and_darken_the_voxels_they_share():
    grid = grid_of((8, 4, 2), np.s_[:, :, 0])
    box = ((0, 4), (0, 4), (0, 2))
    boxed_scene = scene.boxes_scene(grid, [box, ((2, 6), (0, 4), (0, 2))])
    (plain, boxed) = render.render_scenes([scene.grid_scene(grid, colour=scene.MATCHING), boxed_scene])
    for colour in (*scene.SEEN, scene.MATCHING):
        assert share_near(boxed, colour) > 0.005, colour
    assert share_near(boxed, scene.BOX_LINE, 40) > share_near(plain, scene.BOX_LINE, 40) + 0.003


def test_probe_has_four_panels_with_the_location_the_field_and_the_crop():
    grid = grid_of((8, 4, 2), np.s_[1:7, 1:3, :])
    image = render.render_probe(
        "conv1",
        feature_map=(4, 2, 1),
        location=(1, 1, 0),
        response_field=[(0, 1, 0), (1, 0, 0), (1, 1, 0), (2, 1, 0)],
        reconstruction=grid,
        receptive_field=((1, 5), (1, 4), (0, 2)),
        input_grid=np.roll(grid, 1, axis=1),
        size=300,
    )
    panels = np.array_split(image, 4, axis=1)
    assert share_near(panels[0], scene.CHOSEN) > 0.003
    assert share_near(panels[0], scene.FIELD) == 0
    assert share_near(panels[1], scene.CHOSEN) > 0.003
    assert share_near(panels[1], scene.FIELD) > 0.0005
    assert share_near(panels[2], scene.SHAPE) > 0.01
    assert share_near(panels[3], scene.EXTRA) > 0.01
    captions = image[: round(300 / 22) * 4]
    assert all((part < 100).any() for part in np.array_split(captions, 4, axis=1))


def test_probe_of_a_dense_layer_is_one_cell():
    image = render.render_probe(
        "fc6",
        feature_map=(1, 1, 1),
        location=(0, 0, 0),
        response_field=[(0, 0, 0)],
        reconstruction=np.zeros((8, 4, 2)),
        receptive_field=((0, 8), (0, 4), (0, 2)),
        input_grid=np.zeros((8, 4, 2)),
        size=200,
    )
    assert share_near(image, scene.CHOSEN) > 0.005


def test_png_keeps_the_picture():
    (image,) = render.render_scenes([scene.grid_scene(grid_of((8, 4, 2), np.s_[:, 1:3, :]))])
    again = np.asarray(Pillow.open(io.BytesIO(render.encode_png(image))).convert("RGB"))
    # 256 colours of a picture that has few more: rims may move, faces may not.
    assert np.abs(again.astype(int) - image).mean() < 1


def test_png_that_cannot_be_written_is_a_resource_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ResourceError, match=r"cannot write .*a\.png.*Not a directory"):
        render.write_png(np.zeros((2, 2, 3), np.uint8), tmp_path / "file" / "a.png")


def run_python(code, **environment):
    kept = {key: value for key, value in os.environ.items() if key != "DISPLAY"}
    return subprocess.run(
        [sys.executable, "-c", code], env=kept | environment, capture_output=True, text=True, check=False, timeout=60
    )


SEVERAL = (
    "import numpy as np; from fer_cli.pictures.render import render_scenes; "
    "from fer_cli.pictures.scene import boxes_scene, cells_scene, overlay_scene; "
    "grid = np.ones((8, 4, 2)); cells = cells_scene((8, 4, 2), [(1, 1, 1)], (1, 1, 1)); "
    "scenes = [overlay_scene(grid, grid), boxes_scene(grid, [((0, 2), (0, 2), (0, 2))]), cells]; "
    "kept = [render_scenes(scenes, size=size) for size in (60, 70, 80, 90, 100)]; "
    "import gc; gc.freeze()"  # as commands do, so that windows outlive the modules that can close them
)


def test_windows_left_open_say_nothing_at_the_end():
    result = run_python(SEVERAL)
    assert (result.returncode, result.stderr) == (0, "")


DRAW = (
    "import numpy as np; from fer_cli.pictures.render import render_scenes; "
    "from fer_cli.pictures.scene import grid_scene; "
    "print(render_scenes([grid_scene(np.ones((8, 4, 2)))], size=60)[0].min())"
)


def test_drawing_without_a_display_says_nothing_but_exceptions_get_through():
    result = run_python(DRAW + "; raise KeyError('seen')")
    assert result.stdout.strip().isdigit()
    assert result.stderr.startswith("Traceback")
    assert result.stderr.strip().endswith("KeyError: 'seen'")
    assert "DISPLAY" not in result.stderr


def test_a_machine_that_cannot_draw_gets_one_clear_line():
    # Hides every EGL driver; where OSMesa is installed, or EGL comes without glvnd, drawing still works.
    result = run_python(DRAW, __EGL_VENDOR_LIBRARY_DIRS="/nonexistent", __EGL_VENDOR_LIBRARY_FILENAMES="/nonexistent")
    if result.returncode == 0:
        pytest.skip("this machine draws by another way than EGL's vendor drivers")
    assert result.returncode == 1, "drawing must fail with an exception, not by a signal"
    assert "ResourceError: this machine cannot draw without a screen" in result.stderr


@pytest.mark.parametrize("library", ["pyvista", "vtkmodules", "torch", "scipy"])
def test_importing_render_does_not_import(library):
    # PyVista comes with the first picture; processes that draw need no PyTorch, which takes seconds.
    result = run_python(f"import sys, fer_cli.pictures.render; print({library!r} in sys.modules)")
    assert result.stdout.split() == ["False"]
