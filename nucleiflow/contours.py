"""Labels of a window -> the outline of each nucleus (WKB), and the area of its convex hull.
Compiled: import it inside functions.

It does what `tracing` and `outline` do together, for the many nuclei that have a single ring; those
of others are left to them. Coordinates are counted in half pixels from a nucleus's box.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nucleiflow.kernels import compiled, inner

DY = np.array([0, 1, 0, -1])  # right, down, left, up: the nucleus is on the right-hand side
DX = np.array([1, 0, -1, 0])
UP, BACK = np.array([0, 0, -1, -1]), np.array([0, -1, -1, 0])  # to the pixel ahead, at the right
MOST_POINTS = 300  # of an outline that is looked through for places where it meets itself
HEAD = np.array([1, 3, 0, 0, 0, 1, 0, 0, 0], np.uint8)  # of a WKB polygon with one ring

Points = NDArray[np.float64]


@compiled
def outlines(
    labels: NDArray[np.int32],
    names: NDArray[np.int32],
    boxes: NDArray[np.int64],
    origin: tuple[int, int],
    scale: tuple[float, float],
    move: float,
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """Labels (H, W) of a window at `origin` (y, x), nuclei and their boxes (n, 4) in it -> outlines
    one after the other, the bytes of each, 0 if it is left to others, and areas of hulls in px.

    An outline is moved by at most `move` px, and then scaled.
    """
    wkb, lengths = np.empty(1 << 16, np.uint8), np.zeros(len(names), np.int64)
    hulls, amount = np.zeros(len(names), np.int64), 0
    room, points = np.empty(1, np.uint8), np.empty((64, 2), np.float64)
    for index in range(len(names)):
        y0, x0, y1, x1 = boxes[index]
        height, width = y1 - y0, x1 - x0
        if (height + 2) * (width + 2) > len(room):
            room = np.empty(2 * (height + 2) * (width + 2), np.uint8)
        mask = room[: (height + 2) * (width + 2)].reshape(height + 2, width + 2)
        tops = _drawn(labels[y0:y1, x0:x1], names[index], mask)
        if not tops:
            continue
        hulls[index] = _hull_area(mask[1:-1, 1:-1])
        points, count, visited = _walked(mask, points)
        if visited < tops:  # there are other rings
            continue
        count = _spared(points, count, 2 * move)
        if not _is_simple(points[:count]):
            continue
        length = 13 + 16 * count
        if amount + length > len(wkb):
            more = np.empty(2 * (amount + length), np.uint8)
            more[:amount] = wkb[:amount]
            wkb = more
        corner = origin[0] + y0, origin[1] + x0
        _pack(points[:count], corner, scale, wkb[amount : amount + length])
        lengths[index] = length
        amount += length
    return wkb[:amount].copy(), lengths, hulls


@inner
def _drawn(labels: NDArray[np.int32], name: int, mask: NDArray[np.uint8]) -> int:
    """Draw a nucleus, with nothing around; how many of its pixels have none above them."""
    tops, height = 0, len(labels)
    mask[0] = mask[height + 1] = 0
    for y in range(height):
        above, row, given = mask[y, 1:-1], mask[y + 1, 1:-1], labels[y]
        mask[y + 1, 0] = mask[y + 1, -1] = 0
        for x in range(len(given)):
            row[x] = given[x] == name
        for x in range(len(given)):
            tops += row[x] & (above[x] ^ 1)
    return tops


@inner
def _walked(mask: NDArray[np.uint8], points: Points) -> tuple[Points, int, int]:
    """The closed ring around the first pixel in raster order: the midpoints of sides where it
    bends, how many of these points there are, and how many upper sides it has.
    """
    flat, pitch = mask.reshape(-1), mask.shape[1]
    first = 0
    while not flat[first]:
        first += 1
    at, heading, before, visited = first, 0, 3, 0  # it came up, for there is nothing to the left
    y, x, amount = 2 * (first // pitch - 1), 2 * (first % pitch - 1), 0
    while True:
        visited += heading == 0
        at += DY[heading] * pitch + DX[heading]
        right, left = at + UP[heading] * pitch + BACK[heading], (heading + 3) & 3
        inside, beside = np.int64(flat[right]), np.int64(flat[at + UP[left] * pitch + BACK[left]])
        after = int(heading + 1 - inside + 3 * inside * beside) & 3  # right, on, or left
        if amount + 1 == len(points):
            points = _longer(points)
        points[amount, 0], points[amount, 1] = x + DX[heading], y + DY[heading]
        amount += heading != before or heading != after
        y, x = int(y + 2 * DY[heading]), int(x + 2 * DX[heading])
        before, heading = heading, after
        if at == first and heading == 0:
            points[amount] = points[0]
            return points, amount + 1, visited


@inner
def _longer(points: Points) -> Points:
    more = np.empty((2 * len(points), 2), np.float64)
    more[: len(points)] = points
    return more


@inner
def _is_simple(points: Points) -> bool:
    """Whether a closed ring surely meets itself nowhere. Coordinates are whole numbers."""
    count = len(points) - 1
    if not 3 <= count <= MOST_POINTS:
        return False
    for i in range(count):
        after = i + 2 if i + 2 <= count else 1
        if _side(points, i, i + 1, after) == 0 and _ahead(points, i, i + 1, after) <= 0:
            return False  # it goes back, or nowhere
        x0, x1 = _ordered(points[i, 0], points[i + 1, 0])
        y0, y1 = _ordered(points[i, 1], points[i + 1, 1])
        for j in range(i + 2, count - (i == 0)):
            x2, x3 = _ordered(points[j, 0], points[j + 1, 0])
            y2, y3 = _ordered(points[j, 1], points[j + 1, 1])
            if x1 < x2 or x3 < x0 or y1 < y2 or y3 < y0:
                continue
            if (
                _side(points, i, i + 1, j) * _side(points, i, i + 1, j + 1) <= 0
                and _side(points, j, j + 1, i) * _side(points, j, j + 1, i + 1) <= 0
            ):
                return False
    return True


@inner
def _ordered(a: float, b: float) -> tuple[float, float]:
    return (a, b) if a < b else (b, a)


@inner
def _side(points: Points, a: int, b: int, c: int) -> float:
    """On which side of the line through the points a and b the point c lies."""
    ab = points[b, 0] - points[a, 0], points[b, 1] - points[a, 1]
    return ab[0] * (points[c, 1] - points[a, 1]) - ab[1] * (points[c, 0] - points[a, 0])


@inner
def _ahead(points: Points, a: int, b: int, c: int) -> float:
    """How far it goes on in the direction from a to b, from there to c."""
    ab = points[b, 0] - points[a, 0], points[b, 1] - points[a, 1]
    return ab[0] * (points[c, 0] - points[b, 0]) + ab[1] * (points[c, 1] - points[b, 1])


@inner
def _pack(
    points: Points, corner: tuple[int, int], scale: tuple[float, float], wkb: NDArray[np.uint8]
) -> None:
    """Points (n, 2) as (x, y) of a closed ring -> WKB of its polygon, in pixels of the slide."""
    value = np.empty(1, np.float64)
    bits = value.view(np.uint64)
    wkb[:9] = HEAD
    for k in range(4):
        wkb[9 + k] = len(points) >> 8 * k & 255
    at = 13
    for point in range(len(points)):
        for axis in range(2):
            value[0] = (points[point, axis] / 2 + corner[1 - axis]) * scale[1 - axis]
            for k in range(8):
                wkb[at + k] = bits[0] >> np.uint64(8 * k) & np.uint64(255)
            at += 8


# as few points as an outline needs


@inner
def _spared(points: Points, count: int, move: float) -> int:
    """Move the points of one ring that are kept to the front; returns how many there are."""
    keep = np.zeros(count, np.bool_)
    _keep(points, 0, count, move, keep)
    amount = 0
    for k in range(count):
        if keep[k]:
            points[amount, 0], points[amount, 1] = points[k, 0], points[k, 1]
            amount += 1
    return amount


@compiled
def kept(
    points: NDArray[np.float64], starts: NDArray[np.int64], ends: NDArray[np.int64], move: float
) -> NDArray[np.bool_]:
    """Points of closed rings that an outline needs so that no point of it moves by more than
    `move`: Ramer (1972), Douglas and Peucker (1973), from the first point and that furthest off.
    """
    keep = np.zeros(len(points), np.bool_)
    for ring in range(len(starts)):
        _keep(points, starts[ring], ends[ring], move, keep)
    return keep


@inner
def _keep(points: Points, start: int, end: int, move: float, keep: NDArray[np.bool_]) -> None:
    """Mark what is kept of the ring of points `start` to `end`."""
    first, last = start, end - 1
    far, most = first, -1.0
    for k in range(first + 1, last):
        x, y = points[k, 0] - points[first, 0], points[k, 1] - points[first, 1]
        apart = x * x + y * y
        if apart > most:
            far, most = k, apart
    keep[first] = keep[far] = keep[last] = True
    froms, tos = np.empty(64 + end - start, np.int64), np.empty(64 + end - start, np.int64)
    froms[0], tos[0], froms[1], tos[1] = first, far, far, last
    depth = 2
    while depth:
        depth -= 1
        a, b = froms[depth], tos[depth]
        far = _furthest(points, a, b, move * move)
        if far >= 0:
            keep[far] = True
            froms[depth], tos[depth], froms[depth + 1], tos[depth + 1] = a, far, far, b
            depth += 2


@inner
def _furthest(points: Points, a: int, b: int, most: float) -> int:
    """The point between a and b that is furthest from the piece of line between these, by a squared
    distance of more than `most`; -1 if none is.
    """
    far, ax, ay = -1, points[a, 0], points[a, 1]
    dx, dy = points[b, 0] - ax, points[b, 1] - ay
    long = dx * dx + dy * dy
    for k in range(a + 1, b):
        x, y = points[k, 0] - ax, points[k, 1] - ay
        share = min(1.0, max(0.0, (x * dx + y * dy) / long)) if long > 0 else 0.0
        off_x, off_y = x - share * dx, y - share * dy
        apart = off_x * off_x + off_y * off_y
        if apart > most:
            far, most = k, apart
    return far


# areas of convex hulls


@inner
def _ceil(a: int, b: int) -> int:
    return -(-a // b)


@inner
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


@inner
def _extents(
    mask: NDArray[np.uint8], sign: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Edge midpoints furthest to the left (sign 1) or to the right (-1, mirrored) in half pixels:
    where they are along and across the rows, and how many.
    """
    height, width = mask.shape
    most = np.iinfo(np.int64).max
    furthest = np.full(2 * height + 1, most)  # of half rows -1 .. 2 * height - 1
    for row in range(height):
        for step in range(width):
            column = step if sign > 0 else width - 1 - step
            if mask[row, column]:
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


@inner
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


@inner
def _hull_area(mask: NDArray[np.uint8]) -> int:
    """Pixels whose centre lies in the convex hull of the edge midpoints of a nucleus (h, w)."""
    left_along, left, left_size = _extents(mask, 1)
    right_along, right, right_size = _extents(mask, -1)
    left_size = _chain(left_along, left, left_size)
    right_size = _chain(right_along, right, right_size)
    found = a = b = 0
    if not left_size:
        return 0
    for row in range(len(mask)):
        first, a = _bound(left_along, left, left_size, 2 * row, a)
        last, b = _bound(right_along, right, right_size, 2 * row, b)
        found += max(0, -last - first + 1)
    return found


@compiled
def convex_areas(
    labels: NDArray[np.int32], names: NDArray[np.int32], boxes: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The same of nuclei in a window of labels."""
    areas = np.zeros(len(names), np.int64)
    for index in range(len(names)):
        y0, x0, y1, x1 = boxes[index]
        areas[index] = _hull_area((labels[y0:y1, x0:x1] == names[index]).view(np.uint8))
    return areas
