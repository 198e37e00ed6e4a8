"""Labels of a window -> the outline of each nucleus (WKB), and the area of its convex hull.
Compiled: import it inside functions.

It does what `tracing` and `outline` do together, for the many nuclei that have a single ring; those
of others are left to them. Coordinates are counted in half pixels from a nucleus's box. Places in
arrays are unsigned, and views are few: signed ones are checked, and each view is counted.
"""

from __future__ import annotations

import numpy as np
from numpy import uintp
from numpy.typing import NDArray

from nucleiflow.kernels import compiled, lean

DY = np.array([0, 1, 0, -1])  # right, down, left, up: the nucleus is on the right-hand side
DX = np.array([1, 0, -1, 0])
UP, BACK = np.array([0, 0, -1, -1]), np.array([0, -1, -1, 0])  # to the pixel ahead, at the right
MOST_POINTS = 300  # of an outline that is looked through for places where it meets itself
NOWHERE = 1 << 40  # of a row without a pixel
SURE = 1 - 1e-9  # of a distance that is not rounded as others are
HEAD = np.array([1, 3, 0, 0, 0, 1, 0, 0, 0], np.uint8)  # of a WKB polygon with one ring

Bytes = NDArray[np.uint8]
Numbers = NDArray[np.float64]
Whole = NDArray[np.int64]


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
    room, chains = np.empty(1 << 12, np.uint8), np.empty((4, 256), np.int64)
    ring, spans, keep = np.empty((2, 64)), np.empty((2, 64), np.int64), np.empty(64, np.bool_)
    value = np.empty(1)
    bits = value.view(np.uint64)
    sides, steps = np.empty((4, MOST_POINTS)), np.empty((3, 4), np.int64)
    for index in range(len(names)):
        y0, x0, y1, x1 = boxes[index]
        height, width = y1 - y0, x1 - x0
        if (height + 2) * (width + 2) > len(room):
            room = np.empty(2 * (height + 2) * (width + 2), np.uint8)
        if 2 * height + 1 > chains.shape[1]:
            chains = np.empty((4, 4 * height), np.int64)
        tops = _drawn(labels, names[index], (y0, x0, y1, x1), room)
        if not tops:
            continue
        hulls[index] = _hull_area(room, height, width, chains)
        count, visited = _walked(room, width + 2, ring, steps)
        while not count:
            ring = np.empty((2, 2 * ring.shape[1]))
            count, visited = _walked(room, width + 2, ring, steps)
        if visited < tops:  # there are other rings
            continue
        if ring.shape[1] > len(keep):
            spans, keep = np.empty((2, ring.shape[1]), np.int64), np.empty(ring.shape[1], np.bool_)
        keep[:count] = False
        _keep(ring, 0, count, 2 * move, keep, spans)
        count = _moved_up(ring, count, keep)
        if not _is_simple(ring, count, sides):
            continue
        length = 13 + 16 * count
        if amount + length > len(wkb):
            more = np.empty(2 * (amount + length), np.uint8)
            more[:amount] = wkb[:amount]
            wkb = more
        corner = origin[0] + y0, origin[1] + x0
        amount = _pack(ring, count, corner, scale, wkb, amount, value, bits)
        lengths[index] = length
    return wkb[:amount].copy(), lengths, hulls


@lean
def _drawn(
    labels: NDArray[np.int32], name: int, box: tuple[int, int, int, int], mask: Bytes
) -> int:
    """Draw a nucleus (h + 2, w + 2), with nothing around; how many of its pixels have none above
    them.
    """
    y0, x0, y1, x1 = box
    tops, pitch = 0, x1 - x0 + 2
    mask[:pitch] = 0
    at = pitch
    for y in range(y0, y1):
        mask[uintp(at)] = 0
        for k in range(pitch - 2):
            mask[uintp(at + 1 + k)] = labels[uintp(y), uintp(x0 + k)] == name
        for k in range(at + 1, at + pitch - 1):
            tops += mask[uintp(k)] & (mask[uintp(k - pitch)] ^ 1)
        at += pitch
        mask[uintp(at - 1)] = 0
    mask[at : at + pitch] = 0
    return tops


