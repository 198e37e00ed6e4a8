"""Outlines are one pixel wide, inside their nucleus, and seen; the rest of the image is kept."""

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.segmentation import find_boundaries

from nucleiflow.overlay import colours, draw, outlines

labels_images = arrays.arrays(
    np.uint32, arrays.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 3)
)


@given(labels_images)
def test_outlines_are_those_of_scikit_image(labels):
    expected = find_boundaries(labels, connectivity=1, mode="inner")
    np.testing.assert_array_equal(outlines(labels), expected)


def test_outlines_of_two_touching_nuclei():
    labels = np.zeros((5, 8), np.uint8)
    labels[1:5, 1:4] = 7
    labels[1:5, 4:7] = 9
    expected = np.array(
        [
            [0, 0, 0, 0, 0, 0, 0, 0],
            [0, 1, 1, 1, 1, 1, 1, 0],
            [0, 1, 0, 1, 1, 0, 1, 0],
            [0, 1, 0, 1, 1, 0, 1, 0],
            [0, 1, 0, 1, 1, 0, 1, 0],  # the edge of the image is no outline
        ],
        bool,
    )
    np.testing.assert_array_equal(outlines(labels), expected)


def test_stretch_puts_low_at_black_and_high_at_white():
    image = np.array([[50, 100, 200, 300, 400]], np.uint16)
    picture = draw(image, np.zeros((1, 5), int), low=100, high=300)
    np.testing.assert_array_equal(picture, np.repeat([[[0], [0], [128], [255], [255]]], 3, axis=2))
    assert picture.dtype == np.uint8


def test_bytes_stretched_over_their_whole_range_are_kept():
    image = np.arange(256, dtype=np.uint8).reshape(16, 16)
    picture = draw(image, np.zeros((16, 16), int), low=0, high=255)
    np.testing.assert_array_equal(picture, np.dstack([image] * 3))


def test_only_outlines_are_drawn_over_the_image():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
    kept = image.copy()
    labels = np.zeros((12, 12), np.uint32)
    labels[2:8, 2:8] = 5
    picture = draw(image, labels, low=0, high=255)
    edge = outlines(labels)
    np.testing.assert_array_equal(picture[~edge], kept[~edge])
    np.testing.assert_array_equal(picture[edge], np.tile(colours(np.array([5])), (edge.sum(), 1)))
    np.testing.assert_array_equal(image, kept)


def test_one_channel_is_drawn_as_none():
    image = np.arange(64, dtype=np.uint16).reshape(8, 8)
    labels = np.eye(8, dtype=int)
    np.testing.assert_array_equal(
        draw(image[..., None], labels, low=0, high=63), draw(image, labels, low=0, high=63)
    )


@given(st.integers(1, 2**32 - 2))
def test_colours_of_successive_labels_are_told_apart(label):
    one, other = colours(np.array([label, label + 1], np.uint32)).astype(int)
    assert np.abs(one - other).sum() > 150


@pytest.mark.parametrize(
    "background", [(0, 0, 0), (230, 165, 200), (95, 60, 140), (245, 240, 245)], ids=str
)
def test_colours_stand_out_on_black_and_on_stained_tissue(background):
    table = colours(np.arange(1, 1000)).astype(int)
    assert np.linalg.norm(table - np.array(background), axis=1).min() > 120


def test_a_label_keeps_its_colour_whatever_the_type_and_the_company():
    for label, kind in ((200, np.uint8), (60_000, np.uint16), (4_000_000_000, np.uint32)):
        alone = colours(np.array([label], kind))
        np.testing.assert_array_equal(alone[0], colours(np.array([1, label], np.int64))[1])


@pytest.mark.parametrize(
    ("image", "labels_shape", "low", "high", "message"),
    [
        (np.zeros((4, 4), np.float32), (4, 4), 0, 1, "float32"),
        (np.zeros((4, 4, 4), np.uint8), (4, 4), 0, 1, "only"),
        (np.zeros(4, np.uint8), (4, 4), 0, 1, "only"),
        (np.zeros((4, 4), np.uint8), (4, 5), 0, 1, "labels are"),
        (np.zeros((4, 4), np.uint8), (4, 4), 9, 9, "larger"),
        (np.zeros((4, 4), np.uint8), (4, 4), 0, np.nan, "larger"),
    ],
)
def test_what_cannot_be_drawn_is_refused(image, labels_shape, low, high, message):
    with pytest.raises(ValueError, match=message):
        draw(image, np.zeros(labels_shape, int), low=low, high=high)
