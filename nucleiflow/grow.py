"""Seeds and foreground of a window -> labels grown to full nuclei. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nucleiflow.arrays import plain

Runs = NDArray[np.int32]


def grow(seeds: NDArray[Any], foreground: NDArray[Any], *, grow_px: int) -> NDArray[Any]:
    """Seeds (h, w) int32, or uint32 below 2**31, and foreground (h, w), not 0 is nucleus -> labels
    (h, w), of the same dtype.

    Step by step, each free foreground pixel next to a label (4 neighbours) takes it; where several
    labels arrive at once the smallest wins. A pixel depends on nothing further than `grow_px` away.
    Only the moving front is computed.
    """
    from nucleiflow import runwise

    mask = np.not_equal(foreground, 0) | np.not_equal(seeds, 0)
    ground, parts = runwise.marked(plain(mask.view(np.uint8), np.uint8)), parted(seeds)
    names = plain(parts[:, 3], np.int32)
    labels = grown(seeds.shape, ground, plain(parts[:, :3], np.int32), names, grow_px=grow_px)
    return np.ascontiguousarray(labels[1:-1, 1:-1]).view(seeds.dtype)


def grown(
    shape: tuple[int, ...], ground: Runs, seeds: Runs, names: NDArray[np.int32], *, grow_px: int
) -> NDArray[np.int32]:
    """The same from runs (n, 3) of foreground and of seeds, which lie within it, in a window of
    `shape` px, and the name of each run of seeds, 0 for none -> labels with a margin of 1 px of
    zeros. The runs of a row come from left to right.
    """
    from nucleiflow import islands

    return np.asarray(
        islands.grown(
            (shape[0], shape[1]),
            plain(ground, np.int32),
            plain(seeds, np.int32),
            plain(names, np.int32),
            grow_px,
        )
    )


def within(labels: NDArray[np.int32], ground: Runs) -> NDArray[np.int32]:
    """Labels with their margin, and runs of the foreground -> the parts (n, 5) int32 of nuclei in
    them: row, first column, the column after the last, label, and how many pixels of those runs
    come before.
    """
    from nucleiflow import runwise

    return np.asarray(runwise.parted(plain(labels, np.int32), plain(ground, np.int32)))


def parted(labels: NDArray[Any]) -> NDArray[np.int32]:
    """Labels (h, w) of 4 bytes -> their parts, as above."""
    from nucleiflow import runwise

    ground = runwise.marked(plain(np.not_equal(labels, 0).view(np.uint8), np.uint8))
    return within(np.pad(labels.view(np.int32), 1), ground)
