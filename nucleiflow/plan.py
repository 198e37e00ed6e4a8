"""Slide's shape, tile size and the network's reach -> tiles and windows. Integers. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from math import lcm
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nucleiflow.box import Box
from nucleiflow.errors import ConfigError
from nucleiflow.receptive import Reach

DEFAULT_TILE_PX = 2048
LEAST_WINDOW_CORE_PX = 64


@dataclass(frozen=True)
class Tile:
    """`core` is what the tile owns; `window`, on the network's stride, is what the network sees.

    The window may leave the slide: it is completed by mirroring.
    """

    index: int
    core: Box
    window: Box


@dataclass(frozen=True)
class Grid:
    """How a slide of `height` x `width` px is cut: tiles are numbered in raster order."""

    height: int
    width: int
    tile_px: int
    reach: Reach

    @property
    def shape(self) -> tuple[int, int]:
        return self.height, self.width

    @property
    def rows(self) -> int:
        return -(-self.height // self.tile_px)

    @property
    def columns(self) -> int:
        return -(-self.width // self.tile_px)

    def __len__(self) -> int:
        return self.rows * self.columns

    def core(self, index: int) -> Box:
        row, column = divmod(index, self.columns)
        y, x = row * self.tile_px, column * self.tile_px
        return Box(y, x, y + self.tile_px, x + self.tile_px).clip(self.height, self.width)

    def tile(self, index: int) -> Tile:
        """The tile; its window is a step of a short ladder: few shapes are ever computed."""
        core, halo = self.core(index), self.reach.halo_px
        height, width = (self._window_side(side) for side in core.shape)
        y, x = core.y0 - halo, core.x0 - halo
        return Tile(index, core, Box(y, x, y + height + 2 * halo, x + width + 2 * halo))

    def around(self, index: int, margin_px: int) -> list[int]:
        """Tiles whose cores lie within `margin_px` of a tile's core, itself included."""
        return self.touched(self.core(index).grow(margin_px))

    def touched(self, box: Box) -> list[int]:
        """Tiles whose cores hold pixels of a box, in raster order."""
        box = box.clip(self.height, self.width)
        rows = range(box.y0 // self.tile_px, -(-box.y1 // self.tile_px))
        columns = range(box.x0 // self.tile_px, -(-box.x1 // self.tile_px))
        return [row * self.columns + column for row in rows for column in columns]

    def along(self, tiles: Iterable[int]) -> list[int]:
        """Tiles in an order in which those that follow each other lie near each other: what one
        reads of the slide beyond its core, the next ones need (a Z-order curve).

        >>> Grid(4, 4, 1, Reach(0, 0, 1)).along(range(16))
        [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]
        """

        def place(index: int) -> int:
            row, column = divmod(index, self.columns)
            bits = range(max(row.bit_length(), column.bit_length()))
            return sum((row >> k & 1) << 2 * k + 1 | (column >> k & 1) << 2 * k for k in bits)

        return sorted(tiles, key=place)

    def _window_side(self, core_px: int) -> int:
        steps = ladder(self.tile_px, self.reach.stride_px)
        return steps[bisect_left(steps, core_px)]


def ladder(tile_px: int, stride_px: int) -> list[int]:
    """The sides that a window's core may have, each a multiple of the stride, up to the tile.

    >>> ladder(512, 16)
    [64, 96, 128, 192, 256, 384, 512]
    """
    unit = lcm(stride_px, 32)
    first = -(-LEAST_WINDOW_CORE_PX // unit) * unit
    steps = {tile_px}
    while first < tile_px:
        steps |= {step for step in (first, first * 3 // 2) if step % stride_px == 0}
        first *= 2
    return sorted(step for step in steps if step <= tile_px)


def check(tile_px: int, halo_px: int | None, reach: Reach) -> Reach:
    """The reach to use: the network's own, or a larger halo that was asked for.

    Raises ConfigError, with the numbers, for a tile or halo that the network cannot work with.
    """
    if tile_px < 1 or tile_px % lcm(reach.stride_px, 32):
        unit = lcm(reach.stride_px, 32)
        such = -(-1024 // unit) * unit
        raise ConfigError(f"tile_px is {tile_px}: use a multiple of {unit}, such as {such}")
    if halo_px is None:
        return reach
    if halo_px < reach.halo_px:
        raise ConfigError(
            f"halo_px is {halo_px}, but this model needs {reach.halo_px} px around a tile (a pixel "
            f"sees {reach.radius_px} px): use at least {reach.halo_px}, or leave it out"
        )
    if halo_px % reach.stride_px:
        raise ConfigError(f"halo_px is {halo_px}: use a multiple of the stride {reach.stride_px}")
    return Reach(reach.radius_px, halo_px, reach.stride_px)


def mirror(window: Box, height: int, width: int) -> tuple[Box, NDArray[Any], NDArray[Any]]:
    """What to read for a window, and which row and column of it each window pixel is.

    The slide is continued beyond its edges by reflection, the edge pixel repeated
    (`numpy.pad(mode="symmetric")`), as often as needed.
    """
    rows = _fold(np.arange(window.y0, window.y1), height)
    columns = _fold(np.arange(window.x0, window.x1), width)
    box = Box(int(rows.min()), int(columns.min()), int(rows.max()) + 1, int(columns.max()) + 1)
    return box, rows - box.y0, columns - box.x0


def _fold(index: NDArray[Any], length: int) -> NDArray[Any]:
    folded = np.mod(index, 2 * length)
    return np.minimum(folded, 2 * length - 1 - folded)
