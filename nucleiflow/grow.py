"""Labelled seeds and foreground of a window -> labels grown to full nuclei. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nucleiflow.arrays import plain


def grow(
    seeds: NDArray[np.uint32], foreground: NDArray[Any], *, grow_px: int
) -> NDArray[np.uint32]:
    """Seeds (h, w) uint32 below 2**31 and foreground (h, w), not 0 is nucleus -> labels (h, w).

    Step by step, each free foreground pixel next to a label (4 neighbours) takes it; where several
    labels arrive at once the smallest wins. A pixel depends on nothing further than `grow_px` away.
    Only the moving front is computed.
    """
    from nucleiflow import pixelwise

    grown = pixelwise.grow(
        plain(seeds.view(np.int32), np.int32), plain(foreground, np.uint8), grow_px
    )
    return np.asarray(grown).view(np.uint32)
