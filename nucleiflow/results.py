"""Labels and sums of tiles -> the nuclei of each: measured, outlined, with their neighbours.

Tasks on any worker, as those of `tasks.py`. A nucleus belongs to the tile that holds the first
pixel of its seed; nothing that is found of it depends on the tiling.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nucleiflow import (
    audit,
    deflate,
    digest,
    focus,
    labelled,
    measure,
    neighbours,
    outline,
    pixels,
    quality,
    qupath,
    records,
    regions,
    store,
    tissue,
)
from nucleiflow.box import Box, grid
from nucleiflow.errors import RunError
from nucleiflow.job import Job
from nucleiflow.place import Place
from nucleiflow.tasks import READERS

Columns = dict[str, NDArray[Any]]

LARGE_PX = 1024  # a nucleus with a longer side is outlined in pieces of this size
STRAY_PX = 256  # a centroid further from its tile is one of all tiles' neighbours
UNKNOWN_MPP = 0.5  # what is taken for µm per working pixel where nothing tells it


def tally(job: Job, _index: int) -> None:
    """Stage `tally`: what the records of all tiles add up to, and what the slide as a whole is."""
    facts = list(all_records(job, "label", sorted(records.done(job.records("label")))))
    lines = audit.total([one["audit"] for _, one in facts])
    summed = digest.total(one["digest"] for _, one in facts)
    blocks = all_records(job, "focus", sorted(records.done(job.records("focus"))))
    sharpness = focus.assemble((one for _, one in blocks), job.grid.shape)
    found = _survey(job, sharpness)
    records.put_json(job.work / "quality.json", quality.summary(found, _nuclei(job)))
    masks = {"tissue": found.tissue, "region": found.within}
    there = {name: mask for name, mask in masks.items() if mask is not None}
    if found.within is not None and found.tissue is not None:
        there["tissue"] = found.tissue & found.within
    seen = {"focus": sharpness, "pen": found.pen, "folds": found.folds, **there}
    records.put_arrays(job.work / f"maps{records.SUFFIX}", seen)
    records.put_arrays(job.record("tally", 0), {"digest": np.array(summed), "audit": lines})


def _survey(job: Job, sharpness: NDArray[np.float32]) -> quality.Seen:
    """Tissue, pen marks and folds on the slide's low level."""
    if job.look is None:
        raise RunError("tally before the image stage is done")
    level, low = pixels.low_level(job), pixels.low(job)
    tissues = tissue.find(
        low[..., list(job.look.norm.channels)],
        bright_background=job.look.stain != "fluorescence",
        block_px=2**level,
        margin_px=0,
    )
    nothing = np.zeros(low.shape[:2], bool)
    within = None if job.region is None else regions.at_level(job, level)
    pixel_um = job.resolution.pixel_um
    um = (job.resolution.mpp or UNKNOWN_MPP) * 2**level
    if job.stained and quality.blank(low, um):
        tissues = nothing
    return quality.Seen(
        within=within,
        tissue=tissues,
        pen=quality.pen(low, um) if job.stained else nothing,
        folds=quality.folds(low, um) if job.stained else nothing,
        pixel_um2=pixel_um[0] * pixel_um[1] * 4**level if pixel_um else None,
        blurred=int(focus.blurred(sharpness, job.look.stain).sum()),
        judged=int(np.isfinite(sharpness).sum()),
    )


def _nuclei(job: Job) -> int:
    found = records.get_arrays(job.record("merge", 0))
    if found is None:
        raise RunError(f"{job.work}: records are gone: start again with --restart")
    return int(found["nuclei"])


def all_records(
    job: Job, stage: str, tiles: Sequence[int], *, ahead: int = READERS
) -> Iterator[tuple[int, Columns]]:
    """Records of tiles in order; those without anything are left out. In an object store some are
    read ahead; on a disk threads only cost.
    """
    if isinstance(job.work, Path):
        found = ((tile, records.get_arrays(job.record(stage, tile))) for tile in tiles)
        yield from ((tile, one) for tile, one in found if one)
        return
    with ThreadPoolExecutor(ahead) as threads:
        for start in range(0, len(tiles), ahead):
            some = tiles[start : start + ahead]
            read = threads.map(lambda tile: records.get_arrays(job.record(stage, tile)), some)
            yield from ((tile, one) for tile, one in zip(some, read, strict=True) if one)


