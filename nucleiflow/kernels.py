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
from numpy import uintp
from numpy.typing import NDArray

inner = numba.njit(nogil=True)  # called by other loops only: kept as a part of them
# The same of a loop that makes and returns no arrays: who holds those that it is given is not
# counted at each call, which takes longer than what a small one does. Never return an array.
lean = numba.njit(nogil=True, _nrt=False)


def load() -> None:
    """Load what numba needs at the first call of any loop."""
    cpu_target.typing_context.refresh()
    cpu_target.target_context.refresh()


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


STEP = 1 << 20  # one step of the next kind, where three kinds are counted in one number


def _kinds() -> NDArray[np.int64]:
    """Which step the outline makes at a border pixel, as scikit-image's perimeter has it: by how
    many border pixels of the same nucleus are beside it, and 9 times those that are at its corners.
    """
    found = np.zeros(4 + 9 * 4 + 1, np.int64)
    for beside in range(5):
        for corners in range(5):
            code = 1 + 2 * beside + 10 * corners
            straight, diagonal = code in (5, 7, 15, 17, 25, 27), code in (21, 33)
            kinds = straight + STEP * diagonal + STEP**2 * (code in (13, 23))
            found[beside + 9 * corners] = kinds
    return found


KINDS = _kinds()


@lean
def _border(labels: NDArray[np.int32], width: int, y: int, row: NDArray[np.int32]) -> None:
    """Labels (H, W) as one row -> their row `y`, where something else is beside a pixel, else 0."""
    here = y * width
    for x in range(1, width - 1):
        at = uintp(here + x)
        one = labels[at]
        apart = (labels[at - uintp(1)] ^ one) | (labels[at + uintp(1)] ^ one)
        apart |= (labels[at - uintp(width)] ^ one) | (labels[at + uintp(width)] ^ one)
        row[uintp(x)] = one if apart != 0 else 0


@lean
def _steps(
    above: NDArray[np.int32],
    row: NDArray[np.int32],
    below: NDArray[np.int32],
    start: int,
    stop: int,
) -> np.int64:
    """Steps of the outline at a run of one nucleus; rows hold labels at borders only."""
    found = np.int64(0)
    for x in range(start, stop):
        here = uintp(x)
        label = row[here]
        if label != 0:
            left, right = here - uintp(1), here + uintp(1)
            beside = uintp(above[here] == label) + uintp(below[here] == label)
            beside += uintp(row[left] == label) + uintp(row[right] == label)
            corners = uintp(above[left] == label) + uintp(above[right] == label)
            corners += uintp(below[left] == label) + uintp(below[right] == label)
            found += KINDS[beside + uintp(9) * corners]
    return found


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
def _add_light(one: NDArray[np.int64], pixels: NDArray[Any], begin: int, end: int) -> None:
    total = squares = most = np.int64(0)
    least = one[LEAST]
    for k in range(begin, end):
        value = np.int64(pixels[uintp(k)])
        total += value
        squares += value * value
        least, most = min(least, value), max(most, value)
    one[SUM] += total
    one[SQUARES] += squares
    one[LEAST], one[MOST] = least, max(one[MOST], most)


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
    parts: NDArray[np.int32],
    count: int,
    origin: tuple[int, int],
    pixels: NDArray[Any],
    probability: NDArray[np.uint8],
    densities: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Labels (H + 2, W + 2), 0..count, of a window at `origin` of the slide, with zeros around;
    parts of the core, as `runwise.parted` makes them; pixels (c, n) and nucleus map (n,) of the
    core's foreground; densities (3, values, 3) of each value of each colour, or (3, 0, 3) -> the
    columns of each label's shape, channels and the rest.
    """
    height, width = labels.shape
    flat, lights, amount = labels.reshape(-1), pixels.reshape(-1), pixels.shape[1]
    borders, known = np.zeros((3, width), np.int32), 0  # of the last rows, the last known one too
    shapes = np.zeros((count + 1, SHAPE_COLUMNS), np.int64)
    light = np.zeros((count + 1, pixels.shape[0], INTENSITY_COLUMNS), np.int64)
    rest = np.zeros((count + 1, REST_COLUMNS), np.int64)
    shapes[:, Y0] = shapes[:, X0] = np.iinfo(np.int64).max
    light[:, :, LEAST] = np.iinfo(np.int64).max
    for k in range(len(parts)):
        y, start, stop, label, begin = parts[k]
        end, one = begin + stop - start, shapes[label]
        _add_shape(one, origin[0] + y, origin[1] + start, stop - start)
        for row in range(max(known + 1, y), y + 3):
            known = row
            if row == height - 1:
                borders[row % 3] = 0
            else:
                _border(flat, width, row, borders[row % 3])
        above, here, below = borders[y % 3], borders[(y + 1) % 3], borders[(y + 2) % 3]
        steps = _steps(above, here, below, start + 1, stop + 1)
        one[STRAIGHT] += steps % STEP
        one[DIAGONAL] += steps // STEP % STEP
        one[BENT] += steps // STEP**2
        for channel in range(pixels.shape[0]):
            first = channel * amount + begin
            _add_light(light[label, channel], lights, first, first + end - begin)
        total = np.int64(0)
        for x in range(begin, end):
            total += probability[uintp(x)]
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
            length = ground[k, 2] - ground[k, 1]
            for x in range(length):
                found[channel, uintp(filled + x)] = row[uintp(start + x)]
            filled += length
    return found


gathered = {kind: compiled(_gathered, f"gathered-{kind}") for kind in ("uint8", "uint16")}
