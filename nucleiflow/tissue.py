"""Low-resolution level of a slide -> which blocks of it hold tissue. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nucleiflow import counts

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
        rise = _rise(low[..., channel], bright_background=bright_background)
        if rise is None:
            return None
        tissue |= rise
    reach = 1 + -(-margin_px // block_px)
    return _widened(_widened(tissue, reach).T, reach).T


def _widened(mask: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """A mask (h, w) with `reach` more rows on both sides of each that is set."""
    around = np.pad(mask, ((reach, reach), (0, 0)))
    done, wanted = 1, 2 * reach + 1  # rows that are united so far, each with those below it
    while done < wanted:
        step = min(done, wanted - done)
        around, done = around[:-step] | around[step:], done + step
    return around


def _rise(pixels: NDArray[Any], *, bright_background: bool) -> NDArray[np.bool_] | None:
    """Where a signal (h, w), which is negative if the background is bright, stands out of its
    background (the low side), or None if that is unclear.
    """
    amounts = counts.of(pixels)
    signal = np.arange(len(amounts), dtype=np.float64)
    if bright_background:
        signal, amounts = -signal[::-1], amounts[::-1]
    low, high = counts.percentiles(amounts, signal, (0.1, 99.9))
    if high <= low:
        return np.zeros(pixels.shape, bool)
    bars, edges = np.histogram(signal, bins=256, range=(low, high), weights=amounts)
    smooth = ndimage.gaussian_filter1d(bars.astype(np.float64), 1.5)
    peak = int(np.argmax(smooth[:128]))
    background = (edges[peak] + edges[peak + 1]) / 2
    of = signal[::-1] if bright_background else signal  # of each value of a pixel
    below = pixels[_where(pixels, of <= background)]
    noise = float(np.sqrt(np.mean(((of - background) ** 2)[below]))) if below.size else 0.0
    if noise > FLAT * (high - low):
        return None
    return _where(pixels, of > background + SIGMAS * max(noise, (edges[1] - edges[0])))


def _where(pixels: NDArray[Any], chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which pixels have one of the values chosen: those from one on, or up to one."""
    values = np.flatnonzero(chosen)
    if not len(values):
        return np.zeros(pixels.shape, bool)
    if values[0] == 0:
        return np.asarray(pixels <= pixels.dtype.type(values[-1]))
    return np.asarray(pixels >= pixels.dtype.type(values[0]))
