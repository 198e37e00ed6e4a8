"""Loops over the pixels of a tile, compiled: they hold no Python, and no other thread up.

Import it inside functions: numba takes a moment. What is compiled is kept on disk, where it can be.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba.core.registry import cpu_target
from numpy.typing import NDArray

inner = numba.njit(nogil=True)  # called by other loops only: kept as a part of them
# The same of a loop that makes and returns no arrays: who holds those that it is given is not
# counted at each call, which takes longer than what a small one does. Never return an array.
lean = numba.njit(nogil=True, _nrt=False)


def compiled(function: Callable[..., Any], kind: str = "") -> Any:
    """Compile a loop, and keep it on disk if there is a place for it.

    Call it with one dtype and layout only, or name the kind: where processes compile two at once,
    numba may keep one of them under the name of the other.
    """
    folder, usual = kept(inspect.getfile(function), kind), numba.config.CACHE_DIR
    if folder is None:
        return inner(function)
    numba.config.CACHE_DIR = folder
    try:
        return numba.njit(nogil=True, cache=True)(function)
    finally:
        numba.config.CACHE_DIR = usual


@functools.cache
def kept(source: str, kind: str) -> str | None:
    """A folder for what is compiled from a file on a machine like this one, and for nothing else:
    in the folder that the user names, beside the file, or in the home folder.
    """
    machine = cpu_target.target_context.codegen().magic_tuple()
    facts = repr((machine, numba.__version__, kind)).encode() + Path(source).read_bytes()
    name = f"kernels-{hashlib.sha256(facts).hexdigest()[:16]}"
    beside, home = str(Path(source).parent / "__pycache__"), "~/.cache/nucleiflow"
    for place in filter(None, (numba.config.CACHE_DIR, beside, home)):
        folder = _writable(place, name)
        if folder is not None:
            return folder
    return None


def _writable(place: str, name: str) -> str | None:
    try:
        folder = Path(place).expanduser() / name
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return str(folder)
    except (OSError, RuntimeError):  # the latter if there is no home
        return None


# columns, int64, of what is added up for each nucleus: its shape
AREA, SUM_Y, SUM_X, SUM_YY, SUM_XX, SUM_XY, Y0, X0, Y1, X1, STRAIGHT, DIAGONAL, BENT = range(13)
SHAPE_COLUMNS = 13
# each channel
SUM, SQUARES, LEAST, MOST = range(4)
INTENSITY_COLUMNS = 4
# and the rest: the nucleus map, and the optical densities of three stains
PROBABILITY, DENSITY = 0, 1
REST_COLUMNS = 4


@inner
def _borders(labels: NDArray[np.int32], ground: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Which pixels of nuclei, within runs of the foreground, have one of something else beside
    them; labels have a margin of 1 px.
    """
    found = np.zeros(labels.shape, np.bool_)
    for k in range(len(ground)):
        y, start, stop = ground[k, 0] + 1, ground[k, 1] + 1, ground[k, 2] + 1
        row, up, down = labels[y], labels[y - 1], labels[y + 1]
        for x in range(start, stop):
            one = row[x]
            across = (row[x - 1] ^ one) | (row[x + 1] ^ one)
            found[y, x] = (one != 0) & ((across | (up[x] ^ one) | (down[x] ^ one)) != 0)
    return found


@lean
def _bend(labels: NDArray[np.int32], borders: NDArray[np.bool_], y: int, x: int) -> int:
    """Which kind of step the outline makes at a border pixel, as scikit-image's perimeter has it:
    the column to count it in, or -1.
    """
    label, code = labels[y, x], 1
    for v in (y - 1, y, y + 1):
        for u in (x - 1, x, x + 1):
            same = borders[v, u] & (labels[v, u] == label)
            code += same * (10 if v != y and u != x else 2)
    code -= 2  # itself
    if code in (5, 7, 15, 17, 25, 27):
        return STRAIGHT
    if code in (21, 33):
        return DIAGONAL
    return BENT if code in (13, 23) else -1


