"""Pen marks, folds and empty slides are said, and clean ones are not slandered."""

import dataclasses

import numpy as np
import pytest
from scipy import ndimage
from skimage.draw import disk

from nucleiflow import quality

SIDE = 400
INKS = {
    "green": (30, 140, 70),
    "blue": (25, 60, 160),
    "faded blue": (121, 156, 205),
    "faded black": (90, 90, 93),
    "red": (215, 30, 40),
    "black": (25, 25, 30),
}


@pytest.fixture(scope="module")
def stained():
    """Transmitted light (h, w, 3) 0..1 of a made-up piece of tissue, pink with violet nuclei."""
    generator = np.random.default_rng(4)
    light = np.ones((SIDE, SIDE, 3)) * 0.95
    tissue = ndimage.gaussian_filter(generator.normal(size=(SIDE, SIDE)), 40) > 0
    light[tissue] = (0.87, 0.62, 0.76)
    for y, x in generator.integers(8, SIDE - 8, (700, 2)):
        rows, columns = disk((y, x), 3)
        nucleus = tissue[rows, columns]
        light[rows[nucleus], columns[nucleus]] = (0.45, 0.32, 0.60)
    return np.clip(light + generator.normal(0, 0.01, light.shape), 0, 1)


def photo(light):
    return np.rint(light * 255).astype(np.uint8)


def test_clean_tissue_has_no_marks(stained):
    assert not quality.pen(photo(stained)).any()
    assert quality.folds(photo(stained)).mean() < 0.01


@pytest.mark.parametrize("ink", INKS)
def test_a_stroke_of_a_pen_is_found(stained, ink):
    marked = photo(stained)
    stroke = np.zeros((SIDE, SIDE), bool)
    stroke[100:112, 30:330] = True
    marked[stroke] = INKS[ink]
    found = quality.pen(marked)
    assert found[stroke].mean() > 0.95
    assert found[~stroke].mean() < 0.01


@pytest.mark.parametrize("ink", INKS)
def test_a_stroke_is_no_fold(stained, ink):
    marked = photo(stained)
    marked[100:112, 30:330] = INKS[ink]
    assert quality.folds(marked)[99:113].mean() < 0.01


def test_nuclei_seen_closely_are_no_ink_and_no_folds():
    blue = np.full((512, 512, 3), (170, 150, 190), np.uint8)  # blue, as some haematoxylin is
    for y, x in np.random.default_rng(5).integers(20, 490, (60, 2)):
        blue[disk((y, x), 14)] = (50, 58, 120)
    assert quality.pen(blue).any()
    assert not quality.pen(blue, 0.25).any()
    assert not quality.folds(blue, 0.25).any()


def test_a_stroke_is_found_at_any_resolution(stained):
    marked = photo(stained)
    marked[100:112, 30:330] = INKS["green"]
    coarse = quality.pen(marked)
    near = quality.pen(marked.repeat(8, axis=0).repeat(8, axis=1), 1.0)
    np.testing.assert_array_equal(near[::8, ::8], coarse)


def test_sides_that_blocks_do_not_fit(stained):
    piece = photo(stained)[:101, :59]
    for side in (2.0, 0.25, 0.01):
        assert quality.pen(piece, side).shape == (101, 59)
        assert quality.folds(piece, side).shape == (101, 59)
    assert quality.pen(piece[:1, :1], 0.25).shape == (1, 1)


@pytest.mark.parametrize("side", [8.0, 2.0])
def test_16_bits_are_seen_as_8(stained, side):
    marked = photo(stained)
    marked[100:112, 30:330] = INKS["green"]
    deep = marked.astype(np.uint16) * 257
    assert quality.pen(marked, side).any()
    for look in (quality.pen, quality.folds, quality.blank):
        np.testing.assert_array_equal(look(deep, side), look(marked, side))


def test_what_was_not_recorded_is_no_ink(stained):
    lost = photo(stained)
    lost[:200, :200] = 0
    assert not quality.pen(lost).any()


def test_bare_glass_is_told_from_tissue(stained):
    grain = np.random.default_rng(6).normal(236, 2, (200, 300, 3))
    glass = np.rint(grain).astype(np.uint8)
    assert quality.blank(glass)
    assert quality.blank(np.full((1, 1, 3), 250, np.uint8))
    assert not quality.blank(photo(stained))
    assert not quality.blank(np.zeros((50, 60, 3), np.uint8))
    glass[90:110, 100:140] = (200, 150, 190)
    assert not quality.blank(glass)


def test_tissue_that_lies_double_is_found(stained):
    folded = stained.copy()
    band = np.zeros((SIDE, SIDE), bool)
    band[180:205] = True
    tissue = stained[..., 1] < 0.8
    folded[band] = stained[band] ** 3
    found = quality.folds(photo(folded))
    assert found[band & tissue].mean() > 0.6
    assert found[~band].mean() < 0.02


def test_white_and_black_slides_are_taken():
    for value in (0, 255):
        plane = np.full((50, 60, 3), value, np.uint8)
        assert quality.folds(plane).sum() == 0
    assert quality.pen(np.full((50, 60, 3), 255, np.uint8)).sum() == 0


NOTHING = np.zeros((10, 20), bool)
SEEN = quality.Seen(
    tissue=~NOTHING, pen=NOTHING, folds=NOTHING, pixel_um2=1e4, blurred=0, judged=10
)


def test_areas_and_densities():
    found = quality.summary(SEEN, 50)
    assert found["tissue_mm2"] == pytest.approx(200 * 1e4 / 1e6)
    assert found["nuclei_per_mm2"] == pytest.approx(25)
    assert (found["tissue_fraction"], found["flags"]) == (1, [])


def test_below_a_pen_is_no_tissue():
    below = ~NOTHING & (np.arange(20) < 5)
    for tissue in (~NOTHING, None):
        found = quality.summary(dataclasses.replace(SEEN, tissue=tissue, pen=below), 50)
        assert found["tissue_fraction"] == pytest.approx(0.75)
        assert found["tissue_mm2"] == pytest.approx(150 * 1e4 / 1e6)


@pytest.mark.parametrize(
    ("change", "nuclei", "said"),
    [
        ({"tissue": NOTHING}, 0, "no tissue was found"),
        ({}, 0, "no nuclei were found"),
        ({"blurred": 3}, 9, "30% of the slide is out of focus"),
        ({"pen": ~NOTHING & (np.arange(20) < 2)}, 9, "pen marks on 10.0% of the slide"),
        ({"folds": ~NOTHING}, 9, "100% of the tissue looks folded"),
    ],
)
def test_what_a_person_should_know_is_said(change, nuclei, said):
    (flag,) = quality.summary(dataclasses.replace(SEEN, **change), nuclei)["flags"]
    assert said in flag


def test_without_a_scale_there_is_no_area():
    found = quality.summary(dataclasses.replace(SEEN, pixel_um2=None, judged=0), 50)
    assert found["tissue_mm2"] is None
    assert found["nuclei_per_mm2"] is None
    assert found["out_of_focus_fraction"] is None
