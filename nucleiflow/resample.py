"""Pixels of a level around a box -> the box at another resolution. Pure.

A working pixel is one quotient of two integers, both carried exactly in int64, and depends on the
source pixels at its place alone: no tiling, no window and no order of operations changes a bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from nucleiflow.box import Box, grid
from nucleiflow.errors import SlideError

PIECE_PX = 2**22  # of the larger of source and result that are in memory at a time
MAX_SUM = 2**63 - 1


@dataclass(frozen=True)
class Axis:
    """One axis of `source` px made `target` px long, both over the same length of the slide.

    Made shorter, a pixel is the mean of the source over its own length (a box filter: nothing
    aliases). Made longer, it is interpolated linearly between the centres of the two nearest
    source pixels, around `(y + 0.5) * source / target - 0.5`; the edge pixel goes on beyond it.
    """

    source: int
    target: int

    @property
    def _ratio(self) -> tuple[int, int]:
        """Source and target px, reduced."""
        unit = math.gcd(self.source, self.target)
        return self.source // unit, self.target // unit

    @property
    def denominator(self) -> int:
        """What the weights of each pixel sum to."""
        source, target = self._ratio
        return source if target <= source else 2 * target

    def taps(self, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Source pixels (n, k) that the pixels `start..stop` are made of, and their weights."""
        source, target = self._ratio
        at = np.arange(start, stop)[:, None]
        if target > source:  # in units of 1 / (2 target) px
            centre = (2 * at + 1) * source - target
            first = centre // (2 * target)
            share = centre - first * 2 * target
            index = np.concatenate([first, first + 1], axis=1).clip(0, self.source - 1)
            return index, np.concatenate([2 * target - share, share], axis=1)
        index = at * source // target + np.arange(-(-source // target) + 1)  # of 1 / target px
        ends = np.minimum((index + 1) * target, (at + 1) * source)
        return index, np.maximum(ends - np.maximum(index * target, at * source), 0)

    def span(self, start: int, stop: int) -> tuple[int, int]:
        """The source pixels that the pixels `start..stop` depend on, half-open.

        >>> Axis(100, 50).span(10, 20), Axis(50, 100).span(10, 20)
        ((20, 40), (4, 11))
        """
        ends = (self.taps(at, at + 1) for at in (start, stop - 1))
        used = np.concatenate([index[weight > 0] for index, weight in ends])
        return int(used.min()), int(used.max()) + 1

    def matrix(self, start: int, stop: int) -> Any:
        """Weights as a sparse matrix (stop - start, length of the span) int64."""
        index, weight = self.taps(start, stop)
        low, high = self.span(start, stop)
        rows = np.broadcast_to(np.arange(len(index))[:, None], index.shape)
        used = weight > 0
        places = rows[used], index[used] - low
        return sparse.csr_array((weight[used], places), shape=(stop - start, high - low))


@dataclass(frozen=True)
class Resampling:
    """An image of `source` (h, w) px made `target` (h, w) px large.

    Raises SlideError for sizes whose sums would not fit: far over 10^12 px.
    """

    source: tuple[int, int]
    target: tuple[int, int]

    def __post_init__(self) -> None:
        if 2 * self.denominator * np.iinfo(np.uint16).max + self.denominator > MAX_SUM:
            raise SlideError(
                f"{self.source[0]} x {self.source[1]} px cannot be resampled exactly to "
                f"{self.target[0]} x {self.target[1]}: take a level as it is with --level"
            )

    @property
    def axes(self) -> tuple[Axis, Axis]:
        return Axis(self.source[0], self.target[0]), Axis(self.source[1], self.target[1])

    @property
    def denominator(self) -> int:
        return math.prod(axis.denominator for axis in self.axes)

    def window(self, box: Box) -> Box:
        """The source pixels that a box of the target depends on."""
        (y0, y1), (x0, x1) = (
            axis.span(*ends)
            for axis, ends in zip(self.axes, ((box.y0, box.y1), (box.x0, box.x1)), strict=True)
        )
        return Box(y0, x0, y1, x1)

    def apply(self, pixels: NDArray[Any], box: Box) -> NDArray[Any]:
        """Source pixels (h, w, c) uint8 or uint16 of `window(box)` -> those of the box, rounded
        half up.
        """
        y, x = self.axes
        rows, columns = y.matrix(box.y0, box.y1), x.matrix(box.x0, box.x1)
        result = np.empty((*box.shape, pixels.shape[-1]), pixels.dtype.newbyteorder("="))
        for channel in range(pixels.shape[-1]):  # one at a time: int64 takes room
            total = rows @ pixels[..., channel].astype(np.int64) @ columns.T
            result[..., channel] = (2 * total + self.denominator) // (2 * self.denominator)
        return result

    def pieces(self, box: Box) -> Iterator[Box]:
        """The box cut so that neither a piece nor its window is much larger than PIECE_PX."""
        shrinks = (max(1.0, axis.source / axis.target) for axis in self.axes)
        side = max(1, math.isqrt(int(PIECE_PX / math.prod(shrinks))))
        for part in grid(box.height, box.width, side):
            yield Box(box.y0 + part.y0, box.x0 + part.x0, box.y0 + part.y1, box.x0 + part.x1)


def resampled(
    box: Box, resampling: Resampling, fetch: Callable[[Box], NDArray[Any]]
) -> NDArray[Any]:
    """A box of the target (h, w, c), piece by piece; `fetch(window)` reads the source."""
    if resampling.source == resampling.target:
        return fetch(box)
    parts = list(resampling.pieces(box))
    first = resampling.apply(fetch(resampling.window(parts[0])), parts[0])
    result = np.empty((*box.shape, first.shape[-1]), first.dtype)
    result[parts[0].slices(origin=box)] = first
    for part in parts[1:]:
        pixels = fetch(resampling.window(part))
        result[part.slices(origin=box)] = resampling.apply(pixels, part)
    return result
