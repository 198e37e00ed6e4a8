"""The digest of labels: the same for every tiling, another for every other image."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nucleiflow import digest
from nucleiflow.box import Box, grid

labels = arrays(
    np.uint32, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 3)
)


def of(image, step):
    """Digest of an image (h, w) that is cut into tiles."""
    height, width = image.shape
    boxes = grid(height, width, step)
    return digest.total(digest.share(image[box.slices()], box, width) for box in boxes)


@given(labels, st.integers(1, 12), st.integers(1, 12))
def test_the_tiling_does_not_matter(image, one, other):
    assert of(image, one) == of(image, other)


@given(labels, st.data())
def test_a_single_pixel_matters(image, data):
    y, x = (data.draw(st.integers(0, side - 1)) for side in image.shape)
    other = image.copy()
    other[y, x] += 1 + data.draw(st.integers(0, 5))
    assert of(image, 4) != of(other, 4)


@given(labels)
def test_the_order_of_names_matters(image):
    swapped = np.array([0, 2, 1, 3], np.uint32)[image]
    assert (of(image, 5) == of(swapped, 5)) == np.array_equal(image, swapped)


def test_a_place_matters():
    one, other = np.zeros((2, 3, 4), np.uint32)
    one[0, 1] = other[1, 0] = 7
    assert of(one, 4) != of(other, 4)


def test_large_places_and_labels_are_not_cut_off():
    image = np.full((1, 1), 2**32 - 1, np.uint32)
    far = Box(99_999, 99_999, 100_000, 100_000)
    seen = {
        digest.total([digest.share(value, box, 100_000)])
        for value in (image, image - 1)
        for box in (far, Box(0, 0, 1, 1))
    }
    assert len(seen) == 4
    assert all(len(one.removeprefix(digest.KIND)) == 32 for one in seen)


@given(labels, st.integers(1, 12))
def test_it_is_a_sum_over_pixels(image, step):
    height, width = image.shape
    each = [
        digest.share(image[y : y + 1, x : x + 1], Box(y, x, y + 1, x + 1), width)
        for y in range(height)
        for x in range(width)
    ]
    assert digest.total(each) == of(image, step)


def test_of_many_images_no_two_have_the_same():
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 3, (3, 4)).astype(np.uint32) for _ in range(4000)]
    assert len({of(one, 4) for one in images}) == len({one.tobytes() for one in images})


def test_what_an_earlier_version_made_is_known_as_such():
    assert digest.is_known(digest.total([]))
    assert not any(digest.is_known(one) for one in ("0" * 32, "", 7, None))
