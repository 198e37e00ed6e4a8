"""The work on one tile, stage by stage: read, compute, write, record last. Run on any worker."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nucleiflow import (
    audit,
    digest,
    focus,
    grow,
    inference,
    labelled,
    maps,
    measure,
    naming,
    normalise,
    pixels,
    plan,
    pyramid,
    records,
    regions,
    seeds,
    store,
    tissue,
)
from nucleiflow import look as looks
from nucleiflow.box import Box
from nucleiflow.errors import RunError
from nucleiflow.job import Job, Look
from nucleiflow.merge import merge as merged
from nucleiflow.place import Place
from nucleiflow.seeds import Record

READERS = 16  # threads that fetch records ahead: on an object store each takes some 20 ms
EXACT_PX = 2  # around a core, where labels are needed for perimeters


@functools.lru_cache(maxsize=4)
def _mask(path: Place, _stamp: int | str) -> NDArray[np.bool_]:
    found = records.get_arrays(path)
    if found is None:
        raise RunError(f"{path} is gone: start again with --restart")
    return found["mask"]


def copy_image(job: Job, index: int) -> None:
    """Stage `image`: one tile of the slide, resampled if need be, into level 0 of the OME-Zarr."""
    seen = np.moveaxis(pixels.of_slide(job, job.grid.core(index)), -1, 0)
    last = min(job.own_levels, pixels.first(job) - 1) if job.apart else job.own_levels
    _write_levels(job, job.store, (index, last), seen, pyramid.halve_mean)
    records.put_arrays(job.record("image-0", index), {})


def _write_levels(
    job: Job, root: Place, upto: tuple[int, int], seen: NDArray[Any], halve: Any
) -> None:
    """A tile of level 0, and of levels up to one, as long as their shards are the tile's own."""
    index, last = upto
    core = job.grid.core(index)
    for number in range(last + 1):
        seen = halve(seen) if number else seen
        store.write(root / str(number), core.scale_down(2**number), seen)


def overview(job: Job, _index: int) -> None:
    """Stage `image`: the low levels, where they come from the slide, not from the level above."""
    pixels.overview(job)
    records.put_arrays(job.record("overview", 0), {})


def region(job: Job, _index: int) -> None:
    """Stage `region`: where the nuclei are wanted -> blocks of the slide."""
    regions.lay(job)
    records.put_arrays(job.record("region", 0), {})


def look(
    job: Job, kind: str | None, channel: str | None, _index: int, *, tissue_only: bool
) -> None:
    """Stage `look`: the slide's pixels -> stain, tissue mask, normalisation of the whole slide."""
    looks.decide(job, kind=kind, channel=channel, tissue_only=tissue_only)
    records.put_arrays(job.record("look", 0), {})


def shrink_image(job: Job, level: int, index: int) -> None:
    """Stage `image`: one tile of level `level` from the level above, by means."""
    last = pixels.first(job) - 1 if job.apart else len(job.levels) - 1
    _shrink(job, job.store, (level, last), index, pyramid.halve_mean, "image")


def shrink_labels(job: Job, level: int, index: int) -> None:
    """Stage `pyramid`: one tile of level `level` of the labels, never interpolated."""
    levels = level, len(job.levels) - 1
    _shrink(job, job.labels, levels, index, pyramid.halve_nearest, "labels")


def _shrink(
    job: Job, root: Place, levels: tuple[int, int], index: int, halve: Any, stage: str
) -> None:
    """The level's last tile, if it is its only one, carries on with all up to the last level."""
    level, last = levels
    last = last if len(job.level_grid(level)) == 1 else level
    core = job.level_grid(level).core(index)
    fine = Box(2 * core.y0, 2 * core.x0, 2 * core.y1, 2 * core.x1)
    seen = store.read(root / str(level - 1), fine.clip(*job.levels[level - 1]))
    for number in range(level, last + 1):
        seen = halve(seen)
        if number > level:
            core = Box(0, 0, *job.levels[number])
        store.write(root / str(number), core, seen)
    records.put_arrays(job.record(f"{stage}-{level}", index), {})


def segment(job: Job, index: int) -> None:
    """Stage `segment`: image window -> foreground and seeds of the core, then the tile's record.

    The pixels of the foreground are kept, too: the slide is not read again for them.
    """
    if job.look is None:
        raise RunError("segment before the image stage is done")
    tile = job.grid.tile(index)
    window, read, box = _window(job, tile, job.look)
    seen = inference.predictor(job.model.path, job.model.sha256)(window)
    foreground, found = seeds.split(
        seen,
        nucleus_threshold=job.postprocessing.nucleus_threshold,
        seed_threshold=job.postprocessing.seed_threshold,
        inner=tile.core.slices(origin=tile.window),
        origin=(tile.core.y0, tile.core.x0),
        bare=_glass(window, job.look),
        tissue=_blocks(job, job.look),
    )
    corner = box.y0 - tile.core.y0, box.x0 - tile.core.x0
    kept = measure.gathered(np.moveaxis(read, -1, 0), foreground.runs, corner)
    maps.put(job, index, foreground, found, _rim_px(job), pixels=kept)
    sharpness = focus.measure(window, tile.window, tile.core)
    records.put_arrays(job.record("focus", index), sharpness)
    facts = seeds.record(found, tile.core, job.grid.width)
    records.put_arrays(job.record("segment", index), facts.arrays())


def _rim_px(job: Job) -> int:
    """How far beyond its core a tile looks at the maps of others."""
    return job.postprocessing.grow_px + EXACT_PX