@lean
def _add_shape(one: NDArray[np.int64], y: int, x: int, length: int) -> None:
    """Add pixels x..x + length of row y."""
    sum_x = (2 * x + length - 1) * length // 2
    one[AREA] += length
    one[SUM_Y] += y * length
    one[SUM_X] += sum_x
    one[SUM_YY] += y * y * length
    one[SUM_XX] += length * x * x + x * length * (length - 1)
    one[SUM_XX] += (length - 1) * length * (2 * length - 1) // 6
    one[SUM_XY] += y * sum_x
    one[Y0] = min(one[Y0], y)
    one[X0] = min(one[X0], x)
    one[Y1] = max(one[Y1], y + 1)
    one[X1] = max(one[X1], x + length)


@lean
def _add_light(
    one: NDArray[np.int64], pixels: NDArray[Any], channel: int, begin: int, end: int
) -> None:
    total = squares = np.int64(0)
    least, most = np.int64(pixels[channel, begin]), np.int64(0)
    for k in range(begin, end):
        value = np.int64(pixels[channel, k])
        total += value
        squares += value * value
        least, most = min(least, value), max(most, value)
    one[SUM] += total
    one[SQUARES] += squares
    one[LEAST], one[MOST] = min(one[LEAST], least), max(one[MOST], most)


@lean
def _add_stains(
    one: NDArray[np.int64],
    pixels: NDArray[Any],
    densities: NDArray[np.int64],
    begin: int,
    end: int,
) -> None:
    for k in range(begin, end):
        red, green, blue = pixels[0, k], pixels[1, k], pixels[2, k]
        for stain in range(3):
            density = densities[0, red, stain] + densities[1, green, stain]
            one[DENSITY + stain] += max(density + densities[2, blue, stain], 0)


def _sums(  # noqa: PLR0913, PLR0917
    labels: NDArray[np.int32],
    ground: NDArray[np.int32],
    parts: NDArray[np.int32],
    count: int,
    origin: tuple[int, int],
    pixels: NDArray[Any],
    probability: NDArray[np.uint8],
    densities: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Labels (H + 2, W + 2), 0..count, of a window at `origin` of the slide, and its foreground;
    parts of the core, as `runwise.parted` makes them; pixels (c, n) and nucleus map (n,) of the
    core's foreground; densities (3, values, 3) of each value of each colour, or (3, 0, 3) -> the
    columns of each label's shape, channels and the rest.
    """
    shapes = np.zeros((count + 1, SHAPE_COLUMNS), np.int64)
    light = np.zeros((count + 1, pixels.shape[0], INTENSITY_COLUMNS), np.int64)
    rest = np.zeros((count + 1, REST_COLUMNS), np.int64)
    shapes[:, Y0] = shapes[:, X0] = np.iinfo(np.int64).max
    light[:, :, LEAST] = np.iinfo(np.int64).max
    borders = _borders(labels, ground)
    for k in range(len(parts)):
        y, start, stop, label, begin = parts[k]
        end, one = begin + stop - start, shapes[label]
        _add_shape(one, origin[0] + y, origin[1] + start, stop - start)
        for x in range(start + 1, stop + 1):
            if borders[y + 1, x]:
                kind = _bend(labels, borders, y + 1, x)
                if kind >= 0:
                    one[kind] += 1
        for channel in range(pixels.shape[0]):
            _add_light(light[label, channel], pixels, channel, begin, end)
        total = np.int64(0)
        for x in range(begin, end):
            total += probability[x]
        rest[label, PROBABILITY] += total
        if densities.shape[1]:
            _add_stains(rest[label], pixels, densities, begin, end)
    return shapes, light, rest


sums = {kind: compiled(_sums, kind) for kind in ("uint8", "uint16")}  # by the pixels' dtype


def _gathered(
    pixels: NDArray[Any], ground: NDArray[np.int32], corner: tuple[int, int], amount: int
) -> NDArray[Any]:
    """Pixels (c, h, w) that begin at `corner` of the window of the foreground -> (c, amount): its
    own, one after the other.
    """
    found = np.empty((pixels.shape[0], amount), pixels.dtype)
    for channel in range(pixels.shape[0]):
        filled = 0
        for k in range(len(ground)):
            row, start = pixels[channel, ground[k, 0] - corner[0]], ground[k, 1] - corner[1]
            for x in range(ground[k, 2] - ground[k, 1]):
                found[channel, filled + x] = row[start + x]
            filled += ground[k, 2] - ground[k, 1]
    return found


gathered = {kind: compiled(_gathered, f"gathered-{kind}") for kind in ("uint8", "uint16")}
