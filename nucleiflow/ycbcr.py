"""Luma and chroma (YCbCr) -> red, green, blue, to the bit as libjpeg and OpenSlide do it. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

HALF = 1 << 15
RED, BLUE, GREEN_BLUE, GREEN_RED = (
    round(f * 65536) for f in (1.402, 1.772, 0.344136286, 0.714136286)
)
CHROMA = np.arange(-128, 128, dtype=np.int32)
RED_OF_CR = (RED * CHROMA + HALF) >> 16
BLUE_OF_CB = (BLUE * CHROMA + HALF) >> 16
GREEN_OF_CB = -GREEN_BLUE * CHROMA + HALF
GREEN_OF_CR = -GREEN_RED * CHROMA


def to_rgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Full-range YCbCr (..., 3) of JFIF (ITU-R BT.601) -> RGB (..., 3).

    >>> to_rgb(np.array([[255, 128, 128], [76, 85, 255]], np.uint8)).tolist()
    [[255, 255, 255], [254, 0, 0]]
    """
    y, cb, cr = (pixels[..., channel] for channel in range(3))
    green = (GREEN_OF_CB[cb] + GREEN_OF_CR[cr]) >> 16
    mixed = [y + RED_OF_CR[cr], y + green, y + BLUE_OF_CB[cb]]
    return np.stack(mixed, axis=-1).clip(0, 255).astype(np.uint8)
