"""Outlines (WKB) and numbers of nuclei -> text of GeoJSON, or the box around the outlines.
Compiled: import it inside functions.

Numbers are those of C's "%.6g", digit for digit: the arithmetic is exact, in whole numbers. Places
in arrays are unsigned, and views are made once: signed ones are checked, and each view is counted.
"""

from __future__ import annotations

import numpy as np
from numpy import uintp
from numpy.typing import NDArray

from nucleiflow.kernels import compiled, lean

Bytes = NDArray[np.uint8]
Numbers = NDArray[np.float64]
Whole = NDArray[np.int64]


LOW = (1 << 27) - 1  # half of the bits of a double's whole part
POWERS = 10 ** np.arange(19, dtype=np.int64)
LEAST, MOST = 1e-4, 999999.5  # between which "%.6g" writes no exponent
FARTHEST = 1e13  # coordinates beyond are left to others
NUMBER_BYTES = 26  # a number takes at most, with what stands beside it
POLYGON, MULTIPOLYGON = 3, 6  # of WKB


@lean
def _put(text: Bytes, at: int, part: Bytes) -> int:
    for k in range(len(part)):
        text[uintp(at + k)] = part[k]
    return at + len(part)


@lean
def _whole(text: Bytes, at: int, number: int) -> int:
    """A whole number that is not negative."""
    digits = 1
    while number >= POWERS[uintp(digits)]:
        digits += 1
    for k in range(digits):
        rest = number // 10
        text[uintp(at + digits - 1 - k)] = 48 + number - 10 * rest
        number = rest
    return at + digits


@lean
def _decimals(text: Bytes, at: int, number: int, places: int) -> int:
    """A whole number divided by a power of ten, without zeros at the end."""
    if number < 0:
        text[uintp(at)] = 45
        number, at = -number, at + 1
    while places and number % 10 == 0:
        number, places = number // 10, places - 1
    if not places:
        return _whole(text, at, number)
    if number < POWERS[uintp(places)]:
        text[uintp(at)], text[uintp(at + 1)] = 48, 46
        for k in range(places):
            rest = number // 10
            text[uintp(at + 1 + places - k)] = 48 + number - 10 * rest
            number = rest
        return at + 2 + places
    end = _whole(text, at + 1, number)
    for k in range(at, end - 1 - places):
        text[uintp(k)] = text[uintp(k + 1)]
    text[uintp(end - 1 - places)] = 46
    return end


@lean
def _coordinate(text: Bytes, at: int, number: int) -> int:
    """A number of hundredths: one of up to 8 digits is put together before it is written."""
    if not 0 <= number < 10_000_000:
        return _decimals(text, at, number, 2)
    whole = number // 100
    rest, word, size = number - 100 * whole, 0, 1
    if rest:
        tens = rest // 10
        if rest != 10 * tens:
            word, size = 48 + rest - 10 * tens, 2
        word, size = (word << 8 | 48 + tens) << 8 | 46, size + 2
    while whole >= 10:
        rest = whole // 10
        word, size, whole = word << 8 | 48 + whole - 10 * rest, size + 1, rest
    word = word << 8 | 48 + whole
    for k in range(8):
        text[uintp(at + k)] = word >> 8 * k & 255
    return at + size


@lean
def _scaled(bits: int, places: int) -> tuple[int, int]:
    """A positive double times a power of ten -> its whole part, and whether half or more is left:
    -1 less, 0 half, 1 more.
    """
    shift = 1075 - (bits >> 52) - 27  # at least 6: the double is below 2 ** 20
    mantissa = (bits & ((1 << 52) - 1)) | (1 << 52)
    high, low = (mantissa >> 27) * POWERS[places], (mantissa & LOW) * POWERS[places]
    high, low = high + (low >> 27), low & LOW
    rest, half = high & ((1 << shift) - 1), 1 << (shift - 1)
    side = 1 if rest > half or (rest == half and low > 0) else 0 if rest == half else -1
    return high >> shift, side


