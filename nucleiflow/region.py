"""Polygons and a mask on a slide -> which pixels of any level are inside, in any window. Pure.

A pixel is inside if its centre is: in a polygon by the even-odd rule, or on a pixel of the mask
that is set. Each polygon counts for itself, so parts of two that overlap are inside. What is found
of a pixel depends on the pixel alone, never on the window that it is looked at in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nucleiflow.box import Box, grid
from nucleiflow.errors import ConfigError

MARGIN_PX = 128  # working pixels around a region in which nuclei are looked for, too
BLOCK_PX = 64  # of the working level, counted from the slide's corner
CELL_PX = 1024  # that are looked at in one piece
MOST_CROSSINGS = 4_000_000  # of edges and rows of pixels that are in memory at once
MOST_WORK = 300_000_000  # of them in a whole slide
OUTSIDE, PARTLY, INSIDE = 0, 1, 2

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Region:
    """A part of a slide of `slide_px` (h, w): `edges` (m, 4) of polygons, (y0, x0, y1, x1) in
    level-0 px, and the `polygon` (m,) that each is of; `mask` (h, w) is stretched over the slide.
    """

    slide_px: tuple[int, int]
    edges: Floats
    polygon: Ints
    mask: Bools | None = None

    def arrays(self) -> dict[str, NDArray[Any]]:
        found = {
            "slide_px": np.array(self.slide_px),
            "edges": self.edges,
            "polygon": self.polygon,
        }
        return found if self.mask is None else {**found, "mask": self.mask}

    @classmethod
    def of_arrays(cls, told: Mapping[str, NDArray[Any]]) -> Region:
        height, width = told["slide_px"].tolist()
        return cls((height, width), told["edges"], told["polygon"], told.get("mask"))

    @property
    def digest(self) -> str:
        """Another text for another region."""
        summed = hashlib.sha256()
        for name, array in self.arrays().items():
            summed.update(f"{name}{array.shape}{array.dtype}".encode())
            summed.update(np.ascontiguousarray(array).tobytes())
        return summed.hexdigest()

    @property
    def polygons(self) -> int:
        return len(np.unique(self.polygon))


def of_rings(slide_px: tuple[int, int], polygons: Sequence[Sequence[Floats]]) -> Region:
    """Polygons, each of rings (n, 2) of (y, x), its outline and its holes, closed or not."""
    edges, numbers = [np.zeros((0, 4))], [np.zeros(0, np.int64)]
    for number, rings in enumerate(polygons):
        for ring in rings:
            edges.append(np.concatenate([ring, np.roll(ring, -1, axis=0)], axis=1))
            numbers.append(np.full(len(ring), number, np.int64))
    every, of = np.concatenate(edges), np.concatenate(numbers)
    crossed = every[:, 0] != every[:, 2]  # an edge along a row is crossed by none
    return Region(slide_px, every[crossed], of[crossed])


def together(regions: Sequence[Region]) -> Region:
    """All parts of several. Raises ConfigError for masks of two sizes."""
    masks = [one.mask for one in regions if one.mask is not None]
    if len({mask.shape for mask in masks}) > 1:
        raise ConfigError("masks of the region have different sizes: give one mask")
    first = np.cumsum([0, *(int(one.polygon.max(initial=-1)) + 1 for one in regions)])
    return Region(
        regions[0].slide_px,
        np.concatenate([one.edges for one in regions]),
        np.concatenate([one.polygon + at for one, at in zip(regions, first, strict=False)]),
        np.logical_or.reduce(masks) if masks else None,
    )


@dataclass(frozen=True)
class Raster:
    """A region at a level whose pixels are `pixel` (y, x) level-0 px large."""

    region: Region
    pixel: tuple[float, float]

    def inside(self, box: Box) -> Bools:
        """Which pixels (h, w) of a box are inside."""
        found = np.zeros(box.shape, bool)
        mask = self.region.mask
        if mask is not None and box.area:
            places = (
                np.minimum(
                    ((np.arange(start, stop) + 0.5) * px * size / side).astype(np.int64), size - 1
                )
                for start, stop, px, size, side in zip(
                    (box.y0, box.x0),
                    (box.y1, box.x1),
                    self.pixel,
                    mask.shape,
                    self.region.slide_px,
                    strict=True,
                )
            )
            rows, columns = places
            found |= mask[rows[:, None], columns]
        near = self._crossing(box)
        self._fill(found, box, self.region.edges[near], self.region.polygon[near])
        return found

    def _crossing(self, box: Box) -> Ints:
        """Numbers of the edges that cross rows of a box."""
        first, last = self._rows(self.region.edges)
        return np.flatnonzero((last > box.y0) & (first < box.y1))

    def _rows(self, edges: Floats) -> tuple[Ints, Ints]:
        """The rows whose centres lie between the ends of edges: first, and the one after the last.

        Ends that two edges share give the same row, so that none is crossed twice there.
        """
        ends = np.ceil(edges[:, [0, 2]] / self.pixel[0] - 0.5).astype(np.int64)
        return ends.min(axis=1), ends.max(axis=1)

    def _fill(self, found: Bools, box: Box, edges: Floats, polygon: Ints) -> None:
        first, last = self._rows(edges)
        first, last = np.maximum(first, box.y0), np.minimum(last, box.y1)
        times = np.maximum(last - first, 0)
        if times.sum() > MOST_CROSSINGS and box.height > 1:
            middle = box.y0 + box.height // 2
            upper, lower = Box(box.y0, box.x0, middle, box.x1), Box(middle, box.x0, box.y1, box.x1)
            self._fill(found[: upper.height], upper, edges, polygon)
            self._fill(found[upper.height :], lower, edges, polygon)
            return
        if not times.any():
            return
        edge = np.repeat(np.arange(len(edges)), times)
        row = np.arange(len(edge)) - np.repeat(np.cumsum(times) - times, times) + first[edge]
        y0, x0, y1, x1 = edges[edge].T
        at = x0 + ((row + 0.5) * self.pixel[0] - y0) * ((x1 - x0) / (y1 - y0))
        column = np.ceil(at / self.pixel[1] - 0.5)  # the first whose centre is not before it
        column = np.clip(column, box.x0, box.x1).astype(np.int64) - box.x0
        order = np.lexsort((column, row, polygon[edge]))
        row, column = row[order] - box.y0, column[order]
        steps = np.zeros((box.height, box.width + 1), np.int32)
        np.add.at(steps, (row[::2], column[::2]), 1)
        np.add.at(steps, (row[1::2], column[1::2]), -1)
        found |= np.cumsum(steps[:, :-1], axis=1) > 0


@dataclass(frozen=True)
class Blocks:
    """Of a level in blocks of BLOCK_PX: what part of each is inside (`state`), and which are within
    the margin of what is (`near`); `area_px` is the number of pixels inside.
    """

    state: NDArray[np.uint8]
    near: Bools
    area_px: int


def check_work(raster: Raster) -> None:
    """Raises ConfigError for a region that would take too long."""
    first, last = raster._rows(raster.region.edges)
    work = int(np.maximum(last - first, 0).sum())
    if work > MOST_WORK:
        raise ConfigError(
            f"the region is too complicated: its edges cross {work:,} rows of pixels, at most "
            f"{MOST_WORK:,} can be: simplify it"
        )


def blocks(raster: Raster, shape: tuple[int, int]) -> Blocks:
    """Blocks of a level of a shape (h, w)."""
    from scipy import ndimage  # takes a moment, and most runs are of whole slides

    state = np.zeros(Box(0, 0, *shape).scale_down(BLOCK_PX).shape, np.uint8)
    area = 0
    for box, few in _cells(raster, shape):
        inside = few.inside(box)
        area += int(inside.sum())
        rows, columns = (np.arange(0, side, BLOCK_PX) for side in box.shape)
        counts = np.add.reduceat(np.add.reduceat(inside.astype(np.int64), rows, 0), columns, 1)
        sizes = np.outer(np.diff([*rows, box.height]), np.diff([*columns, box.width]))
        part = np.where(counts == sizes, INSIDE, np.where(counts > 0, PARTLY, OUTSIDE))
        state[box.scale_down(BLOCK_PX).slices()] = part
    reach = -(-MARGIN_PX // BLOCK_PX)
    near = ndimage.maximum_filter((state > 0).view(np.uint8), 2 * reach + 1, mode="constant") > 0
    return Blocks(state, np.asarray(near), area)


def _cells(raster: Raster, shape: tuple[int, int]) -> Iterator[tuple[Box, Raster]]:
    """Cells of a level, each with the region as far as its rows are concerned."""
    whole, height = raster.region, -1
    few = raster
    for box in grid(*shape, CELL_PX):
        if box.y0 != height:
            height = box.y0
            some = raster._crossing(box)
            part = Region(whole.slide_px, whole.edges[some], whole.polygon[some], whole.mask)
            few = Raster(part, raster.pixel)
        yield box, few


def contains(raster: Raster, found: Blocks, y: Ints, x: Ints) -> Bools:
    """Which of some pixels are inside."""
    state = found.state[y // BLOCK_PX, x // BLOCK_PX]
    inside = state == INSIDE
    unsure = np.flatnonzero(state == PARTLY)
    cells = np.stack([y[unsure] // CELL_PX, x[unsure] // CELL_PX], axis=1)
    for cell in np.unique(cells, axis=0):
        here = unsure[(cells == cell).all(axis=1)]
        top, left = (cell * CELL_PX).tolist()
        box = Box(top, left, top + CELL_PX, left + CELL_PX)
        inside[here] = raster.inside(box)[y[here] - top, x[here] - left]
    return np.asarray(inside)
