"""Low-resolution level of a slide -> which blocks of it hold tissue. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

EVERYTHING_MP = 16  # smaller slides are not worth a mask: everything counts as tissue
MARGIN_PX = 128  # full-resolution pixels around tissue that count as tissue
FLAT = 0.06  # noise, as a part of the range, above which a background is not flat enough to trust
SIGMAS = 4.0
GLASS = 47  # of 255 in every channel of the negative: brighter than any stained nucleus


def find(
    low: NDArray[Any], *, bright_background: bool, block_px: int, margin_px: int = MARGIN_PX
) -> NDArray[np.bool_] | None:
    """Low-resolution pixels (h, w, c) -> tissue (h, w) bool, or None where all may be tissue.

    Each pixel of `low` stands for a block of `block_px` full-resolution pixels. The background is
    the commonest value on its side of the histogram, its noise is measured on the side that tissue
    does not reach, and whatever rises above that noise in any channel is tissue, with a margin: a
    mask that is too large costs time, one that is too small costs nuclei.
    """
    tissue = np.zeros(low.shape[:2], bool)
    for channel in range(low.shape[2]):
        signal = low[..., channel].astype(np.float64)
        rise = _rise(-signal if bright_background else signal)
        if rise is None:
            return None
        tissue |= rise
    reach = 1 + -(-margin_px // block_px)
    return np.asarray(ndimage.maximum_filter(tissue, 2 * reach + 1, mode="constant"))


def _rise(signal: NDArray[np.float64]) -> NDArray[np.bool_] | None:
    """Where a signal stands out of its background (the low side), or None if that is unclear."""
    low, high = np.percentile(signal, (0.1, 99.9))
    if high <= low:
        return np.zeros(signal.shape, bool)
    counts, edges = np.histogram(signal, bins=256, range=(low, high))
    smooth = ndimage.gaussian_filter1d(counts.astype(np.float64), 1.5)
    peak = int(np.argmax(smooth[:128]))
    background = (edges[peak] + edges[peak + 1]) / 2
    below = signal[signal <= background]
    noise = float(np.sqrt(np.mean((below - background) ** 2))) if below.size else 0.0
    if noise > FLAT * (high - low):
        return None
    return signal > background + SIGMAS * max(noise, (edges[1] - edges[0]))
