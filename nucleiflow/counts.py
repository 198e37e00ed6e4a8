"""Whole numbers, as pixels are -> how often each is there -> quantiles, as numpy has them. Pure.

Nothing is sorted, so that it costs little of a whole level of a slide.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def of(pixels: NDArray[Any]) -> NDArray[np.int64]:
    """How often each value of their dtype, uint8 or uint16, is there: (256,) or (65,536,)."""
    return np.bincount(pixels.ravel(), minlength=np.iinfo(pixels.dtype).max + 1)


def percentiles(
    counts: NDArray[np.int64], values: NDArray[np.float64], percents: Sequence[float]
) -> list[float]:
    """What `np.percentile` gives of all `values` (n,), in ascending order, each so many times."""
    ends = np.cumsum(counts)
    last = int(ends[-1]) - 1
    found = []
    for percent in percents:
        at = last * (percent / 100)
        before = int(at)
        beside = np.searchsorted(ends, [before, min(before + 1, last)], side="right")
        found.append(float(np.quantile(values[beside], at - before)))
    return found
