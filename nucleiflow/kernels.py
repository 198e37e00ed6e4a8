"""Loops over the pixels of a tile, compiled: they hold no Python, and no other thread up.

Import it inside functions: numba takes a moment. What is compiled is kept beside this file or, if
that is read-only, in the user's cache.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

compiled = numba.njit(nogil=True, cache=True)

# columns of what `shapes` adds up, int64
AREA, SUM_Y, SUM_X, SUM_YY, SUM_XX, SUM_XY, Y0, X0, Y1, X1, STRAIGHT, DIAGONAL, BENT = range(13)
SHAPE_COLUMNS = 13
# columns of what `intensities` adds up for each channel
SUM, SQUARES, LEAST, MOST = range(4)
INTENSITY_COLUMNS = 4


@compiled
def borders(labels: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Pixels of nuclei that have a pixel of something else beside them, or nothing, (H + 2, W + 2):
    with a frame of False.
    """
    height, width = labels.shape
    found = np.zeros((height + 2, width + 2), np.bool_)
    for y in range(height):
        for x in range(width):
            label = labels[y, x]
            if label:
                found[y + 1, x + 1] = (
                    y == 0
                    or x == 0
                    or y == height - 1
                    or x == width - 1
                    or labels[y - 1, x] != label
                    or labels[y + 1, x] != label
                    or labels[y, x - 1] != label
                    or labels[y, x + 1] != label
                )
    return found


@compiled
def _bend(labels: NDArray[np.int32], border: NDArray[np.bool_], y: int, x: int) -> int:
    """Which kind of step the outline makes at a border pixel, as scikit-image's perimeter has it:
    the column to count it in, or -1.
    """
    label, code = labels[y, x], 1
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            if border[y + dy + 1, x + dx + 1] and labels[y + dy, x + dx] == label and (dy or dx):
                code += 10 if dy and dx else 2
    if code in (5, 7, 15, 17, 25, 27):
        return STRAIGHT
    if code in (21, 33):
        return DIAGONAL
    return BENT if code in (13, 23) else -1


@compiled
def shapes(
    labels: NDArray[np.int32],
    count: int,
    rows: tuple[int, int],
    columns: tuple[int, int],
    origin: tuple[int, int],
) -> NDArray[np.int64]:
    """Labels (H, W), 0..count, of a window; its rows and columns start..stop are the core, which
    begins at `origin` (y, x) of the slide -> (count + 1, SHAPE_COLUMNS) sums over the core.
    """
    border = borders(labels)
    sums = np.zeros((count + 1, SHAPE_COLUMNS), np.int64)
    sums[:, Y0] = sums[:, X0] = np.iinfo(np.int64).max
    for row in range(rows[0], rows[1]):
        y = row - rows[0] + origin[0]
        for column in range(columns[0], columns[1]):
            label = labels[row, column]
            if label == 0:
                continue
            x = column - columns[0] + origin[1]
            one = sums[label]
            one[AREA] += 1
            one[SUM_Y] += y
            one[SUM_X] += x
            one[SUM_YY] += y * y
            one[SUM_XX] += x * x
            one[SUM_XY] += y * x
            one[Y0] = min(one[Y0], y)
            one[X0] = min(one[X0], x)
            one[Y1] = max(one[Y1], y + 1)
            one[X1] = max(one[X1], x + 1)
            if border[row + 1, column + 1]:
                kind = _bend(labels, border, row, column)
                if kind >= 0:
                    one[kind] += 1
    return sums


@compiled
def intensities(labels: NDArray[np.int32], count: int, pixels: NDArray[Any]) -> NDArray[np.int64]:
    """Labels (h, w) and pixels (c, h, w) -> (count + 1, c, INTENSITY_COLUMNS) sums."""
    channels = pixels.shape[0]
    sums = np.zeros((count + 1, channels, INTENSITY_COLUMNS), np.int64)
    sums[:, :, LEAST] = np.iinfo(np.int64).max
    for channel in range(channels):
        plane = pixels[channel]
        for y in range(labels.shape[0]):
            for x in range(labels.shape[1]):
                label = labels[y, x]
                if label == 0:
                    continue
                value = np.int64(plane[y, x])
                one = sums[label, channel]
                one[SUM] += value
                one[SQUARES] += value * value
                one[LEAST] = min(one[LEAST], value)
                one[MOST] = max(one[MOST], value)
    return sums


@compiled
def densities(
    labels: NDArray[np.int32],
    count: int,
    pixels: NDArray[np.uint8],
    logs: NDArray[np.float64],
    unmix: NDArray[np.float64],
    unit: float,
) -> NDArray[np.int64]:
    """Labels (h, w) and colours (3, h, w) -> (count + 1, 3) sums of optical densities of three
    stains, each pixel rounded to whole 1/`unit`; `logs` (256,) is the density of each value.
    """
    sums = np.zeros((count + 1, 3), np.int64)
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            label = labels[y, x]
            if label == 0:
                continue
            red, green, blue = pixels[0, y, x], pixels[1, y, x], pixels[2, y, x]
            for stain in range(3):
                density = logs[red] * unmix[0, stain]
                density += logs[green] * unmix[1, stain]
                density += logs[blue] * unmix[2, stain]
                if density > 0:
                    sums[label, stain] += np.int64(density * unit + 0.5)
    return sums


