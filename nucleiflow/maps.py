"""Maps of a tile in the scratch of a run: whole, for its own labels, and its rim, for the tiles
around it, which read no more of it than that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nucleiflow import records
from nucleiflow.box import Box
from nucleiflow.errors import StoreError
from nucleiflow.job import Job
from nucleiflow.seeds import Seeds


def put(
    job: Job,
    index: int,
    foreground: NDArray[np.uint8],
    own: Seeds,
    rim_px: int,
    **others: NDArray[Any],
) -> None:
    """Keep the maps of a tile; whoever is within `rim_px` of it needs the rim. `others` are kept
    for the tile itself.
    """
    facts = {"shape": np.array(own.shape), "count": np.array(own.count), "runs": own.runs}
    whole = {"foreground": foreground, **facts, **others}
    records.put_arrays(job.record("maps", index), whole)
    rim = {name: foreground[part] for name, part in _sides(own.shape, rim_px).items()}
    runs = own.runs[_near_sides(own, rim_px)]
    records.put_arrays(job.record("rims", index), {**rim, "runs": runs})


def seeds(job: Job, index: int) -> Seeds:
    """The seeds of a tile. Raises StoreError."""
    found = _there(job, "maps", index)
    height, width = found["shape"].tolist()
    return Seeds((height, width), found["runs"], int(found["count"]))


def around(
    job: Job,
    index: int,
    window: Box,
    tiles: Iterable[int],
    names: Mapping[int, NDArray[np.int32]],
) -> tuple[NDArray[np.int32], dict[str, NDArray[Any]], NDArray[np.uint8]]:
    """A window around a tile -> its seeds (h, w), by the names of each tile's; what is kept for the
    tile itself; and the foreground (h, w).

    Other `tiles` than its own are those within the rim. One without maps was not worth looking
    at, unless there are names of seeds in it. Raises StoreError.
    """
    from nucleiflow import pixelwise

    numbered = np.zeros(window.shape, np.int32)
    foreground = np.zeros(window.shape, np.uint8)
    own: dict[str, NDArray[Any]] = {}
    for tile in tiles:
        core, kind = job.grid.core(tile), "maps" if tile == index else "rims"
        kept = records.get_arrays(job.record(kind, tile))
        if kept is None and tile not in names:
            continue
        kept = kept or _there(job, kind, tile)
        if tile == index:
            own = kept
            foreground[core.slices(origin=window)] = kept["foreground"]
        else:
            part = core.intersect(window)
            foreground[part.slices(origin=window)] = _cut(kept, core, part)
        if tile in names:
            corner = window.y0 - core.y0, window.x0 - core.x0
            pixelwise.paint(kept["runs"], names[tile], corner, numbered)
    return numbered, own, foreground


def _there(job: Job, kind: str, index: int) -> dict[str, NDArray[Any]]:
    found = records.get_arrays(job.record(kind, index))
    if found is None:
        raise StoreError(f"{job.record(kind, index)} is gone: start again with --restart")
    return found


def _near_sides(own: Seeds, rim_px: int) -> NDArray[np.bool_]:
    """Which runs have a pixel in one of the strips."""
    row, start, stop = own.runs[:, 0], own.runs[:, 1], own.runs[:, 2]
    height, width = own.shape
    across = (row < rim_px) | (row >= height - rim_px)
    return np.asarray(across | (start < rim_px) | (stop > width - rim_px))


def _sides(shape: tuple[int, int], rim_px: int) -> dict[str, tuple[slice, slice]]:
    """Where the strips of a tile lie."""
    height, width = shape
    return {
        "top": (slice(0, rim_px), slice(0, width)),
        "bottom": (slice(max(0, height - rim_px), height), slice(0, width)),
        "left": (slice(0, height), slice(0, rim_px)),
        "right": (slice(0, height), slice(max(0, width - rim_px), width)),
    }


def _cut(rim: Mapping[str, NDArray[Any]], core: Box, part: Box) -> NDArray[np.uint8]:
    """A part of a tile that lies within one of its strips."""
    y0, x0 = part.y0 - core.y0, part.x0 - core.x0
    y1, x1 = part.y1 - core.y0, part.x1 - core.x0
    bottom = core.height - len(rim["bottom"])
    right = core.width - rim["right"].shape[1]
    if y1 <= len(rim["top"]):
        return rim["top"][y0:y1, x0:x1]
    if y0 >= bottom:
        return rim["bottom"][y0 - bottom : y1 - bottom, x0:x1]
    if x1 <= rim["left"].shape[1]:
        return rim["left"][y0:y1, x0:x1]
    return rim["right"][y0:y1, x0 - right : x1 - right]
