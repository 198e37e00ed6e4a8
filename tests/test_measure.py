"""Measurements from integer sums: those of scikit-image, and the same however a slide is cut."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.color import rgb2hed
from skimage.measure import label, regionprops_table

from nucleiflow import measure
from nucleiflow.box import grid

SHAPE = (150, 190)
SAME = ("eccentricity", "solidity", "perimeter", "area", "equivalent_diameter_area")
AXES = ("axis_major_length", "axis_minor_length")
LIGHT = ("intensity_mean", "intensity_std", "intensity_min", "intensity_max")


def blobs(seed, shape=SHAPE, connectivity=2):
    generator = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(generator.normal(size=shape), generator.uniform(0.7, 5))
    return label(noise > np.quantile(noise, 0.7), connectivity=connectivity).astype(np.int32)


def picture(seed, channels, dtype):
    top = np.iinfo(dtype).max
    size = (channels, *SHAPE)
    return np.random.default_rng(seed).integers(0, top, size, dtype, endpoint=True)


def tile_sums(labels, core, pixels, probability, *, od):
    """What one tile adds: it sees 2 px around its core."""
    window = core.grow(2).clip(*labels.shape)
    names = np.unique(labels[window.slices()])
    names = names[names > 0]
    small = np.searchsorted(names, labels[window.slices()]) + 1
    small = np.where(labels[window.slices()] > 0, small, 0).astype(np.int32)
    found = measure.sums(
        small,
        len(names),
        core.slices(origin=window),
        (core.y0, core.x0),
        pixels[(slice(None), *core.slices())],
        np.ascontiguousarray(probability[core.slices()]),
        od=od,
    )
    return {**found, "label": names[found["id"] - 1]}


def whole(labels, pixels, *, tile_px=1000, order=None, od=False):
    probability = (labels % 200).astype(np.uint8)
    cores = list(grid(*labels.shape, tile_px))
    if order is not None:
        order.shuffle(cores)
    return measure.add([tile_sums(labels, core, pixels, probability, od=od) for core in cores])


def described(labels, pixels, **facts):
    found = whole(labels, pixels, **facts)
    boxes = np.stack([found[side] for side in ("y0", "x0", "y1", "x1")], axis=1)
    hulls = measure.convex_areas(labels, found["label"], boxes)
    return measure.describe(found, area_convex=hulls, pixel_um=(0.25, 0.25), source_px=(2.0, 2.0))


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(("channels", "dtype"), [(3, np.uint8), (2, np.uint16)])
def test_agrees_with_regionprops(seed, channels, dtype):
    labels, pixels = blobs(seed, connectivity=1 + seed % 2), picture(seed, channels, dtype)
    columns = described(labels, pixels)
    names = ("label", "centroid", "bbox", *SAME, *AXES, "orientation", *LIGHT)
    expected = regionprops_table(labels, np.moveaxis(pixels, 0, -1), properties=names)
    for name in set(expected) - {"orientation", *AXES}:
        np.testing.assert_allclose(
            columns[name], expected[name], rtol=1e-9, atol=3e-8, err_msg=name
        )
    for name in AXES:  # a root makes 1e-8 of the last bit of a line's width
        np.testing.assert_allclose(columns[name], expected[name], rtol=1e-9, atol=1e-6)
    turn = columns["orientation"] - expected["orientation"]
    round_ = columns["eccentricity"] < 1e-3
    assert np.abs(np.sin(turn)[~round_]).max() < 1e-6


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(5, 90), st.randoms())
def test_sums_do_not_depend_on_the_tiling(seed, tile_px, order):
    labels, pixels = blobs(seed), picture(seed, 3, np.uint8)
    one = whole(labels, pixels, od=True)
    cut = whole(labels, pixels, tile_px=tile_px, order=order, od=True)
    assert one.keys() == cut.keys()
    for name, column in one.items():
        np.testing.assert_array_equal(cut[name], column, err_msg=name)


def test_optical_densities_are_those_of_skimage():
    labels, pixels = blobs(3), picture(3, 3, np.uint8)
    columns = described(labels, pixels, od=True)
    stains = rgb2hed(np.moveaxis(pixels, 0, -1)) * 6
    for k, stain in enumerate(("hematoxylin", "eosin", "dab")):
        expected = ndimage.mean(stains[..., k], labels, columns["label"])
        np.testing.assert_allclose(columns[f"{stain}_od_mean"], expected, atol=1e-6)


def drawn(painted):
    """Labels with one nucleus, painted by a function of y and x."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return painted(y, x).astype(np.int32)


