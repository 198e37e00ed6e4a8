"""A job and a box -> its pixels: of the copy in the OME-Zarr, or of the slide itself."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nucleiflow import pyramid, records, source, store
from nucleiflow.box import Box, grid
from nucleiflow.errors import ConfigError, SlideError, explain
from nucleiflow.job import View
from nucleiflow.resample import Resampling, resampled
from nucleiflow.slide import Level, Slide

LOW_PX = 2048  # what is decided of the slide as a whole comes from the first level no larger
BLOCK_PX = 1024  # of the working level that are made small at a time
LEAST_PX = 256  # of a block that cannot be read as a whole
THREADS = 4  # that read them
MOST_OPEN = 4

_gate = threading.Lock()
_open: dict[tuple[str, int | None, int | str], Slide] = {}


def slide(path: str, series: int | None) -> Slide:
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


# the working level


def read(job: View, box: Box) -> NDArray[Any]:
    """Pixels (h, w, c) of the working level, as the tasks see them."""
    return of_slide(job, box) if job.direct else _stored(job, 0, box)


def of_slide(job: View, box: Box) -> NDArray[Any]:
    """The same from the slide, resampled if need be: any box, whatever is copied."""
    level = slide(job.slide, job.series).levels[job.resolution.level]
    pixels = resampled(box, Resampling(level.shape, job.resolution.working_px), level.read)
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def anywhere(job: View, box: Box) -> NDArray[Any]:
    """The same where perhaps nothing was copied."""
    return of_slide(job, box) if job.partial else _stored(job, 0, box)


def _stored(job: View, level: int, box: Box) -> NDArray[Any]:
    place = job.low if job.direct else job.store
    return np.moveaxis(store.read(place / str(level), box), 0, -1)


# coarser levels


def low_level(job: View) -> int:
    """The level that shows the slide as a whole."""
    return next(k for k, shape in enumerate(job.levels) if max(shape) <= LOW_PX)


def low(job: View) -> NDArray[Any]:
    """All pixels (h, w, c) of `low_level`: the same with a copy and without one."""
    number = low_level(job)
    whole = Box(0, 0, *job.levels[number])
    return _stored(job, number, whole) if number else anywhere(job, whole)


def level(job: View, number: int, box: Box) -> NDArray[Any]:
    """Pixels (h, w, c) of a level of the job, which is at least `finest(job)`, to look at: what
    cannot be read of a slide that is not copied is empty.
    """
    if not job.direct or number >= first(job):
        return _stored(job, number, box)
    try:
        if number == 0:
            return of_slide(job, box)
        coarse = next(of_own(job, slide(job.slide, job.series), number))
        return resampled(box, Resampling(coarse.shape, job.levels[number]), coarse.read)
    except SlideError:
        return np.zeros((*box.shape, len(job.channels)), job.dtype)


def finest(job: View) -> int:
    """The finest level that is there, or costs little to read from the slide."""
    number = low_level(job)
    if not job.partial:
        return 0
    if not job.direct:
        return number  # finer ones are empty outside of the region
    finer = number > 1 and any(of_own(job, slide(job.slide, job.series), number - 1))
    return number - 1 if finer else number


def first(job: View) -> int:
    """The first level that comes from the slide where levels are `apart`."""
    return max(1, low_level(job))


def of_own(job: View, found: Slide, number: int) -> Iterator[Level]:
    """Levels of the slide that a level of the job can be made of, the coarsest first.

    They are coarser than the one that is read at full resolution, and shrink y and x alike.
    """
    shapes, at = [one.shape for one in found.levels], job.resolution.level
    wanted, (height, width) = job.levels[number], shapes[at]
    for one in sorted(found.levels[at + 1 :], key=lambda one: one.shape[0] * one.shape[1]):
        factor = (height / one.shape[0] + width / one.shape[1]) / 2
        straight = all(
            abs(n - n0 / factor) <= 1 + 0.02 * n
            for n, n0 in zip(one.shape, (height, width), strict=True)
        )
        finer = one.shape[0] >= wanted[0] and one.shape[1] >= wanted[1]
        if straight and finer and one.shape[0] * one.shape[1] < height * width:
            yield one


# the low levels, where they are `apart`: made of the slide and not of the level above


def overview(job: View) -> None:
    """Write the low levels and all that are coarser: of a coarse level of the slide, or else of
    means of the working level, a block at a time. Raises StoreError.
    """
    start = first(job)
    if start >= len(job.levels):
        return
    pixels, lost = whole(job)
    place = job.low if job.direct else job.store
    for number in range(start, len(job.levels)):
        if number > start:
            pixels = pyramid.halve_mean(pixels)
        store.write(place / str(number), Box(0, 0, *job.levels[number]), pixels)
    records.put_json(job.work / "unreadable.json", {"boxes": lost})


def whole(job: View) -> tuple[NDArray[Any], list[list[int]]]:
    """All of level `first` (c, h, w), and the boxes of the working level that cannot be read."""
    opened, number = slide(job.slide, job.series), first(job)
    shape = job.levels[number]
    for coarse in of_own(job, opened, number):
        try:
            pixels = resampled(Box(0, 0, *shape), Resampling(coarse.shape, shape), coarse.read)
        except SlideError:
            continue  # a damaged level is no reason to give up the slide
        return np.moveaxis(pixels.astype(job.dtype, copy=False), -1, 0), []
    return _means(job, number)


def _means(job: View, number: int) -> tuple[NDArray[Any], list[list[int]]]:
    """The same from level 0: what no coarser level of the slide shows must be read in full."""
    found = np.zeros((len(job.channels), *job.levels[number]), job.dtype)
    lost: list[list[int]] = []

    def small(box: Box) -> None:
        try:
            pixels = np.moveaxis(of_slide(job, box), -1, 0)
        except SlideError:
            if max(box.shape) <= max(LEAST_PX, 2**number):
                lost.append([box.y0, box.x0, box.y1, box.x1])
                return
            for part in grid(*box.shape, max(LEAST_PX, 2**number)):
                y, x = box.y0 + part.y0, box.x0 + part.x0
                small(Box(y, x, y + part.height, x + part.width))
            return
        for _ in range(number):
            pixels = pyramid.halve_mean(pixels)
        found[(..., *box.scale_down(2**number).slices())] = pixels

    side = max(BLOCK_PX, 2**number)
    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(small, grid(*job.resolution.working_px, side)))
    return found, sorted(lost)


def unreadable(job: View) -> list[Box]:
    """Boxes of the working level that `overview` could not read."""
    if not job.partial:
        return []  # holes say it
    told = records.get_json(job.work / "unreadable.json") or {}
    return [Box(*one) for one in told.get("boxes", [])]


def ensure(job: View) -> None:
    """For what is made of a finished slide: its low levels, if they are not there any more.

    Raises ConfigError, one line, where the slide is gone.
    """
    if not job.direct:
        return
    check(job)
    if not records.exists(job.work / "unreadable.json"):
        create(job)
        overview(job)


def check(job: View) -> None:
    """Raises ConfigError, one line, if the slide, which is needed, is not there."""
    try:
        slide(job.slide, job.series)
    except SlideError as error:
        how = "--image none" if job.direct else "--region"
        raise ConfigError(
            f"{job.name} was run with {how}, so this needs its slide: {explain(error)}"
        ) from error


def create(job: View) -> None:
    """Empty arrays of the low levels of a job without a copy."""
    for number in range(first(job), len(job.levels)):
        shape = (len(job.channels), *job.levels[number])
        store.create_array(job.low / str(number), shape, job.dtype, tile_px=LOW_PX, axes="cyx")
