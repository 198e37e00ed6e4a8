"""Image of a finished slide -> the labels of some windows once more, cut otherwise, and compared.

The tasks of a run do the work, on a grid of one's own and in a folder of one's own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nucleiflow import look, maps, records, regions, store, tasks
from nucleiflow.box import Box
from nucleiflow.grow import grow
from nucleiflow.job import Job
from nucleiflow.place import Place
from nucleiflow.plan import Grid
from nucleiflow.seeds import Record

SIDES_PX = 512, 256, 128
DRAWN = 40  # places to choose from, for each window that is wanted
MOST_TOLD = 3  # differences of one window
Found = tuple[Box, str]


@dataclass(frozen=True)
class Windows(Grid):
    """A grid whose tiles lie anywhere on the network's stride, and know no neighbours."""

    cores: tuple[Box, ...] = ()

    def __len__(self) -> int:
        return len(self.cores)

    def core(self, index: int) -> Box:
        return self.cores[index]

    def around(self, index: int, _margin_px: int) -> list[int]:
        return [index]


@dataclass(frozen=True, kw_only=True)
class Second(Job):
    """A job that reads the image of another one, `image`, or the slide if there is none, and leaves
    the rest of it alone.
    """

    image: Place | None = None

    @property
    def store(self) -> Place:
        return super().store if self.image is None else self.image

    @property
    def labels(self) -> Place:
        return self.folder / "labels"

    @property
    def own_levels(self) -> int:
        return 0


def second(job: Job, folder: Place) -> Second:
    """The same slide, whose work is done in `folder`."""
    fields = {name: getattr(job, name) for name in Job.__dataclass_fields__}
    return Second(**{**fields, "folder": folder}, image=None if job.direct else job.store)


