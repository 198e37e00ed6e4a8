"""What the network sees of a tile -> how sharp it is, block by block. Pure.

Sharpness is how steeply neighbours part: with D(d) the mean squared difference of pixels `d` apart
(the structure function), it is (D(2) - D(1)) / (D(4) - D(1)), less the 1/5 that it is where all is
smooth. Differences of D hold no white noise, so that a grainy picture is not taken for a sharp one,
and their ratio does not change with contrast: pale and dense tissue are judged alike, which the
variance of the Laplacian (Pech-Pacheco 2000) does not do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nucleiflow.arrays import plain
from nucleiflow.box import Box

BLOCK_PX = 128
STEPS_PX = 1, 2, 4
EVERY_PX = 4  # rows of the slide that are looked at: one in four tells as much
SMOOTH = 1 / 5  # of D(d) in proportion to d * d
LEAST_CONTRAST = 8.0  # standard deviation without noise, of 255: less is nothing to judge by
# Blocks of NuInsSeg, BBBC038 and slides, and the same blurred by a Gaussian of 3 px: stained, 0 to
# 5 and 95 to 100 % are below. Fluorescence, 0 to 2 and 47 to 98 %: much of it is smooth if sharp.
BLURRED = {"fluorescence": 0.014, "stained": 0.027}
COUNT, SUM, SQUARES, NEAR, MIDDLE, FAR = range(6)


def measure(seen: NDArray[np.uint8], window: Box, core: Box) -> dict[str, NDArray[Any]]:
    """Network input (h, w, 3) of a window -> sums over the core's part of each block.

    Blocks of 128 px, and the rows in them, count from the slide's origin; whole numbers add up
    over the tiles that share a block. The window reaches 4 px beyond the core, mirrored at the
    slide's edge; for networks that see less than that there is nothing to say, wherever the tiles
    are.
    """
    from nucleiflow import pixelwise

    corner = core.y0 - window.y0, core.x0 - window.x0
    phase = core.y0 % BLOCK_PX, core.x0 % BLOCK_PX
    place = core.scale_down(BLOCK_PX)
    sums = np.zeros((*place.shape, 6), np.int64)
    if min(corner) >= STEPS_PX[-1]:
        sizes = (BLOCK_PX, *STEPS_PX, EVERY_PX)
        first = -core.y0 % EVERY_PX
        sums = pixelwise.blocks(
            plain(seen, np.uint8), corner, core.shape, first, phase, place.shape, sizes
        )
    return {"sums": sums, "corner": np.array([place.y0, place.x0])}


def assemble(
    parts: Iterable[Mapping[str, NDArray[Any]]], shape: tuple[int, int]
) -> NDArray[np.float32]:
    """Sums of all tiles of a slide of `shape` px -> sharpness of each block, float32, from 0 up;
    NaN where there is nothing to judge by: too little contrast, or more noise than shape.
    """
    size = Box(0, 0, *shape).scale_down(BLOCK_PX).shape
    whole = np.zeros((*size, 6), np.int64)
    for part in parts:
        y, x = part["corner"].tolist()
        height, width = part["sums"].shape[:2]
        whole[y : y + height, x : x + width] += part["sums"]
    n = np.maximum(whole[..., COUNT], 1)
    variance = whole[..., SQUARES] / n - (whole[..., SUM] / n) ** 2
    near, middle, far = np.moveaxis(whole[..., NEAR:] / (2 * n)[..., None], -1, 0)
    rise = far - near
    contrast = variance - near / 2  # of the sum of three channels
    known = (contrast >= (3 * LEAST_CONTRAST) ** 2) & (rise >= near) & (rise > 0)
    sharpness = np.maximum((middle - near) / np.where(known, rise, 1) - SMOOTH, 0)
    return np.where(known, sharpness, np.nan).astype(np.float32)


def blurred(sharpness: NDArray[np.float32], stain: str) -> NDArray[np.bool_]:
    """Blocks that are out of focus; those that cannot be judged are not."""
    return np.nan_to_num(sharpness, nan=1.0) < _threshold(stain)


def blur(sharpness: NDArray[np.float32], stain: str) -> NDArray[np.float64]:
    """0, sharp or nothing to judge by, to 1; from a half on a block is out of focus."""
    share = np.nan_to_num(sharpness, nan=np.inf) / _threshold(stain)
    return np.clip(1 - share / 2, 0, 1)


def _threshold(stain: str) -> float:
    return BLURRED["fluorescence" if stain == "fluorescence" else "stained"]


def flag(centroids: NDArray[np.float64], blocks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Centroids (n, 2), px -> whether they lie in such a block."""
    y, x = (np.floor(centroids).astype(int) // BLOCK_PX).T
    return np.asarray(blocks[np.clip(y, 0, len(blocks) - 1), np.clip(x, 0, blocks.shape[1] - 1)])
