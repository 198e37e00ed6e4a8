"""Regions: which pixels are inside, whatever the window; and what no slide is asked for."""

import gzip
import json

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from nucleiflow import geojson, region, regions
from nucleiflow.box import Box, grid
from nucleiflow.errors import ConfigError
from nucleiflow.region import Raster

SLIDE = (300, 400)  # level-0 px
SHAPE = (150, 100)  # of a level, whose pixels are 2 x 4 level-0 px
PIXEL = (2.0, 4.0)

ring = st.lists(
    st.tuples(st.integers(-40, 1700), st.integers(-40, 1300)), min_size=3, max_size=12
).map(lambda points: np.array(points, float)[:, ::-1] / 4)
drawn = st.lists(ring, min_size=1, max_size=4)


def made(rings):
    """Each ring a polygon of its own."""
    return region.of_rings(SLIDE, [[one] for one in rings])


def crossed(ring, y, x):
    """Whether a ray to the right from (y, x) crosses a ring an odd number of times."""
    odd = np.zeros(y.shape, bool)
    for (y0, x0), (y1, x1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        if y0 != y1:
            odd ^= ((y0 > y) != (y1 > y)) & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return odd


@given(drawn)
@settings(max_examples=40, deadline=None)
def test_it_is_the_even_odd_rule_and_what_shapely_says(rings):
    found = Raster(made(rings), PIXEL).inside(Box(0, 0, *SHAPE))
    y, x = (np.mgrid[: SHAPE[0], : SHAPE[1]] + 0.5) * np.array(PIXEL)[:, None, None]
    by_rule = np.logical_or.reduce([crossed(one, y, x) for one in rings])
    lines = shapely.unary_union([shapely.LinearRing(one[:, ::-1]) for one in rings])
    far = shapely.distance(lines, shapely.points(x, y)) > 1e-6
    np.testing.assert_array_equal(found[far], by_rule[far])
    shapes = [shapely.Polygon(one[:, ::-1]) for one in rings]
    if all(one.is_valid for one in shapes):
        by_shapely = shapely.contains_xy(shapely.unary_union(shapes), x, y)
        np.testing.assert_array_equal(found[far], by_shapely[far])


@given(drawn, st.integers(9, 200), st.sampled_from([5, 4_000_000]))
@settings(max_examples=30, deadline=None)
def test_it_does_not_depend_on_the_window(rings, side, most):
    raster = Raster(made(rings), PIXEL)
    whole = raster.inside(Box(0, 0, *SHAPE))
    before, region.MOST_CROSSINGS = region.MOST_CROSSINGS, most
    try:
        for box in grid(*SHAPE, side):
            np.testing.assert_array_equal(raster.inside(box), whole[box.slices()])
    finally:
        region.MOST_CROSSINGS = before


@given(drawn)
@settings(max_examples=15, deadline=None)
def test_blocks_and_points_are_of_the_same_pixels(rings):
    shape = (700, 900)
    raster = Raster(made(rings), (SLIDE[0] / 700, SLIDE[1] / 900))
    whole = raster.inside(Box(0, 0, *shape))
    found = region.blocks(raster, shape)
    assert found.area_px == whole.sum()
    y, x = np.divmod(np.random.default_rng(1).integers(0, 700 * 900, 500), 900)
    np.testing.assert_array_equal(region.contains(raster, found, y, x), whole[y, x])
    around = ndimage.maximum_filter(whole, 2 * region.MARGIN_PX + 1, mode="constant")
    near = np.kron(found.near, np.ones((64, 64), bool))[:700, :900]
    assert near[around].all(), "what lies within the margin is looked at"


def test_a_hole_is_outside_and_an_island_in_it_inside():
    square = [np.array([(0, 0), (0, n), (n, n), (n, 0)], float) + (100 - n / 2) for n in (90, 60)]
    island = np.array([(95, 95), (95, 105), (105, 105), (105, 95)], float)
    found = Raster(region.of_rings((200, 200), [square, [island]]), (1.0, 1.0))
    inside = found.inside(Box(0, 0, 200, 200))
    assert inside.sum() == 90**2 - 60**2 + 10**2
    assert (inside[100, 60], inside[100, 80], inside[100, 100]) == (True, False, True)


def test_a_box_is_its_pixels():
    one = regions.read(["10:20,30:50"], SLIDE)
    inside = Raster(one, (1.0, 1.0)).inside(Box(0, 0, *SLIDE))
    assert inside[10:20, 30:50].all()
    assert inside.sum() == 200
    half = Raster(one, (2.0, 2.0)).inside(Box(0, 0, 150, 200))
    assert half[5:10, 15:25].all()
    assert half.sum() == 50


def test_a_mask_covers_the_slide(tmp_path):
    small = np.zeros((30, 40), np.uint8)
    small[3:6, 10:20] = 7
    Image.fromarray(small).save(tmp_path / "mask.png")
    one = regions.read([str(tmp_path / "mask.png"), "0:5,0:5"], SLIDE)
    inside = Raster(one, (1.0, 1.0)).inside(Box(0, 0, *SLIDE))
    assert inside[30:60, 100:200].all()
    assert inside[:5, :5].all()
    assert inside.sum() == 30 * 100 + 25


@pytest.mark.parametrize("kind", ["collection", "feature", "geometry", "packed"])
def test_what_qupath_writes(kind, tmp_path):
    shape = {"type": "Polygon", "coordinates": [[[30, 10], [50, 10], [50, 20], [30, 20], [30, 10]]]}
    feature = {
        "type": "Feature",
        "id": "PathAnnotationObject",
        "geometry": shape,
        "properties": {"objectType": "annotation", "classification": {"name": "Tumor"}},
    }
    written = {
        "collection": {"type": "FeatureCollection", "features": [feature]},
        "feature": feature,
        "geometry": {"type": "MultiPolygon", "coordinates": [shape["coordinates"]]},
        "packed": feature,
    }[kind]
    text = json.dumps(written).encode()
    path = tmp_path / "a.geojson"
    path.write_bytes(gzip.compress(text) if kind == "packed" else text)
    inside = Raster(regions.read([str(path)], SLIDE), (1.0, 1.0)).inside(Box(0, 0, *SLIDE))
    assert inside[10:20, 30:50].all()
    assert inside.sum() == 200


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "JSON"),
        ("[" * 100_000, "JSON"),
        ('{"type": "Polygon", "coordinates": [[[NaN, 1], [2, 3], [4, 5]]]}', "NaN"),
        ('{"type": "Polygon", "coordinates": [[[1e999, 1], [2, 3], [4, 5]]]}', "beyond"),
        ('{"type": "Polygon", "coordinates": [[[1e12, 1], [2, 3], [4, 5]]]}', "beyond"),
        ('{"type": "Polygon", "coordinates": [[["a", 1], [2, 3], [4, 5]]]}', "three points"),
        ('{"type": "Polygon", "coordinates": [[[1, 1], [2, 3]]]}', "three points"),
        ('{"type": "Polygon", "coordinates": [[1, 2, 3]]}', "no list of"),
        ('{"type": "Polygon", "coordinates": [{"a": 1}]}', "a ring"),
        ('{"type": "Polygon", "coordinates": 5}', "no list"),
        ('{"type": "Polygon"}', "no list"),
        ('{"type": "FeatureCollection", "features": []}', "no polygon"),
        ('{"type": "Point", "coordinates": [1, 2]}', "'Point'"),
        ('{"type": "Feature", "geometry": null}', "something else"),
        ("[1, 2]", "something else"),
        ('{"type": "GeometryCollection", "geometries": [' * 20 + "]}" * 20, "deep"),
        (f'{{"type": "Polygon", "coordinates": [[[{"9" * 400}, 1], [2, 3], [4, 5]]]}}', "points"),
    ],
)
def test_hostile_geojson_is_one_line(text, told):
    with pytest.raises(ConfigError, match=told) as refused:
        geojson.polygons(text.encode(), "a.geojson")
    assert "\n" not in str(refused.value)


