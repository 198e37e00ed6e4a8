"""Slide's levels, its µm per pixel and what is wished for -> the level to read, resampled or not.

Pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nucleiflow.errors import ConfigError
from nucleiflow.slide import sane_mpp

RANGE_TOLERANCE = 0.05  # a slide this far outside the model's range is still read as it is
SAME_MPP = 0.01  # levels this close to --working-mpp are what was asked for
MAX_ENLARGED = 4.0  # beyond it, there is nothing to see in the pixels that are made
MAX_REDUCED = 64.0

Shape = tuple[int, int]


@dataclass(frozen=True)
class Wish:
    """What the user asks for (`level`, `working_mpp`) and what the model expects (`mpp_range`)."""

    level: int | None = None
    working_mpp: float | None = None
    mpp_range: tuple[float, float] | None = None


@dataclass(frozen=True)
class Resolution:
    """How a slide is read: `level`, of `level_px` (h, w), made `working_px` (h, w) large.

    `mpp` is µm per working pixel as it was meant and `factor` working pixels per pixel of the
    level; sizes are whole pixels, so the exact ones are `scale` and `pixel_um`.
    """

    level: int
    level_px: Shape
    working_px: Shape
    factor: float
    mpp: float | None
    slide_px: Shape
    slide_mpp: float | None
    reason: str

    @property
    def plain(self) -> bool:
        """Whether level 0 is read as it is."""
        return self.level == 0 and self.level_px == self.working_px

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels of level 0 (y, x) per working pixel."""
        return self.slide_px[0] / self.working_px[0], self.slide_px[1] / self.working_px[1]

    @property
    def pixel_um(self) -> tuple[float, float] | None:
        """Height and width of a working pixel in µm."""
        if self.slide_mpp is None:
            return None
        return self.slide_mpp * self.scale[0], self.slide_mpp * self.scale[1]

    def as_json(self) -> dict[str, Any]:
        return {
            "level": self.level,
            "factor": self.factor,
            "mpp": self.mpp,
            "pixel_um": list(self.pixel_um) if self.pixel_um else None,
            "slide_mpp": self.slide_mpp,
            "slide_height": self.slide_px[0],
            "slide_width": self.slide_px[1],
            "slide_px_per_px": list(self.scale),
            "reason": self.reason,
        }


def choose(
    shapes: Sequence[Shape], downsamples: Sequence[float], mpp: float | None, wish: Wish
) -> Resolution:
    """The resolution to work at.

    `shapes` (h, w) and `downsamples` (1.0 first) are those of the slide's levels, the finest
    first; `mpp` is µm per pixel of level 0. Raises ConfigError for a wish that cannot be.
    """
    if wish.level is not None and wish.level >= len(shapes):
        raise ConfigError(f"has {len(shapes)} levels: there is no --level {wish.level}")
    if mpp is None:
        if wish.working_mpp is not None:
            raise ConfigError(
                f"--working-mpp {wish.working_mpp:g} needs to know the µm per pixel of the slide, "
                "which does not say: give --mpp"
            )
        level = wish.level or 0
        reason = f"level {level} as it is: its µm per pixel are unknown (--mpp)"
        return Resolution(level, shapes[level], shapes[level], 1.0, None, shapes[0], None, reason)
    sizes = [mpp * factor for factor in downsamples]
    level, wanted, why = _pick(_usable(shapes, downsamples, wish), sizes, wish)
    factor = _factor(sizes[level], wanted)
    if factor == 1.0:
        working, reason = shapes[level], f"level {level} of {sizes[level]:.4g} µm/px, {why}"
    else:
        working = _scaled(shapes[level], factor)
        reason = f"level {level} of {sizes[level]:.4g} µm/px resampled to {wanted:.4g}, {why}"
    return Resolution(level, shapes[level], working, factor, wanted, shapes[0], mpp, reason)


def _usable(shapes: Sequence[Shape], downsamples: Sequence[float], wish: Wish) -> list[int]:
    """Levels to choose from: the one asked for, or those that shrink y and x alike."""
    if wish.level is not None:
        return [wish.level]
    return [
        level
        for level, (shape, factor) in enumerate(zip(shapes, downsamples, strict=True))
        if all(abs(n - n0 / factor) <= 1 + 0.02 * n for n, n0 in zip(shape, shapes[0], strict=True))
    ]


def _pick(levels: Sequence[int], sizes: Sequence[float], wish: Wish) -> tuple[int, float, str]:
    """(level, µm per working pixel, why): the level's own where it is read as it is."""
    if wish.working_mpp is not None:
        wanted = wish.working_mpp
        same = [level for level in levels if abs(sizes[level] - wanted) <= SAME_MPP * wanted]
        level = same[0] if same else _next_finer(levels, sizes, wanted)
        return level, sizes[level] if same else wanted, "as asked for"
    finest = levels[0]
    if wish.level is not None:
        return finest, sizes[finest], "as asked for"
    if wish.mpp_range is None:
        return finest, sizes[finest], "as it is: the model states no resolution"
    low, high = wish.mpp_range
    why = f"the model expects {low:g} to {high:g}"
    for level in levels:
        if low * (1 - RANGE_TOLERANCE) <= sizes[level] <= high * (1 + RANGE_TOLERANCE):
            return level, sizes[level], why
    wanted = high if sizes[finest] > high else low
    return _next_finer(levels, sizes, wanted), wanted, why


def _next_finer(levels: Sequence[int], sizes: Sequence[float], wanted: float) -> int:
    """The coarsest level that is not coarser than `wanted` µm per pixel, or else the finest."""
    finer = [level for level in levels if sizes[level] <= wanted]
    return max(finer, key=sizes.__getitem__) if finer else min(levels, key=sizes.__getitem__)


def _factor(size: float, wanted: float) -> float:
    """Working pixels per pixel of a level of `size` µm. Raises ConfigError beyond the limits."""
    if not sane_mpp(wanted):
        raise ConfigError(f"mpp is {wanted:g}: pixels of 0.01 to 100 µm are believable")
    factor = size / wanted
    way_out = "give --mpp if the slide's own is wrong, or --level to take a level as it is"
    if factor > MAX_ENLARGED * (1 + 1e-9):
        raise ConfigError(
            f"has {size:.4g} µm/px, {factor:.1f} times too coarse for {wanted:.4g} µm/px (at most "
            f"{MAX_ENLARGED:g} times can be made up for): {way_out}"
        )
    if 1 / factor > MAX_REDUCED * (1 + 1e-9):
        raise ConfigError(
            f"has {size:.4g} µm/px, {1 / factor:.1f} times finer than {wanted:.4g} µm/px (at most "
            f"{MAX_REDUCED:g} times are averaged): {way_out}"
        )
    return factor


def _scaled(shape: Shape, factor: float) -> Shape:
    height, width = (max(1, math.floor(side * factor + 0.5)) for side in shape)
    return height, width
