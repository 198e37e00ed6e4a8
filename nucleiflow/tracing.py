"""Labels of a window -> the rings around each nucleus. Compiled: import it inside functions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nucleiflow.kernels import compiled, inner

DY = np.array([0, 1, 0, -1])  # right, down, left, up: the nucleus is on the right-hand side
DX = np.array([1, 0, -1, 0])


@inner
def _is(labels: NDArray[np.int32], y: int, x: int, label: int) -> bool:
    return 0 <= y < labels.shape[0] and 0 <= x < labels.shape[1] and labels[y, x] == label


@inner
def _turn(labels: NDArray[np.int32], y: int, x: int, heading: int, label: int) -> int:
    """Where to go on at the corner (y, x): pixels that meet at a corner only are kept apart."""
    dy, dx = DY[heading], DX[heading]
    if not _is(labels, y + (dy + dx - 1) // 2, x + (dx - dy - 1) // 2, label):
        return (heading + 1) & 3
    if _is(labels, y + (dy - dx - 1) // 2, x + (dx + dy - 1) // 2, label):
        return (heading + 3) & 3
    return heading


@compiled
def rings(
    labels: NDArray[np.int32], names: NDArray[np.int32], boxes: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Closed rings of all nuclei through the midpoints of their pixels' sides: points (n, 2) as
    (x, y), where each ring ends in them, and the nucleus of each. Pixel corners are at whole
    numbers. A ring begins at the first pixel in raster order that lies on it.
    """
    points, amount, found = np.empty((1024, 2), np.float64), 0, 0
    ends, owners = np.empty(1024, np.int64), np.empty(1024, np.int64)
    headings = np.empty(1024, np.int8)
    for index in range(len(names)):
        y0, x0, y1, x1 = boxes[index]
        label = names[index]
        seen = np.zeros((y1 - y0, x1 - x0), np.bool_)
        for y in range(y0, y1):
            for x in range(x0, x1):
                if (
                    labels[y, x] != label
                    or (y > 0 and labels[y - 1, x] == label)
                    or seen[y - y0, x - x0]
                ):
                    continue
                headings, length = _follow(labels, label, y, x, (y0, x0), seen, headings)
                points = _roomy(points, amount + length + 1)
                amount = _emit(points, amount, y, x, headings, length)
                if found == len(ends):
                    ends, owners = _longer(ends), _longer(owners)
                ends[found], owners[found] = amount, index
                found += 1
    return points[:amount].copy(), ends[:found].copy(), owners[:found].copy()


@inner
def _longer(array: NDArray[np.int64]) -> NDArray[np.int64]:
    more = np.empty(2 * len(array), array.dtype)
    more[: len(array)] = array
    return more


@inner
def _roomy(points: NDArray[np.float64], needed: int) -> NDArray[np.float64]:
    if needed <= len(points):
        return points
    more = np.empty((2 * needed, 2), np.float64)
    more[: len(points)] = points
    return more


@inner
def _follow(
    labels: NDArray[np.int32],
    label: int,
    y: int,
    x: int,
    corner: tuple[int, int],
    seen: NDArray[np.bool_],
    headings: NDArray[np.int8],
) -> tuple[NDArray[np.int8], int]:
    """Walk once around, from the top side of pixel (y, x): the steps, and how many."""
    at_y, at_x, heading, length = y, x, 0, 0
    while True:
        if heading == 0:
            seen[at_y - corner[0], at_x - corner[1]] = True
        if length == len(headings):
            headings = _longer(headings)
        headings[length] = heading
        length += 1
        at_y, at_x = at_y + DY[heading], at_x + DX[heading]
        heading = _turn(labels, at_y, at_x, heading, label)
        if heading == 0 and at_y == y and at_x == x:
            return headings, length


@inner
def _emit(
    points: NDArray[np.float64],
    amount: int,
    y: int,
    x: int,
    headings: NDArray[np.int8],
    length: int,
) -> int:
    """Write the midpoints of a ring where it bends; returns how many points there are now."""
    begin, before = amount, headings[length - 1]
    for step in range(length):
        heading = headings[step]
        after = headings[step + 1 if step + 1 < length else 0]
        if heading != before or heading != after:
            points[amount, 0], points[amount, 1] = x + DX[heading] / 2, y + DY[heading] / 2
            amount += 1
        y, x, before = y + DY[heading], x + DX[heading], heading
    points[amount] = points[begin]
    return amount + 1


@compiled
def linked(
    sides: NDArray[np.int64], width: int
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """The rings of one nucleus, as `rings` has them, from all sides that its outline has: points,
    where each ring ends in them, and the ring of each side.

    A side is `(y * width + x) * 4 + heading`, from the corner where it begins; they are sorted.
    """
    points, amount, found = np.empty((len(sides) + len(sides) // 4 + 1, 2), np.float64), 0, 0
    ends, headings = np.empty(len(sides) // 4 + 1, np.int64), np.empty(len(sides), np.int8)
    ring = np.full(len(sides), -1)
    for first in range(len(sides)):
        if sides[first] & 3 or ring[first] >= 0:
            continue
        place, length = first, 0
        while ring[place] < 0:
            ring[place] = found
            heading = sides[place] & 3
            headings[length] = heading
            length += 1
            corner = sides[place] // 4 + DY[heading] * width + DX[heading]
            for turn in (1, 0, 3):  # to the right first, as above
                side = corner * 4 + ((heading + turn) & 3)
                place = np.searchsorted(sides, side)
                if place < len(sides) and sides[place] == side:
                    break
        y, x = sides[first] // 4 // width, sides[first] // 4 % width
        amount = _emit(points, amount, y, x, headings, length)
        ends[found] = amount
        found += 1
    return points[:amount].copy(), ends[:found].copy(), ring


@compiled
def parts(
    sides: NDArray[np.int64], width: int, ring: NDArray[np.int64], outer: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """The part of the nucleus that each ring is of, by the outer rings' order; `sides` and their
    `ring` as above.

    To the left of a hole's first side is its part, and then, where that ends, another ring of it:
    the outer one, or that of a hole which begins before this one.
    """
    found = np.where(outer, np.cumsum(outer) - 1, -1)
    for place in range(len(sides)):
        if sides[place] & 3 != 2 or found[ring[place]] >= 0:
            continue
        left = np.searchsorted(sides, sides[place] + 4 * (width - 1) - 2) - 1
        while sides[left] & 3 != 3:
            left -= 1
        found[ring[place]] = found[ring[left]]
    return found
