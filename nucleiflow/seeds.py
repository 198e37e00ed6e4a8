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
class Foreground:
    """Where nuclei may be in a tile of `shape` px: `runs` (n, 3) int32, in raster order, of row,
    first column, the column after the last; and the `values` uint8 of their pixels, not 0, one run
    after the other.
    """

    shape: tuple[int, int]
    runs: NDArray[np.int32]
    values: NDArray[np.uint8]

    def drawn(self) -> NDArray[np.uint8]:
        """Values (h, w), 0 where there is no foreground."""
        from nucleiflow import runwise

        found = np.zeros(self.shape, np.int32)
        runwise.paint(self.runs, np.ones(len(self.runs), np.int32), found)
        drawn = found.astype(np.uint8)
        drawn[drawn > 0] = self.values
        return drawn


@dataclass(frozen=True)
class Seeds:
    """The seeds of a tile of `shape` px, numbered 1..count in order of their first pixels.

    `runs` are (n, 3) as above, of the seed in `numbers` (n,) int32. Seeds touch at corners too.
    """

    shape: tuple[int, int]
    runs: NDArray[np.int32]
    numbers: NDArray[np.int32]
    count: int

    def drawn(self) -> NDArray[np.int32]:
        """Seed numbers (h, w), 0 is none."""
        from nucleiflow import runwise

        found = np.zeros(self.shape, np.int32)
        runwise.paint(self.runs, self.numbers, found)
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
) -> tuple[Foreground, Seeds]:
    """Maps (H, W, 2) uint8 -> foreground and seeds of the part at `inner`, or of all.

    The foreground keeps the value of the nucleus map where it reaches its threshold, at least 1
    within seeds, and is 0 elsewhere. Nothing is seed or foreground where network input (H, W, 3)
    is `bare` glass: the input, a level that no channel exceeds there, and what the input is xored
    with before that. Nor is it outside of `tissue`: blocks, and their side in px; the part begins
    at `origin` of the slide, from which blocks are counted.
    """
    from nucleiflow import islands, runwise

    rows, columns = inner or (slice(0, maps.shape[0]), slice(0, maps.shape[1]))
    shape = rows.stop - rows.start, columns.stop - columns.start
    seen, level, flip = bare or (np.zeros((1, 1, 3), np.uint8), NEVER, 0)
    blocks, block_px = tissue or EVERYWHERE
    ground, values, runs = runwise.split(
        plain(maps, np.uint8),
        plain(seen, np.uint8),
        (rows.start, columns.start, *shape),
        (nucleus_threshold, seed_threshold),
        (level, flip),
        plain(blocks, np.bool_),
        (*origin, block_px),
    )
    return Foreground(shape, ground, values), Seeds(shape, runs, *islands.connected(runs))


def record(seeds: Seeds, core: Box, slide_width: int) -> Record:
    """Seeds of a core -> its record."""
    row, start, stop = seeds.runs.T
    area = np.bincount(seeds.numbers, stop - start, seeds.count + 1)  # exact below 2**53
    highest = np.maximum.accumulate(seeds.numbers)
    at = np.flatnonzero(np.diff(highest, prepend=0))  # the first run of each
    height, width = seeds.shape
    return Record(
        first=(row[at].astype(np.int64) + core.y0) * slide_width + start[at] + core.x0,
        area=area[1:].astype(np.int64),
        top=_strip(width, seeds, row == 0),
        bottom=_strip(width, seeds, row == height - 1),
        left=_points(height, seeds, start == 0),
        right=_points(height, seeds, stop == width),
    )


def _strip(length: int, seeds: Seeds, on: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """Seed numbers along one row, which some runs lie on."""
    found = np.zeros(length, np.uint32)
    runs = zip(seeds.runs[on].tolist(), seeds.numbers[on].tolist(), strict=True)
    for (_, start, stop), number in runs:
        found[start:stop] = number
    return found


def _points(length: int, seeds: Seeds, on: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """Seed numbers down one column that some runs reach."""
    found = np.zeros(length, np.uint32)
    found[seeds.runs[on, 0]] = seeds.numbers[on]
    return found
