"""Runs of pixels in the rows of a tile, compiled: foreground, seeds, names, digest.

A run is a row, its first column, and the column after the last. Most pixels of a slide are of no
nucleus, and a nucleus is a few runs: what goes from run to run costs little. Import it inside
functions: numba takes a moment. Runs are (n, 3) int32, labels have a margin of 1 px of zeros.
Places in rows are unsigned, for signed ones are checked.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy import uintp
from numpy.typing import NDArray

from nucleiflow.kernels import compiled, inner, lean

Runs = NDArray[np.int32]
WORD = 8  # pixels that are skipped at once


@lean
def _append(
    row: NDArray[np.uint8], room: NDArray[np.uint8], y: int, runs: Runs, amount: int
) -> int:
    """Add the runs of what is not 0 in a row that ends with zeros, in whole words; their number.
    `room` is for 5 bytes of each pixel. Which pixels they begin at is found without a branch.
    """
    edges, places = room[: len(row)], room[len(row) :].view(np.int32)
    edges[0] = row[0] != 0
    for x in range(1, len(row)):
        edges[x] = (row[x] != 0) ^ (row[x - 1] != 0)
    words, found = edges.view(np.uint64), uintp(0)
    for word in range(len(words)):
        if words[word] != 0:
            for x in range(word * WORD, word * WORD + WORD):
                places[found] = x
                found += uintp(edges[x])
    for k in range(found // uintp(2)):
        one = uintp(amount + k)
        runs[one, 0], runs[one, 1], runs[one, 2] = y, places[2 * k], places[2 * k + 1]
    return int(amount + found // uintp(2))


@lean
def _most(height: int, width: int) -> int:
    """Runs that a tile can have."""
    return height * ((width + 1) // 2)


@inner
def _row(width: int) -> NDArray[np.uint8]:
    """An empty row for `_append`."""
    return np.zeros((width // WORD + 2) * WORD, np.uint8)


@inner
def _room(width: int) -> NDArray[np.uint8]:
    return np.empty(5 * len(_row(width)), np.uint8)


@compiled
def split(
    maps: NDArray[np.uint8],
    seen: NDArray[np.uint8],
    box: tuple[int, int, int, int],
    thresholds: tuple[int, int],
    glass: tuple[int, int],
    tissue: NDArray[np.bool_],
    place: tuple[int, int, int],
) -> tuple[Runs, NDArray[np.uint8], Runs]:
    """Maps (H, W, 2) and network input (H, W, 3) of a window -> runs of the foreground of a core,
    their values one after the other, and runs of its seeds.

    The core begins at `box[:2]` of the window and has `box[2:]` px. `thresholds` are of nucleus and
    seed. What every channel, xor `glass[1]`, has at most `glass[0]` of is glass, -1 is never. The
    core is at `place[:2]` of the slide, in whose blocks of `place[2]` px `tissue` is told.
    """
    y0, x0, height, width = box
    ground = np.empty((_most(height, width), 3), np.int32)
    seeds = np.empty((_most(height, width), 3), np.int32)
    values = np.empty(height * width, np.uint8)
    own, marks, room = _row(width), _row(width), _room(width)
    stretches, amount = np.empty((width // 2 + 1, 2), np.int64), 0
    grounds = seeded = filled = 0
    for y in range(height):
        line = maps[y0 + y].reshape(-1)
        light = seen[(y0 + y) % len(seen)].reshape(-1)
        if y == 0 or (place[0] + y) % place[2] == 0:
            blocks = tissue[(place[0] + y) // place[2]]
            amount = _stretches(blocks, place[1], place[2], width, stretches)
            own[:] = 0
            marks[:] = 0
        for k in range(amount):
            begin, end = stretches[k]
            both = line[2 * (x0 + begin) : 2 * (x0 + end)]
            _threshold(both, thresholds, own[begin:end], marks[begin:end])
            if glass[0] >= 0:
                shown = light[3 * (x0 + begin) : 3 * (x0 + end)]
                _bare(shown, glass, own[begin:end], marks[begin:end])
        first = grounds
        grounds = _append(own, room, y, ground, grounds)
        seeded = _append(marks, room, y, seeds, seeded)
        for k in range(first, grounds):
            start, stop = ground[k, 1], ground[k, 2]
            for x in range(start, stop):
                values[uintp(filled + x - start)] = own[uintp(x)]
            filled += stop - start
    return ground[:grounds].copy(), values[:filled].copy(), seeds[:seeded].copy()


@lean
def _stretches(
    blocks: NDArray[np.bool_], first: int, block_px: int, width: int, found: NDArray[np.int64]
) -> int:
    """A row of blocks of tissue -> where it is in a row of `width` px from the pixel `first` of the
    slide on: (begin, end) of each stretch, into `found`; their number.
    """
    amount, block = 0, first // block_px
    end = 0
    while end < width:
        begin, inside = end, blocks[block]
        while end < width and blocks[block] == inside:
            block += 1
            end = min(width, block * block_px - first)
        if inside:
            found[amount, 0], found[amount, 1] = begin, end
            amount += 1
    return amount


@lean
def _threshold(
    both: NDArray[np.uint8],
    thresholds: tuple[int, int],
    own: NDArray[np.uint8],
    marks: NDArray[np.uint8],
) -> None:
    """Two maps, pixel by pixel -> foreground and seeds. Plain loops over bytes: they are done many
    pixels at once.
    """
    nucleus, seed = np.uint8(thresholds[0]), np.uint8(thresholds[1])
    for x in range(len(marks)):
        marks[x] = both[2 * x + 1] >= seed
    for x in range(len(own)):
        own[x] = both[2 * x] if both[2 * x] >= nucleus else marks[x]


@lean
def _bare(
    light: NDArray[np.uint8],
    glass: tuple[int, int],
    own: NDArray[np.uint8],
    marks: NDArray[np.uint8],
) -> None:
    """Neither foreground nor seeds where there is glass."""
    level, flip = np.uint8(glass[0]), np.uint8(glass[1])
    for x in range(len(own)):
        red, green, blue = light[3 * x] ^ flip, light[3 * x + 1] ^ flip, light[3 * x + 2] ^ flip
        kept = (red > level) | (green > level) | (blue > level)
        own[x] = own[x] if kept else np.uint8(0)
        marks[x] = marks[x] if kept else np.uint8(0)


@compiled
def marked(mask: NDArray[np.uint8]) -> Runs:
    """Runs of what is not 0 in a picture (h, w)."""
    height, width = mask.shape
    runs, row, room = np.empty((_most(height, width), 3), np.int32), _row(width), _room(width)
    amount = 0
    for y in range(height):
        row[:width] = mask[y]
        amount = _append(row, room, y, runs, amount)
    return runs[:amount].copy()


@compiled
def paint(runs: Runs, names: NDArray[np.int32], drawn: NDArray[np.int32]) -> None:
    """Runs and what each is called -> pixels (h, w)."""
    for k in range(len(runs)):
        row = drawn[runs[k, 0]]
        for x in range(runs[k, 1], runs[k, 2]):
            row[uintp(x)] = names[k]


def _placed(
    runs: NDArray[Any], corner: tuple[int, int], shape: tuple[int, int]
) -> tuple[Runs, NDArray[np.int64]]:
    """Runs (3, n) of a tile whose first pixel is at `corner` of a window of `shape` -> the same
    (m, 3) in the window, cut off at its sides; and which runs they are.
    """
    rows, starts, stops = runs[0], runs[1], runs[2]
    found, which = np.empty((len(rows), 3), np.int32), np.empty(len(rows), np.int64)
    amount = 0
    for k in range(len(rows)):
        y = int(rows[k]) + corner[0]
        start = max(int(starts[k]) + corner[1], 0)
        stop = min(int(stops[k]) + corner[1], shape[1])
        found[amount, 0], found[amount, 1], found[amount, 2] = y, start, stop
        which[amount] = k
        amount += (0 <= y < shape[0]) & (start < stop)
    return found[:amount].copy(), which[:amount].copy()


placed = {kind: compiled(_placed, f"placed-{kind}") for kind in ("uint16", "int32")}


@compiled
def parted(labels: NDArray[np.int32], ground: Runs) -> NDArray[np.int32]:
    """Labels (h + 2, w + 2) and the foreground -> (n, 5): runs of one label each, the label, and
    where in the values of the foreground they begin.
    """
    most = 0
    for k in range(len(ground)):
        most += ground[k, 2] - ground[k, 1]
    parts, amount, offset = np.empty((most, 5), np.int32), 0, 0
    for k in range(len(ground)):
        y, start, stop = ground[k]
        row = labels[y + 1]
        x = start
        while x < stop:
            begin, label = x, row[uintp(x + 1)]
            while x < stop and row[uintp(x + 1)] == label:
                x += 1
            if label != 0:
                one = parts[amount]
                one[0], one[1], one[2], one[3] = y, begin, x, label
                one[4] = offset + begin - start
                amount += 1
        offset += stop - start
    return parts[:amount].copy()


@compiled
def named(
    parts: NDArray[np.int32],
    names: NDArray[np.uint32],
    corner: tuple[int, int],
    labels: NDArray[np.uint32],
) -> None:
    """Parts of a window, and what each is called -> the labels (h, w) of its core, which begins at
    `corner` of it and is empty.
    """
    for k in range(len(parts)):
        row = labels[parts[k, 0] - corner[0]]
        for x in range(parts[k, 1] - corner[1], parts[k, 2] - corner[1]):
            row[uintp(x)] = names[k]


@lean
def _mix(value: np.uint64) -> np.uint64:
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@compiled
def hashed(
    parts: NDArray[np.int32],
    names: NDArray[np.uint32],
    corner: tuple[int, int],
    slide_width: int,
    streams: NDArray[np.uint64],
) -> NDArray[np.uint64]:
    """Parts of a window that begins at `corner` of the slide, and what each is called -> a sum over
    their pixels for each stream: see `digest.share`. Of a run, only its ends remain of it.
    """
    sums = np.zeros(len(streams), np.uint64)
    for k in range(len(parts)):
        row = (corner[0] + parts[k, 0]) * slide_width + corner[1]
        start, stop = np.uint64(row + parts[k, 1]), np.uint64(row + parts[k, 2])
        for s in range(len(streams)):
            stream = streams[s]
            name = _mix(np.uint64(names[k]) * stream + stream) | np.uint64(1)
            sums[s] += name * (_mix(stop * stream + stream) - _mix(start * stream + stream))
    return sums
