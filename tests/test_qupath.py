"""Features as QuPath reads them; and drawn again, they are the labels."""

import gzip
import json
import re
import uuid

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.draw import polygon2mask
from skimage.measure import label, regionprops

from nucleiflow import outline, qupath

MM = {"area": 4.0, "area_um2": 1.0, "perimeter": 8.0, "perimeter_um": 2.0, "circularity": 0.9}


def columns(count, **more):
    found = {name: np.full(count, value) for name, value in MM.items()} | more
    return {"label": np.arange(1, count + 1), **found}


def squares(count, scale=1.0):
    at = np.arange(count) * 10.0
    return shapely.box(at, at, at + scale, at + 2 * scale)


def features(columns, polygons, channels):
    return qupath.features(columns, outline.packed(polygons), channels)


def collection(*parts):
    return json.loads(qupath.HEAD + b",\n".join(parts) + qupath.TAIL)


def test_a_feature_is_a_detection_with_measurements():
    light = {"intensity_mean-0": np.full(2, 7.0), "hematoxylin_od_mean": np.full(2, 0.25)}
    read = collection(features(columns(2, **light), squares(2), ["DAPI 100%"]))
    assert read["type"] == "FeatureCollection"
    one = read["features"][1]
    assert one["properties"]["objectType"] == "detection"
    assert one["properties"]["classification"]["name"] == "Nucleus"
    assert one["properties"]["measurements"] == {
        "Nucleus: Area µm^2": 1.0,
        "Nucleus: Length µm": 2.0,
        "Nucleus: Circularity": 0.9,
        "Hematoxylin: Nucleus: Mean": 0.25,
        "DAPI 100%: Nucleus: Mean": 7.0,
    }
    ring = one["geometry"]["coordinates"][0]
    assert one["geometry"]["type"] == "Polygon"
    assert ring[0] == ring[-1]
    assert shapely.geometry.shape(one["geometry"]).equals(squares(2)[1])
    ids = [uuid.UUID(feature["id"]) for feature in read["features"]]
    assert len(set(ids)) == 2


def test_without_a_scale_sizes_are_in_pixels():
    plain = columns(1)
    del plain["area_um2"], plain["perimeter_um"]
    names = collection(features(plain, squares(1), []))["features"][0]["properties"]
    assert set(names["measurements"]) == {
        "Nucleus: Area px^2", "Nucleus: Length px", "Nucleus: Circularity",
    }  # fmt: skip


def test_what_is_no_number_is_left_out():
    bad = columns(3, circularity=np.array([np.nan, 0.5, np.inf]))
    text = features(bad, squares(3), [])
    assert b"NaN" not in text
    assert b"nan" not in text
    assert b"inf" not in text
    found = [one["properties"]["measurements"] for one in collection(text)["features"]]
    assert ["Nucleus: Circularity" in one for one in found] == [False, True, False]
    assert found[0]["Nucleus: Area µm^2"] == 1.0


def test_coordinates_are_to_a_hundredth_of_a_pixel():
    text = features(columns(1), squares(1, scale=1 / 3), [])
    ring = collection(text)["features"][0]["geometry"]["coordinates"][0]
    assert [0.33, 0.67] in ring


def test_holes_and_parts_are_kept():
    ring = shapely.Point(50, 50).buffer(9).difference(shapely.Point(50, 50).buffer(4))
    parts = shapely.MultiPolygon([ring, shapely.box(0, 0, 4, 4)])
    shapes = np.array([ring, parts], object)
    read = collection(features(columns(2), shapes, []))["features"]
    assert [one["geometry"]["type"] for one in read] == ["Polygon", "MultiPolygon"]
    assert len(read[0]["geometry"]["coordinates"]) == 2


def test_no_nuclei_are_no_features():
    assert collection(features(columns(0), squares(0), []))["features"] == []


def test_channels_of_one_name_are_told_apart():
    light = {"intensity_mean-0": np.full(1, 7.0), "intensity_mean-1": np.full(1, 8.0)}
    text = features(columns(1, **light), squares(1), ["Grün", "Grün"])
    measurements = collection(text)["features"][0]["properties"]["measurements"]
    assert measurements["Grün (1): Nucleus: Mean"] == 7
    assert measurements["Grün (2): Nucleus: Mean"] == 8


def test_the_encoding_does_not_matter():
    text = features(columns(1, **{"intensity_mean-0": np.ones(1)}), squares(1), ["β-actin"])
    assert text.isascii()


def circularities(values):
    """The digits that are written of such values."""
    count = len(values)
    text = features(columns(count, circularity=np.array(values)), squares(count), [])
    assert len(collection(text)["features"]) == count
    return re.findall(r'"Nucleus: Circularity":([^,}]*)', text.decode())


