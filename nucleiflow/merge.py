"""Records of all tiles -> for each tile, the label and the owner of each of its seeds. Pure.

Memory follows the seeds that touch a seam and one row of tiles, not the slide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from nucleiflow.plan import Grid
from nucleiflow.seeds import Record

Read = Callable[[int], Record | None]
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Named:
    """The seeds of tile `index`: `new` (count + 1,) uint32 is the label of each, 0 for none;
    `owner` (count + 1,) int32 is the tile that holds the first pixel of each label.
    """

    index: int
    new: NDArray[np.uint32]
    owner: NDArray[np.int32]


@dataclass(frozen=True)
class _United:
    """Seeds that a seam cuts. `ids` are sorted; the rest is by piece (`part`) or by whole."""

    ids: Ids
    part: NDArray[np.intp]
    first: Ids
    area: Ids


def merge(grid: Grid, read: Read, *, min_area_px: int = 1) -> Iterator[Named]:
    """For each tile with seeds, in raster order: what its seeds are called.

    `read` gives a tile's record, or None for a tile that was skipped; it is called twice for each.
    A seed's label is the rank, over the slide, of its first pixel in raster order; seeds of less
    than `min_area_px` over the whole slide get 0.
    """
    united, start = _unite(grid, read)
    whole_label = np.zeros(len(united.first), np.uint32)
    y, x = np.divmod(united.first, grid.width)
    whole_owner = (y // grid.tile_px * grid.columns + x // grid.tile_px).astype(np.int32)
    given = 0
    for row in range(grid.rows):
        pieces = []
        for index in _row(grid, row):
            one = read(index)
            if one is not None and one.count:
                pieces.append((index, *_wholes(one, start[index], united, min_area_px)))
        if not pieces:
            continue
        firsts = np.concatenate([first[named] for _, first, named, _ in pieces])
        order = np.empty(len(firsts), np.uint32)
        order[np.argsort(firsts)] = np.arange(1, len(firsts) + 1, dtype=np.uint32)
        maps, used = [], 0
        for index, first, named, whole in pieces:
            new = np.zeros(len(first) + 1, np.uint32)
            amount = int(named.sum())
            new[1:][named] = given + order[used : used + amount]
            used += amount
            own = named & (whole >= 0)
            whole_label[whole[own]] = new[1:][own]
            maps.append((index, new, whole))
        given += used
        for index, new, whole in maps:
            cut = whole >= 0
            new[1:][cut] = whole_label[whole[cut]]
            owner = np.full(len(new), index, np.int32)
            owner[1:][cut] = whole_owner[whole[cut]]
            yield Named(index, new, owner)


def _row(grid: Grid, row: int) -> range:
    return range(row * grid.columns, (row + 1) * grid.columns)


def _wholes(
    one: Record, start: int, united: _United, min_area_px: int
) -> tuple[Ids, NDArray[np.bool_], NDArray[np.intp]]:
    """For each seed of a tile: first pixel, whether the tile names it, and its whole (or -1)."""
    low, high = np.searchsorted(united.ids, (start + 1, start + one.count + 1))
    local = united.ids[low:high] - start - 1
    whole = np.full(one.count, -1, np.intp)
    whole[local] = united.part[low:high]
    area, leads = one.area.copy(), np.ones(one.count, bool)
    area[local] = united.area[whole[local]]
    leads[local] = one.first[local] == united.first[whole[local]]
    return one.first, leads & (area >= min_area_px), whole


def _unite(grid: Grid, read: Read) -> tuple[_United, NDArray[np.int64]]:
    """One union-find over the pairs of seeds that touch across any seam."""
    start = np.zeros(len(grid) + 1, np.int64)
    pairs: list[Ids] = []
    facts: list[Ids] = []
    above: Ids | None = None
    for row in range(grid.rows):
        top = np.zeros(grid.width, np.int64)
        bottom = np.zeros(grid.width, np.int64)
        left: Ids | None = None
        for index in _row(grid, row):
            core, one = grid.core(index), read(index)
            start[index + 1] = start[index] + (one.count if one else 0)
            if one is None:
                left = None
                continue
            sides = [
                _ids(strip, start[index]) for strip in (one.top, one.bottom, one.left, one.right)
            ]
            top[core.x0 : core.x1], bottom[core.x0 : core.x1] = sides[0], sides[1]
            if left is not None:
                pairs.append(_touching(left, sides[2]))
            left = sides[3]
            facts.append(_border_facts(one, sides, start[index]))
        if above is not None:
            pairs.append(_touching(above, top))
        above = bottom
    return _groups(_rows(pairs, 2), _rows(facts, 3)), start


def _rows(parts: list[Ids], columns: int) -> Ids:
    return np.concatenate(parts) if parts else np.zeros((0, columns), np.int64)


def _ids(strip: NDArray[np.uint32], start: np.int64) -> Ids:
    wide = strip.astype(np.int64)
    return np.where(wide > 0, wide + start, 0)


def _touching(one: Ids, other: Ids) -> Ids:
    """Pairs (n, 2) of seeds in two strips that lie side by side, corners included."""
    pairs = [
        np.stack([one, other], axis=1),
        np.stack([one[1:], other[:-1]], axis=1),
        np.stack([one[:-1], other[1:]], axis=1),
    ]
    both = np.concatenate(pairs)
    return np.unique(both[(both > 0).all(axis=1)], axis=0)


def _border_facts(one: Record, sides: list[Ids], start: np.int64) -> Ids:
    """(id, first pixel, area) of the seeds on a tile's border."""
    ids = np.unique(np.concatenate(sides))
    ids = ids[ids > 0]
    local = ids - start - 1
    return np.stack([ids, one.first[local], one.area[local]], axis=1)


def _groups(pairs: Ids, facts: Ids) -> _United:
    ids = np.unique(pairs)
    rows, columns = np.searchsorted(ids, pairs[:, 0]), np.searchsorted(ids, pairs[:, 1])
    graph = coo_array((np.ones(len(pairs), bool), (rows, columns)), shape=(len(ids), len(ids)))
    amount, part = connected_components(graph, directed=False) if len(ids) else (0, ids)
    known = facts[np.searchsorted(facts[:, 0], ids)] if len(ids) else facts[:0]
    first = np.full(amount, np.iinfo(np.int64).max)
    np.minimum.at(first, part, known[:, 1])
    area = np.zeros(amount, np.int64)
    np.add.at(area, part, known[:, 2])
    return _United(ids, part.astype(np.intp), first, area)