def _glass(window: NDArray[np.uint8], look: Look) -> tuple[NDArray[np.uint8], int, int] | None:
    """What is as bright as glass holds no nucleus, on slides where nuclei are dark."""
    if look.stain == "fluorescence":
        return None
    return window, tissue.GLASS, 0 if look.norm.inverted else 255


def _blocks(job: Job, look: Look) -> tuple[NDArray[np.bool_], int] | None:
    if look.block_px is None:
        return None
    return _mask(job.tissue, records.stamp(job.tissue)), look.block_px


def _window(job: Job, tile: plan.Tile, look: Look) -> tuple[NDArray[np.uint8], NDArray[Any], Box]:
    """Network input (h, w, 3) uint8 of a tile's window, mirrored at the slide's edges, where holes
    are empty; the pixels (h, w, c) that it was made of, and where they lie.
    """
    box, rows, columns = plan.mirror(tile.window, job.grid.height, job.grid.width)
    read = pixels.read(job, box)
    seen = normalise.shown(read, look.norm, rows, columns)
    nothing = 0 if look.norm.inverted or look.stain == "fluorescence" else 255
    for hole in job.holes:
        part = job.grid.core(hole).intersect(box)
        if part.area:
            y, x = part.slices(origin=box)
            inside = [(at >= one.start) & (at < one.stop) for at, one in ((rows, y), (columns, x))]
            seen[np.ix_(*inside)] = nothing
    return seen, read, box


def merge(job: Job, _index: int) -> None:
    """Stage `merge`: the records of all tiles -> each tile's `old -> new`, and their number.

    In an object store records are read ahead and written behind; on a disk threads only cost.
    """
    count = 0
    near, behind = isinstance(job.work, Path), deque[Future[None]]()
    with ThreadPoolExecutor(READERS) as threads:
        read = partial(_record, job) if near else _ahead(job, threads)
        inside = None if job.region is None else regions.within(job)
        least = job.postprocessing.min_seed_area_px
        for one in merged(job.grid, read, min_area_px=least, inside=inside):
            facts = {"new": one.new, "owner": one.owner}
            shown = one.new if one.shown is None else one.shown
            if one.shown is not None:
                facts["shown"] = one.shown
            if near:
                records.put_arrays(job.record("new", one.index), facts)
            else:
                place = job.record("new", one.index)
                behind.append(threads.submit(records.put_arrays, place, facts))
            if len(behind) > READERS:
                behind.popleft().result()
            count = max(count, int(shown.max()))
        for written in behind:
            written.result()
    records.put_arrays(job.record("merge", 0), {"nuclei": np.array(count)})


def _record(job: Job, index: int) -> Record | None:
    found = records.get_arrays(job.record("segment", index))
    return None if found is None else Record(**found)


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
    window = core.grow(_rim_px(job)).clip(*job.grid.shape)
    near = [tile for tile in job.grid.around(index, _rim_px(job)) if tile not in job.holes]
    known = naming.known({tile: _named(job, tile) for tile in near})
    seen = maps.around(job, index, window, near, known.of_tile)
    grow_px = job.postprocessing.grow_px
    grown = grow.grown(window.shape, seen.ground, seen.seeds, seen.names, grow_px=grow_px)
    if job.region is not None:  # who was not wanted has grown, and goes
        grown[known.label[grown] == 0] = 0
    parts = grow.within(grown, seen.own)
    corner = core.y0 - window.y0, core.x0 - window.x0
    labels = known.drawn(parts, corner, core.shape)
    _write_levels(job, job.labels, (index, job.own_levels), labels, pyramid.halve_nearest)
    lines = audit.NOTHING
    if len(seen.seeds):
        at = core.slices(origin=window.grow(1))
        count = len(known.label) - 1
        lines = audit.counts(grown, at, core, job.grid, count=count, holes=job.holes)
    names = known.label[parts[:, 3]]
    if len(parts):
        _sum_up(job, index, grown, (seen, parts), known)
        inside = parts[:, :3] - np.array([corner[0], corner[1], corner[1]], np.int32)
        labelled.put(job, index, inside, names)
    share = digest.of_parts(parts, names, (window.y0, window.x0), job.grid.width)
    records.put_arrays(job.record("label", index), {"digest": share, "audit": lines})


def _named(job: Job, index: int) -> dict[str, NDArray[Any]] | None:
    return records.get_arrays(job.record("new", index))


def _sum_up(
    job: Job,
    index: int,
    grown: NDArray[np.int32],
    found: tuple[maps.Around, NDArray[np.int32]],
    known: naming.Known,
) -> None:
    """Write what the nuclei in a core add up to, those of the tile, and those of others: what was
    `found` around it, and the parts of the core.
    """
    core, (seen, parts) = job.grid.core(index), found
    window = core.grow(_rim_px(job)).clip(*job.grid.shape)
    sums = measure.sums(
        grown,
        parts,
        (window.y0, window.x0),
        seen.kept["pixels"],
        seen.kept["values"],
        count=len(known.label) - 1,
        od=job.stained,
    )
    owner = known.owner[sums["id"]]
    facts = {**sums, "label": known.label[sums["id"]]}
    for own, name in ((owner == index, "sums"), (owner != index, "guests")):
        if own.any():
            part = {key: column[own] for key, column in facts.items()}
            whole = {**part, "owner": owner[own]}
            records.put_arrays(job.record(name, index), whole, plain=True)
    for far in set(np.unique(owner)) - set(job.grid.around(index, 1)):
        records.put_arrays(job.record("far", f"{far}-{index}"), {})
