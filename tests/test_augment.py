"""Training planes and crops: what a nucleus, a seed and a contact are; both follow one map."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from nucleiflow import augment, demo
from nucleiflow.augment import Planes, crop, recolour, targets

seeds = st.integers(0, 2**32 - 1)


def disc(shape, y, x, radius):
    rows, columns = np.indices(shape)
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


@pytest.fixture(scope="module")
def truth():
    return demo.make_slide(512)[1]


def test_seeds_lie_within_nuclei_and_every_nucleus_has_one(truth):
    nucleus, seed, contact = np.moveaxis(targets(truth), -1, 0)
    assert set(np.unique([nucleus, seed, contact])) == {0, 255}
    np.testing.assert_array_equal(nucleus > 0, truth > 0)
    assert not (seed & ~nucleus).any()
    assert set(np.unique(truth[seed > 0])) == set(np.unique(truth)) - {0}


def test_seeds_of_touching_nuclei_do_not_touch():
    labels = np.zeros((60, 90), np.uint16)
    labels[disc(labels.shape, 30, 30, 14)] = 1
    labels[disc(labels.shape, 30, 58, 14) & (labels == 0)] = 2
    _, seed, contact = np.moveaxis(targets(labels), -1, 0)
    assert ndimage.label(labels > 0, np.ones((3, 3)))[1] == 1
    assert ndimage.label(seed, np.ones((3, 3)))[1] == 2
    assert contact[30, 44] == 255
    assert contact[30, 10] == 0
    assert contact[2, 2] == 0


def test_a_nucleus_cut_by_the_edge_gets_the_seed_of_a_whole_one():
    whole = np.zeros((80, 80), np.uint16)
    whole[disc(whole.shape, 40, 39.5, 15)] = 1
    half = whole[:, 40:]
    np.testing.assert_array_equal(targets(half)[..., 1], targets(whole)[:, 40:, 1])


@given(seeds, st.booleans())
@settings(max_examples=40, deadline=None)
def test_image_and_targets_follow_the_same_map(truth, seed, colour):
    """The picture of the nuclei themselves, cropped, is the cropped nuclei, whatever the turn."""
    planes = targets(truth)
    picture = np.repeat(planes[..., :1], 3, axis=-1)
    if colour:
        picture[..., 1] //= 2  # keeps it from counting as grey
    image, wanted = crop(Planes("a", "g", picture, planes), 128, np.random.default_rng(seed))
    assert image.shape == wanted.shape == (128, 128, 3)
    assert image.dtype == wanted.dtype == np.uint8
    inside = ndimage.binary_erosion(wanted[..., 0] > 0, iterations=4)
    outside = ndimage.binary_erosion(wanted[..., 0] == 0, iterations=4)
    if inside.any() and outside.any():
        contrast = image[inside, 0].astype(float).mean() - image[outside, 0].astype(float).mean()
        assert abs(contrast) > 60  # the negative is allowed, a shifted picture is not


def test_crops_depend_on_the_generator_alone(truth):
    planes = Planes("a", "g", np.repeat(targets(truth)[..., :1], 3, -1), targets(truth))
    one, same, other = (crop(planes, 64, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one[0], same[0])
    np.testing.assert_array_equal(one[1], same[1])
    assert not np.array_equal(one[0], other[0])


def test_some_crops_are_as_sharp_as_the_image():
    """A checkerboard of single pixels survives a quarter turn, and no resampling."""
    board = np.indices((1500, 1500)).sum(axis=0) % 2 * np.uint8(255)
    planes = Planes(
        "a", "g", np.repeat(board[..., None], 3, -1), np.repeat(board[..., None], 3, -1)
    )
    sharp = 0
    for seed in range(100):
        wanted = crop(planes, 64, np.random.default_rng(seed))[1][..., 0]
        sharp += bool((wanted[1:-1, 1:-2] != wanted[1:-1, 2:-1]).mean() == 1)
    assert 15 < sharp < 45


@given(seeds)
@settings(max_examples=30, deadline=None)
def test_grey_stays_grey(seed):
    rng = np.random.default_rng(seed)
    grey = np.repeat(rng.integers(0, 256, (32, 32, 1), np.uint8), 3, axis=-1)
    found = recolour(grey, rng)
    assert found.shape == (32, 32, 3)
    assert found.dtype == np.uint8
    assert (found == found[..., :1]).all()


def test_dyes_come_and_go_in_optical_density():
    """Without jitter nothing changes; with it, glass stays glass and tissue changes colour."""

    class Still:
        def uniform(self, low, high, size):
            return np.zeros(size)

    negative = np.random.default_rng(0).uniform(0, 0.9, (16, 16, 3)).astype(np.float32)
    negative[0] = 0
    np.testing.assert_allclose(augment._restain(negative, Still()), negative, atol=1e-5)
    changed = augment._restain(negative, np.random.default_rng(1))
    np.testing.assert_allclose(changed[0], 0, atol=1e-6)
    assert np.abs(changed[1:] - negative[1:]).max() > 0.02
