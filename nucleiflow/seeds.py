"""Maps of one tile -> its foreground, its numbered seeds, and its record. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nucleiflow.box import Box

EIGHT = np.ones((3, 3), bool)  # seeds touch at corners too


@dataclass(frozen=True)
class Record:
    """What the merge needs of a tile's `count` seeds, numbered 1..count within the tile.

    `first` (count,) int64: raster index over the slide of each seed's first pixel;
    `area` (count,) int64, px; the four border strips hold seed numbers, uint32.
    """

    first: NDArray[np.int64]
    area: NDArray[np.int64]
    top: NDArray[np.uint32]
    bottom: NDArray[np.uint32]
    left: NDArray[np.uint32]
    right: NDArray[np.uint32]

    @property
    def count(self) -> int:
        return len(self.first)

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def split(
    maps: NDArray[np.uint8], *, nucleus_threshold: int, seed_threshold: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
    """Maps (h, w, 2) uint8 -> foreground (h, w) uint8 and seeds (h, w) uint32.

    The foreground keeps the value of the nucleus map where it reaches its threshold, at least 1
    within seeds, and is 0 elsewhere; seeds are numbered from 1, 0 is none.
    """
    nucleus, seed = maps[..., 0], maps[..., 1] >= seed_threshold
    foreground = np.where(nucleus >= nucleus_threshold, nucleus, 0)
    foreground = np.where(seed, np.maximum(foreground, 1), foreground).astype(np.uint8)
    numbered = np.zeros(seed.shape, np.uint32)
    ndimage.label(seed, EIGHT, output=numbered)
    return foreground, numbered


def record(seeds: NDArray[np.uint32], core: Box, slide_width: int) -> Record:
    """Numbered seeds (h, w) of a core -> its record."""
    flat = seeds.ravel()
    inside = np.flatnonzero(flat)
    numbers = flat[inside]
    count = int(numbers.max()) if len(numbers) else 0
    first = np.zeros(count + 1, np.int64)
    first[numbers[::-1]] = inside[::-1]  # the last one written stays: the first in raster order
    y, x = np.divmod(first[1:], seeds.shape[1])
    return Record(
        first=(y + core.y0) * slide_width + x + core.x0,
        area=np.bincount(numbers, minlength=count + 1)[1:].astype(np.int64),
        top=seeds[0].copy(),
        bottom=seeds[-1].copy(),
        left=seeds[:, 0].copy(),
        right=seeds[:, -1].copy(),
    )
