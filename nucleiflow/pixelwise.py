"""Passes over the pixels of a tile, compiled: network input, maps, seeds, growth, digest, pyramid.

Import it inside functions: numba takes a moment. Arrays are C-contiguous, as `arrays.plain` makes
them; the functions of other modules that call these say what they do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nucleiflow.kernels import compiled, inner

FREE, REACHED = 1, 2


def _shown(
    pixels: NDArray[Any],
    table: NDArray[np.uint8],
    channels: NDArray[np.int64],
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
) -> NDArray[np.uint8]:
    """Pixels (c, h, w) -> network input (H, W, 3) of some rows and columns, in any order."""
    seen = np.empty((len(rows), len(columns), 3), np.uint8)
    first, second, third = channels
    for y in range(len(rows)):
        one = pixels[first, rows[y]]
        if first == second == third:
            for x in range(len(columns)):
                value = table[one[columns[x]]]
                seen[y, x, 0] = seen[y, x, 1] = seen[y, x, 2] = value
            continue
        two, three = pixels[second, rows[y]], pixels[third, rows[y]]
        for x in range(len(columns)):
            at = columns[x]
            seen[y, x, 0], seen[y, x, 1] = table[one[at]], table[two[at]]
            seen[y, x, 2] = table[three[at]]
    return seen


shown = {kind: compiled(_shown, f"shown-{kind}") for kind in ("uint8", "uint16")}


@compiled
def split(
    maps: NDArray[np.uint8],
    seen: NDArray[np.uint8],
    corner: tuple[int, int],
    thresholds: tuple[int, int],
    glass: tuple[int, int],
    tissue: NDArray[np.bool_],
    place: tuple[int, int, int],
    foreground: NDArray[np.uint8],
    seeds: NDArray[np.uint8],
) -> None:
    """Maps (H, W, 2) and network input (H, W, 3) of a window -> foreground and seeds, (h, w), of a
    core that begins at `corner` of it.

    `thresholds` are of nucleus and seed. What every channel, xor `glass[1]`, has at most
    `glass[0]` of is glass, -1 is never. The core is at `place[:2]` of the slide, in whose blocks
    of `place[2]` px `tissue` is told.
    """
    height, width = foreground.shape
    for y in range(height):
        blocks = tissue[(place[0] + y) // place[2]]
        end = 0
        while end < width:
            begin, block = end, (place[1] + end) // place[2]
            end = min(width, (block + 1) * place[2] - place[1])
            if not blocks[block]:
                foreground[y, begin:end] = 0
                seeds[y, begin:end] = 0
                continue
            row = maps[corner[0] + y, corner[1] + begin : corner[1] + end]
            for x in range(begin, end):
                nucleus, seed = row[x - begin, 0], row[x - begin, 1]
                is_seed = np.uint8(seed >= thresholds[1])
                seeds[y, x] = is_seed
                foreground[y, x] = nucleus if nucleus >= thresholds[0] else is_seed
            if glass[0] >= 0:
                light = seen[corner[0] + y, corner[1] + begin : corner[1] + end]
                for x in range(begin, end):
                    red, green, blue = light[x - begin]
                    red, green, blue = red ^ glass[1], green ^ glass[1], blue ^ glass[1]
                    if max(red, green, blue) <= glass[0]:
                        foreground[y, x] = seeds[y, x] = 0


@inner
def _root(parent: NDArray[np.int32], one: int) -> int:
    while parent[one] != one:
        parent[one] = parent[parent[one]]
        one = parent[one]
    return one


@inner
def _unite(parent: NDArray[np.int32], one: int, other: int) -> None:
    """The smaller number stays the root."""
    one, other = _root(parent, one), _root(parent, other)
    if one < other:
        parent[other] = one
    else:
        parent[one] = other


@compiled
def runs(seeds: NDArray[np.uint8]) -> tuple[NDArray[np.int32], int]:
    """Seed pixels (h, w), 0 or 1 -> runs (n, 4) in raster order: row, first column, the column
    after the last, and the number of the 8-connected seed, from 1 in order of first pixels; and how
    many seeds there are.
    """
    height, width = seeds.shape
    amount = 0
    for y in range(height):
        before = np.uint8(0)
        for x in range(width):
            amount += seeds[y, x] & (before ^ 1)
            before = seeds[y, x]
    found = np.empty((amount, 4), np.int32)
    parent = np.arange(amount).astype(np.int32)
    above = here = now = 0  # first runs of the row above and of this one, and the next run
    for y in range(height):
        above, here, x = here, now, 0
        while x < width:
            while x < width and not seeds[y, x]:
                x += 1
            if x == width:
                break
            start = x
            while x < width and seeds[y, x]:
                x += 1
            found[now, 0], found[now, 1], found[now, 2] = y, start, x
            while above < here and found[above, 2] < start:
                above += 1
            k = above
            while k < here and found[k, 1] <= x:
                _unite(parent, k, now)
                k += 1
            now += 1
    count = 0
    for k in range(amount):
        root = _root(parent, k)
        if root == k:
            count += 1
        found[k, 3] = count if root == k else found[root, 3]
    return found, count


@compiled
def paint(
    runs: NDArray[np.int32],
    names: NDArray[np.int32],
    origin: tuple[int, int],
    drawn: NDArray[np.int32],
) -> None:
    """Runs as above -> the pixels (h, w) of a rectangle that begins at `origin`, named."""
    height, width = drawn.shape
    for k in range(len(runs)):
        y = runs[k, 0] - origin[0]
        if 0 <= y < height:
            start, stop = max(runs[k, 1] - origin[1], 0), min(runs[k, 2] - origin[1], width)
            for x in range(start, stop):
                drawn[y, x] = names[runs[k, 3]]


@compiled
def grow(
    seeds: NDArray[np.int32], foreground: NDArray[np.uint8], grow_px: int
) -> NDArray[np.int32]:
    """Seeds and foreground (h, w) -> labels: see `grow.grow`."""
    height, width = seeds.shape
    labels = np.zeros((height + 2, width + 2), np.int32)
    state = np.zeros((height + 2, width + 2), np.uint8)
    most = 0
    for y in range(height):
        for x in range(width):
            label = seeds[y, x]
            labels[y + 1, x + 1] = label
            state[y + 1, x + 1] = foreground[y, x] != 0 and label == 0
            most += foreground[y, x] != 0 or label != 0
    if most and grow_px > 0:
        queue = np.empty(most, np.int64)
        _flood(labels.reshape(-1), state.reshape(-1), width + 2, queue, grow_px)
    return labels[1:-1, 1:-1].copy()


@inner
def _flood(
    labels: NDArray[np.int32],
    state: NDArray[np.uint8],
    width: int,
    queue: NDArray[np.int64],
    grow_px: int,
) -> None:
    """Flat, with a margin of 1 px: each step, free pixels beside the front take the least label."""
    sides = (-width, -1, 1, width)
    start = stop = 0
    for at in range(width, len(labels) - width):
        if labels[at] != 0 and _beside_free(state, at, width):
            queue[stop] = at
            stop += 1
    for _ in range(grow_px):
        last = stop
        for k in range(start, last):
            label = labels[queue[k]]
            for side in sides:
                beside = queue[k] + side
                if state[beside] == FREE:
                    state[beside], labels[beside] = REACHED, label
                    queue[stop] = beside
                    stop += 1
                elif state[beside] == REACHED and label < labels[beside]:
                    labels[beside] = label
        for k in range(last, stop):
            state[queue[k]] = 0
        start = last
        if start == stop:
            break


@inner
def _beside_free(state: NDArray[np.uint8], at: int, width: int) -> bool:
    return (state[at - width] | state[at - 1] | state[at + 1] | state[at + width]) != 0


@inner
def _mix(value: np.uint64) -> np.uint64:
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@inner
def _add_hash(
    sums: NDArray[np.uint64], place: np.uint64, value: np.uint64, streams: NDArray[np.uint64]
) -> None:
    for k in range(len(streams)):
        sums[k] += _mix(_mix(place * streams[k] + streams[k]) ^ value)


@compiled
def hashed(
    labels: NDArray[np.int32],
    corner: tuple[int, int],
    slide_width: int,
    streams: NDArray[np.uint64],
) -> NDArray[np.uint64]:
    """Labels (h, w) of a core that begins at `corner` -> a sum over its labelled pixels for each
    stream: see `digest.share`.
    """
    sums = np.zeros(len(streams), np.uint64)
    for y in range(labels.shape[0]):
        row = np.uint64((corner[0] + y) * slide_width + corner[1])
        for x in range(labels.shape[1]):
            if labels[y, x] != 0:
                _add_hash(sums, row + np.uint64(x), np.uint64(np.uint32(labels[y, x])), streams)
    return sums


@compiled
def named(
    grown: NDArray[np.int32],
    inner: tuple[int, int],
    names: NDArray[np.uint32],
    labels: NDArray[np.uint32],
) -> None:
    """Numbers of a window -> the labels of its part that begins at `inner`."""
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            labels[y, x] = names[grown[inner[0] + y, inner[1] + x]]


def _halved(pixels: NDArray[Any]) -> NDArray[Any]:
    """Image (c, h, w) -> (c, h/2, w/2): rounded means of 2 x 2 pixels, the edge repeated."""
    channels, height, width = pixels.shape
    small = np.empty((channels, (height + 1) // 2, (width + 1) // 2), pixels.dtype)
    for c in range(channels):
        for y in range(small.shape[1]):
            one = pixels[c, 2 * y]
            other = pixels[c, min(2 * y + 1, height - 1)]
            for x in range(width // 2):
                total = np.uint32(one[2 * x]) + np.uint32(one[2 * x + 1])
                total += np.uint32(other[2 * x]) + np.uint32(other[2 * x + 1])
                small[c, y, x] = (total + np.uint32(2)) >> np.uint32(2)
            if width % 2:
                total = np.uint32(2) * (np.uint32(one[width - 1]) + np.uint32(other[width - 1]))
                small[c, y, width // 2] = (total + np.uint32(2)) >> np.uint32(2)
    return small


halved = {kind: compiled(_halved, f"halved-{kind}") for kind in ("uint8", "uint16")}


@compiled
def blocks(
    seen: NDArray[np.uint8],
    corner: tuple[int, int],
    shape: tuple[int, int],
    first: int,
    phase: tuple[int, int],
    amount: tuple[int, int],
    sizes: tuple[int, int, int, int, int],
) -> NDArray[np.int64]:
    """Network input (H, W, 3) of a window -> for each block that the core touches: its pixels in
    some rows, their sum and sum of squares, and sums of squared differences to the pixels `near`,
    `middle` and `far` on, both ways. Light is the sum of the three channels.

    The core of `shape` begins at `corner`, and `phase` px into a block; `sizes` are a block's side,
    near, middle, far, and the distance of the rows from `first` on.
    """
    side, far, every = sizes[0], sizes[3], sizes[4]
    found = np.zeros((amount[0], amount[1], 6), np.int64)
    light = np.empty((4, shape[1] + far), np.int32)  # the row itself, and those further down
    for y in range(first, shape[0], every):
        for k in range(4):
            row = seen[corner[0] + y + (sizes[k] if k else 0)]
            for x in range(shape[1] + far):
                at = corner[1] + x
                light[k, x] = np.int32(row[at, 0]) + np.int32(row[at, 1]) + np.int32(row[at, 2])
        for column in range(amount[1]):
            start = max(0, column * side - phase[1])
            stop = min(shape[1], (column + 1) * side - phase[1])
            _add_run(light, start, stop, sizes, found[(y + phase[0]) // side, column])
    return found


@inner
def _add_run(
    light: NDArray[np.int32],
    start: int,
    stop: int,
    sizes: tuple[int, int, int, int, int],
    one: NDArray[np.int64],
) -> None:
    total = squares = np.int64(0)
    for x in range(start, stop):
        value = np.int64(light[0, x])
        total += value
        squares += value * value
    one[0] += stop - start
    one[1] += total
    one[2] += squares
    for k in (1, 2, 3):
        step, apart = sizes[k], np.int64(0)
        for x in range(start, stop):
            down = np.int64(light[k, x] - light[0, x])
            right = np.int64(light[0, x + step] - light[0, x])
            apart += down * down + right * right
        one[2 + k] += apart
