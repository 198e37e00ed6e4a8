"""Maps of a tile in the scratch of a run: whole, for its own labels, and its rim, for the tiles
around it, which read no more of it than that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nucleiflow import records
from nucleiflow.arrays import plain
from nucleiflow.box import Box
from nucleiflow.errors import StoreError
from nucleiflow.job import Job
from nucleiflow.seeds import Foreground, Seeds

Runs = NDArray[np.int32]
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Around:
    """What lies in a window around a tile: runs (n, 3) of the foreground, of the tile's `own` too,
    runs of seeds, and the name of each. `kept` is what else was put for the tile itself.
    """

    ground: Runs
    seeds: Runs
    names: NDArray[np.int32]
    own: Runs
    kept: Arrays = field(default_factory=dict)


def put(
    job: Job,
    index: int,
    foreground: Foreground,
    own: Seeds,
    rim_px: int,
    **others: NDArray[Any],
) -> None:
    """Keep the maps of a tile; whoever is within `rim_px` of it needs the rim. `others` are kept
    for the tile itself. Nothing is packed: runs and values are small, and noisy.
    """
    shape = own.shape
    whole = {
        "shape": np.array(shape),
        "count": np.array(own.count),
        "ground": packed(foreground.runs, shape),
        "values": foreground.values,
        "seeds": packed(own.runs, shape),
        "numbers": own.numbers,
        **others,
    }
    records.put_arrays(job.record("maps", index), whole, plain=True)
    ground = foreground.runs[near_sides(foreground.runs, shape, rim_px)]
    near = near_sides(own.runs, shape, rim_px)
    rim = {
        "ground": packed(ground, shape),
        "seeds": packed(own.runs[near], shape),
        "numbers": own.numbers[near],
    }
    records.put_arrays(job.record("rims", index), rim, plain=True)


def seeds(job: Job, index: int) -> Seeds:
    """The seeds of a tile. Raises StoreError."""
    found = _there(job, "maps", index)
    height, width = found["shape"].tolist()
    runs = unpacked(found["seeds"])
    return Seeds((height, width), runs, found["numbers"], int(found["count"]))


def around(
    job: Job,
    index: int,
    window: Box,
    tiles: Iterable[int],
    names: Mapping[int, NDArray[np.int32]],
) -> Around:
    """What lies in a window around a tile, its seeds by the names of each tile's, 0 for none.

    Other `tiles` than its own are those within the rim. One without maps was not worth looking
    at, unless there are names of seeds in it. Raises StoreError.
    """
    own, kept = np.zeros((0, 3), np.int32), {}
    grounds, found, called = [own], [own], [np.zeros(0, np.int32)]
    for tile in tiles:
        core, kind = job.grid.core(tile), "maps" if tile == index else "rims"
        there = records.get_arrays(job.record(kind, tile))
        if there is None and tile not in names:
            continue
        there = there or _there(job, kind, tile)
        corner = core.y0 - window.y0, core.x0 - window.x0
        ground, _ = placed(there["ground"], corner, window.shape)
        grounds.append(ground)
        if tile == index:
            own, kept = ground, there
        if tile in names:
            runs, which = placed(there["seeds"], corner, window.shape)
            found.append(runs)
            called.append(names[tile][there["numbers"][which]])
    return Around(np.concatenate(grounds), np.concatenate(found), np.concatenate(called), own, kept)


def _there(job: Job, kind: str, index: int) -> Arrays:
    found = records.get_arrays(job.record(kind, index))
    if found is None:
        raise StoreError(f"{job.record(kind, index)} is gone: start again with --restart")
    return found


def packed(runs: Runs, shape: tuple[int, int]) -> NDArray[Any]:
    """Runs as (3, n), of half the size where that holds them."""
    return runs.T.astype(np.uint16 if max(shape) < 1 << 16 else np.int32)


def unpacked(kept: NDArray[Any]) -> Runs:
    return plain(kept.T, np.int32)


def placed(
    kept: NDArray[Any], corner: tuple[int, int], shape: tuple[int, int]
) -> tuple[Runs, NDArray[np.int64]]:
    """Packed runs of a tile whose first pixel is at `corner` of a window of `shape` -> those in the
    window, cut off at its sides; and which they are.
    """
    from nucleiflow import runwise

    kind = kept.dtype.name
    found, which = runwise.placed[kind](plain(kept, kind), corner, shape)
    return np.asarray(found), np.asarray(which)


def near_sides(runs: Runs, shape: tuple[int, int], rim_px: int) -> NDArray[np.bool_]:
    """Which runs have a pixel within `rim_px` of a side."""
    row, start, stop = runs.T
    height, width = shape
    across = (row < rim_px) | (row >= height - rim_px)
    return np.asarray(across | (start < rim_px) | (stop > width - rim_px))
