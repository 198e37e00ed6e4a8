"""A pyramid's levels are the same whether they are made tile by tile or whole."""

from itertools import pairwise

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nucleiflow.box import Box
from nucleiflow.plan import Grid
from nucleiflow.pyramid import LEAST_PX, halve_mean, halve_nearest, shapes
from nucleiflow.receptive import Reach

sides = st.integers(1, 12)


def images(dtypes, channels):
    return st.tuples(dtypes, st.tuples(channels, sides, sides)).flatmap(
        lambda both: arrays.arrays(*both, fill=st.nothing())
    )


pictures = images(st.sampled_from([np.uint8, np.uint16]), st.integers(1, 3))
labels = images(st.just(np.uint32), st.just(1)).map(lambda one: one[0])


def in_tiles(level, tile_px, halve):
    """The next level, each of its tiles from the pixels below it alone."""
    height, width = level.shape[-2:]
    half = (-(-height // 2), -(-width // 2))
    made = np.zeros((*level.shape[:-2], *half), level.dtype)
    grid = Grid(*half, tile_px, Reach(0, 0, 1))
    for core in map(grid.core, range(len(grid))):
        fine = Box(2 * core.y0, 2 * core.x0, 2 * core.y1, 2 * core.x1).clip(height, width)
        made[..., *core.slices()] = halve(level[..., *fine.slices()])
    return made


def blocks(level):
    """(..., h, w) -> (..., h/2, w/2, 4) float, NaN beyond the edge."""
    height, width = level.shape[-2:]
    spread = np.full((*level.shape[:-2], height + height % 2, width + width % 2), np.nan)
    spread[..., :height, :width] = level
    corners = [spread[..., y::2, x::2] for y in (0, 1) for x in (0, 1)]
    return np.stack(corners, axis=-1)


@settings(deadline=None)
@given(pictures, st.integers(1, 7))
def test_means_in_tiles_equal_means_whole(image, tile_px):
    np.testing.assert_array_equal(in_tiles(image, tile_px, halve_mean), halve_mean(image))


@settings(deadline=None)
@given(labels, st.integers(1, 7))
def test_labels_in_tiles_equal_labels_whole(image, tile_px):
    np.testing.assert_array_equal(in_tiles(image, tile_px, halve_nearest), halve_nearest(image))


@settings(deadline=None)
@given(pictures)
def test_means_are_rounded_means_of_the_pixels_there_are(image):
    found = halve_mean(image)
    assert found.dtype == image.dtype
    expected = np.floor(np.nanmean(blocks(image), axis=-1) + 0.5)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_white_stays_white(dtype):
    white = np.full((1, 5, 4), np.iinfo(dtype).max, dtype)
    np.testing.assert_array_equal(halve_mean(white), white[:, :3, :2])


@settings(deadline=None)
@given(labels)
def test_nearest_takes_one_of_the_labels_below(image):
    found = halve_nearest(image)
    assert found.dtype == image.dtype
    assert (blocks(image) == found[..., None]).any(axis=-1).all()


@settings(deadline=None)
@given(st.integers(1, 200_000), st.integers(1, 200_000))
def test_levels_halve_until_they_fit(height, width):
    levels = shapes(height, width)
    assert levels[0] == (height, width)
    assert max(levels[-1]) <= LEAST_PX
    assert all(max(level) > LEAST_PX for level in levels[:-1])
    for fine, coarse in pairwise(levels):
        assert coarse == ((fine[0] + 1) // 2, (fine[1] + 1) // 2)


@pytest.mark.parametrize("shape", [(1, 700), (513, 300), (257, 256)])
def test_levels_have_the_shapes_that_were_planned(shape):
    image, marks = np.zeros((2, *shape), np.uint8), np.zeros(shape, np.uint32)
    for planned in shapes(*shape)[1:]:
        image, marks = halve_mean(image), halve_nearest(marks)
        assert image.shape == (2, *planned)
        assert marks.shape == planned
