"""All pixels of a slide, read at once or piece by piece."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nucleiflow.box import Box, grid
from nucleiflow.slide import Slide


def whole(slide: Slide, level: int = 0) -> NDArray[Any]:
    return slide.levels[level].read(Box(0, 0, *slide.levels[level].shape))


def in_pieces(slide: Slide, level: int, step: int) -> NDArray[Any]:
    out = np.zeros((*slide.levels[level].shape, len(slide.channels)), slide.dtype)
    for box in grid(*slide.levels[level].shape, step):
        out[box.slices()] = slide.levels[level].read(box)
    return out
