"""Measurements from integer sums: those of scikit-image, and the same however a slide is cut."""

import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.color import rgb2hed
from skimage.measure import label, regionprops, regionprops_table

from nucleiflow import contours, grow, kernels, measure
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
    inner, corner = core.slices(origin=window), (core.y0 - window.y0, core.x0 - window.x0)
    own = np.zeros_like(small)
    own[inner] = small[inner]
    parts = grow.parted(own)
    found = measure.sums(
        np.pad(small, 1),
        parts,
        (window.y0, window.x0),
        measure.gathered(pixels[(slice(None), *core.slices())], parts[:, :3], corner),
        probability[core.slices()][small[inner] > 0],
        count=len(names),
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
    round_ = columns["eccentricity"] < 1e-3
    flat = np.abs(np.abs(expected["orientation"]) - np.pi / 2) < 1e-6  # either sign
    turn = (columns["orientation"] - expected["orientation"])[~round_]
    assert np.abs(turn[~flat[~round_]]).max() < 1e-6
    assert np.abs(np.sin(turn)).max() < 1e-6


THIN = {
    "pixel": [(5, 6)],
    "level line": [(5, x) for x in range(3, 30)],
    "upright line": [(y, 7) for y in range(3, 30)],
    "falling line": [(4 + k, 9 + k) for k in range(20)],
    "rising line": [(40 - k, 9 + k) for k in range(20)],
    "two apart": [(3, 3), (30, 50)],
    "square": [(y, x) for y in (8, 9) for x in (8, 9)],
    "corner of the slide": [(0, 0), (0, 1), (1, 0)],
    "frame": [(y, x) for y in range(9) for x in range(9) if {y, x} & {0, 8}],
}


@pytest.mark.parametrize("pixels", THIN.values(), ids=THIN)
def test_thin_nuclei_agree_with_regionprops(pixels):
    labels = np.zeros(SHAPE, np.int32)
    labels[tuple(np.transpose(pixels))] = 1
    columns = described(labels, picture(0, 1, np.uint8))
    names = ("bbox", "area", *SAME, *AXES)
    if "line" in next(name for name, known in THIN.items() if known is pixels):
        names += ("orientation",)
    for name, expected in regionprops_table(labels, properties=names).items():
        np.testing.assert_allclose(columns[name], expected, rtol=1e-9, atol=1e-7, err_msg=name)


def shape_at_random(generator):
    """Scattered pixels, blobs, lines, and ellipses at any angle."""
    shape = generator.integers(1, 28, 2)
    y, x = np.mgrid[: shape[0], : shape[1]]
    match generator.integers(4):
        case 0:
            mask = generator.random(shape) < generator.uniform(0.01, 0.9)
        case 1:
            mask = ndimage.gaussian_filter(generator.normal(size=shape), 2) > 0
        case 2:
            ends = generator.integers(0, shape, (2, 2))
            line = np.rint(np.linspace(*ends, 60)).astype(int)
            mask = np.zeros(shape, bool)
            mask[tuple(line.T)] = True
        case _:
            turn, (long, short) = generator.uniform(0, np.pi), generator.uniform(1, 14, 2)
            dy, dx = y - shape[0] / 2, x - shape[1] / 2
            along, across = (
                dy * np.cos(turn) + dx * np.sin(turn),
                dx * np.cos(turn) - dy * np.sin(turn),
            )
            mask = (along / long) ** 2 + (across / short) ** 2 <= 1
    return mask.astype(np.int32)


@pytest.mark.parametrize("seed", range(4))
def test_convex_areas_are_those_of_skimage(seed):
    generator = np.random.default_rng(seed)
    compared = 0
    while compared < 100:
        mask = shape_at_random(generator)
        for region in regionprops(mask):
            found = measure.convex_areas(mask, np.array([1]), np.array([region.bbox]))
            assert found.tolist() == [region.area_convex], mask
            compared += 1


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 10**6), st.integers(5, 90), st.randoms(), st.sampled_from(["uint8", "uint16"])
)
def test_sums_do_not_depend_on_the_tiling(seed, tile_px, order, dtype):
    labels, pixels = blobs(seed), picture(seed, 3, dtype)
    one = whole(labels, pixels, od=True)
    cut = whole(labels, pixels, tile_px=tile_px, order=order, od=True)
    assert one.keys() == cut.keys()
    for name, column in one.items():
        np.testing.assert_array_equal(cut[name], column, err_msg=name)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_optical_densities_are_those_of_skimage(dtype):
    labels, pixels = blobs(3), picture(3, 3, dtype)
    pixels[:, :9, :9] = 0  # black, which has no logarithm
    columns = described(labels, pixels, od=True)
    stains = rgb2hed(np.moveaxis(pixels, 0, -1)) * 6
    for k, stain in enumerate(("hematoxylin", "eosin", "dab")):
        expected = ndimage.mean(stains[..., k], labels, columns["label"])
        np.testing.assert_allclose(columns[f"{stain}_od_mean"], expected, atol=1e-7)


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


