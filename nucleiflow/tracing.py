"""Labels of a window -> the rings around each nucleus. Compiled: import it inside functions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nucleiflow.kernels import compiled

DY = np.array([0, 1, 0, -1])  # right, down, left, up: the nucleus is on the right-hand side
DX = np.array([1, 0, -1, 0])


@compiled
def _is(labels: NDArray[np.int32], y: int, x: int, label: int) -> bool:
    return 0 <= y < labels.shape[0] and 0 <= x < labels.shape[1] and labels[y, x] == label


@compiled
def _turn(labels: NDArray[np.int32], y: int, x: int, heading: int, label: int) -> int:
    """Where to go on at the corner (y, x): pixels that meet at a corner only are kept apart."""
    dy, dx = DY[heading], DX[heading]
    right_y, right_x = y + (dy + dx - 1) // 2, x + (dx - dy - 1) // 2
    left_y, left_x = y + (dy - dx - 1) // 2, x + (dx + dy - 1) // 2
    if not _is(labels, right_y, right_x, label):
        return (heading + 1) % 4
    return (heading + 3) % 4 if _is(labels, left_y, left_x, label) else heading


@compiled
def _edges(labels: NDArray[np.int32], box: NDArray[np.int64], label: int) -> int:
    """Sides of pixels that have the nucleus on one side only."""
    found = 0
    for y in range(box[0], box[2]):
        for x in range(box[1], box[3]):
            if labels[y, x] == label:
                for heading in range(4):
                    found += not _is(labels, y + DY[heading], x + DX[heading], label)
    return found


@compiled
def rings(
    labels: NDArray[np.int32], names: NDArray[np.int32], boxes: NDArray[np.int64], cracks: bool
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Closed rings of all nuclei: points (n, 2) as (x, y), where each ring ends in them, and the
    nucleus of each ring. Pixel corners are at whole numbers.

    A ring goes through the midpoints of pixel sides or, with `cracks`, around the corners. It
    begins at the first pixel in raster order that lies on it.
    """
    sides = np.zeros(len(names), np.int64)
    for index in range(len(names)):
        sides[index] = _edges(labels, boxes[index], names[index])
    points = np.empty((sides.sum() + sides.sum() // 4 + 4, 2), np.float64)
    ends = np.empty(sides.sum() // 4 + 1, np.int64)
    owners = np.empty(sides.sum() // 4 + 1, np.int64)
    amount = found = 0
    for index in range(len(names)):
        box, label = boxes[index], names[index]
        seen = np.zeros((box[2] - box[0], box[3] - box[1]), np.bool_)
        headings = np.empty(sides[index] + 1, np.int8)
        for y in range(box[0], box[2]):
            for x in range(box[1], box[3]):
                if (
                    labels[y, x] != label
                    or seen[y - box[0], x - box[1]]
                    or _is(labels, y - 1, x, label)
                ):
                    continue
                length = _follow(labels, label, y, x, box, seen, headings)
                begin = amount
                amount = _emit(points, amount, y, x, headings, length, cracks)
                points[amount] = points[begin]
                amount += 1
                ends[found], owners[found] = amount, index
                found += 1
    return points[:amount], ends[:found], owners[:found]


@compiled
def _follow(
    labels: NDArray[np.int32],
    label: int,
    y: int,
    x: int,
    box: NDArray[np.int64],
    seen: NDArray[np.bool_],
    headings: NDArray[np.int8],
) -> int:
    """Walk once around, from the top side of pixel (y, x); returns the number of steps."""
    at_y, at_x, heading, length = y, x, 0, 0
    while True:
        if heading == 0:
            seen[at_y - box[0], at_x - box[1]] = True
        headings[length] = heading
        length += 1
        at_y, at_x = at_y + DY[heading], at_x + DX[heading]
        heading = _turn(labels, at_y, at_x, heading, label)
        if at_y == y and at_x == x and heading == 0:
            return length


@compiled
def _emit(
    points: NDArray[np.float64],
    amount: int,
    y: int,
    x: int,
    headings: NDArray[np.int8],
    length: int,
    cracks: bool,
) -> int:
    """Write the points of a ring where it bends; returns how many points there are now."""
    for step in range(length):
        heading, before = headings[step], headings[step - 1 if step else length - 1]
        after = headings[step + 1 if step + 1 < length else 0]
        if cracks:
            if heading != before:
                points[amount, 0], points[amount, 1] = x, y
                amount += 1
        elif heading != before or heading != after:
            points[amount, 0], points[amount, 1] = x + DX[heading] / 2, y + DY[heading] / 2
            amount += 1
        y, x = y + DY[heading], x + DX[heading]
    return amount


@compiled
def kept(
    points: NDArray[np.float64], starts: NDArray[np.int64], ends: NDArray[np.int64], move: float
) -> NDArray[np.bool_]:
    """Points of closed rings that an outline needs so that no point of it moves by more than
    `move`: Ramer (1972), Douglas and Peucker (1973), from the first point and that furthest off.
    """
    keep = np.zeros(len(points), np.bool_)
    stack = np.empty((64 + len(points), 2), np.int64)
    for ring in range(len(starts)):
        first, last = starts[ring], ends[ring] - 1
        far, most = first, -1.0
        for k in range(first + 1, last):
            apart = (points[k, 0] - points[first, 0]) ** 2 + (points[k, 1] - points[first, 1]) ** 2
            if apart > most:
                far, most = k, apart
        keep[first] = keep[far] = keep[last] = True
        stack[0, 0], stack[0, 1] = first, far
        stack[1, 0], stack[1, 1] = far, last
        depth = 2
        while depth:
            depth -= 1
            a, b = stack[depth]
            far, most = -1, move * move
            for k in range(a + 1, b):
                apart = _apart(points, k, a, b)
                if apart > most:
                    far, most = k, apart
            if far >= 0:
                keep[far] = True
                stack[depth, 0], stack[depth, 1] = a, far
                stack[depth + 1, 0], stack[depth + 1, 1] = far, b
                depth += 2
    return keep


@compiled
def _apart(points: NDArray[np.float64], k: int, a: int, b: int) -> float:
    """Squared distance of point k from the piece of line from a to b."""
    x, y = points[k, 0] - points[a, 0], points[k, 1] - points[a, 1]
    dx, dy = points[b, 0] - points[a, 0], points[b, 1] - points[a, 1]
    long = dx * dx + dy * dy
    share = min(1.0, max(0.0, (x * dx + y * dy) / long)) if long > 0 else 0.0
    return (x - share * dx) ** 2 + (y - share * dy) ** 2
