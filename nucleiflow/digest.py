"""Labels of a tile -> its share of a number that stands for the whole label image. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nucleiflow.arrays import plain
from nucleiflow.box import Box
from nucleiflow.grow import parted

KIND = "runs-"  # other kinds of digests cannot be compared with these
# splitmix64 (Steele, Lea, Flood 2014), two streams
GOLDEN = np.array([0x9E3779B97F4A7C15, 0xD1B54A32D192ED03], np.uint64)


def share(labels: NDArray[Any], core: Box, slide_width: int) -> NDArray[np.uint64]:
    """Labels (h, w) uint32 of a core -> (2,) uint64: the sum over its labelled pixels of the
    label's hash times what the hash of the place grows by to the next pixel, modulo 2**64.

    Sums do not depend on how the slide is cut: the total is the same for every tiling. And along a
    run of one label all but the hashes of its ends cancel out.
    """
    parts = parted(labels)
    return of_parts(parts, parts[:, 3].view(np.uint32), (core.y0, core.x0), slide_width)


def of_parts(
    parts: NDArray[np.int32], names: NDArray[np.uint32], corner: tuple[int, int], slide_width: int
) -> NDArray[np.uint64]:
    """The same of parts of a window that begins at `corner` of the slide, and their labels."""
    from nucleiflow import runwise

    whole = plain(parts, np.int32), plain(names, np.uint32)
    return np.asarray(runwise.hashed(*whole, corner, slide_width, GOLDEN))


def total(shares: Iterable[NDArray[np.uint64]]) -> str:
    """Shares of all tiles -> what kind of digest it is, and 32 hexadecimal digits.

    >>> total([])
    'runs-00000000000000000000000000000000'
    """
    summed = np.zeros(2, np.uint64)
    with np.errstate(over="ignore"):
        for one in shares:
            summed += one
    return KIND + "".join(f"{int(part):016x}" for part in summed)


def is_known(told: object) -> bool:
    """False for a digest that an earlier version made in another way, and for what is none."""
    return isinstance(told, str) and told.startswith(KIND)
