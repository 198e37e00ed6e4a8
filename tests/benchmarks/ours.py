"""The stages of a run that follow the network, on the maps of one slide: seeds, merge, growth.

As `peer.py`: reads maps, leaves labels, prints what it cost. `whole` is the same answer without
tiles: seeds labelled by scikit-image, and grown, on the whole image at once.
"""

from __future__ import annotations

import argparse
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import madeup
import numpy as np
import peer
import zarr
from skimage import measure

from nucleiflow import maps, model, naming, records, seeds, store, tasks
from nucleiflow.grow import grow, grown, within
from nucleiflow.plan import Grid

THRESHOLDS = {"nucleus_threshold": peer.NUCLEUS, "seed_threshold": peer.SEED}
GROW_PX = model.load().postprocessing("fluorescence").grow_px


class Slide:
    """The job of a slide, its maps, and what is done to a tile of it, as the tasks of a run do."""

    def __init__(self, found: zarr.Array, out: Path, work: Path) -> None:
        grid = Grid(*found.shape, peer.TILE_PX, model.load().reach)
        self.maps, self.labels, self.job = found, out, madeup.job(work, grid)
        store.create_array(out, grid.shape, "uint32", tile_px=peer.TILE_PX, axes="yx")

    def seed(self, index: int) -> None:
        job, core = self.job, self.job.grid.core(index)
        both = np.stack(peer.split(self.maps[core.slices()]), axis=-1)
        foreground, found = seeds.split(both, **THRESHOLDS)
        maps.put(job, index, foreground, found, GROW_PX)
        facts = seeds.record(found, core, job.grid.width)
        records.put_arrays(job.record("segment", index), facts.arrays())

    def label(self, index: int) -> None:
        job, core = self.job, self.job.grid.core(index)
        window = core.grow(GROW_PX).clip(*job.grid.shape)
        near = job.grid.around(index, GROW_PX)
        known = naming.known({tile: records.get_arrays(job.record("new", tile)) for tile in near})
        seen = maps.around(job, index, window, near, known.of_tile)
        labels = grown(window.shape, seen.ground, seen.seeds, seen.names, grow_px=GROW_PX)
        corner = core.y0 - window.y0, core.x0 - window.x0
        found = known.drawn(within(labels, seen.own), corner, core.shape)
        store.write(self.labels, core, found)


def tiled(found: zarr.Array, out: Path, folder: Path) -> None:
    work = folder / "work"
    shutil.rmtree(work, ignore_errors=True)
    slide = Slide(found, out, work)
    tiles = range(len(slide.job.grid))
    with ThreadPoolExecutor(peer.THREADS) as threads:
        list(threads.map(slide.seed, tiles))
        tasks.merge(slide.job, 0)
        list(threads.map(slide.label, tiles))


def whole(found: zarr.Array, out: Path, _: Path) -> None:
    nucleus, seed = peer.split(found[:])
    parts = measure.label(seed >= peer.SEED, connectivity=2)  # by first pixels, in raster order
    area = np.bincount(parts.ravel())
    kept = (area >= peer.LEAST_SEED_PX) & (np.arange(len(area)) > 0)
    numbered = np.where(kept, np.cumsum(kept), 0).astype(np.uint32)[parts]
    foreground = (nucleus >= peer.NUCLEUS) | (seed >= peer.SEED)
    peer.create(out, found.shape)[:] = grow(numbered, foreground, grow_px=GROW_PX)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("method", choices=["tiled", "whole"])
    parser.add_argument("maps", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    found = zarr.open_array(str(given.maps), mode="r")
    method = {"tiled": tiled, "whole": whole}[given.method]
    empty = np.zeros((4, 4), np.uint8)  # compiles all once
    seeds.split(np.stack([empty, empty], axis=-1), **THRESHOLDS)[1].drawn()
    for dtype in (np.int32, np.uint32):
        grow(empty.astype(dtype), empty, grow_px=1)
    peer.timed(lambda: method(found, given.out, given.maps.parent))


if __name__ == "__main__":
    main()