def test_numbers_have_six_digits_as_c_writes_them():
    """Also where doubles end in a 5 exactly, or nearly, and where an exponent is needed."""
    random = np.random.default_rng(2)
    values = np.concatenate(
        [
            10 ** random.uniform(-6, 8, 4000),
            random.integers(0, 10**7, 4000) / 10.0 ** random.integers(0, 11, 4000),
            (random.integers(10**5, 10**6, 4000) + 0.5) / 10.0 ** random.integers(0, 9, 4000),
            random.integers(0, 2**20, 4000) / 2.0 ** random.integers(0, 13, 4000),
            [0, 1, 99999.95, 999999.4999, 999999.5, 1e6, 1e-4, 0.00099999951, 123456.5, 123457.5],
            [-2.5, -1e-7, 1e300, 5e-324],
        ]
    ).tolist()
    assert circularities(values) == [f"{value:.6g}" for value in values]


def test_odd_numbers_and_outlines_stand_where_they_belong():
    """What the compiled loop leaves to others: exponents, coordinates far away, other shapes."""
    far = shapely.box(2e14, 0, 2e14 + 8, 8)
    shapes = np.array([far, *squares(3), shapely.Point(1, 2), *squares(2)], object)
    odd = columns(7, area_um2=np.array([1.0, 2.0, 3e7, 4.0, 5.0, 6.0, 7e-9]))
    read = collection(features(odd, shapes, []))["features"]
    assert [uuid.UUID(one["id"]).int & 0xFFFF for one in read] == list(range(1, 8))
    assert [one["properties"]["measurements"]["Nucleus: Area µm^2"] for one in read] == [
        1.0, 2.0, 3e7, 4.0, 5.0, 6.0, 7e-9,
    ]  # fmt: skip
    assert [shapely.geometry.shape(one["geometry"]).equals(shape) for one, shape in zip(
        read, shapes, strict=True
    )] == [True] * 7  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 400), st.integers(0, 255))
def test_damaged_outlines_are_told_or_drawn_and_never_read_past_their_end(place, value):
    wkb = bytearray(shapely.to_wkb(shapely.MultiPolygon(list(squares(2)))))
    whole = outline.joined([bytes(wkb), bytes(wkb[:-7])])
    wkb[place % len(wkb)] = value
    damaged = outline.joined([bytes(wkb), bytes(wkb)])
    for outlines in (whole, damaged):
        try:
            text = qupath.features(columns(2), outlines, [])
        except (shapely.errors.ShapelyError, ValueError):
            continue
        assert len(text) < 5000


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.floats(1e-3, 1e6))
def test_outlines_are_written_as_shapely_writes_them(seed, scale):
    labels = field(seed % 50)
    found = regionprops(labels.astype(int))
    names, boxes = np.array([one.label for one in found]), np.array([one.bbox for one in found])
    polygons = outline.to_source(outline.trace(labels, names, boxes), (scale, scale / 3))
    read = collection(features(columns(len(names)), polygons, []))["features"]
    rounded = shapely.transform(polygons, lambda points: points.round(2))
    assert [one["geometry"] for one in read] == list(map(json.loads, shapely.to_geojson(rounded)))


def field(seed, size=(300, 320)):
    """Nuclei of all sizes, some with holes and in parts."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=size), 3)
    labels = label(noise > np.quantile(noise, 0.7), connectivity=2)
    small = np.bincount(labels.ravel()) < 20
    return label(np.where(small[labels], 0, labels), connectivity=2).astype(np.uint32)


def in_members(labels, scale):
    """The file that the exporter makes: a member of gzip for each of two tiles, and their frame."""
    found = regionprops(labels.astype(int))
    names, boxes = np.array([one.label for one in found]), np.array([one.bbox for one in found])
    polygons = outline.to_source(outline.trace(labels, names, boxes), scale)
    half = len(names) // 2
    parts = [
        features({**columns(len(names[cut])), "label": names[cut]}, polygons[cut], [])
        for cut in (slice(half), slice(half, None))
    ]
    members = [qupath.HEAD, parts[0], b",\n", parts[1], qupath.TAIL]
    return b"".join(gzip.compress(member) for member in members)


def drawn(geometry, scale, shape):
    """Pixels of the working resolution whose centre is inside."""
    parts = geometry["coordinates"]
    mask = np.zeros(shape, bool)
    for rings in [parts] if geometry["type"] == "Polygon" else parts:
        masks = [polygon2mask(shape, np.array(ring)[:, ::-1] / scale - 0.5) for ring in rings]
        mask |= masks[0] & ~np.any([np.zeros(shape, bool), *masks[1:]], axis=0)
    return mask


@pytest.mark.parametrize("scale", [(1.0, 1.0), (2.0, 4.0), (2.0013, 1.9987), (0.5, 0.5)])
def test_read_and_drawn_again_they_are_the_labels(scale):
    labels = field(7)
    read = json.loads(gzip.decompress(in_members(labels, scale)))["features"]
    names = [uuid.UUID(one["id"]).int & 0xFFFFFFFF for one in read]
    assert names == list(range(1, labels.max() + 1))
    overlaps = []
    for name, one in zip(names, read, strict=True):
        mask, truth = drawn(one["geometry"], scale, labels.shape), labels == name
        overlaps.append((mask & truth).sum() / (mask | truth).sum())
    assert np.mean(overlaps) > 0.995
    assert min(overlaps) > 0.97
