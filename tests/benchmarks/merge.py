"""The merge stage at 100, 10,000 and 1,000,000 tiles of dense tissue: time, memory, its share.

Records come from the generated slide, cut into tiles of 1,024 px and repeated. Up to 10,000 tiles
they are files, as a run leaves them, and what is timed is the task of a run, files written
included; a million would be 20 GB, so they are made as they are asked for, and the names are
thrown away. Each figure is that of a process of its own; `make bench-merge`.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import ndimage

from nucleiflow import demo, flow, model, records, seeds, tasks
from nucleiflow.box import Box
from nucleiflow.job import Job, Look
from nucleiflow.merge import merge
from nucleiflow.normalise import Normalisation
from nucleiflow.plan import Grid
from nucleiflow.resolution import Resolution
from nucleiflow.seeds import Record

TILE_PX, FIELD = 1024, 2  # tiles on a side of the slide that is repeated
INSET_PX = 2  # of a seed within its nucleus
SPEEDS = {"cpu": 2.6, "gpu": 40.0}  # MP/s of the network on two cores, and of one on a GPU
Read = Callable[[int], Record]


def field() -> list[list[np.ndarray]]:
    """Seed numbers of the tiles of a dense slide, by row and column."""
    _, truth = demo.make_slide(FIELD * TILE_PX, seam_px=TILE_PX)
    side = 2 * INSET_PX + 1
    inside = ndimage.minimum_filter(truth, side) == ndimage.maximum_filter(truth, side)
    maps = np.where(inside & (truth > 0), 255, 0).astype(np.uint8)
    both = np.stack([maps, maps], axis=-1)
    every = range(0, FIELD * TILE_PX, TILE_PX)
    return [
        [
            seeds.split(
                both[y : y + TILE_PX, x : x + TILE_PX], nucleus_threshold=128, seed_threshold=128
            )[1]
            for x in every
        ]
        for y in every
    ]


def source(grid: Grid) -> Read:
    """The record of any tile of a slide of such fields."""
    known = [
        [seeds.record(one, Box(0, 0, TILE_PX, TILE_PX), grid.width) for one in row]
        for row in field()
    ]

    def read(index: int) -> Record:
        row, column = divmod(index, grid.columns)
        one = known[row % FIELD][column % FIELD]
        first = one.first + (row * TILE_PX * grid.width + column * TILE_PX)
        return Record(first, one.area, one.top, one.bottom, one.left, one.right)

    return read


def sizes(tiles: int) -> Grid:
    """A slide of so many tiles: a square number."""
    side = round(tiles**0.5) * TILE_PX
    return Grid(side, side, TILE_PX, model.load().reach)


def filed(folder: Path, grid: Grid) -> Job:
    """A slide as it is after the network, as far as the merge sees it; made once."""
    shape, folder = grid.shape, folder / str(len(grid))
    job = Job(
        slide="synthetic",
        resolution=Resolution(0, shape, shape, 1.0, 0.25, shape, 0.25, "as it is"),
        name="synthetic",
        folder=folder,
        grid=grid,
        model=model.load(),
        channels=("DAPI",),
        dtype="uint16",
        rgb=False,
        look=Look(Normalisation((0,), 0.0, 4000.0, False), "fluorescence", "made up", None),
    )
    if not records.exists(job.record("segment", len(grid) - 1)):
        flow.clear(job)
        read = source(grid)
        for index in range(len(grid)):
            records.put_arrays(job.record("segment", index), read(index).arrays())
    return job


def once(folder: Path, tiles: int, *, files: bool) -> dict[str, float]:
    """One merge: its seconds, what the process held before and at the most, nuclei."""
    grid = sizes(tiles)
    work = filed(folder, grid) if files else source(grid)
    if isinstance(work, Job):
        records.remove_tree(work.records("new"))
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
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def measured(folder: Path, tiles: int, rounds: int, *, files: bool) -> dict[str, object]:
    """Several merges of one slide, each in a process of its own, and what they cost a tile."""
    command = [sys.executable, __file__, str(folder), "--one", str(tiles)]
    if files:
        filed(folder, sizes(tiles))
    found = []
    for _ in range(rounds):
        done = subprocess.run(
            [*command, *(["--files"] if files else [])], check=True, stdout=subprocess.PIPE
        )
        found.append(json.loads(done.stdout))
    per_tile = spread([1e6 * one["seconds"] / tiles for one in found])
    network = {name: TILE_PX**2 / speed for name, speed in SPEEDS.items()}  # us of a tile
    return {
        "tiles": tiles,
        "records": "files" if files else "made",
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
    print(
        "     tiles  records       nuclei   us per tile (spread)  peak MB   of CPU run of GPU run"
    )
    rows = []
    cases = [(tiles, True) for tiles in given.files_tiles]
    cases += [(tiles, False) for tiles in given.tiles]
    for tiles, files in cases:
        one = measured(given.folder, tiles, given.rounds, files=files)
        rows.append(one)
        us, share = one["us_per_tile"], one["share_percent"]
        print(
            f"{tiles:>10,}  {one['records']:<6} {one['nuclei']:>13,} {us['median']:>9.0f} "
            f"({us['least']:.0f} to {us['most']:.0f}) {one['peak_mb']['median']:>9,.0f} "
            f"{share['cpu']:>10.3f} % {share['gpu']:>9.3f} %",
            flush=True,
        )
    ratios = {
        kind: same[-1]["us_per_tile"]["median"] / same[0]["us_per_tile"]["median"]
        for kind in ("files", "made")
        if len(same := [one for one in rows if one["records"] == kind]) > 1
    }
    for kind, ratio in ratios.items():
        print(f"time per tile, most tiles over fewest, {kind}: {ratio:.2f}")
    if given.json:
        result = {"benchmark": "merge", "rows": rows, "time_per_tile_ratio": ratios}
        given.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
