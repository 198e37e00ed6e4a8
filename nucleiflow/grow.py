"""Labelled seeds and foreground of a window -> labels grown to full nuclei. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nucleiflow.arrays import plain


def grow(seeds: NDArray[Any], foreground: NDArray[Any], *, grow_px: int) -> NDArray[Any]:
    """Seeds (h, w) int32, or uint32 below 2**31, and foreground (h, w), not 0 is nucleus -> labels
    (h, w), of the same dtype.

    Step by step, each free foreground pixel next to a label (4 neighbours) takes it; where several
    labels arrive at once the smallest wins. A pixel depends on nothing further than `grow_px` away.
    Only the moving front is computed.
    """
    from nucleiflow import pixelwise

    whole = plain(seeds.view(np.int32), np.int32)
    return np.asarray(pixelwise.grow(whole, plain(foreground, np.uint8), grow_px)).view(seeds.dtype)
