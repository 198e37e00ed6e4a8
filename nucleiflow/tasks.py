"""The work on one tile, stage by stage: read, compute, write, record last. Run on any worker."""

from __future__ import annotations

import atexit
import functools
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nucleiflow import normalise, plan, pyramid, records, seeds, source, store, tissue, unet
from nucleiflow.box import Box
from nucleiflow.errors import RunError
from nucleiflow.grow import grow
from nucleiflow.job import Job, Look
from nucleiflow.resample import Resampling, resampled
from nucleiflow.slide import Slide

_gate = threading.Lock()
_open: dict[tuple[str, int], Slide] = {}


def _slide(path: str) -> Slide:
    """The slide that this process reads from; the one before it is closed."""
    key = path, Path(path).stat().st_mtime_ns
    with _gate:
        if key not in _open:
            close_slides()
            _open[key] = source.open_slide(path)
        return _open[key]


@atexit.register
def close_slides() -> None:
    """Close what this process has open."""
    while _open:
        _open.popitem()[1].close()


@functools.lru_cache(maxsize=4)
def _mask(path: Path, _stamp: int) -> NDArray[np.bool_]:
    found = records.get_arrays(path)
    if found is None:
        raise RunError(f"{path} is gone: start again with --restart")
    return found["mask"]


def copy_image(job: Job, index: int) -> None:
    """Stage `image`: one tile of the slide, resampled if need be, into level 0 of the OME-Zarr."""
    core, chosen = job.grid.core(index), job.resolution
    level = _slide(job.slide).levels[chosen.level]
    pixels = resampled(core, Resampling(level.shape, chosen.working_px), level.read)
    native = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    store.write(job.store / "0", core, np.moveaxis(native, -1, 0))
    records.put_arrays(job.record("image-0", index), {})


def shrink_image(job: Job, level: int, index: int) -> None:
    """Stage `image`: one tile of level `level` from the level above, by means."""
    _shrink(job, job.store, level, index, pyramid.halve_mean, "image")


def shrink_labels(job: Job, level: int, index: int) -> None:
    """Stage `pyramid`: one tile of level `level` of the labels, never interpolated."""
    _shrink(job, job.labels, level, index, pyramid.halve_nearest, "labels")


def _shrink(job: Job, root: Path, level: int, index: int, halve: Any, stage: str) -> None:
    """The level's last tile, if it is its only one, carries on with all smaller levels."""
    last = len(job.levels) - 1 if len(job.level_grid(level)) == 1 else level
    core = job.level_grid(level).core(index)
    fine = Box(2 * core.y0, 2 * core.x0, 2 * core.y1, 2 * core.x1)
    pixels = store.read(root / str(level - 1), fine.clip(*job.levels[level - 1]))
    for number in range(level, last + 1):
        pixels = halve(pixels)
        if number > level:
            core = Box(0, 0, *job.levels[number])
        store.write(root / str(number), core, pixels)
    records.put_arrays(job.record(f"{stage}-{level}", index), {})


def segment(job: Job, index: int) -> None:
    """Stage `segment`: image window -> foreground and seeds of the core, then the tile's record."""
    if job.look is None:
        raise RunError("segment before the image stage is done")
    tile = job.grid.tile(index)
    window = _window(job, tile.window, job.look)
    maps = unet.predictor(job.model.path, job.model.sha256)(window)
    inside = tile.core.slices(origin=tile.window)
    maps = maps[inside]
    if job.look.stain != "fluorescence":
        bare = tissue.glass(normalise.negative(window[inside], job.look.norm))
        maps = np.where(bare[..., None], 0, maps).astype(np.uint8)
    if job.look.block_px is not None:
        mask = _mask(job.tissue, job.tissue.stat().st_mtime_ns)
        covered = tissue.covers(mask, *tile.core.slices(), job.look.block_px)
        maps = np.where(covered[..., None], maps, 0).astype(np.uint8)
    foreground, numbered = seeds.split(
        maps,
        nucleus_threshold=job.postprocessing.nucleus_threshold,
        seed_threshold=job.postprocessing.seed_threshold,
    )
    store.write(job.foreground, tile.core, foreground)
    store.write(job.seeds, tile.core, numbered)
    facts = seeds.record(numbered, tile.core, job.grid.width)
    records.put_arrays(job.record("segment", index), facts.arrays())


def _window(job: Job, window: Box, look: Look) -> NDArray[np.uint8]:
    """Network input (h, w, 3) uint8 of a window, mirrored at the slide's edges."""
    box, rows, columns = plan.mirror(window, job.grid.height, job.grid.width)
    pixels = np.moveaxis(store.read(job.store / "0", box), 0, -1)
    return plan.complete(normalise.apply(pixels, look.norm), rows, columns)


def label(job: Job, index: int) -> None:
    """Stage `label`: foreground and seeds around the core, labelled and grown; the core is kept."""
    core, reach = job.grid.core(index), job.postprocessing.grow_px
    window = core.grow(reach).clip(job.grid.height, job.grid.width)
    named = np.zeros(window.shape, np.uint32)
    foreground = np.zeros(window.shape, np.uint8)
    for other in job.grid.around(index, reach):
        new = label_map(job, other)
        part = job.grid.core(other).intersect(window)
        place = part.slices(origin=window)
        foreground[place] = store.read(job.foreground, part)
        if new is not None:
            named[place] = new[store.read(job.seeds, part)]
    grown = grow(named, foreground, grow_px=reach)
    store.write(job.labels / "0", core, grown[core.slices(origin=window)])
    records.put_arrays(job.record("label", index), {})


def label_map(job: Job, index: int) -> NDArray[np.uint32] | None:
    """Seed numbers of a tile -> labels (count + 1,); None for a tile without seeds."""
    found = records.get_arrays(job.record("merge", index))
    return None if found is None else found["new"].astype(np.uint32)
