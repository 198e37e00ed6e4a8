"""The demo slide keeps what it promises: exact labels, nuclei on the seams, the same every time."""

import numpy as np
import pytest
from scipy import ndimage
from skimage.measure import regionprops

from nucleiflow.demo import MIN_AREA_PX, _Field, _Nucleus, make_slide, on_seam
from nucleiflow.errors import ConfigError

SIZE_PX, SEAM_PX = 512, 256
EIGHT = np.ones((3, 3), bool)


def nucleus(y, x, major=8.0, minor=8.0, angle=0.0):
    return _Nucleus(y, x, major, minor, angle, (), light=1000.0, soft=0.5, chromatin=(0, 0))


@pytest.fixture
def field():
    return _Field(64, np.ones((512, 512), np.float32))


@pytest.fixture(scope="module")
def slide():
    return make_slide(SIZE_PX, seed=7, seam_px=SEAM_PX)


def test_shape_and_type(slide):
    image, truth = slide
    assert image.shape == truth.shape == (SIZE_PX, SIZE_PX)
    assert image.dtype == np.uint16
    assert truth.dtype == np.uint32
    assert image.max() <= 4095


def test_equal_arguments_give_equal_arrays_and_other_seeds_do_not(slide):
    image, truth = slide
    again_image, again_truth = make_slide(SIZE_PX, seed=7, seam_px=SEAM_PX)
    np.testing.assert_array_equal(image, again_image)
    np.testing.assert_array_equal(truth, again_truth)
    assert not np.array_equal(truth, make_slide(SIZE_PX, seed=8, seam_px=SEAM_PX)[1])


def test_labels_are_named_in_raster_order_without_gaps(slide):
    _, truth = slide
    labels, first = np.unique(truth, return_index=True)
    np.testing.assert_array_equal(labels, np.arange(len(labels)))
    assert np.all(np.diff(first[1:]) > 0)


def test_each_label_is_one_component_of_a_believable_size(slide):
    _, truth = slide
    regions = regionprops(truth)
    assert len(regions) > 40
    for region in regions:
        assert ndimage.label(region.image, EIGHT)[1] == 1
        assert region.area >= MIN_AREA_PX
        assert region.axis_major_length < 75
    lengths = [region.axis_major_length for region in regions]
    assert 20 < np.median(lengths) < 40


def test_a_nucleus_cut_in_two_by_an_earlier_one_keeps_its_larger_part(field):
    assert field.add(nucleus(44, 24, major=30, minor=1.2))  # a bar over rows 43 to 45
    assert field.add(nucleus(30, 24, major=17.5, minor=6, angle=np.pi / 2))
    assert np.count_nonzero(field.truth[:43] == 2) > 250
    assert np.count_nonzero(field.truth[46:] == 2) == 0
    assert field.light[46, 24] > 100  # although it shines there


def test_a_nucleus_far_under_another_is_refused_and_leaves_no_light(field):
    assert field.add(nucleus(32, 24))
    light, truth = field.light.copy(), field.truth.copy()
    assert not field.add(nucleus(32, 33))
    np.testing.assert_array_equal(field.light, light)
    np.testing.assert_array_equal(field.truth, truth)
    assert field.add(nucleus(32, 39))


def test_a_scrap_in_the_corner_of_the_slide_is_refused(field):
    assert not field.add(nucleus(0, 0))
    assert field.add(nucleus(4, 4))


def test_some_nuclei_touch_and_some_places_are_empty(slide):
    _, truth = slide
    assert ndimage.label(truth > 0, EIGHT)[1] < 0.9 * truth.max()
    squares = truth.reshape(8, 64, 8, 64).max(axis=(1, 3))
    assert np.any(squares == 0)


def test_nuclei_are_brighter_than_what_surrounds_them(slide):
    image, truth = slide
    near = ndimage.binary_dilation(truth > 0, iterations=12) & (truth == 0)
    inner = ndimage.median(image, truth, np.arange(1, truth.max() + 1))
    assert np.mean(inner > np.median(image[near]) + 200) > 0.95
    assert np.std(inner) > 0.15 * np.mean(inner)


def test_the_edge_of_the_truth_is_the_half_height_of_the_light(slide):
    image, truth = slide
    outside = ndimage.distance_transform_edt(truth == 0)
    inside = ndimage.distance_transform_edt(truth > 0)
    dark = np.median(image[(outside > 6) & (outside < 12)])
    bright = np.median(image[(inside > 5) & (inside < 8)])
    rim = np.median(image[(outside == 1) | (inside == 1)])
    assert 0.25 < (rim - dark) / (bright - dark) < 0.6


def test_seams_carry_more_nuclei_than_other_lines():
    slides = [make_slide(SIZE_PX, seed=seed, seam_px=SEAM_PX)[1] for seed in range(8)]
    seams, *others = (
        sum(len(on_seam(np.roll(truth, shift, axis=(0, 1)), SEAM_PX)) for truth in slides)
        for shift in (0, 60, 120)
    )
    assert seams > 1.2 * max(others)
    assert seams >= 8 * 10


@pytest.mark.parametrize("seed", range(3))
def test_a_nucleus_lies_on_every_crossing_of_seams(seed):
    _, truth = make_slide(SIZE_PX, seed=seed, seam_px=SEAM_PX)
    corner = truth[SEAM_PX - 1 : SEAM_PX + 1, SEAM_PX - 1 : SEAM_PX + 1]
    assert corner.min() == corner.max() > 0


def test_on_seam_finds_just_the_labels_in_two_tiles(slide):
    _, truth = slide
    tiles = np.add.outer(2 * (np.arange(SIZE_PX) // SEAM_PX), np.arange(SIZE_PX) // SEAM_PX)
    across = [label for label in range(1, truth.max() + 1) if np.ptp(tiles[truth == label])]
    np.testing.assert_array_equal(on_seam(truth, SEAM_PX), across)


def test_on_seam_without_a_seam_is_empty():
    assert on_seam(np.ones((4, 4), np.uint32), 4).shape == (0,)


@pytest.mark.parametrize("size_px", [64, 80, 333])
def test_sizes_need_not_be_multiples_of_anything(size_px):
    image, truth = make_slide(size_px, seed=1, seam_px=77)
    assert image.shape == truth.shape == (size_px, size_px)
    assert np.std(image) > 0


@pytest.mark.parametrize("sizes", [(63, 64), (128, 10)])
def test_sizes_that_hold_no_nuclei_are_refused(sizes):
    size_px, seam_px = sizes
    with pytest.raises(ConfigError, match="at least 64"):
        make_slide(size_px, seam_px=seam_px)
