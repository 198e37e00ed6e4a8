"""Tiled equals whole: the labels of any tiling are those of the image seen at once."""

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from nucleiflow import seeds
from nucleiflow.box import Box
from nucleiflow.grow import grow
from nucleiflow.merge import merge
from nucleiflow.plan import Grid
from nucleiflow.receptive import Reach

TILES_PX = (1, 2, 3, 7, 16, 33, 50, 128)
MOST_TILES_ACROSS = 8
HALF = {"nucleus_threshold": 128, "seed_threshold": 128}


def noise(generator, shape, sigma):
    """Values 0..255 of every rank equally often, in spots of about `sigma` px."""
    smooth = ndimage.gaussian_filter(generator.random(shape), sigma)
    return (smooth.ravel().argsort().argsort().reshape(shape) * 255 / smooth.size).astype(np.uint8)


def spiral(shape, gap=2):
    """A line 1 px wide that winds to the middle: one seed that crosses every tile."""
    drawn = np.zeros(shape, bool)
    top, left, bottom, right = 0, 0, shape[0] - 1, shape[1] - 1
    while top <= bottom and left <= right:
        drawn[top, max(left - gap, 0) : right + 1] = True
        drawn[top : bottom + 1, right] = True
        drawn[bottom, left : right + 1] = True
        drawn[min(top + gap, bottom) : bottom + 1, left] = True
        top, left, bottom, right = top + gap, left + gap, bottom - gap, right - gap
    return drawn