def test_a_bomb_is_refused_by_its_size(tmp_path):
    path = tmp_path / "bomb.geojson.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(140):
            file.write(b" " * 1_000_000)
    with pytest.raises(ConfigError, match="more than 128 MB"):
        regions.read([str(path)], SLIDE)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("5:5,0:9", "is empty"),
        ("nothing.geojson", "no such file"),
        ("mask.png", "not the shape of the slide"),
        ("large.png", "larger than the slide"),
        ("none.png", "file is empty"),
        ("text.png", "region .*text.png"),
    ],
)
def test_what_is_no_region_is_one_line(given, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.ones((30, 60), np.uint8)).save("mask.png")
    Image.fromarray(np.ones((600, 800), np.uint8)).save("large.png")
    (tmp_path / "none.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(ConfigError, match=told) as refused:
        regions.read([given], SLIDE)
    assert "\n" not in str(refused.value)


def test_many_small_polygons_are_no_matter():
    """50,000 squares of 4 px, every 8 px."""
    y, x = np.mgrid[0:1600:8, 0:2000:8].reshape(2, -1, 1, 1)
    corner = np.array([(0, 0), (0, 4), (4, 4), (4, 0)], float)
    rings = corner + np.concatenate([y, x], axis=-1).astype(float)
    raster = Raster(
        region.of_rings((1600, 2000), [[one] for one in rings.reshape(-1, 4, 2)]), (1.0, 1.0)
    )
    assert region.blocks(raster, (1600, 2000)).area_px == 16 * len(rings)


def test_what_would_take_for_ever_is_refused():
    zigzag = np.stack([np.arange(40_000) % 2 * 99_999.0, np.arange(40_000.0)], axis=1)
    raster = Raster(region.of_rings((100_000, 100_000), [[zigzag]]), (1.0, 1.0))
    with pytest.raises(ConfigError, match="too complicated"):
        region.check_work(raster)


def test_it_survives_its_file():
    one = region.together(
        [made([np.array([(0, 0), (9, 50), (70, 3.5)])]), regions.read(["1:9,2:8"], SLIDE)]
    )
    again = region.Region.of_arrays(one.arrays())
    assert again.digest == one.digest
    assert again.digest != regions.read(["1:9,2:9"], SLIDE).digest
    assert (again.polygons, again.slide_px) == (2, SLIDE)
