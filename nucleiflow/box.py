"""Rectangles as named values: (y, x), half-open, integers. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

REGION_BOX = re.compile(r"\s*(\d{1,9}):(\d{1,9})\s*,\s*(\d{1,9}):(\d{1,9})\s*")  # y0:y1,x0:x1


@dataclass(frozen=True, order=True, slots=True)
class Box:
    """Pixels `y0 <= y < y1`, `x0 <= x < x1`; may be empty, may lie outside the slide.

    >>> Box(0, 0, 4, 6).grow(1)
    Box(y0=-1, x0=-1, y1=5, x1=7)
    """

    y0: int
    x0: int
    y1: int
    x1: int

    def __post_init__(self) -> None:
        if self.y1 < self.y0 or self.x1 < self.x0:
            raise ValueError(f"box ends before it starts: {self}")

    @property
    def height(self) -> int:
        return self.y1 - self.y0

    @property
    def width(self) -> int:
        return self.x1 - self.x0

    @property
    def shape(self) -> tuple[int, int]:
        return self.height, self.width

    @property
    def area(self) -> int:
        return self.height * self.width

    def grow(self, margin: int) -> Box:
        """The box with `margin` more pixels on each side."""
        return Box(self.y0 - margin, self.x0 - margin, self.y1 + margin, self.x1 + margin)

    def clip(self, height: int, width: int) -> Box:
        """The part of the box inside an image of `height` x `width`, empty if there is none."""
        y0, x0 = min(max(self.y0, 0), height), min(max(self.x0, 0), width)
        return Box(y0, x0, max(y0, min(self.y1, height)), max(x0, min(self.x1, width)))

    def intersect(self, other: Box) -> Box:
        """The part shared with `other`, empty if there is none."""
        y0, x0 = max(self.y0, other.y0), max(self.x0, other.x0)
        return Box(y0, x0, max(y0, min(self.y1, other.y1)), max(x0, min(self.x1, other.x1)))

    def contains(self, other: Box) -> bool:
        return self.intersect(other) == other

    def scale_down(self, factor: int) -> Box:
        """The smallest box at `1/factor` resolution that covers this one."""
        return Box(
            self.y0 // factor, self.x0 // factor, -(-self.y1 // factor), -(-self.x1 // factor)
        )

    def slices(self, origin: Box | None = None) -> tuple[slice, slice]:
        """Numpy slices of the box, in coordinates that start at the corner of `origin`."""
        oy, ox = (origin.y0, origin.x0) if origin else (0, 0)
        return slice(self.y0 - oy, self.y1 - oy), slice(self.x0 - ox, self.x1 - ox)


def grid(height: int, width: int, step: int) -> Iterator[Box]:
    """Boxes of `step` pixels that cover `height` x `width` once, in raster order.

    >>> [box.shape for box in grid(3, 5, 4)]
    [(3, 4), (3, 1)]
    """
    for y in range(0, height, step):
        for x in range(0, width, step):
            yield Box(y, x, min(y + step, height), min(x + step, width))