def pattern(kind, generator, shape):
    """Seed pixels (h, w) bool that are hard on seams."""
    y, x = np.indices(shape)
    period = int(generator.integers(2, 7))
    return {
        "full": lambda: np.ones(shape, bool),
        "empty": lambda: np.zeros(shape, bool),
        "chess": lambda: (y + x) % 2 == 0,
        "dots": lambda: (y % 2 == 0) & (x % 2 == 0),
        "rows": lambda: y % period == 0,
        "columns": lambda: x % period == 0,
        "diagonals": lambda: (y + x) % period == 0,
        "rings": lambda: np.maximum(abs(y - shape[0] // 2), abs(x - shape[1] // 2)) % period == 0,
        "spiral": lambda: spiral(shape),
        "comb": lambda: (x % 2 == 0) | (y == shape[0] - 1),
    }[kind]()


PATTERNS = (
    "full", "empty", "chess", "dots", "rows", "columns", "diagonals", "rings", "spiral", "comb"
)  # fmt: skip
generators = st.integers(0, 2**32 - 1).map(np.random.default_rng)


def any_shape(generator):
    """Mostly tens of pixels, at times one pixel high or wide."""
    thin = generator.random(2) < 0.1
    sides = np.where(thin, generator.integers(1, 4, 2), generator.integers(20, 121, 2))
    return tuple(sides.tolist())


shapes = generators.map(any_shape)


@st.composite
def noisy_maps(draw):
    """Both maps at scales of their own; a threshold near the middle percolates."""
    generator = draw(generators)
    shape, scales = any_shape(generator), generator.choice([0.0, 0.7, 1.5, 3.0, 8.0], 2)
    return np.stack([noise(generator, shape, scale) for scale in scales], axis=-1)


@st.composite
def patterned_maps(draw):
    """Seeds that cross many tiles, within a foreground that is all, noise, or another pattern."""
    generator, kind = draw(generators), draw(st.sampled_from(PATTERNS))
    shape, around = any_shape(generator), draw(st.sampled_from(["noise", *PATTERNS]))
    nucleus = (
        noise(generator, shape, 2.0)
        if around == "noise"
        else np.uint8(255) * pattern(around, generator, shape)
    )
    return np.stack([nucleus, np.uint8(255) * pattern(kind, generator, shape)], axis=-1)


small_maps = arrays.arrays(
    np.uint8,
    st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(2)),
    elements=st.sampled_from([0, 100, 200]),
    fill=st.nothing(),
)
large_maps = st.one_of(noisy_maps(), patterned_maps())
any_maps = st.one_of(small_maps, large_maps)


def tiles_px(shape):
    """Tile sizes that cut a shape, but not into hundreds of tiles."""
    fit = [one for one in TILES_PX if max(shape) / MOST_TILES_ACROSS <= one < max(shape)]
    return st.sampled_from(fit or TILES_PX[-1:])


def cut(shape, tile_px):
    return Grid(*shape, tile_px, Reach(0, 0, 1))


def split_tiles(maps, grid, order, **thresholds):
    """Each core by itself: foregrounds, local seeds and records by tile."""
    foregrounds, numbered, records = {}, {}, {}
    for index in order:
        core = grid.core(index)
        foreground, own = seeds.split(maps[core.slices()], **thresholds)
        foregrounds[index], numbered[index] = foreground.drawn(), own.drawn()
        records[index] = seeds.record(own, core, grid.width)
    return foregrounds, numbered, records


def label_tile(grid, index, foregrounds, numbered, maps, grow_px):
    """One core, from the cores around it alone."""
    core = grid.core(index)
    window = core.grow(grow_px).clip(grid.height, grid.width)
    named, foreground = np.zeros(window.shape, np.uint32), np.zeros(window.shape, np.uint8)
    for other in grid.around(index, grow_px):
        part = grid.core(other).intersect(window)
        place, source = part.slices(origin=window), part.slices(origin=grid.core(other))
        foreground[place] = foregrounds[other][source]
        if other in maps:
            named[place] = maps[other][numbered[other][source]]
    return grow(named, foreground, grow_px=grow_px)[core.slices(origin=window)]


def label_tiled(maps, grid, order, skipped, grow_px, min_seed_area_px, **thresholds):
    """Maps (h, w, 2) -> labels (h, w), every tile by itself; tiles near no seed are left out."""
    foregrounds, numbered, records = split_tiles(maps, grid, order, **thresholds)
    known = {i: one for i, one in records.items() if one.count or i not in skipped}
    found = {one.index: one.new for one in merge(grid, known.get, min_area_px=min_seed_area_px)}
    near = {other for index in found for other in grid.around(index, grow_px)}
    labels = np.zeros((grid.height, grid.width), np.uint32)
    for index in reversed(order):
        if index in near:
            part = label_tile(grid, index, foregrounds, numbered, found, grow_px)
            labels[grid.core(index).slices()] = part
    return labels


options = st.fixed_dictionaries(
    {
        "nucleus_threshold": st.sampled_from([1, 90, 128, 255]),
        "seed_threshold": st.sampled_from([100, 130, 160, 230]),
        "grow_px": st.sampled_from([0, 1, 2, 5, 12, 24]),
        "min_seed_area_px": st.sampled_from([1, 2, 4, 9, 40]),
    }
)


def assert_tiled_equals_whole(maps, tile_px, generator, chosen):
    """In any order, and with the records of any tiles without seeds missing."""
    grid = cut(maps.shape[:2], tile_px)
    order = generator.permutation(len(grid)).tolist()
    skipped = set(np.flatnonzero(generator.random(len(grid)) < 0.5).tolist())
    expected = reference.label_whole(maps, **chosen)
    np.testing.assert_array_equal(label_tiled(maps, grid, order, skipped, **chosen), expected)


@settings(deadline=None, max_examples=200)
@given(large_maps, generators, options, st.data())
def test_tiled_equals_whole(maps, generator, chosen, data):
    tile_px = data.draw(tiles_px(maps.shape[:2]), "tile_px")
    assert_tiled_equals_whole(maps, tile_px, generator, chosen)


@settings(deadline=None, max_examples=200)
@given(small_maps, st.integers(1, 4), generators, st.integers(0, 3), st.integers(1, 4))
def test_tiled_equals_whole_for_every_few_pixels(maps, tile_px, generator, grow_px, least):
    chosen = {**HALF, "grow_px": grow_px, "min_seed_area_px": least}
    assert_tiled_equals_whole(maps, tile_px, generator, chosen)


@pytest.mark.parametrize("tile_px", [16, 33, 50])
@pytest.mark.parametrize("kind", PATTERNS)
def test_patterns_that_cross_many_tiles(kind, tile_px):
    shape = (131, 118)
    seed = pattern(kind, np.random.default_rng(0), shape)
    maps = np.stack([np.full(shape, 255), 255 * seed], axis=-1).astype(np.uint8)
    grid = cut(shape, tile_px)
    chosen = {**HALF, "grow_px": 5, "min_seed_area_px": 3}
    found = label_tiled(maps, grid, range(len(grid)), set(), **chosen)
    np.testing.assert_array_equal(found, reference.label_whole(maps, **chosen))


def test_spiral_is_one_seed_in_many_tiles():
    drawn = spiral((60, 50))
    assert ndimage.label(drawn, np.ones((3, 3)))[1] == 1
    assert not drawn.all()
    pieces = split_tiles(as_maps(drawn), cut((60, 50), 10), range(30), **HALF)[2]
    assert all(one.count for one in pieces.values())


def as_maps(seed):
    """Seed pixels (h, w) bool -> maps without further nucleus."""
    return np.stack([np.zeros(seed.shape), 255 * seed], axis=-1).astype(np.uint8)


def named_by_tiles(seed, tile_px, min_area_px):
    """Seed pixels (h, w) bool -> their labels, by record and merge."""
    grid = cut(seed.shape, tile_px)
    _, numbered, records = split_tiles(as_maps(seed), grid, range(len(grid)), **HALF)
    labels = np.zeros(seed.shape, np.uint32)
    for one in merge(grid, records.get, min_area_px=min_area_px):
        labels[grid.core(one.index).slices()] = one.new[numbered[one.index]]
    return labels


@settings(deadline=None)
@given(small_maps, st.integers(1, 255), st.integers(1, 255))
def test_split_keeps_nucleus_values_and_marks_seeds(maps, nucleus_threshold, seed_threshold):
    found, own = seeds.split(
        maps, nucleus_threshold=nucleus_threshold, seed_threshold=seed_threshold
    )
    foreground, numbered = found.drawn(), own.drawn()
    nucleus, seed = maps[..., 0] >= nucleus_threshold, maps[..., 1] >= seed_threshold
    assert foreground.dtype == np.uint8
    np.testing.assert_array_equal(foreground[nucleus], maps[nucleus, 0])
    np.testing.assert_array_equal(foreground > 0, nucleus | seed)
    np.testing.assert_array_equal(foreground[seed & ~nucleus], 1)
    np.testing.assert_array_equal(numbered, ndimage.label(seed, np.ones((3, 3)))[0])


@settings(deadline=None)
@given(any_maps, st.data())
def test_split_of_a_part_leaves_glass_and_what_is_no_tissue(maps, data):
    height, width = maps.shape[:2]
    y0, x0 = (data.draw(st.integers(0, side - 1)) for side in (height, width))
    y1, x1 = data.draw(st.integers(y0 + 1, height)), data.draw(st.integers(x0 + 1, width))
    generator = np.random.default_rng(data.draw(st.integers(0, 99)))
    seen = generator.integers(40, 56, (height, width, 3)).astype(np.uint8)
    y, x, block_px = (data.draw(st.integers(least, 40)) for least in (0, 0, 1))
    tissue = generator.random((120, 120)) < 0.6
    flip = data.draw(st.sampled_from([0, 255]))
    inner = slice(y0, y1), slice(x0, x1)
    found, own = seeds.split(
        maps, **HALF, inner=inner, origin=(y, x), bare=(seen ^ flip, 47, flip),
        tissue=(tissue, block_px),
    )  # fmt: skip
    rows, columns = (y + np.arange(y1 - y0)) // block_px, (x + np.arange(x1 - x0)) // block_px
    kept = tissue[rows[:, None], columns] & (seen[inner].max(axis=-1) > 47)
    plain, same = seeds.split(np.where(kept[..., None], maps[inner], 0), **HALF)
    np.testing.assert_array_equal(found.drawn(), plain.drawn())
    np.testing.assert_array_equal(own.drawn(), same.drawn())


@settings(deadline=None)
@given(any_maps, st.integers(0, 500), st.integers(0, 500), st.integers(0, 500))
def test_record_equals_brute_force(maps, y, x, beyond):
    height, width = maps.shape[:2]
    core, slide_width = Box(y, x, y + height, x + width), x + width + beyond
    _, own = seeds.split(maps, **HALF)
    numbered, found = own.drawn(), seeds.record(own, core, slide_width)
    assert found.count == numbered.max()
    for number in range(1, min(found.count, 50) + 1):
        places = np.argwhere(numbered == number)
        assert found.area[number - 1] == len(places)
        assert found.first[number - 1] == min((y + r) * slide_width + x + c for r, c in places)
    strips = (numbered[0], numbered[-1], numbered[:, 0], numbered[:, -1])
    for strip, kept in zip(strips, (found.top, found.bottom, found.left, found.right), strict=True):
        np.testing.assert_array_equal(kept, strip)


def test_first_pixels_need_more_than_32_bits():
    one = seeds.Seeds((1, 2), np.array([[0, 1, 2]], np.int32), np.ones(1, np.int32), 1)
    found = seeds.record(one, Box(100_000, 90_000, 100_001, 90_002), 200_000)
    assert found.first.tolist() == [100_000 * 200_000 + 90_001]


@settings(deadline=None)
@given(any_maps, st.data(), st.sampled_from([1, 2, 5, 20]))
def test_names_are_1_to_n_by_first_pixel(maps, data, min_area_px):
    tile_px = data.draw(tiles_px(maps.shape[:2]))
    labels = named_by_tiles(maps[..., 1] >= 128, tile_px, min_area_px)
    names, first, area = np.unique(labels, return_index=True, return_counts=True)
    seen = names > 0
    np.testing.assert_array_equal(names[seen], np.arange(1, seen.sum() + 1))
    assert (np.diff(first[seen]) > 0).all()
    assert (area[seen] >= min_area_px).all()
    np.testing.assert_array_equal(labels, reference.name(maps[..., 1] >= 128, min_area_px))


@settings(deadline=None)
@given(any_maps, st.data())
def test_merge_yields_tiles_with_seeds_in_raster_order(maps, data):
    grid = cut(maps.shape[:2], data.draw(tiles_px(maps.shape[:2])))
    _, _, records = split_tiles(maps, grid, range(len(grid)), **HALF)
    found = list(merge(grid, records.get))
    assert [one.index for one in found] == [i for i, one in records.items() if one.count]
    for one in found:
        assert one.new.dtype == np.uint32
        assert one.new.shape == (records[one.index].count + 1,)
        assert one.new[0] == 0
        assert (one.new[1:] > 0).all()


@settings(deadline=None)
@given(any_maps, st.data())
def test_the_owner_of_a_label_is_the_tile_with_its_first_pixel(maps, data):
    grid = cut(maps.shape[:2], data.draw(tiles_px(maps.shape[:2])))
    _, _, records = split_tiles(maps, grid, range(len(grid)), **HALF)
    named = reference.name(maps[..., 1] >= 128, 1)
    label, first = np.unique(named, return_index=True)
    tiles = np.zeros(named.shape, np.int32)
    for index in range(len(grid)):
        tiles[grid.core(index).slices()] = index
    owners = dict(zip(label.tolist(), tiles.ravel()[first].tolist(), strict=True))
    for one in merge(grid, records.get):
        told = zip(one.new[1:].tolist(), one.owner[1:].tolist(), strict=True)
        assert all(owners[name] == owner for name, owner in told)


@pytest.mark.parametrize(("min_area_px", "kept"), [(1, 1), (6, 1), (7, 0)])
@pytest.mark.parametrize("tile_px", [1, 2, 3, 4, 16])
def test_area_counts_across_seams(tile_px, min_area_px, kept):
    seed = np.zeros((7, 9), bool)
    seed[2:4, 2:5] = True  # 6 px around the corner of four tiles of 3 px
    assert named_by_tiles(seed, tile_px, min_area_px).max() == kept


def test_a_dropped_seed_takes_no_name():
    seed = np.zeros((6, 12), bool)
    seed[0, 3:5] = True  # the first by raster order, and too small
    seed[2:4, 2:6] = True
    seed[2:4, 8:12] = True
    labels = named_by_tiles(seed, 4, 5)
    assert labels[0].max() == 0
    assert labels[2].tolist() == [0, 0, 1, 1, 1, 1, 0, 0, 2, 2, 2, 2]


def test_corners_touch_across_the_meeting_point_of_four_tiles():
    falling, rising = np.eye(6, dtype=bool), np.eye(6, dtype=bool)[::-1]
    assert named_by_tiles(falling, 3, 1).max() == 1
    assert named_by_tiles(rising, 3, 1).max() == 1


@pytest.mark.parametrize("rows", [12, 60])
def test_rows_are_named_while_later_ones_are_read(rows):
    seed = np.zeros((8 * rows, 16), bool)
    seed[6::8, 4:12] = seed[7::8, 4:12] = seed[8::8, 4:12] = True  # each goes on one row below
    grid = cut(seed.shape, 8)
    _, _, records = split_tiles(as_maps(seed), grid, range(len(grid)), **HALF)
    read = []
    for one in merge(grid, lambda index: (read.append(index), records[index])[1]):
        assert max(read) // 2 - one.index // 2 <= 2, "rows pile up"
    assert read == list(range(len(grid))), "each tile is read once, in raster order"


@settings(deadline=None)
@given(any_maps, st.data())
def test_rows_that_wait_for_a_seed_through_the_whole_slide_are_named_alike(maps, data):
    seed = maps[..., 1] >= 128
    seed[:, data.draw(st.integers(0, seed.shape[1] - 1))] = True
    named = named_by_tiles(seed, data.draw(st.integers(1, 4)), 3)
    np.testing.assert_array_equal(named, reference.name(seed, 3))


def test_no_tiles_with_records_give_nothing():
    assert list(merge(cut((40, 40), 16), lambda _: None)) == []


def scattered(generator, shape, amount):
    """Labels (h, w) uint32: single pixels with the names 1..amount in random places."""
    labels = np.zeros(shape, np.uint32)
    amount = min(amount, labels.size)
    places = generator.choice(labels.size, amount, replace=False)
    labels.flat[places] = generator.permutation(amount) + 1
    return labels


@settings(deadline=None)
@given(generators, shapes, st.integers(0, 60), st.integers(0, 30))
def test_grow_equals_reference(generator, shape, amount, grow_px):
    labels = scattered(generator, shape, amount)
    foreground = noise(generator, shape, float(generator.choice([0.0, 1.0, 3.0]))) > 100
    given_labels, given_foreground = labels.copy(), foreground.copy()
    expected = reference.grow(labels, foreground, grow_px)
    np.testing.assert_array_equal(grow(labels, foreground, grow_px=grow_px), expected)
    np.testing.assert_array_equal(labels, given_labels)  # the input is left alone
    np.testing.assert_array_equal(foreground, given_foreground)


@settings(deadline=None)
@given(generators, shapes, st.integers(0, 12), st.data())
def test_growth_depends_on_nothing_beyond_grow_px(generator, shape, grow_px, data):
    y, x = data.draw(st.integers(0, shape[0] - 1)), data.draw(st.integers(0, shape[1] - 1))
    far = np.abs(np.indices(shape) - np.array([[[y]], [[x]]])).sum(axis=0) > grow_px
    labels, foreground = scattered(generator, shape, 40), generator.random(shape) > 0.2
    other = np.where(far, scattered(generator, shape, 80), labels)
    ground = np.where(far, generator.random(shape) > 0.5, foreground)
    one = grow(labels, foreground, grow_px=grow_px)
    assert one[y, x] == grow(other, ground, grow_px=grow_px)[y, x]


def test_growth_walks_inside_the_foreground_only():
    foreground = np.array([[1, 1, 0, 1, 1], [0, 1, 0, 1, 0], [0, 1, 1, 1, 0]], np.uint8)
    labels = np.zeros((3, 5), np.uint32)
    labels[0, 0] = 3
    expected = np.array([[3, 3, 0, 3, 0], [0, 3, 0, 3, 0], [0, 3, 3, 3, 0]])
    np.testing.assert_array_equal(grow(labels, foreground, grow_px=7), expected)


def test_ties_go_to_the_smaller_label_and_the_nearer_seed_wins():
    row = np.array([[9, 0, 0, 0, 2, 0, 0, 1]], np.uint32)
    found = grow(row, np.ones(row.shape), grow_px=9)
    assert found.tolist() == [[9, 9, 2, 2, 2, 2, 1, 1]]
