"""What a tile was labelled as, run by run, in the scratch of a run: less to read than its Zarr."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nucleiflow import maps, records
from nucleiflow.arrays import plain
from nucleiflow.box import Box
from nucleiflow.job import Job

SIDE_PX = 64  # what others read of a tile, but where a nucleus reaches further into it


def put(job: Job, index: int, runs: NDArray[np.int32], labels: NDArray[np.uint32]) -> None:
    """Keep runs (n, 3) of a tile's core, counted from its first pixel, and the label of each."""
    shape = job.grid.core(index).shape
    near = maps.near_sides(runs, shape, SIDE_PX)
    for name, some in (("parts", slice(None)), ("sides", near)):
        facts = {"runs": maps.packed(runs[some], shape), "labels": labels[some]}
        records.put_arrays(job.record(name, index), facts, plain=True)


def drawn(job: Job, window: Box) -> NDArray[np.int32]:
    """The labels (h, w), below 2**31, of a window of the slide: those that Zarr holds, too.

    Raises StoreError where a record is damaged.
    """
    from nucleiflow import runwise

    found = np.zeros(window.shape, np.int32)
    for tile in job.grid.touched(window):
        core = job.grid.core(tile)
        inside = core.intersect(window)
        deep = min(
            inside.y1 - core.y0, core.y1 - inside.y0, inside.x1 - core.x0, core.x1 - inside.x0
        )
        kept = records.get_arrays(job.record("parts" if deep > SIDE_PX else "sides", tile))
        if kept is not None:
            corner = core.y0 - window.y0, core.x0 - window.x0
            runs, which = maps.placed(kept["runs"], corner, window.shape)
            runwise.paint(runs, plain(kept["labels"][which].view(np.int32), np.int32), found)
    return found
