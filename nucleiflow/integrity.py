"""Files of a finished slide -> where labels, levels, table and run.json contradict each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nucleiflow import digest, pixels, pyramid, records, store, tables
from nucleiflow.box import Box
from nucleiflow.errors import SlideError, StoreError, explain
from nucleiflow.job import Job
from nucleiflow.objects import UnreachableError
from nucleiflow.place import Place

MOST_TOLD = 12  # differences of one kind, within a tile or a part of the table
COLUMNS = ("label", "area", "bbox-0", "bbox-1", "bbox-2", "bbox-3")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Difference:
    """`place` in pixels of the finest level, where it is known."""

    text: str
    place: Box | None = None

    def as_json(self) -> dict[str, Any]:
        box = self.place
        where = None if box is None else {"y0": box.y0, "x0": box.x0, "y1": box.y1, "x1": box.x1}
        return {"text": self.text, "place": where}

    def __str__(self) -> str:
        box = self.place
        return self.text if box is None else f"at {box.y0}:{box.y1},{box.x0}:{box.x1}: {self.text}"


class _UnreadableError(Exception):
    """What was read is damaged: a difference, and no end of the work."""


def check(job: Job, word: dict[str, Any], say: Say) -> Iterator[Difference]:
    """Every pixel of the labels and of the image, and every row of the table, once.

    Memory: a tile, and 4 bytes a nucleus. Raises StoreError where a store does not answer.
    """
    say(f"{job.name}: reading the labels, {len(job.grid):,} tiles")
    areas = np.zeros(word["nuclei"] + 1, np.uint32)
    shares: list[NDArray[np.uint64]] = []
    yield from _labels(job, areas, shares)
    if len(shares) == len(job.grid):
        yield from _nuclei(job, word, areas)
    kinds = (
        ("labels", job.labels, pyramid.halve_nearest),
        ("image", job.store, pyramid.halve_mean),
    )
    for name, root, halve in kinds[: 1 if job.direct else 2]:
        say(f"{job.name}: reading the levels of the {name}")
        for level in range(1, len(job.levels)):
            if name == "image" and job.apart and level == pixels.first(job):
                yield from _overview(job, say)
                continue
            yield from _level(job, root, level, halve, f"level {level} of the {name}")
    summed, told = digest.total(shares), word["labels_digest"]
    if not digest.is_known(told):
        say(f"{job.name}: an earlier version made the digest in run.json: it is not compared")
    elif summed != told:
        yield Difference(f"the labels have digest {summed}, run.json has {told}")


def _labels(
    job: Job, areas: NDArray[np.uint32], shares: list[NDArray[np.uint64]]
) -> Iterator[Difference]:
    """Areas of all labels are added to `areas`, the digest's shares of the tiles to `shares`."""
    for index in range(len(job.grid)):
        core = job.grid.core(index)
        try:
            labels = _read(job.labels / "0", core)
        except _UnreadableError as error:
            yield Difference(f"the labels cannot be read: {error}", core)
            continue
        shares.append(digest.share(labels, core, job.grid.width))
        high = labels >= len(areas)
        if high.any():
            text = (
                f"label {labels[high].max():,} is stored, but there are {len(areas) - 1:,} nuclei"
            )
            yield Difference(text, _around(high, core, 1))
        inside = labels[(labels > 0) & ~high]
        if len(inside):
            least = inside.min()
            counted = np.bincount(inside - least)
            areas[least : least + len(counted)] += counted.astype(np.uint32)


def _nuclei(job: Job, word: dict[str, Any], areas: NDArray[np.uint32]) -> Iterator[Difference]:
    """Whether each nucleus is there, unless tiles could not be labelled, and as large as the table
    gives it.
    """
    gone = 1 + np.flatnonzero(areas[1:] == 0)
    if len(gone) and not any(hole["stage"] == "label" for hole in word["holes"]):
        some = ", ".join(f"{label:,}" for label in gone[:MOST_TOLD])
        yield Difference(f"{len(gone):,} nuclei are nowhere in the labels: {some}, …")
    if job.table.name not in word.get("exports", {}):
        return
    rows = 0
    try:
        with records.reader(job.table) as file:
            for columns in tables.batches(file, COLUMNS):
                rows += len(columns["label"])
                yield from _rows(columns, areas)
    except UnreachableError:
        raise
    except StoreError as error:
        yield Difference(explain(error))
        return
    there = np.count_nonzero(areas[1:])
    if rows != there:
        yield Difference(f"the table has {rows:,} rows for {there:,} nuclei")


def _rows(columns: Mapping[str, NDArray[Any]], areas: NDArray[np.uint32]) -> Iterator[Difference]:
    label = columns["label"].astype(np.int64)
    found = np.where(label < len(areas), areas[np.minimum(label, len(areas) - 1)], 0)
    for row in np.flatnonzero(found != columns["area"])[:MOST_TOLD]:
        sides = (int(columns[f"bbox-{side}"][row]) for side in range(4))
        expected = int(columns["area"][row])
        text = f"label {label[row]:,} has {found[row]:,} px, the table has {expected:,}"
        yield Difference(text, Box(*sides))


def _level(
    job: Job, root: Place, level: int, halve: Callable[[NDArray[Any]], NDArray[Any]], name: str
) -> Iterator[Difference]:
    """Whether a level is what the one above it gives."""
    grid = job.level_grid(level)
    for index in range(len(grid)):
        core = grid.core(index)
        fine = Box(2 * core.y0, 2 * core.x0, 2 * core.y1, 2 * core.x1)
        at = Box(*(side << level for side in (core.y0, core.x0, core.y1, core.x1)))
        try:
            here = _read(root / str(level), core)
            wanted = halve(_read(root / str(level - 1), fine.clip(*job.levels[level - 1])))
        except _UnreadableError as error:
            yield Difference(f"{name} cannot be read: {error}", at.clip(*job.grid.shape))
            continue
        differ = (here != wanted).reshape(-1, *here.shape[-2:]).any(axis=0)
        if differ.any():
            place = _around(differ, core, 1 << level).clip(*job.grid.shape)
            yield Difference(f"{name} is not what the level above gives", place)


def _overview(job: Job, say: Say) -> Iterator[Difference]:
    """Whether the level that comes from the slide is what the slide gives, if it is there."""
    try:
        pixels.slide(job.slide, job.series)
    except SlideError as error:
        say(f"{job.name}: a low level of the image is not compared with the slide: {error}")
        return
    level = pixels.first(job)
    try:
        here = _read(job.store / str(level), Box(0, 0, *job.levels[level]))
    except _UnreadableError as error:
        yield Difference(f"level {level} of the image cannot be read: {error}")
        return
    if (here != pixels.whole(job)[0]).any():
        yield Difference(f"level {level} of the image is not what the slide gives")


def _read(place: Place, box: Box) -> NDArray[Any]:
    """Pixels of a box. Raises _UnreadableError for damage of any kind."""
    try:
        pixels = store.read(place, box)
    except UnreachableError:
        raise
    except Exception as error:  # codecs raise what they like
        raise _UnreadableError(explain(error)) from error
    if pixels.shape[-2:] != box.shape:
        raise _UnreadableError(f"{place} has another shape than run.json tells")
    return pixels


def _around(found: NDArray[np.bool_], core: Box, scale: int) -> Box:
    """The box of what was found (h, w) in a core, in pixels `scale` times as small."""
    y, x = np.nonzero(found)
    ends = (
        core.y0 + int(y.min()),
        core.x0 + int(x.min()),
        core.y0 + int(y.max()) + 1,
        core.x0 + int(x.max()) + 1,
    )
    return Box(*(end * scale for end in ends))
