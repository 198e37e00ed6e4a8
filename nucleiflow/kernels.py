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
# counted at each call, which takes longer than what a small one does.
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
def _borders(labels: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Which pixels of nuclei have a pixel of something else beside them, or nothing."""
    height, width = labels.shape
    found = np.zeros(labels.shape, np.bool_)
    for y in range(height):
        for x in range(width):
            label = labels[y, x]
            if label != 0:
                found[y, x] = (
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


@inner
def _bend(labels: NDArray[np.int32], borders: NDArray[np.bool_], y: int, x: int) -> int:
    """Which kind of step the outline makes at a border pixel, as scikit-image's perimeter has it:
    the column to count it in, or -1.
    """
    label, code = labels[y, x], 1
    for v in range(max(y - 1, 0), min(y + 2, labels.shape[0])):
        for u in range(max(x - 1, 0), min(x + 2, labels.shape[1])):
            if borders[v, u] and labels[v, u] == label and (v != y or u != x):
                code += 10 if v != y and u != x else 2
    if code in (5, 7, 15, 17, 25, 27):
        return STRAIGHT
    if code in (21, 33):
        return DIAGONAL
    return BENT if code in (13, 23) else -1


@inner
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


@inner
def _add_light(one: NDArray[np.int64], values: NDArray[Any]) -> None:
    total, squares, least, most = one
    for k in range(len(values)):
        value = np.int64(values[k])
        total += value
        squares += value * value
        least, most = min(least, value), max(most, value)
    one[SUM], one[SQUARES], one[LEAST], one[MOST] = total, squares, least, most


@inner
def _add_rest(
    one: NDArray[np.int64],
    colours: NDArray[Any],
    probability: NDArray[np.uint8],
    densities: NDArray[np.int64],
) -> None:
    """Of a run (n,) of the nucleus map and its colours (3, n); no `densities` are not asked for."""
    for k in range(len(probability)):
        one[PROBABILITY] += probability[k]
        if densities.shape[1]:
            red, green, blue = colours[0, k], colours[1, k], colours[2, k]
            for stain in range(3):
                density = densities[0, red, stain] + densities[1, green, stain]
                one[DENSITY + stain] += max(density + densities[2, blue, stain], 0)


def _sums(  # noqa: PLR0913, PLR0917
    labels: NDArray[np.int32],
    count: int,
    corner: tuple[int, int],
    origin: tuple[int, int],
    pixels: NDArray[Any],
    probability: NDArray[np.uint8],
    densities: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Labels (H, W), 0..count, of a window; the core begins at `corner` of it and at `origin` of
    the slide; pixels (c, h, w) and nucleus map (h, w) of the core; densities (3, values, 3) of each
    value of each colour, or (3, 0, 3) -> the columns of each label's shape, channels and the rest.

    It goes from run to run of pixels that have one label, so that each costs little.
    """
    shapes = np.zeros((count + 1, SHAPE_COLUMNS), np.int64)
    light = np.zeros((count + 1, pixels.shape[0], INTENSITY_COLUMNS), np.int64)
    rest = np.zeros((count + 1, REST_COLUMNS), np.int64)
    shapes[:, Y0] = shapes[:, X0] = np.iinfo(np.int64).max
    light[:, :, LEAST] = np.iinfo(np.int64).max
    height, width = probability.shape
    borders = _borders(labels)
    for row in range(height):
        end = 0
        while end < width:
            begin, label = end, labels[corner[0] + row, corner[1] + end]
            while end < width and labels[corner[0] + row, corner[1] + end] == label:
                end += 1
            if label == 0:
                continue
            one = shapes[label]
            _add_shape(one, origin[0] + row, origin[1] + begin, end - begin)
            for column in range(corner[1] + begin, corner[1] + end):
                if borders[corner[0] + row, column]:
                    kind = _bend(labels, borders, corner[0] + row, column)
                    if kind >= 0:
                        one[kind] += 1
            for channel in range(pixels.shape[0]):
                _add_light(light[label, channel], pixels[channel, row, begin:end])
            colours = pixels[:, row, begin:end]
            _add_rest(rest[label], colours, probability[row, begin:end], densities)
    return shapes, light, rest


sums = {kind: compiled(_sums, kind) for kind in ("uint8", "uint16")}  # by the pixels' dtype