@functools.lru_cache(maxsize=4)
def _maps(place: Place, _stamp: int | str) -> Columns:
    found = records.get_arrays(place)
    if found is None:
        raise RunError(f"{place} is gone: start again with --restart")
    return found


def maps(job: Job) -> Columns:
    """Low-resolution maps of the slide, as `tally` left them."""
    place = job.work / f"maps{records.SUFFIX}"
    return _maps(place, records.stamp(place))


def tallied(job: Job) -> dict[str, Any]:
    """Number of nuclei, and digest of the labels: equal for equal labels, in any tiling."""
    sums = records.get_arrays(job.record("tally", 0))
    seen = records.get_json(job.work / "quality.json")
    if sums is None or seen is None:
        raise RunError(f"{job.work}: records are gone: start again with --restart")
    return {
        "nuclei": _nuclei(job),
        "labels_digest": str(sums["digest"]),
        "seam_audit": audit.verdict(sums["audit"]),
        "quality": seen,
    }


def far_guests(job: Job) -> dict[int, list[int]]:
    """Tiles that hold parts of nuclei of a tile that is not beside them, by that tile."""
    far: dict[int, list[int]] = {}
    for name in records.names(job.records("far")):
        owner, guest = name.removesuffix(records.SUFFIX).split("-")
        far.setdefault(int(owner), []).append(int(guest))
    return far


def strays(job: Job) -> frozenset[int]:
    """Tiles with nuclei whose centroid lies far outside."""
    return frozenset(records.done(job.records("stray")))


# stage `measure`


def measured(job: Job, far: Mapping[int, Sequence[int]], index: int) -> None:
    """Stage `measure`: the sums of a tile's own nuclei, wherever they lie -> what they are."""
    sums = _sums(job, index, far.get(index, ()))
    if sums is None:
        records.put_arrays(job.record("measure", index), {})
        return
    boxes = np.stack([sums[side] for side in ("y0", "x0", "y1", "x1")], axis=1)
    outlines, hulls = _outlined(job, sums["label"], boxes)
    columns = measure.describe(
        sums,
        area_convex=hulls,
        pixel_um=job.resolution.pixel_um,
        source_px=job.resolution.scale,
    )
    columns["touches_edge"] = measure.at_edge(boxes, job.grid.shape)
    columns["touches_hole"] = _at_hole(job, sums["label"], boxes)
    columns |= outlines
    points = centroids(columns)
    if not job.grid.core(index).grow(STRAY_PX).contains(_extent(points)):
        records.put_arrays(job.record("stray", index), {})
    facts = {"points": points, "label": columns["label"]}
    records.put_arrays(job.record("centroids", index), facts, plain=True)
    records.put_arrays(job.record("measure", index), columns, plain=True)


def _sums(job: Job, index: int, far: Sequence[int]) -> Columns | None:
    """Sums of a tile's nuclei over all tiles that hold parts of them, by label."""
    beside = [tile for tile in job.grid.around(index, 1) if tile != index]
    parts = [records.get_arrays(job.record("sums", index))]
    for tile in (*beside, *far):
        guests = records.get_arrays(job.record("guests", tile))
        if guests is not None and (guests["owner"] == index).any():
            own = guests["owner"] == index
            parts.append({name: column[own] for name, column in guests.items()})
    there = [part for part in parts if part]
    return measure.add(there) if there else None