@lean
def _walked(mask: Bytes, pitch: int, ring: Numbers, steps: Whole) -> tuple[int, int]:
    """The closed ring around the first pixel in raster order: the midpoints of sides where it
    bends, how many of these points there are, 0 if there is no room for more, and how many upper
    sides it has. `steps` is room.
    """
    for heading in range(4):  # to the next corner, and to the two pixels ahead from there
        left, steps[0, heading] = (heading + 3) & 3, DY[heading] * pitch + DX[heading]
        steps[1, heading] = steps[0, heading] + UP[heading] * pitch + BACK[heading]
        steps[2, heading] = steps[0, heading] + UP[left] * pitch + BACK[left]
    first = 0
    while not mask[uintp(first)]:
        first += 1
    at, heading, before, visited = first, 0, 3, 0  # it came up, for there is nothing to the left
    y, x, amount = 2 * (first // pitch - 1), 2 * (first % pitch - 1), 0
    while True:
        visited += heading == 0
        dy, dx = DY[uintp(heading)], DX[uintp(heading)]
        inside = int(mask[uintp(at + steps[1, uintp(heading)])])
        beside = int(mask[uintp(at + steps[2, uintp(heading)])])
        at += steps[0, uintp(heading)]
        after = (heading + 1 - inside + 3 * (inside & beside)) & 3  # to the right, on, or left
        if amount + 1 == ring.shape[1]:
            return 0, 0
        ring[0, uintp(amount)], ring[1, uintp(amount)] = x + dx, y + dy
        amount += (heading != before) | (heading != after)
        y, x = y + 2 * dy, x + 2 * dx
        before, heading = heading, after
        if at == first and heading == 0:
            ring[0, amount], ring[1, amount] = ring[0, 0], ring[1, 0]
            return amount + 1, visited


@lean
def _is_simple(ring: Numbers, size: int, room: Numbers) -> bool:
    """Whether a closed ring of so many points, x and y (2, n), surely meets itself nowhere.
    Coordinates are whole numbers; `room` is for the bounds of its sides, (4, n).
    """
    count = size - 1
    if not 3 <= count <= room.shape[1]:
        return False
    for i in range(count):
        after = i + 2 if i + 2 <= count else 1
        if _side(ring, i, i + 1, after) == 0 and _ahead(ring, i, i + 1, after) <= 0:
            return False  # it goes back, or nowhere
        for axis in range(2):
            a, b = ring[axis, uintp(i)], ring[axis, uintp(i + 1)]
            room[2 * axis, uintp(i)] = min(b, a)
            room[2 * axis + 1, uintp(i)] = max(a, b)
    for i in range(count):
        x0, x1, y0, y1 = room[0, i], room[1, i], room[2, i], room[3, i]
        near, last = 0, count - (i == 0)
        for j in range(i + 2, last):
            in_x = (room[0, uintp(j)] <= x1) & (x0 <= room[1, uintp(j)])
            near += in_x & (room[2, uintp(j)] <= y1) & (y0 <= room[3, uintp(j)])
        for j in range(i + 2, last if near else 0):
            if (
                max(x0, room[0, j]) <= min(x1, room[1, j])
                and max(y0, room[2, j]) <= min(y1, room[3, j])
                and _side(ring, i, i + 1, j) * _side(ring, i, i + 1, j + 1) <= 0
                and _side(ring, j, j + 1, i) * _side(ring, j, j + 1, i + 1) <= 0
            ):
                return False
    return True


@lean
def _apart(ring: Numbers, a: int, b: int) -> tuple[float, float]:
    """From the point a to the point b."""
    x = ring[0, uintp(b)] - ring[0, uintp(a)]
    return x, ring[1, uintp(b)] - ring[1, uintp(a)]


@lean
def _side(ring: Numbers, a: int, b: int, c: int) -> float:
    """On which side of the line through the points a and b the point c lies."""
    (x, y), (u, v) = _apart(ring, a, b), _apart(ring, a, c)
    return x * v - y * u


@lean
def _ahead(ring: Numbers, a: int, b: int, c: int) -> float:
    """How far it goes on in the direction from a to b, from there to c."""
    (x, y), (u, v) = _apart(ring, a, b), _apart(ring, b, c)
    return x * u + y * v


@lean
def _pack(
    ring: Numbers,
    count: int,
    corner: tuple[int, int],
    scale: tuple[float, float],
    wkb: Bytes,
    at: int,
    value: Numbers,
    bits: NDArray[np.uint64],
) -> int:
    """So many points of a closed ring, x and y (2, n) -> WKB of its polygon, in pixels of the
    slide; where it ends. `value` and its `bits` are room for one.
    """
    for k in range(9):
        wkb[uintp(at + k)] = HEAD[k]
    for k in range(4):
        wkb[at + 9 + k] = count >> 8 * k & 255
    at += 13
    for point in range(count):
        for axis in range(2):
            value[0] = (ring[axis, uintp(point)] / 2 + corner[1 - axis]) * scale[1 - axis]
            for k in range(8):
                wkb[uintp(at + k)] = bits[0] >> np.uint64(8 * k) & np.uint64(255)
            at += 8
    return at


# as few points as an outline needs


@lean
def _moved_up(ring: Numbers, count: int, keep: NDArray[np.bool_]) -> int:
    """Move the points that are kept to the front; returns how many there are."""
    amount = 0
    for k in range(count):
        for axis in range(2):
            ring[axis, uintp(amount)] = ring[axis, uintp(k)]
        amount += keep[uintp(k)]
    return amount


@compiled
def kept(
    points: NDArray[np.float64], starts: NDArray[np.int64], ends: NDArray[np.int64], move: float
) -> NDArray[np.bool_]:
    """Points of closed rings that an outline needs so that no point of it moves by more than
    `move`: Ramer (1972), Douglas and Peucker (1973), from the first point and that furthest off.
    """
    keep = np.zeros(len(points), np.bool_)
    rings, spans = np.empty((2, len(points))), np.empty((2, len(points)), np.int64)
    rings[0], rings[1] = points[:, 0], points[:, 1]
    for ring in range(len(starts)):
        _keep(rings, starts[ring], ends[ring], move, keep, spans)
    return keep


@lean
def _keep(
    ring: Numbers, start: int, end: int, move: float, keep: NDArray[np.bool_], spans: Whole
) -> None:
    """Mark what is kept of the ring of points `start` to `end`, x and y (2, n);
    `spans` is room for what is still to be looked at, (2, n).
    """
    first, last = start, end - 1
    far, most = first, -1.0
    for k in range(first + 1, last):
        x, y = _apart(ring, first, k)
        apart = x * x + y * y
        if apart > most:
            far, most = k, apart
    keep[first] = keep[far] = keep[last] = True
    spans[0, 0], spans[1, 0], spans[0, 1], spans[1, 1] = first, far, far, last
    depth = 2
    while depth:
        depth -= 1
        a, b = spans[0, uintp(depth)], spans[1, uintp(depth)]
        far = _furthest(ring, a, b, move * move)
        if far >= 0:
            keep[uintp(far)] = True
            here = uintp(depth)
            spans[1, here] = far
            depth += far - a > 1
            here = uintp(depth)
            spans[0, here], spans[1, here] = far, b
            depth += b - far > 1


@lean
def _furthest(ring: Numbers, a: int, b: int, most: float) -> int:
    """The point between a and b that is furthest from the piece of line between these, by a squared
    distance of more than `most`; -1 if none is.
    """
    far, (dx, dy) = -1, _apart(ring, a, b)
    long = dx * dx + dy * dy
    bound = most * long * SURE
    for k in range(a + 1, b):
        x, y = _apart(ring, a, k)
        ahead, beside = x * dx + y * dy, x * dy - y * dx
        rough = beside * beside  # a squared distance times `long`
        if ahead < 0:
            rough = (x * x + y * y) * long
        elif ahead > long:
            rough = ((x - dx) * (x - dx) + (y - dy) * (y - dy)) * long
        if rough < bound:
            continue
        share = min(1.0, max(0.0, ahead / long)) if long > 0 else 0.0
        off_x, off_y = x - share * dx, y - share * dy
        apart = off_x * off_x + off_y * off_y
        if apart > most:
            far, most, bound = k, apart, rough * SURE
    return far


# areas of convex hulls


@lean
def _pushed(chains: Whole, which: int, kept: int, at: int, place: int) -> int:
    """Add a point to a lower convex chain of `kept` points; returns how many it has then."""
    along, across = 2 * which, 2 * which + 1
    while kept >= 2:
        a, b = uintp(kept - 2), uintp(kept - 1)
        turn = (chains[along, b] - chains[along, a]) * (place - chains[across, a])
        turn -= (chains[across, b] - chains[across, a]) * (at - chains[along, a])
        if turn > 0:
            break
        kept -= 1
    chains[along, uintp(kept)], chains[across, uintp(kept)] = at, place
    return kept + 1


@lean
def _chain(mask: Bytes, height: int, width: int, chains: Whole, which: int) -> int:
    """The convex chain of the edge midpoints furthest to the left (0) or to the right (1, mirrored)
    of a nucleus with nothing around (h + 2, w + 2), in half pixels: where its points are along and
    across the rows, two lines of `chains`; and how many.
    """
    sign, size = 1 - 2 * which, 0
    before = NOWHERE
    for row in range(height + 1):
        at = (row + 1) * (width + 2) + (width + 1) * which
        step = 1
        while step <= width and not mask[uintp(at + sign * step)]:
            step += 1
        place = NOWHERE if step > width else 2 * (step - 1) - 2 * (width - 1) * which
        if abs(place - before) > 2:  # else it lies within the chain
            size = _pushed(chains, which, size, 2 * row - 1, min(before, place))
        if place != NOWHERE:
            size = _pushed(chains, which, size, 2 * row, place - 1)
        before = place
    return size


@lean
def _bound(chains: Whole, which: int, kept: int, at: int, k: int) -> tuple[int, int]:
    """First pixel centre, counted in whole pixels, on or beyond a chain at half row `at`."""
    along, across = 2 * which, 2 * which + 1
    while k + 1 < kept - 1 and chains[along, uintp(k + 1)] < at:
        k += 1
    a, b = uintp(k), uintp(k + 1)
    run = chains[along, b] - chains[along, a]
    place = chains[across, a] * run
    place += (chains[across, b] - chains[across, a]) * (at - chains[along, a])
    return int(np.ceil(place / (2 * run))), k


@lean
def _hull_area(mask: Bytes, height: int, width: int, chains: Whole) -> int:
    """Pixels whose centre lies in the convex hull of the edge midpoints of a nucleus, drawn with
    nothing around (h + 2, w + 2); `chains` is room, (4, 2 h + 1).
    """
    left = _chain(mask, height, width, chains, 0)
    right = _chain(mask, height, width, chains, 1)
    found = a = b = 0
    if not left:
        return 0
    for row in range(height):
        first, a = _bound(chains, 0, left, 2 * row, a)
        last, b = _bound(chains, 1, right, 2 * row, b)
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
        mask = np.empty((y1 - y0 + 2) * (x1 - x0 + 2), np.uint8)
        _drawn(labels, names[index], (y0, x0, y1, x1), mask)
        chains = np.empty((4, 2 * (y1 - y0) + 1), np.int64)
        areas[index] = _hull_area(mask, y1 - y0, x1 - x0, chains)
    return areas
