"""Tiles cover a slide once, and their windows hold all that the network sees, on its stride."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nucleiflow import plan
from nucleiflow.box import Box
from nucleiflow.errors import ConfigError
from nucleiflow.plan import Grid, check, ladder, mirror
from nucleiflow.receptive import Reach

sides = st.one_of(st.integers(1, 40), st.integers(41, 700))
strides = st.sampled_from([1, 2, 3, 4, 6, 8, 16, 32, 64, 96])


@st.composite
def grids(draw):
    """Any slide, in tiles that the network's stride allows."""
    stride = draw(strides)
    halo = stride * draw(st.integers(0, 12))
    unit = int(np.lcm(stride, 32))
    reach = Reach(max(halo - draw(st.integers(0, stride - 1)), 0), halo, stride)
    tile_px = unit * draw(st.integers(-(-64 // unit), 10))
    return Grid(draw(sides), draw(sides), tile_px, check(tile_px, None, reach))


@settings(deadline=None)
@given(sides, sides, st.integers(20, 300))
def test_cores_cover_the_slide_once_in_raster_order(height, width, tile_px):
    grid = Grid(height, width, tile_px, Reach(0, 0, 1))
    covered = np.zeros((height, width), int)
    cores = [grid.core(index) for index in range(len(grid))]
    for core in cores:
        assert core.area > 0
        covered[core.slices()] += 1
    assert (covered == 1).all()
    assert cores == sorted(cores)
    assert all(core.y0 % tile_px == core.x0 % tile_px == 0 for core in cores)


@settings(deadline=None)
@given(grids())
def test_windows_hold_core_and_halo_on_the_stride(grid):
    halo, stride = grid.reach.halo_px, grid.reach.stride_px
    shapes = set()
    for index in range(len(grid)):
        tile = grid.tile(index)
        assert tile.index == index
        assert tile.core == grid.core(index)
        assert tile.window.y0 % stride == tile.window.x0 % stride == 0
        assert tile.window.height % stride == tile.window.width % stride == 0
        needed = tile.core.grow(halo)
        assert tile.window.intersect(needed) == needed
        sides_px = {side - 2 * halo for side in tile.window.shape}
        assert sides_px <= set(ladder(grid.tile_px, stride))
        shapes.add(tile.window.shape)
    assert len(shapes) <= 4


@settings(deadline=None)
@given(grids())
def test_each_window_side_is_the_least_step_that_holds_the_core(grid):
    steps, halo = ladder(grid.tile_px, grid.reach.stride_px), grid.reach.halo_px
    for index in {0, len(grid) - 1}:
        tile = grid.tile(index)
        for core_px, window_px in zip(tile.core.shape, tile.window.shape, strict=True):
            assert window_px - 2 * halo == min(step for step in steps if step >= core_px)


@settings(deadline=None)
@given(strides, st.integers(1, 64))
def test_ladder_rises_to_the_tile_in_small_steps(stride, units):
    unit = int(np.lcm(stride, 32))
    steps = ladder(unit * units, stride)
    assert steps == sorted(set(steps))
    assert steps[-1] == unit * units
    assert all(step % stride == 0 for step in steps)
    assert all(after <= 2 * before for before, after in pairwise(steps))


@pytest.mark.parametrize("tile_px", [256, 512, 1024, 2048, 4096])
def test_small_image_gets_a_small_window(tile_px):
    grid = Grid(256, 256, tile_px, Reach(93, 96, 16))
    assert len(grid) == 1
    assert grid.tile(0).window == Box(-96, -96, 256 + 96, 256 + 96)


@settings(deadline=None)
@given(grids(), st.integers(0, 150), st.data())
def test_around_equals_brute_force(grid, margin_px, data):
    index = data.draw(st.integers(0, len(grid) - 1))
    near = grid.core(index).grow(margin_px)
    expected = [i for i in range(len(grid)) if grid.core(i).intersect(near).area]
    assert grid.around(index, margin_px) == grid.touched(near) == expected
    assert index in expected


@settings(deadline=None)
@given(
    st.one_of(st.integers(1, 3), st.integers(4, 30)),
    st.one_of(st.integers(1, 3), st.integers(4, 30)),
    st.tuples(st.integers(-90, 60), st.integers(-90, 60)),
    st.tuples(st.integers(1, 120), st.integers(1, 120)),
    st.integers(1, 3),
)
def test_mirror_equals_numpy_pad(height, width, corner, shape, channels):
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (height, width, channels), np.uint8)
    (y, x), (h, w) = corner, shape
    window = Box(y, x, y + h, x + w)
    box, rows, columns = mirror(window, height, width)
    assert box.clip(height, width) == box  # nothing outside the slide is asked for

    pads = [(max(-y, 0), max(y + h - height, 0)), (max(-x, 0), max(x + w - width, 0)), (0, 0)]
    padded = np.pad(image, pads, mode="symmetric")
    expected = padded[window.slices(origin=Box(-pads[0][0], -pads[1][0], height, width))]
    np.testing.assert_array_equal(image[box.slices()][np.ix_(rows, columns)], expected)


@settings(deadline=None)
@given(grids(), st.data())
def test_a_tile_reads_no_more_than_its_window(grid, data):
    tile = grid.tile(data.draw(st.integers(0, len(grid) - 1)))
    box, rows, columns = mirror(tile.window, grid.height, grid.width)
    assert (len(rows), len(columns)) == tile.window.shape
    assert box.height <= tile.window.height
    assert box.width <= tile.window.width
    inside = tile.core.slices(origin=tile.window)
    np.testing.assert_array_equal(rows[inside[0]] + box.y0, range(tile.core.y0, tile.core.y1))
    np.testing.assert_array_equal(columns[inside[1]] + box.x0, range(tile.core.x0, tile.core.x1))


def test_nothing_is_mirrored_inside_the_slide():
    box, rows, columns = mirror(Box(10, 10, 30, 40), 100, 100)
    assert box == Box(10, 10, 30, 40)
    assert (rows.tolist(), columns.tolist()) == (list(range(20)), list(range(30)))


@settings(deadline=None)
@given(grids(), st.one_of(st.integers(1, 500), st.integers(-20, 20)), st.booleans())
def test_check_takes_a_larger_halo_on_the_stride_and_no_other(grid, halo_px, near):
    reach = grid.reach
    halo_px = max(halo_px + near * reach.halo_px, 0)
    if halo_px >= reach.halo_px and halo_px % reach.stride_px == 0:
        expected = Reach(reach.radius_px, halo_px, reach.stride_px)
        assert check(grid.tile_px, halo_px, reach) == expected
    else:
        number = reach.halo_px if halo_px < reach.halo_px else reach.stride_px
        with pytest.raises(ConfigError, match=rf"halo_px is {halo_px}\b.*\b{number}\b"):
            check(grid.tile_px, halo_px, reach)


def test_check_names_the_halo_that_is_needed():
    with pytest.raises(ConfigError, match=r"is 64, .* needs 96 px .* sees 93 px.* at least 96"):
        check(512, 64, Reach(93, 96, 16))


@settings(deadline=None)
@given(strides, st.integers(-64, 2000))
def test_check_refuses_tiles_off_the_stride_or_the_shard(stride, tile_px):
    unit = int(np.lcm(stride, 32))
    if tile_px > 0 and tile_px % unit == 0:
        assert check(tile_px, None, Reach(0, 0, stride)) == Reach(0, 0, stride)
    else:
        with pytest.raises(ConfigError, match=rf"tile_px is {tile_px}: use a multiple of {unit}"):
            check(tile_px, None, Reach(0, 0, stride))


@pytest.mark.parametrize("stride", [1, 16, 3, 6, 7, 48])
def test_the_tile_that_check_suggests_passes_check(stride):
    with pytest.raises(ConfigError) as caught:
        check(1, None, Reach(0, 0, stride))
    suggested = int(str(caught.value).rpartition(" ")[2])
    assert check(suggested, None, Reach(0, 0, stride)).stride_px == stride


@pytest.mark.parametrize("stride", [1, 2, 4, 8, 16, 32])
def test_the_default_tile_passes_check(stride):
    check(plan.DEFAULT_TILE_PX, None, Reach(0, 0, stride))
