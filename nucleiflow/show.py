"""A finished slide -> a picture of its nuclei outlined."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nucleiflow import overlay, picture, pixels, runfile, store
from nucleiflow.box import Box
from nucleiflow.errors import ConfigError
from nucleiflow.job import View
from nucleiflow.place import Place

FIELD_PX = 1024
WHOLE_PX = 2048


def parse_region(text: str) -> Box:
    """`y0:y1,x0:x1` in pixels of the finest level. Raises ConfigError.

    >>> parse_region("0:512,100:612")
    Box(y0=0, x0=100, y1=512, x1=612)
    """
    try:
        (y0, y1), (x0, x1) = ((int(end) for end in part.split(":")) for part in text.split(","))
        return Box(y0, x0, y1, x1)
    except ValueError:
        raise ConfigError(
            f"region is {text!r}: write it as y0:y1,x0:x1, such as 0:1024,0:1024"
        ) from None


def draw(
    folder: Place,
    word: dict[str, Any],
    *,
    region: Box | None,
    whole: bool,
    colour: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """Picture (h, w, 3) uint8: a region, the whole slide made small, or else its fullest field.

    Nuclei are outlined or, with a `colour` (n + 1, 3) for each label, filled.
    """
    labels, seen = folder / word["labels"], runfile.view(word, folder)
    if seen.direct:
        runfile.check_slide(word, seen)
    level = _small_level(labels) if whole else 0
    shape = store.open_readonly(labels / str(level)).shape
    field = Box(0, 0, *shape) if whole else region or _fullest(labels, shape)
    box = field.clip(*shape)
    if box.area == 0:
        raise ConfigError(f"region {region} is outside the slide of {shape[0]} x {shape[1]} px")
    norm = word["normalisation"]
    shown, names = (
        _pixels(seen, level, box)[..., norm["channels"]],
        store.read(labels / str(level), box),
    )
    if colour is not None:
        return overlay.fill(overlay.stretched(shown, norm["low"], norm["high"]), names, colour)
    return overlay.draw(shown, names, low=norm["low"], high=norm["high"])


def _pixels(seen: View, level: int, box: Box) -> NDArray[Any]:
    if level and seen.direct:  # of a finished slide, no low levels are kept
        return np.moveaxis(pixels.whole(seen)[0], 0, -1)[box.slices()]
    return pixels.level(seen, level, box)


def save(path: Path, drawn: NDArray[np.uint8]) -> None:
    picture.save_png(path, drawn)


def _small_level(labels: Place) -> int:
    for level in range(64):
        if max(store.open_readonly(labels / str(level)).shape) <= WHOLE_PX:
            return level
    raise ConfigError(f"{labels} has no level of {WHOLE_PX} px")


def _fullest(labels: Place, shape: tuple[int, int]) -> Box:
    """The field of 1024 px, on a coarse grid, in which most pixels are nucleus."""
    level = _small_level(labels)
    low = store.open_readonly(labels / str(level))[:] > 0
    side = max(1, FIELD_PX >> level)
    sums = np.pad(low.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    rows = range(0, max(1, low.shape[0] - side + 1), max(1, side // 8))
    columns = range(0, max(1, low.shape[1] - side + 1), max(1, side // 8))
    best = max((_within(sums, y, x, side), -y, -x) for y in rows for x in columns)
    y, x = -best[1] << level, -best[2] << level
    return Box(y, x, y + FIELD_PX, x + FIELD_PX).clip(*shape)


def _within(sums: NDArray[Any], y: int, x: int, side: int) -> int:
    bottom, right = min(y + side, sums.shape[0] - 1), min(x + side, sums.shape[1] - 1)
    return int(sums[bottom, right] - sums[y, right] - sums[bottom, x] + sums[y, x])
