"""Labels of a tile -> its share of a number that stands for the whole label image. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nucleiflow.box import Box

# splitmix64 (Steele, Lea, Flood 2014), two streams
GOLDEN = np.array([0x9E3779B97F4A7C15, 0xD1B54A32D192ED03], np.uint64)
FIRST, SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def share(labels: NDArray[Any], core: Box, slide_width: int) -> NDArray[np.uint64]:
    """Labels (h, w) of a core -> (2,) uint64: the sum over its labelled pixels of a hash of place
    and label, modulo 2**64.

    Sums do not depend on how the slide is cut: the total is the same for every tiling.
    """
    flat = labels.ravel()
    inside = np.flatnonzero(flat)
    y, x = np.divmod(inside, labels.shape[1])
    place = ((y + core.y0) * slide_width + x + core.x0).astype(np.uint64)
    value = flat[inside].astype(np.uint64)
    with np.errstate(over="ignore"):
        sums = [_mix(_mix(place * gold + gold) ^ value).sum(dtype=np.uint64) for gold in GOLDEN]
    return np.array(sums, np.uint64)


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    value = (value ^ (value >> np.uint64(30))) * FIRST
    value = (value ^ (value >> np.uint64(27))) * SECOND
    return np.asarray(value ^ (value >> np.uint64(31)))


def total(shares: Iterable[NDArray[np.uint64]]) -> str:
    """Shares of all tiles -> 32 hexadecimal digits.

    >>> total([])
    '00000000000000000000000000000000'
    """
    summed = np.zeros(2, np.uint64)
    with np.errstate(over="ignore"):
        for one in shares:
            summed += one
    return "".join(f"{int(part):016x}" for part in summed)