def known(labels):
    columns = described(labels, np.full((1, *SHAPE), 7, np.uint8))
    return {name: column[0] for name, column in columns.items()}


def test_a_rectangle():
    one = known(drawn(lambda y, x: (y >= 10) & (y < 30) & (x >= 40) & (x < 90)))
    assert (one["area"], one["area_um2"]) == (1000, 62.5)
    assert (one["centroid-0"], one["centroid-1"]) == (19.5, 64.5)
    assert (one["source_y"], one["source_x"]) == (39.5, 129.5)
    assert (one["y_um"], one["x_um"]) == (5.0, 16.25)
    assert [one[f"bbox-{k}"] for k in range(4)] == [10, 40, 30, 90]
    assert one["perimeter"] == 2 * (19 + 49)
    assert one["solidity"] == 1
    assert one["axis_major_length"] == pytest.approx(4 * np.sqrt((50**2 - 1) / 12))
    assert abs(one["orientation"]) == pytest.approx(np.pi / 2)
    assert (one["intensity_mean-0"], one["intensity_std-0"]) == (7, 0)


def test_an_ellipse():
    one = known(drawn(lambda y, x: ((y - 70) / 20) ** 2 + ((x - 90) / 40) ** 2 <= 1))
    assert one["area"] == pytest.approx(np.pi * 20 * 40, rel=0.01)
    assert one["axis_major_length"] == pytest.approx(80, rel=0.01)
    assert one["axis_minor_length"] == pytest.approx(40, rel=0.01)
    assert one["eccentricity"] == pytest.approx(np.sqrt(0.75), rel=0.01)
    assert (one["centroid-0"], one["centroid-1"]) == (70, 90)


def test_a_disc_is_round():
    one = known(drawn(lambda y, x: (y - 70) ** 2 + (x - 90) ** 2 <= 30**2))
    assert one["circularity"] > 0.9
    assert one["solidity"] > 0.97
    assert one["equivalent_diameter_um"] == pytest.approx(60 * 0.25, rel=0.01)


def test_a_single_pixel():
    one = known(drawn(lambda y, x: (y == 5) & (x == 6)))
    assert (one["area"], one["perimeter"], one["axis_major_length"]) == (1, 0, 0)
    assert (one["circularity"], one["solidity"], one["eccentricity"]) == (1, 1, 0)
    assert np.isfinite(list(one.values())).all()


def test_far_from_the_origin_nothing_cancels():
    labels = drawn(lambda y, x: ((y - 70) / 20) ** 2 + ((x - 90) / 40) ** 2 <= 1)
    found = whole(labels, np.full((1, *SHAPE), 7, np.uint8))
    n, far = found["area"], 99_000
    there = {**found, **{side: found[side] + far for side in ("y0", "x0", "y1", "x1")}}
    there["sum_yy"] = found["sum_yy"] + 2 * far * found["sum_y"] + n * far * far
    there["sum_xx"] = found["sum_xx"] + 2 * far * found["sum_x"] + n * far * far
    there["sum_xy"] = found["sum_xy"] + far * (found["sum_x"] + found["sum_y"]) + n * far * far
    there["sum_y"], there["sum_x"] = found["sum_y"] + n * far, found["sum_x"] + n * far
    facts = {"area_convex": n, "pixel_um": None, "source_px": (1.0, 1.0)}
    here, moved = measure.describe(found, **facts), measure.describe(there, **facts)
    for name in (*AXES, "eccentricity", "orientation"):
        assert here[name] == moved[name]


def test_which_boxes_touch_the_edge():
    boxes = np.array([[0, 3, 5, 6], [1, 1, 5, 6], [1, 1, 9, 6], [2, 2, 3, 9], [1, 0, 2, 2]])
    assert measure.at_edge(boxes, (9, 9)).tolist() == [True, False, True, True, True]