@lean
def _number(text: Bytes, at: int, value: float, numbers: Numbers, bits: Whole) -> int:
    """A number to six digits; -1 if it needs an exponent. `numbers` and their `bits` are room."""
    if value < 0:
        text[uintp(at)] = 45
        value, at = -value, at + 1
    if value == 0:
        text[uintp(at)] = 48
        return at + 1
    if not LEAST <= value < MOST:
        return -1
    numbers[0] = value
    places = 0
    while places < 9 and value * POWERS[places] < 1e5:
        places += 1
    whole, side = _scaled(bits[0], places)
    if whole < 100_000 and places < 9:  # what is compared above is rounded
        places += 1
        whole, side = _scaled(bits[0], places)
    elif whole >= 1_000_000:
        places -= 1
        whole, side = _scaled(bits[0], places)
    if side > 0 or (side == 0 and whole & 1 == 1):
        whole += 1
    return _decimals(text, at, whole, places)


@lean
def _count(wkb: Bytes, at: int) -> int:
    found = np.int64(wkb[uintp(at)]) | np.int64(wkb[uintp(at + 1)]) << 8
    return int(found | np.int64(wkb[uintp(at + 2)]) << 16 | np.int64(wkb[uintp(at + 3)]) << 24)


@lean
def _header(wkb: Bytes, at: int, end: int, kind: int) -> int:
    """How many parts follow; -1 if it is something else."""
    if end - at < 9 or wkb[at] != 1 or _count(wkb, at + 1) != kind:
        return -1
    return _count(wkb, at + 5)


@lean
def _polygon(
    wkb: Bytes, at: int, end: int, text: Bytes, to: int, numbers: Numbers, bits: Whole
) -> tuple[int, int]:
    """Coordinates of a polygon: where it goes on in the WKB, -1 if it makes no sense, and in the
    text.
    """
    amount = _header(wkb, at, end, POLYGON)
    at += 9
    text[uintp(to)] = 91
    to += 1
    if amount < 1 or amount > end - at:
        return -1, to
    for ring in range(amount):
        if end - at < 4:
            return -1, to
        points = _count(wkb, at)
        at += 4
        if points < 1 or points * 16 > end - at:
            return -1, to
        if ring:
            text[uintp(to)] = 44
            to += 1
        for point in range(points):
            text[uintp(to)], text[uintp(to + 1)] = 44 if point else 91, 91
            to += 2
            for axis in range(2):
                bits[0] = _count(wkb, at) | _count(wkb, at + 4) << 32
                value, at = numbers[0], at + 8
                if not abs(value) < FARTHEST:
                    return -1, to
                to = _coordinate(text, to, np.int64(np.rint(value * 100)))
                text[uintp(to)] = 93 if axis else 44
                to += 1
        text[uintp(to)] = 93
        to += 1
    text[uintp(to)] = 93
    return at, to + 1


@lean
def _geometry(
    wkb: Bytes,
    at: int,
    end: int,
    text: Bytes,
    to: int,
    polygon: Bytes,
    multipolygon: Bytes,
    numbers: Numbers,
    bits: Whole,
) -> int:
    """An outline as GeoJSON, to a hundredth; -1 if it is none. `numbers` and their `bits`
    are room for one.
    """
    amount = _header(wkb, at, end, MULTIPOLYGON)
    if amount < 0:
        at, to = _polygon(wkb, at, end, text, _put(text, to, polygon), numbers, bits)
    else:
        to, at = _put(text, to, multipolygon), at + 9
        if amount < 1 or amount > end - at:
            return -1
        for part in range(amount):
            text[uintp(to)] = 44 if part else 91
            at, to = _polygon(wkb, at, end, text, to + 1, numbers, bits)
            if at < 0:
                return -1
        text[uintp(to)] = 93
        to += 1
    if at != end:
        return -1
    text[uintp(to)] = 125
    return to + 1


