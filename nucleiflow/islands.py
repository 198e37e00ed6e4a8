"""What hangs together in runs of pixels, compiled: seeds, and islands of foreground that they fill.

Runs are those of `runwise.py`: (n, 3) int32 of row, first column, the column after the last. Import
it inside functions: numba takes a moment. Places in labels are unsigned: signed ones are checked.
"""

from __future__ import annotations

import numpy as np
from numpy import uintp
from numpy.typing import NDArray

from nucleiflow.kernels import compiled, inner, lean

Runs = NDArray[np.int32]
FREE = np.int32(-(1 << 31))  # foreground that no nucleus has reached


@lean
def _root(parent: NDArray[np.int32], one: int) -> int:
    while parent[one] != one:
        parent[one] = parent[parent[one]]
        one = parent[one]
    return one


@lean
def _unite(parent: NDArray[np.int32], one: int, other: int) -> None:
    """The smaller number stays the root."""
    one, other = _root(parent, one), _root(parent, other)
    if one < other:
        parent[other] = one
    else:
        parent[one] = other


@compiled
def connected(runs: Runs) -> tuple[NDArray[np.int32], int]:
    """Runs in raster order -> the number (n,) of the 8-connected seed of each, from 1 in order of
    first pixels; and how many seeds there are.
    """
    parent = np.arange(len(runs)).astype(np.int32)
    above = here = 0  # first runs of the row above and of this one
    for now in range(len(runs)):
        y, start, stop = runs[now]
        if y != runs[here, 0]:
            above = here if y == runs[here, 0] + 1 else now
            here = now
        while above < here and runs[above, 2] < start:
            above += 1
        k = above
        while k < here and runs[k, 1] <= stop:
            _unite(parent, k, now)
            k += 1
    numbers, count = np.empty(len(runs), np.int32), 0
    for k in range(len(runs)):
        root = _root(parent, k)
        if root == k:
            count += 1
        numbers[k] = count if root == k else numbers[root]
    return numbers, count


@inner
def _by_row(runs: Runs, height: int) -> NDArray[np.int64]:
    """The order (n,) of runs by row; those of a row stay in their order."""
    first = np.zeros(height + 1, np.int64)
    for k in range(len(runs)):
        first[runs[k, 0] + 1] += 1
    for y in range(height):
        first[y + 1] += first[y]
    order = np.empty(len(runs), np.int64)
    for k in range(len(runs)):
        order[first[runs[k, 0]]] = k
        first[runs[k, 0]] += 1
    return order


@inner
def _islands(runs: Runs, order: NDArray[np.int64]) -> NDArray[np.int32]:
    """Foreground -> for each run, in this order, the place of another that it hangs together with,
    the same for all of them.
    """
    parent = np.arange(len(runs)).astype(np.int32)
    above = here = 0
    for now in range(len(runs)):
        y, start, stop = runs[order[now]]
        if y != runs[order[here], 0]:
            above = here if y == runs[order[here], 0] + 1 else now
            here = now
        elif now > here and runs[order[now - 1], 2] >= start:
            _unite(parent, now - 1, now)
        while above < here and runs[order[above], 2] <= start:
            above += 1
        k = above
        while k < here and runs[order[k], 1] < stop:
            _unite(parent, k, now)
            k += 1
    for now in range(len(runs)):
        parent[now] = _root(parent, now)
    return parent


