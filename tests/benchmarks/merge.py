"""The merge stage at 100, 10,000 and 1,000,000 tiles of dense tissue: time, memory, its share.

Records come from the generated slide, cut into tiles and repeated. Up to 10,000 tiles of 1,024 px
they are files, as a run leaves them, and what is timed is the task of a run, files written
included. A million would be 20 GB: those are of 512 px, made as they are asked for, and the names
are thrown away; 10,000 of the same kind are there to compare with. Each figure is that of a process
of its own. Shares are of a run whose network takes a window of 1,024 px for each tile, or of
2,048 px, as is usual; `make bench-merge`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import madeup
import numpy as np
from rounds import spread
from scipy import ndimage

from nucleiflow import demo, flow, memory, model, records, seeds, tasks
from nucleiflow.box import Box
from nucleiflow.job import Job
from nucleiflow.merge import merge
from nucleiflow.plan import Grid
from nucleiflow.seeds import Record

FILE_PX, MADE_PX = 1024, 512  # sides of tiles whose records are files, and of those made
FIELD = 2  # tiles on a side of the slide that is repeated
WINDOWS_PX = 1024, 2048
INSET_PX = 2  # of a seed within its nucleus
SPEEDS = {"cpu": 2.6, "gpu": 40.0}  # MP/s of the network on two cores, and of one on a GPU
Read = Callable[[int], Record]


def field(folder: Path, tile_px: int) -> np.ndarray:
    """Seed maps (row, column, h, w) of the tiles of a dense slide, made once."""
    place = folder / f"field-{tile_px}.npy"
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        _, truth = demo.make_slide(FIELD * tile_px, seam_px=tile_px)
        side = 2 * INSET_PX + 1
        inside = ndimage.minimum_filter(truth, side) == ndimage.maximum_filter(truth, side)
        seed = np.where(inside & (truth > 0), 255, 0).astype(np.uint8)
        np.save(place, seed.reshape(FIELD, tile_px, FIELD, tile_px).swapaxes(1, 2))
    return np.load(place)


def source(folder: Path, grid: Grid) -> Read:
    """The record of any tile of a slide of such fields."""
    side = grid.tile_px

    def record(seed: np.ndarray) -> Record:
        maps = np.stack([seed, seed], axis=-1)
        _, found = seeds.split(maps, nucleus_threshold=128, seed_threshold=128)
        return seeds.record(found, Box(0, 0, side, side), grid.width)

    known = [[record(one) for one in row] for row in field(folder, side)]

    def read(index: int) -> Record:
        row, column = divmod(index, grid.columns)
        one = known[row % FIELD][column % FIELD]
        first = one.first + side * (row * grid.width + column)
        return Record(first, one.area, one.top, one.bottom, one.left, one.right)

    return read


def sizes(tiles: int, *, files: bool) -> Grid:
    """A slide of so many tiles: a square number."""
    tile_px = FILE_PX if files else MADE_PX
    side = round(tiles**0.5) * tile_px
    return Grid(side, side, tile_px, model.load().reach)


def filed(folder: Path, grid: Grid) -> Job:
    """A slide as it is after the network, as far as the merge sees it; made once."""
    job = madeup.job(folder / str(len(grid)), grid)
    if not records.exists(job.record("segment", len(grid) - 1)):
        flow.clear(job)
        read = source(folder, grid)
        for index in range(len(grid)):
            records.put_arrays(job.record("segment", index), read(index).arrays())
    return job


def once(folder: Path, tiles: int, *, files: bool) -> dict[str, float]:
    """One merge: its seconds, what the process held before and at the most, nuclei."""
    grid = sizes(tiles, files=files)
    work = filed(folder, grid) if files else source(folder, grid)
    if isinstance(work, Job):
        records.remove_tree(work.records("new"))
    records.unpack(records.pack({"one": np.ones(1)}))  # imports what it needs
    sum(1 for _ in merge(sizes(4, files=False), source(folder, sizes(4, files=False))))
    before = peak_mb()
    began, processor = time.monotonic(), time.process_time()
    if isinstance(work, Job):
        tasks.merge(work, 0)
        done = records.get_arrays(work.record("merge", 0))
        nuclei = int(done["nuclei"]) if done else 0
    else:
        nuclei = max(int(one.new.max()) for one in merge(grid, work, min_area_px=11))
    return {
        "nuclei": nuclei,
        "seconds": time.monotonic() - began,
        "cpu_seconds": time.process_time() - processor,
        "base_mb": before,
        "peak_mb": peak_mb(),
    }


def peak_mb() -> float:
    return memory.peak() / 1e6


def measured(folder: Path, tiles: int, rounds: int, *, files: bool) -> dict[str, object]:
    """Several merges of one slide, each in a process of its own, and what they cost a tile."""
    command = [sys.executable, __file__, str(folder), "--one", str(tiles)]
    if files:
        filed(folder, sizes(tiles, files=True))
    else:
        field(folder, MADE_PX)
    found = []
    for _ in range(rounds):
        done = subprocess.run(
            [*command, *(["--files"] if files else [])], check=True, stdout=subprocess.PIPE
        )
        found.append(json.loads(done.stdout))
    per_tile = spread([1e6 * one["seconds"] / tiles for one in found])
    network = {  # us of a tile
        f"{name}, {side} px": side**2 / speed
        for name, speed in SPEEDS.items()
        for side in WINDOWS_PX
    }
    return {
        "tiles": tiles,
        "records": "files" if files else "made",
        "tile_px": FILE_PX if files else MADE_PX,
        "nuclei": found[0]["nuclei"],
        "us_per_tile": per_tile,
        "cpu_us_per_tile": spread([1e6 * one["cpu_seconds"] / tiles for one in found]),
        "peak_mb": spread([one["peak_mb"] for one in found]),
        "above_start_mb": spread([one["peak_mb"] - one["base_mb"] for one in found]),
        "share_percent": {
            name: 100 * per_tile["median"] / (per_tile["median"] + cost)
            for name, cost in network.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="scratch")
    parser.add_argument("--files-tiles", type=int, nargs="*", default=[100, 10_000])
    parser.add_argument("--tiles", type=int, nargs="*", default=[10_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--files", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(once(given.folder, given.one, files=given.files)))
        return
    shares = "  ".join(f"{name} at {side}" for name in SPEEDS for side in WINDOWS_PX)
    print(f"     tiles  records       nuclei   us per tile (spread)  cpu us  peak MB  of {shares}")
    rows = []
    cases = [(tiles, True) for tiles in given.files_tiles]
    cases += [(tiles, False) for tiles in given.tiles]
    for tiles, files in cases:
        one = measured(given.folder, tiles, given.rounds, files=files)
        rows.append(one)
        us, share = one["us_per_tile"], one["share_percent"]
        print(
            f"{tiles:>10,}  {one['records']:<6} {one['nuclei']:>13,} {us['median']:>9.0f} "
            f"({us['least']:.0f} to {us['most']:.0f}) {one['cpu_us_per_tile']['median']:>7.0f} "
            f"{one['peak_mb']['median']:>8,.0f}     "
            + "  ".join(f"{value:>9.3f} %" for value in share.values()),
            flush=True,
        )
    ratios = {
        kind: same[-1]["us_per_tile"]["median"] / same[0]["us_per_tile"]["median"]
        for kind in ("files", "made")
        if len(same := [one for one in rows if one["records"] == kind]) > 1
    }
    for kind, ratio in ratios.items():
        print(f"time per tile, most tiles over fewest, {kind}: {ratio:.2f}")
    made = [one["above_start_mb"]["median"] for one in rows if one["records"] == "made"]
    growth = made[-1] - made[0] if made else 0.0
    print(f"memory on top of the start, most tiles less fewest, made: {growth:.0f} MB")
    if given.json:
        result = {"benchmark": "merge", "rows": rows, "time_per_tile_ratio": ratios}
        given.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