@compiled
def features(
    labels: NDArray[np.int64],
    wkb: Bytes,
    ends: NDArray[np.int64],
    values: NDArray[np.float64],
    keys: Bytes,
    key_ends: NDArray[np.int64],
    fixed: tuple[Bytes, Bytes, Bytes, Bytes, Bytes, Bytes],
) -> tuple[Bytes, NDArray[np.int64], NDArray[np.bool_]]:
    """Labels, outlines (where each ends in the WKB) and measurements (n, m) -> features, where each
    ends in the text, and which could not be written.

    `keys` are those of the measurements, with a comma before each. `fixed` is what stands before
    label, geometry, its coordinates of two kinds, measurements, and at the end.
    """
    text = np.empty(1 << 16, np.uint8)
    found, bad = np.empty(len(labels), np.int64), np.zeros(len(labels), np.bool_)
    before, geometry, polygon, multipolygon, measurements, after = fixed
    always = len(keys) + NUMBER_BYTES * values.shape[1] + 12
    for part in fixed:
        always += len(part)
    numbers = np.empty(1)
    bits = numbers.view(np.int64)
    to, start = 0, 0
    for row in range(len(labels)):
        needed = to + always + 4 * (ends[row] - start)
        if needed > len(text):
            more = np.empty(2 * needed, np.uint8)
            more[:to] = text[:to]
            text = more
        begin, to = to, _put(text, to, before)
        label = labels[row]
        for k in range(12):
            digit = label >> (44 - 4 * k) & 15
            text[uintp(to + k)] = digit + (48 if digit < 10 else 87)
        to = _put(text, to + 12, geometry)
        to = _geometry(wkb, start, ends[row], text, to, polygon, multipolygon, numbers, bits)
        start = ends[row]
        if to >= 0:
            to = _put(text, to, measurements)
            to = _measurements(text, to, values, row, keys, key_ends, numbers, bits)
        bad[row] = to < 0
        to = begin if to < 0 else _put(text, to, after)
        found[row] = to
    return text[:to].copy(), found, bad


@lean
def _measurements(
    text: Bytes,
    to: int,
    values: Numbers,
    row: int,
    keys: Bytes,
    ends: Whole,
    numbers: Numbers,
    bits: Whole,
) -> int:
    """Names and numbers, those that are finite; -1 if one needs an exponent."""
    first, begin = 1, 0  # the first one has no comma
    for k in range(len(ends)):
        if np.isfinite(values[row, k]):
            for place in range(begin + first, ends[k]):
                text[uintp(to)] = keys[uintp(place)]
                to += 1
            to = _number(text, to, values[row, k], numbers, bits)
            if to < 0:
                return -1
            first = 0
        begin = ends[k]
    return to


@compiled
def extent(wkb: Bytes, ends: Whole) -> tuple[Numbers, int]:
    """The box (x0, y0, x1, y1) around all outlines, where each ends in the WKB; and their kinds, a
    bit each, or 0 if one makes no sense.
    """
    box, kinds, start = np.array([np.inf, np.inf, -np.inf, -np.inf]), 0, 0
    number = np.empty(1)
    bits = number.view(np.int64)
    for row in range(len(ends)):
        parts, at, end = _header(wkb, start, ends[row], MULTIPOLYGON), start + 9, ends[row]
        kinds |= 1 << (POLYGON if parts < 0 else MULTIPOLYGON)
        if parts < 0:
            parts, at = 1, start
        for _ in range(parts):
            at = _bounded(wkb, at, end, box, number, bits)
            if at < 0:
                return box, 0
        if at != end:
            return box, 0
        start = end
    return box, kinds


@lean
def _bounded(wkb: Bytes, at: int, end: int, box: Numbers, number: Numbers, bits: Whole) -> int:
    """Widen the box by a polygon; where it ends in the WKB, -1 if it makes no sense."""
    rings = _header(wkb, at, end, POLYGON)
    at += 9
    if rings < 1:
        return -1
    for _ in range(rings):
        points = _count(wkb, at) if end - at >= 4 else 0
        at += 4
        if points < 1 or points * 16 > end - at:
            return -1
        for _ in range(points):
            for axis in range(2):
                bits[0] = _count(wkb, at) | _count(wkb, at + 4) << 32
                box[axis] = min(box[axis], number[0])
                box[axis + 2] = max(box[axis + 2], number[0])
                at += 8
    return at