def choose(job: Job, amount: int, seed: int) -> tuple[Box, ...]:
    """Up to `amount` windows: on corners of seams, on seams, with tissue if there is any.

    None is near a hole; between holes they are smaller. A slide without seams has them anywhere.
    """
    unit = math.lcm(job.grid.reach.stride_px, 32)
    reach = job.postprocessing.grow_px
    holes = [job.grid.core(hole).grow(job.grid.reach.halo_px + reach) for hole in job.holes]
    for wanted in SIDES_PX:
        side = -(-max(wanted, 4 * reach) // unit) * unit
        drawn = list(dict.fromkeys(_drawn(job.grid, side, unit, amount * DRAWN, seed)))
        free = [box for box in drawn if not any(box.intersect(hole).area for hole in holes)]
        if free:
            break
    first = look.with_tissue(job, free)
    rest = sorted(set(range(len(free))) - set(first))
    return tuple(free[place] for place in (*first, *rest)[:amount])


def _drawn(grid: Grid, side: int, unit: int, amount: int, seed: int) -> Iterator[Box]:
    """Boxes at random: seams lie in the middle half of them."""
    rng = np.random.default_rng(seed)
    seams = [range(grid.tile_px, length, grid.tile_px) for length in grid.shape]
    kinds = [kind for kind in ((True, True), (True, False), (False, True)) if _there(kind, seams)]
    for number in range(amount):
        on_seam = kinds[number % len(kinds)] if kinds else (False, False)
        corner = []
        for length, lines, wanted in zip(grid.shape, seams, on_seam, strict=True):
            at = int(rng.choice(lines)) if wanted else int(rng.integers(length))
            start = at - side // 2 + int(rng.integers(-side // 4, side // 4 + 1))
            last = max(0, length - side)
            corner.append(min(max(0, start), last) // unit * unit)
        y, x = corner
        yield Box(y, x, y + side, x + side).clip(*grid.shape)


def _there(kind: tuple[bool, bool], seams: Sequence[range]) -> bool:
    return all(bool(lines) or not wanted for lines, wanted in zip(seams, kind, strict=True))


def windows(job: Second, cores: tuple[Box, ...]) -> Second:
    """The job on windows instead of its tiles; an array for its labels is made."""
    side = max((side for core in cores for side in core.shape), default=1)
    unit = math.lcm(job.grid.reach.stride_px, 32)
    grid = Windows(*job.grid.shape, -(-side // unit) * unit, job.grid.reach, cores)
    job = replace(job, grid=grid, holes=frozenset())
    place, side = job.labels / "0", grid.tile_px
    store.create_array(place, job.grid.shape, "uint32", tile_px=side, axes="yx")
    return job


def compare(job: Second, labels: Place, index: int) -> tuple[int, list[Found]]:
    """One window from the image to labels again: nuclei compared, and where `labels` differ."""
    tasks.segment(job, index)
    core = job.grid.core(index)
    stored, seeds = store.read(labels, core), maps.seeds(job, index).drawn()
    record = Record(**(records.get_arrays(job.record("segment", index)) or {}))
    names, unknown, wrong = _named(job, core, record, seeds, stored)
    owner = np.full(len(names), index, np.int32)
    records.put_arrays(job.record("new", index), {"new": names, "owner": owner})
    tasks.label(job, index)
    inside = _interior(job, core)
    place = inside.slices(origin=core)
    again = store.read(job.labels / "0", inside)
    differ = (again != stored[place]) & ~_reached(unknown[seeds], job)[place]
    if differ.any():
        wrong.append(_difference(inside, differ, stored[place], again))
    return len(np.unique(again[again > 0])), wrong[:MOST_TOLD]


def _reached(unknown: NDArray[np.bool_], job: Job) -> NDArray[np.bool_]:
    """Where seeds may grow to that are cut off by the window, and may be too small for a label."""
    if not unknown.any():
        return unknown
    everywhere = np.ones(unknown.shape, np.uint8)
    return grow(unknown.astype(np.uint32), everywhere, grow_px=job.postprocessing.grow_px) > 0


def _interior(job: Job, core: Box) -> Box:
    """The part of a window that no seed outside it grows into."""
    height, width = job.grid.shape
    margin = job.postprocessing.grow_px
    return Box(
        core.y0 + margin if core.y0 else 0,
        core.x0 + margin if core.x0 else 0,
        core.y1 - margin if core.y1 < height else height,
        core.x1 - margin if core.x1 < width else width,
    )


def _named(
    job: Job, core: Box, record: Record, seeds: NDArray[np.int32], stored: NDArray[np.uint32]
) -> tuple[NDArray[np.uint32], NDArray[np.bool_], list[Found]]:
    """Of the seeds of a window, (count + 1,): the label that is stored, whether the window does not
    show if they have one; and what is wrong with them.

    A seed that is large enough has one label; one wholly in the window shares it with no other, and
    comes in order of first pixels. One that is too small is foreground like any other.
    """
    on = seeds > 0
    low = np.full(record.count + 1, np.iinfo(np.uint32).max, np.uint32)
    high = np.zeros(record.count + 1, np.uint32)
    np.minimum.at(low, seeds[on], stored[on])
    np.maximum.at(high, seeds[on], stored[on])
    whole = _whole(job, core, record)
    large = np.concatenate([[False], record.area >= job.postprocessing.min_seed_area_px])
    names = np.where(large, high, 0).astype(np.uint32)
    unknown = ~whole & ~large
    unknown[0] = False
    wanted = np.ones(record.count, bool)
    if job.region is not None:  # seeds that begin outside have no label, but grow
        wanted = regions.within(job)(record.first)
        unknown |= large & (high == 0) & (_led(~wanted) | ~whole)
    wrong: list[Found] = []

    def tell(seed: int, text: str) -> None:
        y, x = divmod(int(record.first[seed - 1]), job.grid.width)
        wrong.append((Box(y, x, y + 1, x + 1), text))

    for seed in np.flatnonzero(large & (low != high))[:MOST_TOLD]:
        tell(seed, f"one nucleus has labels {low[seed]:,} and {high[seed]:,}")
    for seed in np.flatnonzero(large & (high == 0) & ~unknown)[:MOST_TOLD]:
        tell(seed, "a nucleus has no label")
    for seed in np.flatnonzero(whole & large & (high > 0) & _led(~wanted))[:MOST_TOLD]:
        tell(seed, "a nucleus outside of the region has a label")
    values, times = np.unique(names, return_counts=True)
    for value in values[(times > 1) & (values > 0)][:MOST_TOLD]:
        same = np.flatnonzero(names == value)
        if whole[same].any():
            tell(same[-1], f"label {value:,} is that of {len(same)} nuclei")
    known = 1 + np.argsort(record.first)
    known = known[whole[known] & (names[known] > 0)]
    for late in np.flatnonzero(np.diff(names[known].astype(np.int64)) < 0)[:MOST_TOLD]:
        one, other = names[known[late : late + 2]]
        tell(known[late + 1], f"label {other:,} comes after {one:,}, in order of first pixels")
    return names, unknown, wrong


def _led(found: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """By seed, none being 0."""
    return np.concatenate([[False], found])


def _whole(job: Job, core: Box, record: Record) -> NDArray[np.bool_]:
    """Which seeds (count + 1,) of a window reach none of its sides that others continue."""
    height, width = job.grid.shape
    sides = (
        (record.top, core.y0 > 0),
        (record.bottom, core.y1 < height),
        (record.left, core.x0 > 0),
        (record.right, core.x1 < width),
    )
    found = np.ones(record.count + 1, bool)
    for strip, goes_on in sides:
        if goes_on:
            found[strip] = False
    found[0] = False
    return found


def _difference(
    inside: Box, differ: NDArray[np.bool_], stored: NDArray[Any], again: NDArray[Any]
) -> Found:
    y, x = np.nonzero(differ)
    place = Box(
        inside.y0 + int(y.min()),
        inside.x0 + int(x.min()),
        inside.y0 + int(y.max()) + 1,
        inside.x0 + int(x.max()) + 1,
    )
    there, now = stored[y[0], x[0]], again[y[0], x[0]]
    text = f"{len(y):,} pixels differ: label {there:,} is stored where {now:,} belongs, and so on"
    return place, text