def _outlined(
    job: Job, labels: NDArray[np.uint32], boxes: NDArray[np.int64]
) -> tuple[Columns, NDArray[np.int64]]:
    """Outlines (n,) of nuclei, packed, px of the slide, and the areas of their convex hulls, px."""
    scale = job.resolution.scale
    sides = np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    small, large = np.flatnonzero(sides <= LARGE_PX), np.flatnonzero(sides > LARGE_PX)
    packed, hulls = outline.packed(np.empty(0, object)), np.zeros(0, np.int64)
    if len(small):
        window = Box(*boxes[small, :2].min(axis=0).tolist(), *boxes[small, 2:].max(axis=0).tolist())
        corner = window.y0, window.x0
        packed, hulls = outline.outlined(
            labelled.drawn(job, window),
            labels[small],
            boxes[small] - np.tile(corner, 2),
            origin=corner,
            scale=scale,
        )
    if not len(large):
        return packed, hulls
    polygons = np.empty(len(large), object)
    for k, one in enumerate(large):
        polygons[k] = _united(job, int(labels[one]), Box(*boxes[one].tolist()))
    whole = np.zeros(len(labels), np.int64)
    whole[small], whole[large] = hulls, [outline.hull_area(one) for one in polygons]
    lengths = np.zeros(len(labels), np.int64)
    lengths[small] = packed["wkb_length"]
    empty = {**packed, "wkb_length": lengths}
    return outline.inserted(empty, large, outline.to_source(polygons, scale)), whole


def _united(job: Job, label: int, box: Box) -> Any:
    """The outline of a nucleus larger than any window, from pieces."""
    parts = []
    for piece in grid(*job.grid.shape, LARGE_PX):
        part = piece.intersect(box)
        if not part.area:
            continue
        pixels = store.read(job.labels / "0", part)
        if (pixels == label).any():
            corner = part.y0, part.x0
            parts.append(outline.trace_piece(pixels, label, origin=corner))
    return outline.unite(parts)


def _at_hole(job: Job, labels: NDArray[np.uint32], boxes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which nuclei touch a tile that could not be done."""
    found = np.zeros(len(labels), bool)
    y0, x0 = boxes[:, :2].min(axis=0).tolist()
    y1, x1 = boxes[:, 2:].max(axis=0).tolist()
    reach = Box(y0, x0, y1, x1).grow(1)
    for hole in job.holes:
        near = job.grid.core(hole).grow(1).intersect(reach).clip(*job.grid.shape)
        if near.area:
            found |= np.isin(labels, np.unique(store.read(job.labels / "0", near)))
    return found


def centroids(columns: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
    """(n, 2) working px, (y, x)."""
    return np.stack([columns["centroid-0"], columns["centroid-1"]], axis=1)


def _extent(points: NDArray[np.float64]) -> Box:
    y0, x0 = np.floor(points.min(axis=0)).astype(int).tolist()
    y1, x1 = np.floor(points.max(axis=0)).astype(int).tolist()
    return Box(y0, x0, y1 + 1, x1 + 1)


# stage `neighbours`


def met(job: Job, stray: frozenset[int], index: int, *, geojson: bool) -> None:
    """Stage `neighbours`: who lies near whom; then the tile's nuclei are complete."""
    own = records.get_arrays(job.record("measure", index))
    if not own:
        records.put_arrays(job.record("neighbours", index), {})
        return
    ranges = neighbours.Ranges(job.resolution.pixel_um)
    reach = int(np.ceil(ranges.limit_px)) + 2 * STRAY_PX
    tiles = set(job.grid.around(index, reach)) | stray
    if index in stray:
        box = _extent(centroids(own)).grow(reach).clip(*job.grid.shape)
        tiles |= {tile for tile in range(len(job.grid)) if job.grid.core(tile).intersect(box).area}
    there = sorted(records.done(job.records("centroids")) & tiles - {index})
    others = [found["points"] for _, found in all_records(job, "centroids", there)]
    around = np.concatenate([np.zeros((0, 2)), *others])
    columns = neighbours.meet(centroids(own), around, ranges)
    if job.look is None:
        raise RunError("neighbours before the image stage is done")
    blurred = focus.blurred(maps(job)["focus"], job.look.stain)
    columns["out_of_focus"] = focus.flag(centroids(own), blurred)
    members = {**own, **columns}
    if geojson:
        text = qupath.features(members, own, job.channels)
        records.put(job.records("geojson") / f"{index}.gz", deflate.gzipped(text))
    records.put_arrays(job.record("neighbours", index), columns, plain=True)
