"""A million synthetic nuclei: label, measure, neighbours, export, report. Time and peak memory.

Maps and pixels are made up, tile by tile, so that no network is needed: discs on a grid.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from nucleiflow import (
    config,
    export,
    flow,
    maps,
    measure,
    memory,
    model,
    records,
    results,
    seeds,
    store,
    tasks,
)  # fmt: skip
from nucleiflow.job import Job, Look
from nucleiflow.normalise import Normalisation
from nucleiflow.plan import Grid
from nucleiflow.resolution import Resolution

STEP_PX, TILE_PX = 20, 2048


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="scratch")
    parser.add_argument("--nuclei", type=int, nargs="*", default=[100_000, 300_000, 1_000_000])
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        run(chosen.folder, chosen.one)
        return
    print(
        "    nuclei      MP  label  measure  neighb.  export  report   us each  peak MB   files MB"
    )
    for count in chosen.nuclei:  # each in a process of its own, so that the peak is its own
        command = [sys.executable, __file__, str(chosen.folder), "--one", str(count)]
        subprocess.run(command, check=True)


def run(folder, count):
    """One slide of about so many nuclei."""
    job = made(folder / str(count), int(np.ceil(np.sqrt(count))) * STEP_PX)
    seconds, every = {}, range(len(job.grid))

    def timed(name, work):
        began = time.monotonic()
        work()
        seconds[name] = time.monotonic() - began

    tasks.merge(job, 0)
    timed("label", lambda: [tasks.label(job, index) for index in every])
    shrunk(job, tasks.shrink_labels)
    results.tally(job, 0)
    timed("measure", lambda: [results.measured(job, {}, index) for index in every])
    meet = results.met
    timed("neighbours", lambda: [meet(job, frozenset(), index, geojson=True) for index in every])
    timed("export", lambda: [export.export(job, index) for index in (0, 1)])
    word = flow._word(job, config.RunConfig(), {"model": job.model.sha256}, len(every), {"all": 1})
    timed("report", lambda: [export.finish(job, word, index) for index in (0, 1)])
    peak = memory.peak() / 1e6
    files = " ".join(f"{name} {size / 1e6:.0f}" for name, size in export.sizes(job.folder).items())
    print(
        f"{word['nuclei']:>10,} {word['height'] * word['width'] / 1e6:>7,.0f} "
        f"{seconds['label']:>6.1f} {seconds['measure']:>8.1f} {seconds['neighbours']:>8.1f} "
        f"{seconds['export']:>7.1f} {seconds['report']:>7.1f} "
        f"{sum(seconds.values()) / word['nuclei'] * 1e6:>9.1f} {peak:>8,.0f}   {files}",
        flush=True,
    )


def made(folder, side):
    """A slide of `side` px squared as it is after the network: a disc every 20 px."""
    known = model.load()
    chosen = Resolution(0, (side, side), (side, side), 1.0, 0.25, (side, side), 0.25, "as it is")
    job = Job(
        slide="synthetic", resolution=chosen, name="synthetic", folder=folder,
        grid=Grid(side, side, TILE_PX, known.reach), model=known, channels=("DAPI",),
        dtype="uint16", rgb=False,
        look=Look(Normalisation((0,), 0.0, 4000.0, False), "fluorescence", "made up", None),
    )  # fmt: skip
    flow.clear(job)
    flow._create(job)
    for index in range(len(job.grid)):
        core = job.grid.core(index)
        y, x = np.ogrid[core.y0 : core.y1, core.x0 : core.x1]
        apart = (y % STEP_PX - 9.5) ** 2 + (x % STEP_PX - 9.5) ** 2
        inside = apart < 60 + (y // STEP_PX * 7 + x // STEP_PX * 13) % 20
        image = np.where(inside, 2000 + 40 * (y % 31) + 20 * (x % 17), 100)
        store.write(job.store / "0", core, image[None].astype(np.uint16))
        seen = np.stack([np.where(inside, 220, 0), np.where(apart < 12, 255, 0)], axis=-1)
        foreground, found = seeds.split(
            seen.astype(np.uint8),
            nucleus_threshold=job.postprocessing.nucleus_threshold,
            seed_threshold=job.postprocessing.seed_threshold,
            inner=core.slices(origin=core),
            origin=(core.y0, core.x0),
            bare=None,
            tissue=None,
        )
        kept = measure.gathered(image[None].astype(np.uint16), foreground.runs, (0, 0))
        maps.put(job, index, foreground, found, tasks._rim_px(job), pixels=kept)
        facts = seeds.record(found, core, side)
        records.put_arrays(job.record("segment", index), facts.arrays())
    shrunk(job, tasks.shrink_image)
    return job


def shrunk(job, shrink):
    """All levels below the finest."""
    for level in range(1, len(job.levels)):
        tiles = range(len(job.level_grid(level)))
        for index in tiles:
            shrink(job, level, index)
        if len(tiles) == 1:
            return


if __name__ == "__main__":
    main()