@inner
def _by_island(
    ground: Runs, seeds: Runs, names: NDArray[np.int32], height: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Seeds that have names, those of one island of the foreground after those of another: which
    runs, and where each island begins among them, with the end of the last.
    """
    order, rows = _by_row(ground, height), _by_row(seeds, height)
    islands = _islands(ground, order)
    own, amount = np.full(len(seeds), -1, np.int64), np.zeros(len(ground) + 1, np.int64)
    at = 0
    for k in rows:
        y, stop = seeds[k, 0], seeds[k, 2]
        while ground[order[at], 0] < y or (
            ground[order[at], 0] == y and ground[order[at], 2] < stop
        ):
            at += 1
        if names[k] > 0:
            own[k] = islands[at]
            amount[own[k] + 1] += 1
    begins = np.cumsum(amount)
    found, into = np.empty(begins[-1], np.int64), begins.copy()
    for k in rows:
        if own[k] >= 0:
            found[into[own[k]]] = k
            into[own[k]] += 1
    return found, begins


@compiled
def grown(
    shape: tuple[int, int], ground: Runs, seeds: Runs, names: NDArray[np.int32], grow_px: int
) -> NDArray[np.int32]:
    """Foreground and seeds of a window, whose names (n,) are 0 where they have none -> labels
    (h + 2, w + 2), grown: see `grow.grown`. Each island of the foreground is done by itself: what
    is at work is little, and stays at hand.
    """
    height, width = shape[0], shape[1] + 2
    labels = np.zeros((height + 2) * width, np.int32)
    most = 0
    for k in range(len(ground)):
        _paint(labels, width, ground[k], FREE)
        most += ground[k, 2] - ground[k, 1]
    for k in range(len(seeds)):
        if names[k] > 0:
            _paint(labels, width, seeds[k], names[k])
    if grow_px > 0:
        queue = np.empty(most + 1, np.uintp)  # one more is written, and not kept
        order, begins = _by_island(ground, seeds, names, height)
        for island in range(len(ground)):
            if begins[island] < begins[island + 1]:
                some = begins[island], begins[island + 1]
                stop = _front(labels, width, seeds, order, some, queue)
                _flood(labels, width, queue, stop, grow_px)
    for k in range(len(ground)):
        _leave(labels, width, ground[k])
    return labels.reshape(height + 2, width)


@lean
def _places(width: int, run: NDArray[np.int32]) -> tuple[int, int]:
    """Where a run begins and ends in labels with a margin, as one row."""
    row = (run[0] + 1) * width + 1
    return row + run[1], row + run[2]


@lean
def _paint(labels: NDArray[np.int32], width: int, run: NDArray[np.int32], name: int) -> None:
    start, stop = _places(width, run)
    for x in range(start, stop):
        labels[uintp(x)] = name


@lean
def _leave(labels: NDArray[np.int32], width: int, run: NDArray[np.int32]) -> None:
    """Foreground that nothing has reached is of no nucleus."""
    start, stop = _places(width, run)
    for x in range(start, stop):
        labels[uintp(x)] = max(labels[uintp(x)], np.int32(0))


@lean
def _front(
    labels: NDArray[np.int32],
    width: int,
    seeds: Runs,
    order: NDArray[np.int64],
    some: tuple[int, int],
    queue: NDArray[np.uintp],
) -> np.uintp:
    """Pixels beside free ones, of `some` of the seeds in this order, into the queue; how many."""
    amount, one, row = uintp(0), uintp(1), uintp(width)
    for at in range(some[0], some[1]):
        start, stop = _places(width, seeds[order[at]])
        for x in range(start, stop):
            here = uintp(x)
            beside = min(labels[here - row], labels[here + row])
            beside = min(beside, labels[here - one], labels[here + one])
            queue[amount] = here
            amount += uintp(beside == FREE)
    return amount


@lean
def _flood(
    labels: NDArray[np.int32], width: int, queue: NDArray[np.uintp], stop: np.uintp, grow_px: int
) -> None:
    """Each step, free pixels beside the front take the least label. One that was reached in this
    step holds ~label, so that the least is the largest. No branch depends on a pixel.
    """
    start, one, row = uintp(0), uintp(1), uintp(width)
    for _ in range(grow_px):
        if start == stop:
            break
        last = stop
        for k in range(start, last):
            at = queue[k]
            reached = ~labels[at]
            for side in (at - row, at - one, at + one, at + row):
                there = labels[side]
                labels[side] = there if there >= 0 else max(there, reached)
                queue[stop] = side
                stop += uintp(there == FREE)
        for k in range(last, stop):
            labels[queue[k]] = ~labels[queue[k]]
        start = last
