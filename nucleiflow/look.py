"""The slide's pixels -> stain, tissue mask and normalisation of the whole slide, decided once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nucleiflow import normalise, pixels, records, regions, sketch, stain, tissue
from nucleiflow.box import Box
from nucleiflow.errors import RunError, SlideError
from nucleiflow.job import Job, Look

SAMPLE_PX, SAMPLES = 256, 64  # full-resolution blocks that the intensity percentiles come from


def decide(job: Job, *, kind: str | None, channel: str | None, tissue_only: bool) -> Job:
    """The job with its look. Raises ConfigError for a stain or channel that cannot be."""
    level, low = pixels.low_level(job), pixels.low(job)
    lost = [job.grid.core(hole) for hole in sorted(job.holes)] + pixels.unreadable(job)
    chosen = stain.decide(
        low[_whole(low.shape[:2], lost, 2**level)] if lost else low.reshape(-1, low.shape[-1]),
        job.channels,
        rgb=job.rgb,
        stain=kind,
        channel=channel,
    )
    mask, block_px = None, 2**level
    if tissue_only and job.grid.height * job.grid.width > tissue.EVERYTHING_MP * 10**6:
        mask = tissue.find(
            low[..., list(chosen.channels)],
            bright_background=chosen.kind != "fluorescence",
            block_px=block_px,
        )
    if mask is not None:
        for box in pixels.unreadable(job):
            mask[box.scale_down(block_px).slices()] = True  # what it holds, segment finds out
    norm = normalise.measure(
        _sample(job, mask, block_px, lost),
        stain=chosen.kind,
        channels=chosen.channels,
        inverts=job.model.settings.inverts,
    )
    if job.region is not None:
        mask, block_px = regions.combined(job, mask, block_px)
    if mask is not None:
        records.put_arrays(job.tissue, {"mask": mask})
    look = Look(norm, chosen.kind, chosen.reason, block_px if mask is not None else None)
    records.put_json(job.work / "look.json", look.as_json())
    return replace(job, look=look)


def known(job: Job) -> Job:
    """The job with the look that was decided. Raises RunError if there is none."""
    told = records.get_json(job.work / "look.json")
    if told is None:
        raise RunError(f"{job.work / 'look.json'} is gone: start again with --restart")
    return replace(job, look=Look.from_json(told))


def with_tissue(job: Job, boxes: Sequence[Box]) -> list[int]:
    """Which of some boxes hold any tissue, by their place in the sequence."""
    if job.look is None or job.look.block_px is None:
        return list(range(len(boxes)))
    found = records.get_arrays(job.tissue)
    mask = found["mask"] if found else np.ones((1, 1), bool)
    blocks = (box.scale_down(job.look.block_px) for box in boxes)
    return [index for index, block in enumerate(blocks) if mask[block.slices()].any()]


def tissue_tiles(job: Job) -> list[int]:
    """Tiles with any tissue in their core."""
    return with_tissue(job, [job.grid.core(index) for index in range(len(job.grid))])


def _sample(
    job: Job, mask: NDArray[np.bool_] | None, block_px: int, lost: Sequence[Box]
) -> NDArray[Any]:
    """Pixels (n, c) of up to 64 full-resolution blocks of 256 px, spread evenly over the tissue.

    The blocks are fixed by the slide alone, so no tiling changes them.
    """
    height, width = job.grid.shape
    wanted = _whole(Box(0, 0, height, width).scale_down(SAMPLE_PX).shape, lost, SAMPLE_PX)
    if mask is not None:
        with_tissue = wanted & _reduced(mask, block_px, job.grid.shape)
        wanted = with_tissue if with_tissue.any() else wanted
    places = np.argwhere(wanted) * SAMPLE_PX
    chosen = np.unique(np.linspace(0, len(places) - 1, min(SAMPLES, len(places))).astype(int))
    blocks = [Box(y, x, y + SAMPLE_PX, x + SAMPLE_PX) for y, x in places[chosen].tolist()]
    parts = [
        part for block in blocks if (part := _read(job, block.clip(height, width))) is not None
    ]
    if not parts:
        raise SlideError(f"{job.slide}: none of its pixels can be read: copy the file again")
    return np.concatenate([part.reshape(-1, part.shape[-1]) for part in parts])


def _reduced(mask: NDArray[np.bool_], block_px: int, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Which blocks of SAMPLE_PX of a slide (h, w) hold any of a mask, a value every `block_px`."""
    y, x = (np.arange(0, side, SAMPLE_PX) // block_px for side in shape)
    if block_px >= SAMPLE_PX:
        return np.asarray(mask[np.ix_(y, x)])
    return np.asarray(sketch.counts(mask, y, x) > 0)


def _read(job: Job, box: Box) -> NDArray[Any] | None:
    """Pixels of a block; None where a slide that is not copied cannot be read."""
    try:
        return pixels.anywhere(job, box)
    except SlideError:
        return None


def _whole(shape: tuple[int, int], lost: Sequence[Box], block_px: int) -> NDArray[np.bool_]:
    """Which pixels (h, w) of a low level are not of boxes that could not be read."""
    whole = np.ones(shape, bool)
    for box in lost:
        whole[box.scale_down(block_px).slices()] = False
    return whole if whole.any() else ~whole
