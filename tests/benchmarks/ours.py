"""The stages of a run that follow the network, on the maps of one slide: seeds, merge, growth.

As `peer.py`: reads maps, leaves labels, prints what it cost. `whole` is the same answer without
tiles: seeds labelled by scikit-image, and grown, on the whole image at once.
"""

from __future__ import annotations

import argparse
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import peer
import zarr
from skimage import measure

from nucleiflow import model, naming, records, seeds, store
from nucleiflow.grow import grow
from nucleiflow.merge import merge
from nucleiflow.plan import Grid

THRESHOLDS = {"nucleus_threshold": peer.NUCLEUS, "seed_threshold": peer.SEED}
GROW_PX = model.load().postprocessing("fluorescence").grow_px


class Slide:
    """Where the parts of a slide lie, and what is done to a tile of it."""

    def __init__(self, maps: zarr.Array, out: Path, work: Path) -> None:
        self.maps, self.labels, self.work = maps, out, work
        self.grid = Grid(*maps.shape, peer.TILE_PX, model.load().reach)
        arrays = {"foreground": "uint8", "seeds": "uint32"}
        places = {work / name: dtype for name, dtype in arrays.items()} | {out: "uint32"}
        for place, dtype in places.items():
            shape = self.grid.shape
            store.create_array(place, shape, dtype, tile_px=peer.TILE_PX, axes="yx")

    def record(self, stage: str, index: int) -> Path:
        return self.work / stage / f"{index}{records.SUFFIX}"

    def seed(self, index: int) -> None:
        core = self.grid.core(index)
        both = np.stack(peer.split(self.maps[core.slices()]), axis=-1)
        foreground, numbered = seeds.split(both, **THRESHOLDS)
        store.write(self.work / "foreground", core, foreground)
        store.write(self.work / "seeds", core, numbered)
        facts = seeds.record(numbered, core, self.grid.width)
        records.put_arrays(self.record("segment", index), facts.arrays())

    def merge(self) -> None:
        def read(index: int) -> seeds.Record:
            return seeds.Record(**(records.get_arrays(self.record("segment", index)) or {}))

        for one in merge(self.grid, read, min_area_px=peer.LEAST_SEED_PX):
            facts = {"new": one.new, "owner": one.owner}
            records.put_arrays(self.record("new", one.index), facts)

    def label(self, index: int) -> None:
        core = self.grid.core(index)
        window = core.grow(GROW_PX).clip(*self.grid.shape)
        near = self.grid.around(index, GROW_PX)
        known = naming.known({tile: records.get_arrays(self.record("new", tile)) for tile in near})
        numbered = np.zeros(window.shape, np.uint32)
        foreground = np.zeros(window.shape, np.uint8)
        for tile in near:
            part = self.grid.core(tile).intersect(window)
            place = part.slices(origin=window)
            foreground[place] = store.read(self.work / "foreground", part)
            if tile in known.of_tile:
                numbered[place] = known.of_tile[tile][store.read(self.work / "seeds", part)]
        grown = grow(numbered, foreground, grow_px=GROW_PX)
        store.write(self.labels, core, known.label[grown[core.slices(origin=window)]])


def tiled(maps: zarr.Array, out: Path, folder: Path) -> None:
    work = folder / "work"
    shutil.rmtree(work, ignore_errors=True)
    slide = Slide(maps, out, work)
    with ThreadPoolExecutor(peer.THREADS) as threads:
        list(threads.map(slide.seed, range(len(slide.grid))))
        slide.merge()
        list(threads.map(slide.label, range(len(slide.grid))))


def whole(maps: zarr.Array, out: Path, _: Path) -> None:
    nucleus, seed = peer.split(maps[:])
    parts = measure.label(seed >= peer.SEED, connectivity=2)  # by first pixels, in raster order
    area = np.bincount(parts.ravel())
    kept = (area >= peer.LEAST_SEED_PX) & (np.arange(len(area)) > 0)
    numbered = np.where(kept, np.cumsum(kept), 0).astype(np.uint32)[parts]
    foreground = (nucleus >= peer.NUCLEUS) | (seed >= peer.SEED)
    peer.create(out, maps.shape)[:] = grow(numbered, foreground, grow_px=GROW_PX)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("method", choices=["tiled", "whole"])
    parser.add_argument("maps", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    maps = zarr.open_array(str(given.maps), mode="r")
    method = {"tiled": tiled, "whole": whole}[given.method]
    grow(np.zeros((4, 4), np.uint32), np.zeros((4, 4), bool), grow_px=1)  # compiles it once
    peer.timed(lambda: method(maps, given.out, given.maps.parent))


if __name__ == "__main__":
    main()
