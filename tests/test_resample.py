"""Resampling: any window gives the same bits, and others' means and interpolations agree."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.transform import downscale_local_mean

from nucleiflow import resample
from nucleiflow.box import Box, grid
from nucleiflow.errors import SlideError
from nucleiflow.resample import Axis, Resampling, resampled

law = settings(deadline=None, max_examples=60)  # for machines that are busy
sides = st.integers(1, 60)
shapes, few = st.tuples(sides, sides), st.integers(1, 12)
dtypes = st.sampled_from([np.uint8, np.uint16])


def noise(shape, dtype=np.uint16, channels=1, seed=0):
    top = np.iinfo(dtype).max
    return np.random.default_rng(seed).integers(0, top + 1, (*shape, channels), dtype)


def whole(pixels, target):
    """All of the target from all of the source, in one piece."""
    box = Box(0, 0, *target)
    return resampled(box, Resampling(pixels.shape[:2], target), lambda box: pixels[box.slices()])


# tiled equals whole


@law
@given(shapes, shapes, st.integers(4, 60), dtypes, st.integers(1, 3))
def test_tiled_equals_whole(source, target, tile_px, dtype, channels):
    pixels, how = noise(source, dtype, channels), Resampling(source, target)
    tiled = np.zeros((*target, channels), dtype)
    for core in grid(*target, tile_px):
        tiled[core.slices()] = resampled(core, how, lambda box: pixels[box.slices()])
    np.testing.assert_array_equal(tiled, whole(pixels, target))


@law
@given(shapes, shapes, st.integers(1, 400))
def test_pieces_change_nothing(source, target, piece_px):
    pixels, before = noise(source), resample.PIECE_PX
    once = whole(pixels, target)
    try:
        resample.PIECE_PX = piece_px
        np.testing.assert_array_equal(whole(pixels, target), once)
    finally:
        resample.PIECE_PX = before


@law
@given(shapes, shapes, st.data())
def test_a_window_is_all_that_matters_and_no_more(source, target, data):
    """Pixels outside the window change nothing; each line at its border does."""
    y0 = data.draw(st.integers(0, target[0] - 1))
    x0 = data.draw(st.integers(0, target[1] - 1))
    box = Box(y0, x0, data.draw(st.integers(y0 + 1, target[0])), x0 + 1)
    how = Resampling(source, target)
    window = how.window(box)
    assert window == window.clip(*source)
    for axis, (start, stop) in zip(how.axes, ((box.y0, box.y1), (box.x0, box.x1)), strict=True):
        matrix = axis.matrix(start, stop)
        assert (matrix.sum(axis=1) == axis.denominator).all()
        assert matrix[:, [0]].sum() > 0
        assert matrix[:, [-1]].sum() > 0
    pixels = noise(source)
    other = np.full_like(pixels, 7)
    other[window.slices()] = pixels[window.slices()]
    np.testing.assert_array_equal(
        whole(pixels, target)[box.slices()], whole(other, target)[box.slices()]
    )


def test_memory_is_bounded_however_strong_the_reduction(monkeypatch):
    monkeypatch.setattr(resample, "PIECE_PX", 4096)
    how, seen = Resampling((1500, 2000), (30, 40)), []

    def fetch(box):
        seen.append(box)
        return np.full((*box.shape, 1), 9, np.uint8)

    found = resampled(Box(0, 0, 30, 40), how, fetch)
    assert (found == 9).all()
    assert max(box.area for box in seen) <= 4096
    assert sum(box.area for box in seen) == 1500 * 2000, "integer factors read each pixel once"
    seen.clear()
    resampled(Box(0, 0, 200, 300), Resampling((100, 70), (500, 300)), fetch)
    assert max(box.area for box in seen) <= 4096


# what comes out


@law
@given(shapes, shapes, dtypes, st.data())
def test_a_constant_stays_a_constant(source, target, dtype, data):
    value = data.draw(st.integers(0, np.iinfo(dtype).max))
    found = whole(np.full((*source, 1), value, dtype), target)
    assert found.shape == (*target, 1)
    assert found.dtype == dtype
    assert (found == value).all()


@law
@given(shapes, dtypes)
def test_the_same_size_is_the_same_image(shape, dtype):
    pixels, box = noise(shape, dtype), Box(0, 0, *shape)
    np.testing.assert_array_equal(whole(pixels, shape), pixels)
    np.testing.assert_array_equal(Resampling(shape, shape).apply(pixels, box), pixels)


@law
@given(shapes, st.integers(1, 9), st.integers(1, 9), dtypes)
def test_integer_factors_are_local_means_rounded_half_up(target, down, across, dtype):
    pixels = noise((target[0] * down, target[1] * across), dtype, channels=2)
    found = whole(pixels, target)
    sums = downscale_local_mean(pixels.astype(float), (down, across, 1)) * down * across
    expected = (2 * np.rint(sums).astype(np.int64) + down * across) // (2 * down * across)
    np.testing.assert_array_equal(found, expected)


@law
@given(shapes, shapes)
def test_reducing_keeps_the_mean(source, target):
    target = min(source[0], target[0]), min(source[1], target[1])
    pixels = noise(source)
    assert abs(float(whole(pixels, target).mean()) - float(pixels.mean())) <= 0.5


@law
@given(st.tuples(few, few), st.tuples(few, few))
def test_each_pixel_is_the_mean_over_its_own_area(source, target):
    """By means over a grid so fine that both fit into it."""
    target = min(source[0], target[0]), min(source[1], target[1])
    pixels = noise(source)
    fine = pixels.repeat(target[0], axis=0).repeat(target[1], axis=1)
    expected = downscale_local_mean(fine.astype(float), (*source, 1))
    assert np.abs(whole(pixels, target) - expected).max() <= 0.5 + 1e-6


@law
@given(shapes, shapes)
def test_enlarging_is_bilinear_between_pixel_centres(source, target):
    target = max(source[0], target[0]), max(source[1], target[1])
    pixels = noise(source)
    places = np.meshgrid(
        *((np.arange(m) + 0.5) * n / m - 0.5 for n, m in zip(source, target, strict=True)),
        indexing="ij",
    )
    expected = ndimage.map_coordinates(
        pixels[..., 0].astype(float), places, order=1, mode="nearest"
    )
    assert np.abs(whole(pixels, target)[..., 0] - expected).max() <= 0.5 + 1e-6


@law
@given(shapes, st.integers(1, 5))
def test_repeating_pixels_is_undone(shape, factor):
    pixels = noise(shape)
    large = pixels.repeat(factor, axis=0).repeat(factor, axis=1)
    np.testing.assert_array_equal(whole(large, shape), pixels)


def test_a_flipped_slide_is_resampled_flipped():
    """No half pixel is lost to either side."""
    for source, target in (((61, 47), (40, 33)), ((40, 33), (61, 47))):
        pixels = noise(source)
        there = whole(np.ascontiguousarray(pixels[::-1, ::-1]), target)
        assert np.abs(there[::-1, ::-1].astype(int) - whole(pixels, target)).max() <= 1


def test_files_of_other_byte_order_become_native():
    pixels = noise((8, 8)).astype(">u2")
    found = whole(pixels, (4, 4))
    assert found.dtype == np.uint16
    assert found.dtype.isnative
    np.testing.assert_array_equal(found, whole(pixels.astype(np.uint16), (4, 4)))


# as exact for the largest slides


@pytest.mark.parametrize(("source", "target"), [(300_007, 150_001), (150_001, 300_007)])
def test_the_far_corner_of_a_huge_slide_is_exact(source, target):
    """Against whole-number arithmetic of any length."""
    axis, place = Axis(source, target), target - 5
    index, weight = axis.taps(place, place + 1)
    how = Resampling((source, source), (target, target))
    box = Box(place, place, place + 1, place + 1)
    window = how.window(box)
    pixels = noise(window.shape) | np.uint16(0xFF00)
    total = sum(
        int(wy) * int(wx) * int(pixels[y - window.y0, x - window.x0, 0])
        for y, wy in zip(index[0], weight[0], strict=True)
        for x, wx in zip(index[0], weight[0], strict=True)
        if wy and wx
    )
    expected = (2 * total + how.denominator) // (2 * how.denominator)
    assert how.apply(pixels, box).item() == expected


def test_a_slide_too_large_to_sum_is_refused():
    with pytest.raises(SlideError, match="--level"):
        Resampling((10**7 + 1, 10**7 + 1), (10**7, 10**7))
