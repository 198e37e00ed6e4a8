"""Maps and masks of a slide -> pictures that lie over its thumbnail. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nucleiflow import charts, overlay
from nucleiflow.box import Box

Shape = tuple[int, int]
Bools = NDArray[np.bool_]
Bytes = NDArray[np.uint8]

MARKS = {  # what can be marked, below each other, with the colours
    "tissue": ("edge of the tissue", (0, 150, 190, 255)),
    "region": ("edge of the region", (20, 20, 20, 255)),
    "folds": ("folds", (240, 150, 0, 130)),
    "pen": ("pen marks", (170, 60, 220, 130)),
    "holes": ("holes", (235, 40, 40, 170)),
}
COLOURS = np.array([(0, 0, 0, 0), *(colour for _, colour in MARKS.values())], np.uint8)
SMOOTH_PX = 4  # gaps in the tissue within this are bridged, and pieces such as dust get no line
SOME, MOST = 0.25, 0.75  # parts of the pixels around; a straight edge stays where it is


def marks(masks: Mapping[str, Bools], shape: Shape) -> tuple[Bytes, str]:
    """Masks of the whole slide, of any sizes -> indices (h, w) into `COLOURS`, and their legend."""
    drawn = np.zeros(shape, np.uint8)
    legend = ""
    for number, (name, (title, colour)) in enumerate(MARKS.items(), start=1):
        if name not in masks:
            continue
        mask = _reduced(masks[name], shape)
        if name == "tissue":
            whole = _around(_around(mask, SOME), MOST)
            mask = overlay.outlines(whole.astype(np.uint8))
        if name == "region":
            mask = overlay.outlines(mask.astype(np.uint8))
        if mask.any():
            drawn[mask] = number
            legend += charts.key(title, colour)
    return drawn, legend


def _reduced(mask: Bools, shape: Shape) -> Bools:
    """A mask (h, w) at another size: where at least half of it is."""
    if mask.shape[0] < shape[0] or mask.shape[1] < shape[1]:
        y, x = (np.arange(n) * size // n for n, size in zip(shape, mask.shape, strict=True))
        return mask[y[:, None], x]
    y, x = (
        np.searchsorted(np.arange(n) * size // n, np.arange(size))
        for n, size in zip(mask.shape, shape, strict=True)
    )
    hit = counts(mask, y, x)
    heights, widths = np.diff(y, append=mask.shape[0]), np.diff(x, append=mask.shape[1])
    return np.asarray(hit * 2 >= np.outer(heights, widths))


def counts(mask: Bools, y: NDArray[np.int64], x: NDArray[np.int64]) -> NDArray[np.int32]:
    """How much of a mask (h, w) is set in blocks, by the rows and columns where these begin."""
    ends = [*y[1:].tolist(), len(mask)]
    rows = [mask[a:b].sum(axis=0, dtype=np.int32) for a, b in zip(y.tolist(), ends, strict=True)]
    return np.asarray(np.add.reduceat(np.stack(rows), x, axis=1))


def _around(mask: Bools, share: float) -> Bools:
    """Where more than this part of the pixels around are set."""
    side = 2 * SMOOTH_PX + 1
    sums = np.pad(mask.astype(np.int64), SMOOTH_PX, mode="edge").cumsum(0).cumsum(1)
    sums = np.pad(sums, ((1, 0), (1, 0)))
    around = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    return np.asarray(around > share * side * side)


def boxes(found: Iterable[Box], slide: Shape, shape: Shape) -> Bools:
    """Parts of a slide of so many px as pixels of a picture of it; each has at least one."""
    drawn = np.zeros(shape, bool)
    y, x = (n / side for n, side in zip(shape, slide, strict=True))
    for box in found:
        rows = slice(int(box.y0 * y), int(np.ceil(box.y1 * y)))
        drawn[rows, int(box.x0 * x) : int(np.ceil(box.x1 * x))] = True
    return drawn


def heat(share: NDArray[np.floating[Any]], pitch_px: int, slide: Shape, shape: Shape) -> Bytes:
    """Amounts 0..1 (h, w), one every `pitch_px` of a slide of so many px -> indices of heat
    colours, as a picture of `shape`.
    """
    y, x = (
        np.minimum(((np.arange(n) + 0.5) * side / n / pitch_px).astype(int), most - 1)
        for n, side, most in zip(shape, slide, share.shape, strict=True)
    )
    return np.rint(np.clip(share, 0, 1) * 255).astype(np.uint8)[y[:, None], x]


def cell_areas(pitch_px: int, slide: Shape) -> NDArray[np.float64]:
    """Areas of the cells of a map, px²; the last ones are cut by the slide's edge."""
    heights, widths = (
        np.minimum(side - np.arange(0, side, pitch_px), pitch_px).astype(float) for side in slide
    )
    return np.outer(heights, widths)
