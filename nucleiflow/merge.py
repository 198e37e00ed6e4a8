"""Records of all tiles -> for each tile, the label and the owner of each of its seeds. Pure.

Memory follows one row of tiles, not the slide: a row is named as soon as none of its seeds goes on
below the rows that were read, which is one row later, or as many as the longest seed spans.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from nucleiflow.plan import Grid
from nucleiflow.seeds import Record

MOST_KEPT = 4  # rows that wait with the facts of all their seeds; those of more are read again
NO_PIXEL = np.iinfo(np.int64).max
Inside = Callable[[NDArray[np.int64]], NDArray[np.bool_]]
Read = Callable[[int], Record | None]
Ids = NDArray[np.int64]
Number = TypeVar("Number", np.uint32, np.int32)


@dataclass(frozen=True)
class Named:
    """The seeds of tile `index`: `new` (count + 1,) uint32 is the label of each, 0 for none;
    `owner` (count + 1,) int32 is the tile that holds the first pixel of each label.
    """

    index: int
    new: NDArray[np.uint32]
    owner: NDArray[np.int32]
    shown: NDArray[np.uint32] | None = None


@dataclass
class _Row:
    """One row of tiles, its seeds numbered through: those of a tile begin at `start`.

    `seeds` are their first pixels and areas, None where they are to be read again. Those on the
    border of a tile, at `border`, are in groups of seeds that touch, as far as the rows down to
    this one can tell: `group` of each; by group, its first pixel, its area, and the group `below`
    that it is a part of in the next row, or -1. All groups before this row are `earlier` ones.
    """

    number: int
    start: Ids
    seeds: tuple[Ids, Ids] | None
    border: Ids
    group: Ids
    first: Ids
    area: Ids
    below: Ids
    earlier: int


@dataclass(frozen=True)
class _Open:
    """Groups that reach the lower edge of what was read, numbered from 1 in `strip` (width,).

    `group` of the last row, first pixel, area, and the row that each began in (`since`).
    """

    strip: Ids
    group: Ids
    first: Ids
    area: Ids
    since: Ids


def merge(
    grid: Grid, read: Read, *, min_area_px: int = 1, inside: Inside | None = None
) -> Iterator[Named]:
    """For each tile with seeds, in raster order: what its seeds are called.

    `read` gives a tile's record, or None for a tile that was skipped; it is called in raster order,
    and once more for the tiles of rows that wait long.
    A seed's label is the rank, over the slide, of its first pixel in raster order; seeds of less
    than `min_area_px` over the whole slide get 0. With `inside`, which tells of pixels (raster
    order) whether nuclei that begin there are wanted, `shown` is the rank among those, 0 for the
    others: they grow as the wanted ones do, and are not seen in the end.
    """
    nothing = np.zeros(0, np.int64)
    reached = _Open(np.zeros(grid.width, np.int64), nothing, nothing, nothing, nothing)
    names = _Names(grid, min_area_px, inside)
    waiting: deque[_Row] = deque()
    earlier = 0
    for number in range(grid.rows):
        records = [read(index) for index in _row(grid, number)]
        row, below, reached = _joined(grid, records, number, earlier, reached)
        if waiting:
            waiting[-1].below[below[0]] = below[1]
        waiting.append(row)
        earlier += len(row.first)
        ready = number + 1 if number + 1 == grid.rows else reached.since.min(initial=number + 1)
        while waiting and waiting[0].number < ready:
            first = waiting[0]
            seeds = first.seeds or _facts([read(index) for index in _row(grid, first.number)])
            yield from names.of(first, seeds, list(waiting)[1:])
            waiting.popleft()
        if len(waiting) > MOST_KEPT:
            waiting[-1].seeds = None


def _row(grid: Grid, row: int) -> range:
    return range(row * grid.columns, (row + 1) * grid.columns)


def _facts(records: Sequence[Record | None]) -> tuple[Ids, Ids]:
    """First pixels and areas of the seeds of a row."""
    there = [one for one in records if one is not None]
    none = [np.zeros(0, np.int64)]
    return (
        np.concatenate(none + [one.first for one in there]),
        np.concatenate(none + [one.area for one in there]),
    )


def _joined(
    grid: Grid, records: Sequence[Record | None], number: int, earlier: int, above: _Open
) -> tuple[_Row, tuple[Ids, Ids], _Open]:
    """A row below what was read so far, the groups of the last row that go on in it with those
    they are a part of, and what is open now.
    """
    start = np.zeros(len(records) + 1, np.int64)
    np.cumsum([one.count if one else 0 for one in records], out=start[1:])
    first, area = _facts(records)
    top, bottom, left, right = _strips(grid, records, number, start)
    on_border = np.zeros(start[-1] + 1, bool)
    for strip in (top, bottom, left, right):
        on_border[strip] = True
    border = np.flatnonzero(on_border[1:])
    before = len(above.group)  # nodes of the graph: the open groups, then the seeds on borders
    node = np.zeros(start[-1] + 1, np.int64)
    node[border + 1] = np.arange(before, before + len(border))
    across, down = _touching(right[:-1], left[1:]), _touching(above.strip, top)
    pairs = [(node[across[0]], node[across[1]]), (down[0] - 1, node[down[1]])]
    part = _parts(pairs, before + len(border))
    lives = np.zeros(before + len(border), bool)
    lives[part[before:]] = True
    part = np.where(lives[part], (np.cumsum(lives) - 1)[part], -1)
    goes_on, group = part[:before] >= 0, part[before:]
    amount = int(lives.sum())
    one = _Row(
        number=number,
        start=start,
        seeds=(first, area),
        border=border,
        group=group,
        first=np.full(amount, NO_PIXEL),
        area=np.zeros(amount, np.int64),
        below=np.full(amount, -1),
        earlier=earlier,
    )
    since = np.full(amount, number)
    into = part[:before][goes_on]
    np.minimum.at(one.first, group, first[border])
    np.minimum.at(one.first, into, above.first[goes_on])
    np.minimum.at(since, into, above.since[goes_on])
    np.add.at(one.area, group, area[border])
    np.add.at(one.area, into, above.area[goes_on])
    of_seed = np.zeros(start[-1] + 1, np.int64)
    of_seed[border + 1] = group + 1
    reaches = of_seed[bottom]
    seen = np.zeros(amount + 1, bool)
    seen[reaches] = True
    seen[0] = False
    still = np.flatnonzero(seen) - 1
    strip = np.where(reaches > 0, np.cumsum(seen)[reaches], 0)
    reached = _Open(strip, still, one.first[still], one.area[still], since[still])
    return one, (above.group[goes_on], into), reached


def _strips(
    grid: Grid, records: Sequence[Record | None], number: int, start: Ids
) -> tuple[Ids, Ids, Ids, Ids]:
    """Seeds, from 1 on within the row, along its upper and lower edge (width,), and along the left
    and right edges of its tiles (columns, height).
    """
    height = grid.core(number * grid.columns).height
    along = np.zeros((2, grid.width), np.int64)
    sides = np.zeros((2, len(records), height), np.int64)
    for column, one in enumerate(records):
        if one is not None:
            at = slice(column * grid.tile_px, column * grid.tile_px + len(one.top))
            along[0, at], along[1, at] = one.top, one.bottom
            sides[0, column], sides[1, column] = one.left, one.right
    place = np.repeat(start[:-1], grid.tile_px)[: grid.width]
    along += np.where(along > 0, place, 0)
    sides += np.where(sides > 0, start[:-1, None], 0)
    return along[0], along[1], sides[0], sides[1]


def _touching(one: Ids, other: Ids) -> tuple[Ids, Ids]:
    """Pairs of seeds in two strips (..., n) that lie side by side, corners included."""
    found = []
    for here, there in (
        (one, other),
        (one[..., 1:], other[..., :-1]),
        (one[..., :-1], other[..., 1:]),
    ):
        both = (here > 0) & (there > 0)
        found.append((here[both], there[both]))
    return np.concatenate([a for a, _ in found]), np.concatenate([b for _, b in found])


def _parts(pairs: Sequence[tuple[Ids, Ids]], amount: int) -> Ids:
    """Which connected part each of `amount` nodes is in: one union-find."""
    if not amount:
        return np.zeros(0, np.int64)
    a, b = (np.concatenate([pair[side] for pair in pairs]) for side in (0, 1))
    graph = coo_array((np.ones(len(a), bool), (a, b)), shape=(amount, amount))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


class _Names:
    """Gives the seeds of one row after the other their labels."""

    def __init__(self, grid: Grid, min_area_px: int, inside: Inside | None) -> None:
        self._grid, self._min_area_px, self._inside = grid, min_area_px, inside
        self._given = self._shown = 0
        self._wholes = np.zeros(0, np.int64)  # of the last row, sorted, and what they are called
        self._labels = np.zeros((2, 0), np.uint32)

    def of(self, row: _Row, seeds: tuple[Ids, Ids], below: Sequence[_Row]) -> Iterator[Named]:
        """What the seeds of a row are called; all its groups end in it or in the rows below."""
        grid, border = self._grid, row.border
        root, first, area = _ends(row, below)
        whole, which = np.unique(root, return_inverse=True)
        leads, size = np.ones(len(seeds[0]), bool), seeds[1].copy()
        leads[border] = seeds[0][border] == first[row.group]
        size[border] = area[row.group]
        named = np.flatnonzero(leads & (size >= self._min_area_px))
        new = np.zeros((2, len(leads)), np.uint32)
        new[:, named] = self._ranks(seeds[0][named])
        label = self._known(whole)
        own = leads[border]
        first_here = which[row.group[own]]
        label[:, first_here] = new[:, border[own]]
        new[:, border] = label[:, which[row.group]]
        self._wholes, self._labels = whole, label
        tiles = np.array(_row(grid, row.number), np.int32)
        owner = np.repeat(tiles, np.diff(row.start))
        y, x = np.divmod(first, grid.width)
        owner[border] = (y // grid.tile_px * grid.columns + x // grid.tile_px)[row.group]
        for index, begin, end in zip(tiles.tolist(), row.start, row.start[1:], strict=False):
            if end > begin:
                label, shown = (_led(0, one[begin:end]) for one in new)
                seen = None if self._inside is None else shown
                yield Named(index, label, _led(index, owner[begin:end]), seen)

    def _ranks(self, first: Ids) -> NDArray[np.uint32]:
        """First pixels of seeds that begin in a row -> their ranks (2, n): among all so far, and
        among those that are wanted.
        """
        order = np.argsort(first, kind="stable")
        wanted = np.ones(len(first), bool) if self._inside is None else self._inside(first[order])
        found = np.zeros((2, len(first)), np.uint32)
        found[0, order] = self._given + np.arange(1, len(first) + 1)
        found[1, order] = np.where(wanted, self._shown + np.cumsum(wanted), 0)
        self._given, self._shown = self._given + len(first), self._shown + int(wanted.sum())
        return found

    def _known(self, whole: Ids) -> NDArray[np.uint32]:
        """Labels of wholes that the last row had parts of; 0 for the others."""
        if not len(self._wholes):
            return np.zeros((2, len(whole)), np.uint32)
        at = np.minimum(np.searchsorted(self._wholes, whole), len(self._wholes) - 1)
        return np.where(self._wholes[at] == whole, self._labels[:, at], np.uint32(0))


def _led(lead: int, values: NDArray[Number]) -> NDArray[Number]:
    """The values after another one."""
    found = np.empty(len(values) + 1, values.dtype)
    found[0], found[1:] = lead, values
    return found


def _ends(row: _Row, below: Sequence[_Row]) -> tuple[Ids, Ids, Ids]:
    """Of each group of a row: a number of the whole that it is a part of in the end, over the
    slide, and the whole's first pixel and area.
    """
    root = row.earlier + np.arange(len(row.first))
    first, area = row.first.copy(), row.area.copy()
    going = np.flatnonzero(row.below >= 0)
    at = row.below[going]
    for lower in below:
        if not len(going):
            break
        root[going], first[going] = lower.earlier + at, lower.first[at]
        area[going] = lower.area[at]
        at = lower.below[at]
        going, at = going[at >= 0], at[at >= 0]
    return root, first, area
