"""What tiles know of each other's maps: around each, the same as in the whole slide."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nucleiflow import maps, records, runwise, seeds
from nucleiflow.errors import StoreError
from nucleiflow.plan import Grid
from nucleiflow.receptive import Reach


def put(folder, drawn, tile_px, rim_px, skipped=()):
    """Maps (h, w, 2) tile by tile, but for those that are skipped."""

    def record(stage, index):
        return folder / stage / f"{index}{records.SUFFIX}"

    job = SimpleNamespace(grid=Grid(*drawn.shape[:2], tile_px, Reach(0, 0, 1)), record=record)
    numbers = {}
    for index in set(range(len(job.grid))) - set(skipped):
        part = drawn[job.grid.core(index).slices()]
        foreground, own = seeds.split(part, nucleus_threshold=100, seed_threshold=200)
        maps.put(job, index, foreground, own, rim_px)
        assert (maps.seeds(job, index).drawn() == own.drawn()).all()
        if own.count:
            numbers[index] = 1000 * index + np.arange(own.count + 1, dtype=np.int32)
            numbers[index][0] = 0
    return job, numbers


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_window_is_that_of_the_whole_slide(tmp_path_factory, data):
    shape = data.draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    tile_px, rim_px = data.draw(st.integers(3, 20)), data.draw(st.integers(1, 12))
    drawn = np.random.default_rng(data.draw(st.integers(0, 999))).integers(0, 256, (*shape, 2))
    drawn = drawn.astype(np.uint8)
    tiles = range(-(-shape[0] // tile_px) * -(-shape[1] // tile_px))
    skipped = data.draw(st.sets(st.sampled_from(tiles), max_size=3))
    job, names = put(tmp_path_factory.mktemp("maps"), drawn, tile_px, rim_px, skipped)
    foreground, numbered = np.zeros(shape, np.uint8), np.zeros(shape, np.int32)
    for index in set(tiles) - skipped:
        at = job.grid.core(index).slices()
        seen, own = seeds.split(drawn[at], nucleus_threshold=100, seed_threshold=200)
        foreground[at] = seen.drawn()
        numbered[at] = names.get(index, np.zeros(1, np.int32))[own.drawn()]
    for index in tiles:
        window = job.grid.core(index).grow(rim_px).clip(*shape)
        near = job.grid.around(index, rim_px)
        found = maps.around(job, index, window, near, names)
        seen, there = np.zeros(window.shape, np.int32), np.zeros(window.shape, np.int32)
        runwise.paint(found.seeds, found.names, seen)
        runwise.paint(found.ground, np.ones(len(found.ground), np.int32), there)
        np.testing.assert_array_equal(seen, numbered[window.slices()])
        np.testing.assert_array_equal(there > 0, foreground[window.slices()] > 0)
        assert bool(found.kept) == (index not in skipped)
        own = np.zeros(window.shape, np.int32)
        runwise.paint(found.own, np.ones(len(found.own), np.int32), own)
        core = job.grid.core(index)
        values = found.kept.get("values", np.zeros(0, np.uint8))
        np.testing.assert_array_equal(values, foreground[window.slices()][own > 0])
        assert not own.any() or (own[core.slices(origin=window)] > 0).sum() == (own > 0).sum()


@pytest.mark.parametrize("lost", ["rims/1.rec", "maps/0.rec"])
def test_maps_that_are_lost_are_no_empty_tiles(tmp_path, lost):
    drawn = np.full((8, 16, 2), 255, np.uint8)
    job, names = put(tmp_path, drawn, 8, 3)
    (tmp_path / lost).unlink()
    with pytest.raises(StoreError, match="is gone: start again with --restart"):
        maps.around(job, 0, job.grid.core(0), [0, 1], names)
