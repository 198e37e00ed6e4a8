"""Maps of one tile -> its foreground, its seeds, and its record. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nucleiflow.arrays import plain
from nucleiflow.box import Box

NEVER = -1
EVERYWHERE = np.ones((1, 1), bool), 1 << 40


@dataclass(frozen=True)
class Seeds:
    """The seeds of a tile of `shape` px, numbered 1..count in order of their first pixels.

    `runs` (n, 4) int32, in raster order: row, first column, the column after the last, number.
    Seeds touch at corners too.
    """

    shape: tuple[int, int]
    runs: NDArray[np.int32]
    count: int

    def drawn(self) -> NDArray[np.int32]:
        """Seed numbers (h, w), 0 is none."""
        from nucleiflow import pixelwise

        found = np.zeros(self.shape, np.int32)
        pixelwise.paint(self.runs, np.arange(self.count + 1, dtype=np.int32), (0, 0), found)
        return found


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


def split(  # noqa: PLR0913
    maps: NDArray[np.uint8],
    *,
    nucleus_threshold: int,
    seed_threshold: int,
    inner: tuple[slice, slice] | None = None,
    origin: tuple[int, int] = (0, 0),
    bare: tuple[NDArray[np.uint8], int, int] | None = None,
    tissue: tuple[NDArray[np.bool_], int] | None = None,
) -> tuple[NDArray[np.uint8], Seeds]:
    """Maps (H, W, 2) uint8 -> foreground (h, w) uint8 and seeds of the part at `inner`, or of all.

    The foreground keeps the value of the nucleus map where it reaches its threshold, at least 1
    within seeds, and is 0 elsewhere. Nothing is seed or foreground where network input (H, W, 3)
    is `bare` glass: the input, a level that no channel exceeds there, and what the input is xored
    with before that. Nor is it outside of `tissue`: blocks, and their side in px; the part begins
    at `origin` of the slide, from which blocks are counted.
    """
    from nucleiflow import pixelwise

    rows, columns = inner or (slice(0, maps.shape[0]), slice(0, maps.shape[1]))
    shape = rows.stop - rows.start, columns.stop - columns.start
    seen, level, flip = bare or (np.zeros((1, 1, 3), np.uint8), NEVER, 0)
    blocks, block_px = tissue or EVERYWHERE
    foreground, marked = np.empty(shape, np.uint8), np.empty(shape, np.uint8)
    pixelwise.split(
        plain(maps, np.uint8),
        plain(seen, np.uint8),
        (rows.start, columns.start),
        (nucleus_threshold, seed_threshold),
        (level, flip),
        plain(blocks, np.bool_),
        (*origin, block_px),
        foreground,
        marked,
    )
    runs, count = pixelwise.runs(marked)
    return foreground, Seeds(shape, runs, count)


def record(seeds: Seeds, core: Box, slide_width: int) -> Record:
    """Seeds of a core -> its record."""
    row, start, stop, number = seeds.runs.T.astype(np.int64)
    area = np.zeros(seeds.count + 1, np.int64)
    np.add.at(area, number, stop - start)
    _, at = np.unique(number, return_index=True)  # the first run of each
    height, width = seeds.shape
    strips = {"top": row == 0, "bottom": row == height - 1}
    across = {name: _strip(width, seeds.runs[on]) for name, on in strips.items()}
    sides = {"left": start == 0, "right": stop == width}
    down = {name: _points(height, seeds.runs[on]) for name, on in sides.items()}
    return Record(
        first=(row[at] + core.y0) * slide_width + start[at] + core.x0,
        area=area[1:],
        **across,
        **down,
    )


def _strip(length: int, runs: NDArray[np.int32]) -> NDArray[np.uint32]:
    """Seed numbers along one row."""
    found = np.zeros(length, np.uint32)
    for _, start, stop, number in runs.tolist():
        found[start:stop] = number
    return found


def _points(length: int, runs: NDArray[np.int32]) -> NDArray[np.uint32]:
    """Seed numbers down one column that all of these runs reach."""
    found = np.zeros(length, np.uint32)
    found[runs[:, 0]] = runs[:, 3]
    return found
