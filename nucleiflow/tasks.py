"""The work on one tile, stage by stage: read, compute, write, record last. Run on any worker."""

from __future__ import annotations

import atexit
import functools
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nucleiflow import (
    audit,
    digest,
    focus,
    measure,
    naming,
    normalise,
    plan,
    pyramid,
    records,
    seeds,
    source,
    store,
    tissue,
    unet,
)
from nucleiflow import look as looks
from nucleiflow.box import Box
from nucleiflow.errors import RunError
from nucleiflow.grow import grow
from nucleiflow.job import Job, Look
from nucleiflow.merge import merge as merged
from nucleiflow.place import Place
from nucleiflow.resample import Resampling, resampled
from nucleiflow.seeds import Record
from nucleiflow.slide import Slide

READERS = 16  # threads that fetch records ahead: on an object store each takes some 20 ms
EXACT_PX = 2  # around a core, where labels are needed for perimeters

_gate = threading.Lock()
_open: dict[tuple[str, int | None, int | str], Slide] = {}
MOST_OPEN = 4


def _slide(path: str, series: int | None) -> Slide:
    """A slide that this process reads from; of more than a few, the oldest is closed."""
    key = path, series, source.stamp(path)
    with _gate:
        if key not in _open:
            while len(_open) >= MOST_OPEN:
                _open.pop(next(iter(_open))).close()
            _open[key] = source.open_slide(path, series=series)
        return _open[key]


@atexit.register
def close_slides() -> None:
    """Close what this process has open."""
    while _open:
        _open.popitem()[1].close()


@functools.lru_cache(maxsize=4)
def _mask(path: Place, _stamp: int | str) -> NDArray[np.bool_]:
    found = records.get_arrays(path)
    if found is None:
        raise RunError(f"{path} is gone: start again with --restart")
    return found["mask"]


def copy_image(job: Job, index: int) -> None:
    """Stage `image`: one tile of the slide, resampled if need be, into level 0 of the OME-Zarr."""
    core, chosen = job.grid.core(index), job.resolution
    level = _slide(job.slide, job.series).levels[chosen.level]
    pixels = resampled(core, Resampling(level.shape, chosen.working_px), level.read)
    native = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    store.write(job.store / "0", core, np.moveaxis(native, -1, 0))
    records.put_arrays(job.record("image-0", index), {})


def look(
    job: Job, kind: str | None, channel: str | None, _index: int, *, tissue_only: bool
) -> None:
    """Stage `look`: the copied image -> stain, tissue mask, normalisation of the whole slide."""
    looks.decide(job, kind=kind, channel=channel, tissue_only=tissue_only)
    records.put_arrays(job.record("look", 0), {})


def shrink_image(job: Job, level: int, index: int) -> None:
    """Stage `image`: one tile of level `level` from the level above, by means."""
    _shrink(job, job.store, level, index, pyramid.halve_mean, "image")


def shrink_labels(job: Job, level: int, index: int) -> None:
    """Stage `pyramid`: one tile of level `level` of the labels, never interpolated."""
    _shrink(job, job.labels, level, index, pyramid.halve_nearest, "labels")


def _shrink(job: Job, root: Place, level: int, index: int, halve: Any, stage: str) -> None:
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
        mask = _mask(job.tissue, records.stamp(job.tissue))
        covered = tissue.covers(mask, *tile.core.slices(), job.look.block_px)
        maps = np.where(covered[..., None], maps, 0).astype(np.uint8)
    foreground, numbered = seeds.split(
        maps,
        nucleus_threshold=job.postprocessing.nucleus_threshold,
        seed_threshold=job.postprocessing.seed_threshold,
    )
    store.write(job.foreground, tile.core, foreground)
    store.write(job.seeds, tile.core, numbered)
    sharpness = focus.measure(window, tile.window, tile.core)
    records.put_arrays(job.record("focus", index), sharpness)
    facts = seeds.record(numbered, tile.core, job.grid.width)
    records.put_arrays(job.record("segment", index), facts.arrays())


def _window(job: Job, window: Box, look: Look) -> NDArray[np.uint8]:
    """Network input (h, w, 3) uint8 of a window, mirrored at the slide's edges; holes are empty."""
    box, rows, columns = plan.mirror(window, job.grid.height, job.grid.width)
    pixels = np.moveaxis(store.read(job.store / "0", box), 0, -1)
    seen = normalise.apply(pixels, look.norm)
    nothing = 0 if look.norm.inverted or look.stain == "fluorescence" else 255
    for hole in job.holes:
        part = job.grid.core(hole).intersect(box)
        if part.area:
            seen[part.slices(origin=box)] = nothing
    return plan.complete(seen, rows, columns)


