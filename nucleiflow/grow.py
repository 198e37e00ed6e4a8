"""Labelled seeds and foreground of a window -> labels grown to full nuclei. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

NO_LABEL = np.iinfo(np.uint32).max


def grow(
    seeds: NDArray[np.uint32], foreground: NDArray[Any], *, grow_px: int
) -> NDArray[np.uint32]:
    """Seeds (h, w) uint32 and foreground (h, w), not 0 is nucleus -> labels (h, w) uint32.

    Step by step, each free foreground pixel next to a label (4 neighbours) takes it; where several
    labels arrive at once the smallest wins. A pixel depends on nothing further than `grow_px` away.
    Only the moving front is computed.
    """
    labels = np.pad(seeds, 1)
    free = np.pad(foreground != 0, 1) & (labels == 0)
    width = labels.shape[1]
    flat, open_ = labels.ravel(), free.ravel()
    order = np.zeros(flat.size if open_.any() else 0, np.uint32)
    front = _edge(labels, free)
    for _ in range(grow_px):
        reached = np.concatenate([front + step for step in (-width, -1, 1, width)])
        names = np.tile(flat[front], 4)
        to_free = open_[reached]
        reached, names = reached[to_free], names[to_free]
        if not len(reached):
            break
        flat[reached] = NO_LABEL
        np.minimum.at(flat, reached, names)
        open_[reached] = False
        turn = np.arange(len(reached), dtype=np.uint32)
        order[reached] = turn
        front = reached[order[reached] == turn]  # each pixel once
    return np.ascontiguousarray(labels[1:-1, 1:-1])


def _edge(labels: NDArray[np.uint32], free: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Flat indices of labelled pixels with a free neighbour."""
    beside = np.zeros_like(free)
    beside[1:] |= free[:-1]
    beside[:-1] |= free[1:]
    beside[:, 1:] |= free[:, :-1]
    beside[:, :-1] |= free[:, 1:]
    return np.flatnonzero(beside & (labels > 0))
