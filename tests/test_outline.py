"""Outlines: drawn again they are the very pixels, valid, and the same wherever they were traced."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.measure import label, regionprops

from nucleiflow import contours, outline
from nucleiflow.box import grid


def blobs(seed, connectivity, shape=(90, 110)):
    generator = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(generator.normal(size=shape), generator.uniform(0.4, 4))
    return label(noise > np.quantile(noise, 0.6), connectivity=connectivity).astype(np.uint32)


def traced(labels, **facts):
    found = regionprops(labels.astype(int))
    names = np.array([one.label for one in found], np.int64)
    boxes = np.array([one.bbox for one in found], np.int64).reshape(-1, 4)
    return outline.trace(labels, names, boxes, **facts), found


def pixels(polygon, box):
    y, x = np.mgrid[box[0] : box[2], box[1] : box[3]] + 0.5
    return shapely.contains_xy(polygon, x, y)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 2))
def test_drawn_again_they_are_the_same_pixels(seed, connectivity):
    polygons, found = traced(blobs(seed, connectivity))
    assert shapely.is_valid(polygons).all()
    assert not shapely.is_empty(polygons).any()
    for polygon, one in zip(polygons, found, strict=True):
        np.testing.assert_array_equal(pixels(polygon, one.bbox), one.image)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(0, 20), st.integers(0, 20))
def test_the_window_does_not_matter(seed, up, left):
    labels = blobs(seed, 2)
    polygons, _ = traced(labels)
    moved, _ = traced(np.pad(labels, ((up, 3), (left, 5))), origin=(-up, -left))
    assert shapely.equals_exact(polygons, moved, 0).all()


def test_a_ring_keeps_its_hole():
    labels = np.zeros((30, 30), np.uint32)
    labels[5:25, 5:25] = 3
    labels[10:20, 10:20] = 0
    (ring,), _ = traced(labels)
    assert shapely.get_num_interior_rings(ring) == 1
    assert ring.area == pytest.approx(300, rel=0.01)


def test_parts_with_holes_and_corners_that_touch():
    labels = np.zeros((40, 60), np.uint32)
    labels[5:15, 5:15] = labels[15:25, 15:25] = labels[2:38, 30:55] = 1
    labels[8:11, 8:11] = labels[10:20, 35:45] = 0
    labels[13:16, 38:41] = 1  # an island in the hole
    (polygon,), found = traced(labels)
    assert shapely.is_valid(polygon)
    assert shapely.get_num_geometries(polygon) == 4
    np.testing.assert_array_equal(pixels(polygon, found[0].bbox), found[0].image)


def test_a_single_pixel_has_an_outline():
    labels = np.zeros((5, 5), np.uint32)
    labels[2, 3] = 1
    (polygon,), _ = traced(labels)
    assert polygon.area == 0.5
    assert (polygon.centroid.x, polygon.centroid.y) == (3.5, 2.5)


def test_simplifying_spares_points():
    y, x = np.mgrid[:300, :300]
    labels = ((y - 150) ** 2 + (x - 150) ** 2 < 140**2).astype(np.uint32)
    (disc,), _ = traced(labels)
    assert shapely.get_num_coordinates(disc) < 300  # of 1,120 sides of pixels
    assert disc.area == pytest.approx(np.pi * 140**2, rel=0.005)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 2), st.integers(3, 50), st.integers(-40, 900))
def test_pieces_make_the_whole(seed, connectivity, piece_px, origin):
    labels = blobs(seed, connectivity, (30, 36))
    wholes, found = traced(labels, origin=(origin, 3))
    for whole, one in zip(wholes, found, strict=True):
        pieces = [
            outline.trace_piece(
                labels[box.slices()], one.label, origin=(box.y0 + origin, box.x0 + 3)
            )
            for box in grid(*labels.shape, piece_px)
            if (labels[box.slices()] == one.label).any()
        ]
        assert outline.unite(pieces[::-1]).equals_exact(whole, 0)


def test_to_the_pixels_of_the_slide():
    labels = np.zeros((9, 9), np.uint32)
    labels[2:4, 3:8] = 1
    polygons, _ = traced(labels)
    (there,) = outline.to_source(polygons, (4.0, 2.0))
    assert there.bounds == (6.0, 8.0, 16.0, 16.0)


def test_packed_and_unpacked():
    polygons, _ = traced(blobs(1, 2))
    again = outline.from_wkb(outline.unpacked(outline.packed(polygons)))
    assert shapely.equals_exact(polygons, again, 0).all()


def test_of_no_nuclei_there_are_no_outlines():
    assert len(outline.trace(np.zeros((4, 4), np.uint32), np.zeros(0, int), np.zeros((0, 4)))) == 0


def test_thousands_of_parts_and_holes_take_no_time_to_sort():
    noise = np.random.default_rng(3).random((500, 500)) < 0.55
    labels = (label(noise, connectivity=2) == 1).astype(np.uint32)
    (polygon,), found = traced(labels)
    assert shapely.get_num_geometries(polygon) > 3000
    assert shapely.get_num_interior_rings(shapely.get_parts(polygon)).sum() > 1000
    assert shapely.is_valid(polygon)
    assert shapely.area(polygon) == pytest.approx(found[0].area, rel=0.05)


def test_outer_rings_go_counterclockwise_and_holes_the_other_way():
    polygons, _ = traced(blobs(4, 2))
    parts = shapely.get_parts(polygons)
    assert shapely.is_ccw(shapely.get_exterior_ring(parts)).all()
    holed = parts[shapely.get_num_interior_rings(parts) > 0]
    assert len(holed)
    assert not shapely.is_ccw(shapely.get_interior_ring(holed, 0)).any()


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 10**6),
    st.integers(1, 2),
    st.sampled_from([(1.0, 1.0), (2.0, 2.0), (0.7013, 1.3)]),
)
def test_the_quick_way_gives_the_very_bytes(seed, connectivity, scale):
    """Whatever shape a nucleus has: outlines of the compiled loop are those of `trace`."""
    labels = blobs(seed, connectivity)
    polygons, found = traced(labels, origin=(300, 7001))
    names = np.array([one.label for one in found])
    boxes = np.array([one.bbox for one in found]).reshape(-1, 4)
    quick, hulls = outline.outlined(labels, names, boxes, origin=(300, 7001), scale=scale)
    slow = outline.packed(outline.to_source(polygons, scale))
    np.testing.assert_array_equal(quick["wkb_length"], slow["wkb_length"])
    np.testing.assert_array_equal(quick["wkb"], slow["wkb"])
    assert hulls.tolist() == [int(one.area_convex) for one in found]


def test_most_outlines_need_no_second_look():
    labels = blobs(5, 1, (600, 600))
    found = regionprops(labels.astype(int))
    names = np.array([one.label for one in found], np.int32)
    boxes = np.array([one.bbox for one in found], np.int64)
    lengths = contours.outlines(
        labels.view(np.int32), names, boxes, (0, 0), (1.0, 1.0), outline.MOVE_PX
    )[1]
    holed = [one.euler_number < 1 for one in found]
    assert 0 < sum(holed) < len(found)
    assert (lengths == 0).sum() <= 1.2 * sum(holed)


@pytest.mark.parametrize(
    ("ring", "simple"),
    [
        ([(0, 0), (4, 0), (4, 4), (0, 4)], True),
        ([(0, 0), (4, 4), (4, 0), (0, 4)], False),  # crosses itself
        ([(0, 0), (4, 0), (2, 2), (4, 4), (0, 4), (2, 2)], False),  # touches itself in a point
        ([(0, 0), (8, 0), (8, 4), (4, 0), (0, 4)], False),  # a point on a side
        ([(0, 0), (4, 0), (8, 0), (4, 4)], True),  # a point that is not needed
        ([(0, 0), (8, 0), (4, 0), (4, 4)], False),  # a spike
        ([(0, 0), (4, 0), (8, 0)], False),  # nothing inside
        ([(0, 0), (4, 0), (4, 0), (0, 4)], False),  # a side without a length
        ([(0, 0), (4, 0)], False),
    ],
)
def test_only_what_surely_meets_itself_nowhere_is_simple(ring, simple):
    def is_simple(points):
        room = np.empty((4, contours.MOST_POINTS))
        return contours._is_simple(np.array(points, float).T.copy(), len(points), room)

    assert is_simple([*ring, ring[0]]) is simple
    for turn in range(len(ring)):
        turned = [*ring[turn:], *ring[:turn], ring[turn]]
        assert is_simple(turned) is simple
        if simple:
            assert shapely.is_valid(shapely.Polygon(turned))
