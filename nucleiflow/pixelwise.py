"""Passes over all pixels of a tile, compiled: network input, pyramid, focus.

Import it inside functions: numba takes a moment. Arrays are C-contiguous, as `arrays.plain` makes
them; the functions of other modules that call these say what they do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nucleiflow.kernels import compiled, lean


def _shown(
    pixels: NDArray[Any],
    table: NDArray[np.uint8],
    channels: NDArray[np.int64],
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
) -> NDArray[np.uint8]:
    """Pixels (c, h, w) -> network input (H, W, 3) of some rows and columns, in any order.

    Where columns follow each other, as they do but at the slide's edges, none is looked up.
    """
    seen = np.empty((len(rows), 3 * len(columns)), np.uint8)
    start = stop = 0
    while stop < len(columns):
        start, stop = stop, stop + 1
        while stop < len(columns) and columns[stop] == columns[stop - 1] + 1:
            stop += 1
        at = columns[start]
        for y in range(len(rows)):
            line = seen[y, 3 * start : 3 * stop]
            one = pixels[channels[0], rows[y], at : at + stop - start]
            if channels[0] == channels[1] == channels[2]:
                for x in range(len(one)):
                    value = table[one[x]]
                    line[3 * x] = value
                    line[3 * x + 1] = value
                    line[3 * x + 2] = value
                continue
            two = pixels[channels[1], rows[y], at : at + stop - start]
            three = pixels[channels[2], rows[y], at : at + stop - start]
            for x in range(len(one)):
                line[3 * x] = table[one[x]]
                line[3 * x + 1] = table[two[x]]
                line[3 * x + 2] = table[three[x]]
    return seen.reshape(len(rows), len(columns), 3)


shown = {kind: compiled(_shown, f"shown-{kind}") for kind in ("uint8", "uint16")}


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
    light = np.empty((4, shape[1] + far), np.int16)  # the row itself, and those further down
    for y in range(first, shape[0], every):
        for k in range(4):
            row = seen[corner[0] + y + (sizes[k] if k else 0)].reshape(-1)
            _light(row[3 * corner[1] : 3 * (corner[1] + shape[1] + far)], light[k])
        for column in range(amount[1]):
            start = max(0, column * side - phase[1])
            stop = min(shape[1], (column + 1) * side - phase[1])
            _add_run(light, start, stop, sizes, found[(y + phase[0]) // side, column])
    return found


@lean
def _light(row: NDArray[np.uint8], light: NDArray[np.int16]) -> None:
    for x in range(len(light)):
        light[x] = np.int16(row[3 * x]) + np.int16(row[3 * x + 1]) + np.int16(row[3 * x + 2])


@lean
def _add_run(
    light: NDArray[np.int16],
    start: int,
    stop: int,
    sizes: tuple[int, int, int, int, int],
    one: NDArray[np.int64],
) -> None:
    """Of at most 128 px: no sum is above 2 * 128 * 765**2, which 32 bits hold."""
    row = light[0, start:stop]
    total = squares = np.int32(0)
    for x in range(len(row)):
        value = np.int32(row[x])
        total = np.int32(total + value)
        squares = np.int32(squares + np.int32(value * value))
    one[0] += stop - start
    one[1] += total
    one[2] += squares
    for k in (1, 2, 3):
        below, right = light[k, start:stop], light[0, start + sizes[k] : stop + sizes[k]]
        apart = np.int32(0)
        for x in range(len(row)):
            down, along = np.int32(below[x] - row[x]), np.int32(right[x] - row[x])
            apart = np.int32(apart + np.int32(np.int32(down * down) + np.int32(along * along)))
        one[2 + k] += apart