def merge(job: Job, _index: int) -> None:
    """Stage `merge`: the records of all tiles -> each tile's `old -> new`, and their number."""
    count = 0
    with ThreadPoolExecutor(READERS) as threads:
        read = _ahead(job, threads)
        for one in merged(job.grid, read, min_area_px=job.postprocessing.min_seed_area_px):
            facts = {"new": one.new, "owner": one.owner}
            records.put_arrays(job.record("new", one.index), facts)
            count = max(count, int(one.new.max()))
    records.put_arrays(job.record("merge", 0), {"nuclei": np.array(count)})


def _ahead(job: Job, threads: ThreadPoolExecutor) -> Callable[[int], Record | None]:
    """Reads the record of a tile, and meanwhile those of the next ones."""
    there = records.done(job.records("segment"))
    coming: dict[int, Future[dict[str, NDArray[Any]] | None]] = {}

    def read(index: int) -> Record | None:
        for tile in range(index, index + READERS):
            if tile in there and tile not in coming:
                coming[tile] = threads.submit(records.get_arrays, job.record("segment", tile))
        for tile in [tile for tile in coming if not index <= tile < index + READERS]:
            del coming[tile]
        found = coming[index].result() if index in coming else None
        return None if found is None else Record(**found)

    return read


def label(job: Job, index: int) -> None:
    """Stage `label`: foreground and seeds around the core, labelled and grown; the core is kept,
    and what its nuclei add up to.
    """
    core = job.grid.core(index)
    window = core.grow(job.postprocessing.grow_px + EXACT_PX).clip(*job.grid.shape)
    tiles = job.grid.around(index, job.postprocessing.grow_px + EXACT_PX)
    near = [tile for tile in tiles if tile not in job.holes]
    known = naming.known({tile: _named(job, tile) for tile in near})
    numbered = np.zeros(window.shape, np.uint32)
    foreground = np.zeros(window.shape, np.uint8)
    for tile in near:
        part = job.grid.core(tile).intersect(window)
        place = part.slices(origin=window)
        foreground[place] = store.read(job.foreground, part)
        if tile in known.of_tile:
            numbered[place] = known.of_tile[tile][store.read(job.seeds, part)]
    grown = grow(numbered, foreground, grow_px=job.postprocessing.grow_px).view(np.int32)
    inside = core.slices(origin=window)
    labels = known.label[grown[inside]]
    store.write(job.labels / "0", core, labels)
    exact = core.grow(EXACT_PX).clip(*job.grid.shape)
    near_core = np.ascontiguousarray(grown[exact.slices(origin=window)])
    lines = audit.NOTHING
    if near_core.any():
        at = core.slices(origin=exact)
        lines = audit.counts(near_core, at, core, job.grid, holes=job.holes)
    if labels.any():
        _sum_up(job, index, near_core, foreground[inside], known)
    facts = {"digest": digest.share(labels, core, job.grid.width), "audit": lines}
    records.put_arrays(job.record("label", index), facts)


def _named(job: Job, index: int) -> dict[str, NDArray[Any]] | None:
    return records.get_arrays(job.record("new", index))


def _sum_up(
    job: Job,
    index: int,
    grown: NDArray[np.int32],
    probability: NDArray[np.uint8],
    known: naming.Known,
) -> None:
    """Write what the nuclei in a core add up to: those of the tile, and those of others."""
    core = job.grid.core(index)
    origin = core.grow(EXACT_PX).clip(*job.grid.shape)
    sums = measure.sums(
        grown,
        len(known.label) - 1,
        core.slices(origin=origin),
        (core.y0, core.x0),
        store.read(job.store / "0", core),
        np.ascontiguousarray(probability),
        od=job.stained,
    )
    owner = known.owner[sums["id"]]
    facts = {**sums, "label": known.label[sums["id"]]}
    for own, name in ((owner == index, "sums"), (owner != index, "guests")):
        if own.any():
            part = {key: column[own] for key, column in facts.items()}
            whole = {**part, "owner": owner[own]}
            records.put_arrays(job.record(name, index), whole)
    for far in set(np.unique(owner)) - set(job.grid.around(index, 1)):
        records.put_arrays(job.record("far", f"{far}-{index}"), {})
