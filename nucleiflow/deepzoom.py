"""Levels of an image -> the tiles of a zoomable view, by level, row and column. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from nucleiflow.box import Box, grid

TILE_PX = 512
VIEW_PX = 4096  # longest side of the finest level that is shown

Tiles = dict[str, str]


def finest(levels: Sequence[tuple[int, int]]) -> int:
    """Number of the finest level (h, w) that is shown."""
    return next((k for k, shape in enumerate(levels) if max(shape) <= VIEW_PX), len(levels) - 1)


def levels(shapes: Sequence[tuple[int, int]]) -> dict[int, int]:
    """Numbers of the levels that are shown -> what a deep zoom calls them.

    The finest is ceil(log2(longest side)); the coarsest is the first that is a single tile.
    """
    first = finest(shapes)
    top = math.ceil(math.log2(max(*shapes[first], 1)))
    coarse = next((k for k in range(first, len(shapes)) if max(shapes[k]) <= TILE_PX), None)
    last = len(shapes) - 1 if coarse is None else coarse
    return {k: top - (k - first) for k in range(first, last + 1)}


def tiles(shapes: Sequence[tuple[int, int]], encode: Callable[[int, Box], str | None]) -> Tiles:
    """Every tile as `encode(level, box)` gives it, by "level/column/row"; None is left out."""
    found: Tiles = {}
    for level, name in levels(shapes).items():
        for box in grid(*shapes[level], TILE_PX):
            encoded = encode(level, box)
            if encoded is not None:
                found[f"{name}/{box.x0 // TILE_PX}/{box.y0 // TILE_PX}"] = encoded
    return found


def source(shapes: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Size and levels as the viewer wants them."""
    names = levels(shapes).values()
    height, width = shapes[finest(shapes)]
    return {
        "width": width,
        "height": height,
        "tileSize": TILE_PX,
        "minLevel": min(names),
        "maxLevel": max(names),
    }