@compiled
def _ceil(a: int, b: int) -> int:
    return -(-a // b)


@compiled
def _chain(along: NDArray[np.int64], across: NDArray[np.int64], size: int) -> int:
    """Keep of `size` points, sorted along, the lower convex chain; returns how many are kept."""
    kept = 0
    for k in range(size):
        while kept >= 2:
            a, b = kept - 2, kept - 1
            turn = (along[b] - along[a]) * (across[k] - across[a])
            turn -= (across[b] - across[a]) * (along[k] - along[a])
            if turn > 0:
                break
            kept -= 1
        along[kept], across[kept] = along[k], across[k]
        kept += 1
    return kept


@compiled
def _extents(
    labels: NDArray[np.int32], box: NDArray[np.int64], label: int, sign: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Edge midpoints furthest to the left (sign 1) or to the right (-1, mirrored) in half pixels:
    where they are along and across the rows, and how many.
    """
    height = box[2] - box[0]
    most = np.iinfo(np.int64).max
    furthest = np.full(2 * height + 1, most)  # of half rows -1 .. 2 * height - 1
    for row in range(height):
        for step in range(box[3] - box[1]):
            column = box[1] + step if sign > 0 else box[3] - 1 - step
            if labels[box[0] + row, column] == label:
                place = sign * 2 * column
                furthest[2 * row + 1] = place - 1
                furthest[2 * row] = min(furthest[2 * row], place)
                furthest[2 * row + 2] = min(furthest[2 * row + 2], place)
                break
    along, across, size = np.empty(2 * height + 1, np.int64), furthest, 0
    for half in range(2 * height + 1):
        if furthest[half] != most:
            along[size], across[size] = half - 1, furthest[half]
            size += 1
    return along, across, size


@compiled
def _bound(
    along: NDArray[np.int64], across: NDArray[np.int64], kept: int, at: int, k: int
) -> tuple[int, int]:
    """First pixel centre, counted in whole pixels, on or beyond a chain at half row `at`."""
    while k + 1 < kept - 1 and along[k + 1] < at:
        k += 1
    if kept == 1:
        return _ceil(across[0], 2), k
    run = along[k + 1] - along[k]
    place = across[k] * run + (across[k + 1] - across[k]) * (at - along[k])
    return _ceil(place, 2 * run), k


@compiled
def convex_areas(
    labels: NDArray[np.int32], names: NDArray[np.int32], boxes: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Pixels whose centre lies in the convex hull of the edge midpoints of each nucleus."""
    areas = np.zeros(len(names), np.int64)
    for index in range(len(names)):
        box, label = boxes[index], names[index]
        left_along, left, left_size = _extents(labels, box, label, 1)
        right_along, right, right_size = _extents(labels, box, label, -1)
        left_size = _chain(left_along, left, left_size)
        right_size = _chain(right_along, right, right_size)
        a = b = 0
        for row in range(box[2] - box[0]):
            first, a = _bound(left_along, left, left_size, 2 * row, a)
            last, b = _bound(right_along, right, right_size, 2 * row, b)
            areas[index] += max(0, -last - first + 1)
    return areas


@compiled
def blocks(
    seen: NDArray[np.uint8],
    corner: tuple[int, int],
    shape: tuple[int, int],
    phase: tuple[int, int],
    amount: tuple[int, int],
    side: int,
) -> NDArray[np.int64]:
    """Pixels (H, W, 3) of a window -> for each block of `side` px that the core touches: its
    pixels, their sum and sum of squares (all channels as one), and sums of squared differences
    to the pixels 1 and 4 further on, both ways. The core of `shape` begins at `corner`, and
    `phase` px into a block.
    """
    found = np.zeros((amount[0], amount[1], 5), np.int64)
    for y in range(shape[0]):
        for x in range(shape[1]):
            one = found[(y + phase[0]) // side, (x + phase[1]) // side]
            value = _light(seen, corner[0] + y, corner[1] + x)
            one[0] += 1
            one[1] += value
            one[2] += value * value
            for step, place in ((1, 3), (4, 4)):
                down = _light(seen, corner[0] + y + step, corner[1] + x) - value
                right = _light(seen, corner[0] + y, corner[1] + x + step) - value
                one[place] += down * down + right * right
    return found


@compiled
def _light(seen: NDArray[np.uint8], y: int, x: int) -> int:
    return int(seen[y, x, 0]) + int(seen[y, x, 1]) + int(seen[y, x, 2])
