import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image as Pillow

from diagnoses import CORRECT, GREY_SHAPE, UNUSUAL, grey_diagnosis
from fer_cli.diagnosis.blame import Blame
from fer_cli.pictures.planes import orientation_of
from fer_cli.pictures.slice_pictures import cursor_of, cursor_words, slice_pictures, slice_sheet
from fer_cli.pictures.slices import (
    BLAMED,
    View,
    blamed_share,
    default_window,
    draw_slices,
    encode_slices,
    error_window,
)


def view(*, spacing=(1.0, 1.0, 1.0), cursor=(0, 0, 0), window=(0.0, 1.0), matrix=None) -> View:
    return View(orientation_of(matrix), spacing, cursor, window)


def test_the_window_runs_between_percentiles_and_is_never_empty() -> None:
    grid = np.arange(1001.0)
    np.random.default_rng(0).shuffle(grid)
    assert default_window(grid.reshape(7, 11, 13)) == (10.0, 990.0)
    rare = np.zeros((10, 10, 10))
    rare[0, 0, 0] = 5
    assert default_window(rare) == (0.0, 5.0)
    assert default_window(np.full((2, 2, 2), 3.0)) == (2.5, 3.5)
    assert error_window(np.zeros((2, 2, 2))) == (0.0, 1.0)
    assert error_window(np.arange(101.0).reshape(101, 1, 1), np.zeros((101, 1, 1))) == (0.0, 99.0)


def test_blame_of_a_voxel_is_the_sum_of_the_weights_of_its_boxes() -> None:
    boxes = (((0, 2), (0, 4), (0, 1)), ((1, 3), (0, 2), (0, 2)))
    share = blamed_share((8, 4, 2), boxes, (0.75, 0.25))
    expected = np.zeros((8, 4, 2))
    for x, y, z in np.ndindex(8, 4, 2):
        for ((x0, x1), (y0, y1), (z0, z1)), weight in zip(boxes, (0.75, 0.25), strict=True):
            expected[x, y, z] += weight * (x0 <= x < x1 and y0 <= y < y1 and z0 <= z < z1)
    np.testing.assert_allclose(share, expected / expected.max())
    assert not blamed_share((2, 2, 2), (), ()).any()


def corners(image: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Left, top, width and height of what is not white, above and below, left and right."""
    drawn = (image != 255).any(axis=2)
    rows, columns = drawn.any(axis=1), drawn.any(axis=0)
    return [int(rows.argmin()), int(columns.argmin())]


def test_slices_have_the_proportions_of_the_world() -> None:
    """A black volume of 8 × 4 × 2 voxels of 1 × 1 × 3 mm: y slice 8 × 6 mm above z slice 8 × 4, x slice 4 × 6."""
    image = draw_slices(np.zeros((8, 4, 2)), view(spacing=(1.0, 1.0, 3.0)))
    assert image.shape == (420, 420, 3)
    scale = (420 - 6) / 12  # 8 + 4 mm across
    height, width = corners(image)
    assert (width, height) == (round(8 * scale), round(6 * scale))
    below = (image[height + 6 :] != 255).any(axis=2)
    assert int(below.any(axis=1).sum()) == round(4 * scale)


def test_a_slice_shows_the_values_of_its_voxels_in_the_window() -> None:
    grid = np.random.default_rng(0).random((8, 4, 2))
    cursor = (5, 2, 1)
    image = draw_slices(grid, view(cursor=cursor, window=(0.2, 0.7)), size=900)
    scale = (900 - 6) / 12
    top = round(2 * scale) + 6  # the z slice lies below the y slice
    grey = np.round(255 * np.clip((grid - 0.2) / 0.5, 0, 1))
    for x in range(8):
        for y in range(4):
            if x == 5 or y == 2:
                continue  # there is the cross-hair
            at = image[int(top + (3 - y + 0.75) * scale), int((x + 0.75) * scale)]
            np.testing.assert_array_equal(at, [grey[x, y, 1]] * 3)


def test_a_tint_colours_what_it_covers() -> None:
    tint = np.zeros((8, 4, 2))
    tint[:4] = 1
    image = draw_slices(np.zeros((8, 4, 2)), view(cursor=(7, 3, 0)), tint=tint, size=900).astype(int)
    scale = (900 - 6) / 12
    inside, outside = image[int(0.75 * scale), int(1.75 * scale)], image[int(0.75 * scale), int(5.75 * scale)]
    np.testing.assert_allclose(inside, 0.6 * np.array(BLAMED), atol=1)
    assert not outside.any()


def test_a_png_keeps_every_grey_level() -> None:
    image = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    with Pillow.open(io.BytesIO(encode_slices(image))) as read:
        np.testing.assert_array_equal(np.asarray(read.convert("RGB")), image)


def test_slices_go_through_the_first_place_or_the_middle() -> None:
    diagnosis = grey_diagnosis()
    assert cursor_of(diagnosis) == (5, 1, 2)
    seen = "the middle of what the location of conv3 that pushes most towards table sees"
    assert cursor_words(diagnosis) == f"voxel 5, 1, 2, {seen}"
    lowest = grey_diagnosis(blame=replace(diagnosis.blame, layer="conv1"))
    assert cursor_words(lowest) == "voxel 5, 1, 2, the middle of the part of the input that pushes most towards table"
    unusual = grey_diagnosis(**{**UNUSUAL, "places": replace(diagnosis.blame, layer="conv2")})
    assert cursor_words(unusual) == "voxel 5, 1, 2, the middle of what the most unusual location of conv2 sees"
    whole = tuple((0, side) for side in GREY_SHAPE)
    everywhere = grey_diagnosis(blame=Blame("conv5", ((0, 0, 0),), (whole,), 1.0, (1.0,)))
    assert cursor_words(everywhere) == "voxel 3, 2, 1, the middle of the volume"
    assert cursor_of(grey_diagnosis(**CORRECT)) == (3, 2, 1)
    assert "the middle of the volume" in cursor_words(grey_diagnosis(**CORRECT))


@pytest.mark.parametrize("channels", [1, 2])
def test_a_report_has_a_picture_of_every_volume_and_of_every_error(channels: int) -> None:
    diagnosis = grey_diagnosis(channels=channels)
    pictures = slice_pictures(diagnosis, diagnosis.slicing)
    strip = {
        f"{layer.name}-{path}{kind}"
        for layer in diagnosis.pictured_layers
        for path in ("feedforward", "feedback")
        for kind in ("", "-exemplar")
    }
    compared = {f"{name}{kind}" for name in ("local", "nearest", "class-code") for kind in ("", "-error")}
    assert set(pictures) == {"input", "blame", "like-predicted", "like-true"} | compared | strip
    assert "white from" in pictures["local-error"].words
    assert ("channel 0" in pictures["input"].words) == (channels == 2)
    sheet = slice_sheet(diagnosis, diagnosis.slicing, pictures)
    assert sheet.shape[1] > 5 * 420
    assert sheet.shape[0] > 4 * 420


def test_an_exact_reconstruction_has_a_black_error() -> None:
    whole = grey_diagnosis()
    diagnosis = grey_diagnosis(local_volume=whole.input_volume)
    pictures = slice_pictures(diagnosis, diagnosis.slicing)
    light = (pictures["local-error"].image.min(axis=2) > 40) & (pictures["local-error"].image.min(axis=2) < 255)
    other = (pictures["nearest-error"].image.min(axis=2) > 40) & (pictures["nearest-error"].image.min(axis=2) < 255)
    assert light.mean() < 0.01  # letters alone
    assert other.mean() > 0.1
