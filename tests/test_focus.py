"""Sharpness: the same for any tiling, lowered by blur, and not by noise or by pale tissue."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from nucleiflow import focus
from nucleiflow.box import Box, grid

HALO = 16


def window(pixels, core):
    """What the network sees around a core: mirrored at the slide's edge."""
    whole = np.pad(pixels, [(HALO, HALO), (HALO, HALO), (0, 0)], mode="symmetric")
    around = core.grow(HALO)
    return np.ascontiguousarray(whole[around.grow(0).slices(origin=Box(-HALO, -HALO, 0, 0))])


def sharpness(pixels, tile_px=10_000):
    cores = grid(*pixels.shape[:2], tile_px)
    parts = [focus.measure(window(pixels, core), core.grow(HALO), core) for core in cores]
    return focus.assemble(parts, pixels.shape[:2])


def seen(plane):
    return np.repeat(np.rint(plane).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def texture(shape, contrast, seed=0):
    """Smooth content of a standard deviation, about a mean of 0."""
    rough = np.random.default_rng(seed).normal(size=shape)
    smooth = ndimage.gaussian_filter(rough, 1.5, mode="wrap")
    return (smooth - smooth.mean()) * contrast / smooth.std()


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(40, 300), st.integers(40, 300))
def test_tiles_do_not_matter(seed, unit, height, width):
    plane = seen(texture((height, width), 40, seed) + 128)
    whole, tiled = sharpness(plane), sharpness(plane, 32 * unit)
    assert np.isfinite(whole).any()
    np.testing.assert_array_equal(whole, tiled)


@pytest.mark.parametrize("stain", ["fluorescence", "h&e"])
def test_blur_is_seen(field, stain):
    plane = field[:512, :512] / np.quantile(field, 0.998) * 255
    plane = plane + np.random.default_rng(0).normal(0, 6, plane.shape)
    blurred = [
        focus.blurred(sharpness(seen(ndimage.gaussian_filter(plane, sigma))), stain).mean()
        for sigma in (0, 2, 3)
    ]
    assert blurred[0] == 0
    assert blurred[2] > 0.9
    assert blurred == sorted(blurred)


def test_contrast_is_not_sharpness(field):
    plane = field[:512, :512] / np.quantile(field, 0.998) * 240
    strong, weak = sharpness(seen(plane)), sharpness(seen(plane * 0.5 + 60))
    both = np.isfinite(strong) & np.isfinite(weak)
    assert both.sum() > 8
    np.testing.assert_allclose(strong[both], weak[both], rtol=0.1)


@pytest.mark.parametrize("noise", [2, 5])
def test_noise_is_not_sharpness(field, noise):
    plane = field[:512, :512] / np.quantile(field, 0.998) * 220
    grain = np.random.default_rng(1).normal(0, noise, plane.shape)
    for sigma in (0, 3):
        soft = ndimage.gaussian_filter(plane, sigma) + 20
        clean, noisy = sharpness(seen(soft)), sharpness(seen(soft + grain))
        both = np.isfinite(clean) & np.isfinite(noisy)
        assert both.sum() > 8
        np.testing.assert_allclose(clean[both], noisy[both], atol=0.03)
        assert (np.isfinite(noisy) <= np.isfinite(clean)).all()
        assert (focus.blurred(noisy, "h&e")[both] == (sigma == 3)).all()


@pytest.mark.parametrize(
    ("contrast", "noise", "is_judged"),
    [(15, 0, True), (15, 5, True), (0, 25, False), (7, 0, False), (7, 5, False), (12, 30, False)],
)
def test_noise_and_pale_content_are_nothing_to_judge_by(contrast, noise, is_judged):
    grain = np.random.default_rng(2).normal(100, noise, (512, 512))
    judged = np.isfinite(sharpness(seen(texture(grain.shape, contrast) + grain)))
    assert (judged == is_judged).all()


@pytest.mark.parametrize("sigma", [0.7, 1, 2, 4])
def test_blur_never_sharpens(field, sigma):
    plane = field[:512, :512] / np.quantile(field, 0.998) * 255
    sharp, soft = sharpness(seen(plane)), sharpness(seen(ndimage.gaussian_filter(plane, sigma)))
    both = np.isfinite(sharp) & np.isfinite(soft)
    assert both.sum() > 8
    assert (soft[both] < sharp[both] + 1e-3).all()


def test_a_network_that_sees_little_has_no_map_in_any_tiling():
    pixels = seen(texture((300, 300), 40) + 128)
    assert np.isfinite(sharpness(pixels)).all()
    for tile_px in (64, 10_000):
        cores = list(grid(300, 300, tile_px))
        parts = [focus.measure(pixels, core, core) for core in cores]
        assert np.isnan(focus.assemble(parts, (300, 300))).all()


def test_a_lost_tile_leaves_a_gap_and_no_blur(field):
    pixels = seen(field[:512, :512] / np.quantile(field, 0.998) * 255)
    cores = grid(512, 512, 256)
    parts = [focus.measure(window(pixels, core), core.grow(HALO), core) for core in cores]
    whole, part = focus.assemble(parts, (512, 512)), focus.assemble(parts[1:], (512, 512))
    assert np.isnan(part[:2, :2]).all()
    np.testing.assert_array_equal(whole[2:], part[2:])


def test_where_nothing_is_there_is_nothing_to_say():
    flat = sharpness(np.full((300, 200, 3), 17, np.uint8))
    assert flat.shape == (3, 2)
    assert np.isnan(flat).all()
    assert not focus.blurred(flat, "h&e").any()


def test_nuclei_get_the_flag_of_their_block():
    blocks = np.array([[False, True], [False, False]])
    points = np.array([[5.0, 5.0], [127.9, 128.0], [128.0, 255.0], [400.0, 400.0]])
    assert focus.flag(points, blocks).tolist() == [False, True, False, False]


def test_a_slide_of_one_pixel():
    assert sharpness(np.zeros((1, 1, 3), np.uint8)).shape == (1, 1)


@pytest.mark.parametrize("stain", ["fluorescence", "h&e"])
def test_from_a_half_on_it_is_blur(stain):
    limit = focus.BLURRED["stained" if stain == "h&e" else stain]
    values = np.array([[0, 0.9 * limit, 1.1 * limit, 0.5, np.nan]], np.float32)
    blur = focus.blur(values, stain)
    np.testing.assert_array_equal(blur > 0.5, focus.blurred(values, stain))
    assert blur[0, 0] == 1
    assert blur[0, -1] == 0
