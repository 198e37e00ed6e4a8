"""Sampled pixels of a slide -> its normalisation; any window -> network input. Pure."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nucleiflow import counts
from nucleiflow.arrays import plain

# The square root evens out bright and dim nuclei before 8 bits are all that is left.
GAMMA = {"fluorescence": 0.5, "brightfield": 1.0, "h&e": 1.0}
PERCENTILES = {"fluorescence": (1.0, 99.8), "brightfield": (0.5, 99.5), "h&e": (0.5, 99.5)}
LUMA = np.array([19595, 38470, 7471], np.uint32)  # of 65,536: red, green, blue (ITU-R BT.601)
LEAST_RANGE = {1: 4.0, 2: 16.0}  # counts, by bytes per pixel: less is noise, not signal


@dataclass(frozen=True)
class Normalisation:
    """One set of numbers for a whole slide: `low` becomes 0, `high` becomes 255.

    Where `inverted`, it is the other way round: the network sees nuclei bright on dark, whatever
    the stain. `channels` are the slide's channels that the network sees: three of them, or one that
    is shown to all three inputs.
    """

    channels: tuple[int, ...]
    low: float
    high: float
    gamma: float
    inverted: bool = False

    def as_json(self) -> dict[str, Any]:
        return {
            "channels": list(self.channels),
            "low": self.low,
            "high": self.high,
            "gamma": self.gamma,
            "inverted": self.inverted,
        }


def measure(
    sample: NDArray[Any], *, stain: str, channels: Sequence[int], inverts: bool = True
) -> Normalisation:
    """Sample (n, c) uint8/uint16 of a slide's pixels -> its normalisation.

    The range is shared by the channels, so that the hue of a stain is kept. With `inverts`, stains
    whose nuclei are dark are shown as negatives.
    """
    amounts = [counts.of(sample[:, channel]) for channel in channels]
    values = np.arange(len(amounts[0]), dtype=np.float64)
    ends = [counts.percentiles(one, values, PERCENTILES[stain]) for one in amounts]
    low, high = min(one[0] for one in ends), max(one[1] for one in ends)
    high = max(high, low + LEAST_RANGE[sample.dtype.itemsize])
    inverted = inverts and stain != "fluorescence"
    return Normalisation(tuple(channels), low, high, GAMMA[stain], inverted)


def table(norm: Normalisation, dtype: np.dtype[Any]) -> NDArray[np.uint8]:
    """The look-up table (256 or 65,536) uint8 of a normalisation."""
    return _table(norm.low, norm.high, norm.gamma, bool(norm.inverted), dtype)


@functools.lru_cache(maxsize=8)
def _table(
    low: float, high: float, gamma: float, inverted: bool, dtype: np.dtype[Any]
) -> NDArray[np.uint8]:
    counts = np.arange(np.iinfo(dtype).max + 1, dtype=np.float64)
    unit = np.clip((counts - low) / (high - low), 0.0, 1.0)
    stretched = np.floor(255.0 * unit**gamma + 0.5).astype(np.uint8)
    return 255 - stretched if inverted else stretched


def apply(pixels: NDArray[Any], norm: Normalisation) -> NDArray[np.uint8]:
    """Pixels (h, w, c) uint8/uint16 -> network input (h, w, 3) uint8."""
    stretched = np.take(table(norm, pixels.dtype), pixels[..., list(norm.channels)])
    if stretched.shape[-1] == 1:
        stretched = np.repeat(stretched, 3, axis=-1)
    return stretched


def shown(
    pixels: NDArray[Any], norm: Normalisation, rows: NDArray[Any], columns: NDArray[Any]
) -> NDArray[np.uint8]:
    """Pixels (h, w, c) uint8/uint16 -> network input (H, W, 3) uint8 of these rows and columns, in
    any order: `apply`, in one pass over what a window needs.
    """
    from nucleiflow import pixelwise

    channels = norm.channels * 3 if len(norm.channels) == 1 else norm.channels
    kind = pixels.dtype.name
    return np.asarray(
        pixelwise.shown[kind](
            plain(np.moveaxis(pixels, -1, 0), kind),
            plain(table(norm, pixels.dtype), np.uint8),
            np.array(channels, np.int64),
            plain(rows, np.int64),
            plain(columns, np.int64),
        )
    )


def grey(seen: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Network input (h, w, 3) -> its luminance (h, w, 1), for networks that take one channel.

    The same whole numbers as Pillow's `convert("L")`; three equal channels give that channel.
    """
    summed = (seen.astype(np.uint32) * LUMA).sum(axis=-1, keepdims=True, dtype=np.uint32)
    return np.asarray((summed + 32768) >> 16).astype(np.uint8)