def test_a_slide_of_known_ellipses_one_by_one():
    """At any angle, across seams, each of its own brightness."""
    y, x = np.mgrid[:400, :600]
    labels, facts = np.zeros(y.shape, np.int32), []
    for k in range(24):
        at, turn = (50 + 100 * (k // 6), 50 + 100 * (k % 6)), np.pi * (k / 24 - 0.48)
        long, short = 20 + k, 12 + k % 5
        along = (y - at[0]) * np.cos(turn) + (x - at[1]) * np.sin(turn)
        across = (x - at[1]) * np.cos(turn) - (y - at[0]) * np.sin(turn)
        labels[(along / long) ** 2 + (across / short) ** 2 <= 1] = k + 1
        facts.append((*at, turn, 2 * long, 2 * short, np.pi * long * short))
    pixels = np.stack([(labels * 10).astype(np.uint16) + (y % 2).astype(np.uint16) * 2])
    columns = described(labels, pixels, tile_px=64)
    names = ("centroid-0", "centroid-1", "orientation", *AXES, "area")
    found = np.stack([columns[name] for name in names], axis=1)
    np.testing.assert_allclose(found[:, :2], np.array(facts)[:, :2], atol=0.05)
    np.testing.assert_allclose(found[:, 2], np.array(facts)[:, 2], atol=0.02)
    np.testing.assert_allclose(found[:, 3:], np.array(facts)[:, 3:], rtol=0.02)
    np.testing.assert_allclose(columns["intensity_mean-0"], columns["label"] * 10.0 + 1, atol=0.1)
    np.testing.assert_allclose(columns["intensity_std-0"], 1, atol=0.01)
    np.testing.assert_array_equal(columns["intensity_min-0"], columns["label"] * 10)
    np.testing.assert_array_equal(columns["intensity_max-0"], columns["label"] * 10 + 2)
    np.testing.assert_allclose(columns["probability_mean"], columns["label"] / 255)


def moved(found, far):
    """The sums of the same nuclei, `far` px further down and to the right."""
    n, y, x = found["area"], found["sum_y"], found["sum_x"]
    return {
        **found,
        **{side: found[side] + far for side in ("y0", "x0", "y1", "x1")},
        "sum_y": y + n * far,
        "sum_x": x + n * far,
        "sum_yy": found["sum_yy"] + 2 * far * y + n * far * far,
        "sum_xx": found["sum_xx"] + 2 * far * x + n * far * far,
        "sum_xy": found["sum_xy"] + far * (y + x) + n * far * far,
    }


def test_far_from_the_origin_nothing_cancels():
    found = whole(blobs(8), picture(8, 1, np.uint8))
    facts = {"area_convex": found["area"], "pixel_um": None, "source_px": (1.0, 1.0)}
    here, there = measure.describe(found, **facts), measure.describe(moved(found, 10**5), **facts)
    for name in (*AXES, "eccentricity", "orientation"):
        np.testing.assert_array_equal(here[name], there[name])


@given(st.integers(0, 10**6), st.integers(1, 10**7), st.integers(0, 65535), st.integers(0, 65535))
def test_deviations_are_exact_for_any_size_and_brightness(few, many, a, b):
    """Of `few` pixels of one value and `many` of another, up to more than int64 holds."""
    n, total, squares = few + many, few * a + many * b, few * a * a + many * b * b
    mean = Fraction(total, n)
    nothing = measure.nothing(1, od=False)
    found = {name: np.ones(1, np.int64) for name in nothing}
    found |= {"area": np.array([n]), "least": np.array([[a]]), "most": np.array([[b]])}
    found |= {"sum": np.array([[total]]), "squares": np.array([[squares]])}
    facts = {"area_convex": found["area"], "pixel_um": None, "source_px": (1.0, 1.0)}
    columns = measure.describe(found, **facts)
    assert columns["intensity_mean-0"][0] == pytest.approx(float(mean), rel=1e-15)
    variance = float(Fraction(squares, n) - mean * mean)
    assert columns["intensity_std-0"][0] == pytest.approx(variance**0.5, rel=1e-12)


def test_a_loop_is_compiled_for_one_kind_of_array():
    """Where processes compile two kinds at once, one may be kept under the name of the other."""
    for dtype in (np.uint8, np.uint16):
        labels, pixels = blobs(1), picture(1, 3, dtype)
        plain = whole(labels, pixels)
        frozen = np.moveaxis(np.ascontiguousarray(np.moveaxis(pixels, 0, -1)), -1, 0)
        frozen.flags.writeable = False
        odd = np.asfortranarray(labels)
        odd.flags.writeable = False
        for name, column in whole(odd, frozen, tile_px=40).items():
            np.testing.assert_array_equal(column, plain[name])
        boxes = np.stack([plain[side] for side in ("y0", "x0", "y1", "x1")], axis=1)
        hulls = measure.convex_areas(labels, plain["label"], boxes)
        kinds = odd.view(np.uint32), plain["label"].astype(np.uint32), boxes.astype(np.int32)
        np.testing.assert_array_equal(measure.convex_areas(*kinds), hulls)
    for loop in (*kernels.sums.values(), contours.convex_areas):
        assert len(loop.signatures) == 1


def test_what_is_compiled_is_kept_apart_by_source_and_kind(tmp_path, monkeypatch):
    monkeypatch.setattr(kernels.numba.config, "CACHE_DIR", "")
    (tmp_path / "a.py").write_text("1")
    (tmp_path / "b.py").write_text("2")
    (tmp_path / "c.py").write_text("1")
    facts = [("a.py", ""), ("b.py", ""), ("a.py", "uint8")]
    folders = {kernels.kept(str(tmp_path / name), kind) for name, kind in facts}
    assert len(folders) == 3
    assert kernels.kept(str(tmp_path / "c.py"), "") in folders
    assert all(folder.startswith(str(tmp_path)) for folder in folders)


def test_where_nothing_can_be_kept_loops_are_compiled_all_the_same():
    code = """
import os, tempfile
import numpy as np
def refused(*_, **__):
    raise OSError(30, "Read-only file system")
os.mkdir = tempfile.TemporaryFile = refused
from nucleiflow import measure
boxes = np.array([[0, 0, 3, 3]])
print(measure.convex_areas(np.eye(3, dtype=np.int32), np.array([1]), boxes))
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("[3]", "")


def test_which_boxes_touch_the_edge():
    boxes = np.array([[0, 3, 5, 6], [1, 1, 5, 6], [1, 1, 9, 6], [2, 2, 3, 9], [1, 0, 2, 2]])
    assert measure.at_edge(boxes, (9, 9)).tolist() == [True, False, True, True, True]
