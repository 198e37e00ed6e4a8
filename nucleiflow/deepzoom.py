"""Levels of an image -> the tiles of a zoomable view, by level, column and row. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nucleiflow.box import Box, grid

TILE_PX = 512
VIEW_PX = 4096  # longest side of the finest level that is shown
BUDGET = 9_000_000  # characters of all tiles; a level that does not fit is left out

Encode = Callable[[int, Box], str | None]


@dataclass(frozen=True)
class Zoom:
    """Tiles of each layer by "level/column/row", and size and levels as the viewer wants them.

    `span_px` is the width of the view in pixels of level 0: levels are rounded up, so it may be a
    little more than the slide's.
    """

    source: Mapping[str, Any]
    layers: Mapping[str, Mapping[str, str]]
    span_px: int


def build(
    shapes: Sequence[tuple[int, int]],
    encoders: Mapping[str, Encode],
    *,
    budget: int = BUDGET,
    finest: int = 0,
) -> Zoom:
    """Levels (h, w), finest first, -> the view: from the coarsest to the finest that fits.

    Levels before `finest` are not shown. `encode(level, box)` gives the tile of a layer as text,
    or None where it holds nothing.
    """
    finest, coarsest = _range(shapes, finest)
    layers: dict[str, dict[str, str]] = {name: {} for name in encoders}
    shown: list[int] = []
    for level in range(coarsest, finest - 1, -1):
        tiles = _tiles(shapes[level], level, encoders, budget if shown else None)
        if tiles is None:
            break
        budget -= sum(len(tile) for found in tiles.values() for tile in found.values())
        shown.append(level)
        for name, found in tiles.items():
            layers[name] |= {f"{level}/{at}": tile for at, tile in found.items()}
    first = shown[-1]
    height, width = shapes[first]
    top = math.ceil(math.log2(max(height, width, 1)))  # what a deep zoom calls its finest level
    called = {level: top - (level - first) for level in shown}
    return Zoom(
        source={
            "width": width,
            "height": height,
            "tileSize": TILE_PX,
            "minLevel": called[shown[0]],
            "maxLevel": top,
        },
        layers={
            name: {_renamed(key, called): tile for key, tile in found.items()}
            for name, found in layers.items()
        },
        span_px=width << first,
    )


def _range(shapes: Sequence[tuple[int, int]], least: int) -> tuple[int, int]:
    """Numbers of the finest level that may be shown, and of the first one that is a single tile."""
    last = len(shapes) - 1
    finest = next((k for k, shape in enumerate(shapes) if max(shape) <= VIEW_PX), last)
    finest = max(finest, least)
    single = (k for k in range(finest, len(shapes)) if max(shapes[k]) <= TILE_PX)
    return finest, next(single, last)


def _tiles(
    shape: tuple[int, int], level: int, encoders: Mapping[str, Encode], budget: int | None
) -> dict[str, dict[str, str]] | None:
    """All tiles of a level; None once they are more than the budget."""
    found: dict[str, dict[str, str]] = {name: {} for name in encoders}
    spent = 0
    for box in grid(*shape, TILE_PX):
        for name, encode in encoders.items():
            tile = encode(level, box)
            if tile is None:
                continue
            found[name][f"{box.x0 // TILE_PX}/{box.y0 // TILE_PX}"] = tile
            spent += len(tile)
        if budget is not None and spent > budget:
            return None
    return found


def _renamed(key: str, called: Mapping[int, int]) -> str:
    level, _, at = key.partition("/")
    return f"{called[int(level)]}/{at}"
