"""One level of a pyramid -> the next, half as large. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nucleiflow.arrays import plain

LEAST_PX = 256


def shapes(height: int, width: int) -> list[tuple[int, int]]:
    """Shapes of all levels, halved and rounded up, until the longer side is within 256 px.

    >>> shapes(600, 301)
    [(600, 301), (300, 151), (150, 76)]
    """
    levels = [(height, width)]
    while max(levels[-1]) > LEAST_PX:
        levels.append((-(-levels[-1][0] // 2), -(-levels[-1][1] // 2)))
    return levels


def halve_mean(pixels: NDArray[Any]) -> NDArray[Any]:
    """Image (c, h, w) uint8 or uint16 -> (c, h/2, w/2): rounded means of 2 x 2 pixels."""
    from nucleiflow import pixelwise

    kind = pixels.dtype.name
    return np.asarray(pixelwise.halved[kind](plain(pixels, kind)))


def halve_nearest(labels: NDArray[Any]) -> NDArray[Any]:
    """Labels (..., h, w) -> (..., h/2, w/2): the upper left of 2 x 2 pixels, never interpolated."""
    return labels[..., ::2, ::2]
