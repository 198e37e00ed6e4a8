"""A million synthetic nuclei through tally, measure, neighbours, export and report: time and memory.

Labels and pixels are made up, tile by tile, so that no network is needed: discs on a grid.
"""

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

SIDE_PX, STEP_PX, TILE_PX = 2048, 20, 2048


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="scratch")
    parser.add_argument("--nuclei", type=int, nargs="*", default=[100_000, 300_000, 1_000_000])
    parser.add_argument("--one", type=int)
    chosen = parser.parse_args()
    if chosen.one:
        run(chosen.folder, chosen.one)
        return
    print(
        "    nuclei      MP  label  measure  neighb.  export  report   us each  peak MB   files MB"
    )
    for count in chosen.nuclei:
        command = [sys.executable, __file__, str(chosen.folder), "--one", str(count)]
        subprocess.run(command, check=True)


def run(folder, count):
    """One slide of about so many nuclei, in a process of its own, so that the peak is its own."""
    import numpy as np

    from nucleiflow import config, export, flow, look, model, place, records, report, results, store
    from nucleiflow import tasks
    from nucleiflow.job import Job, Look
    from nucleiflow.normalise import Normalisation
    from nucleiflow.plan import Grid
    from nucleiflow.resolution import Resolution

    side = int(np.ceil(np.sqrt(count))) * STEP_PX
    known = model.load()
    chosen = Resolution(0, (side, side), (side, side), 1.0, 0.25, (side, side), 0.25, "as it is")
    job = Job(
        slide="synthetic", resolution=chosen, name="synthetic", folder=folder / str(count),
        grid=Grid(side, side, TILE_PX, known.reach), model=known, channels=("DAPI",),
        dtype="uint16", rgb=False,
        look=Look(Normalisation((0,), 0.0, 4000.0, False), "fluorescence", "made up", None),
    )  # fmt: skip
    flow.clear(job)
    flow._create(job)
    y, x = np.mgrid[:TILE_PX, :TILE_PX]
    for index in range(len(job.grid)):
        core = job.grid.core(index)
        rows, columns = np.ogrid[core.y0 : core.y1, core.x0 : core.x1]
        r2 = (rows % STEP_PX - 9.5) ** 2 + (columns % STEP_PX - 9.5) ** 2
        wobble = 60 + (rows // STEP_PX * 7 + columns // STEP_PX * 13) % 20
        inside, middle = r2 < wobble, r2 < 12
        image = np.where(inside, 2000 + 40 * (rows % 31) + 20 * (columns % 17), 100)
        store.write(job.store / "0", core, image[None].astype(np.uint16))
        store.write(job.foreground, core, np.where(inside, 220, 0).astype(np.uint8))
        from scipy import ndimage

        from nucleiflow import seeds

        numbered = ndimage.label(middle, np.ones((3, 3)))[0].astype(np.uint32)
        store.write(job.seeds, core, numbered)
        facts = seeds.record(numbered, core, side)
        records.put_arrays(job.record("segment", index), facts.arrays())
    for level in range(1, len(job.levels)):
        for index in range(len(job.level_grid(level))):
            tasks.shrink_image(job, level, index)
        if len(job.level_grid(level)) == 1:
            break
    tasks.merge(job, 0)
    seconds = {}
    every = range(len(job.grid))

    def timed(name, work):
        began = time.monotonic()
        work()
        seconds[name] = time.monotonic() - began

    timed("label", lambda: [tasks.label(job, index) for index in every])
    for level in range(1, len(job.levels)):
        for index in range(len(job.level_grid(level))):
            tasks.shrink_labels(job, level, index)
        if len(job.level_grid(level)) == 1:
            break
    results.tally(job, 0)
    timed("measure", lambda: [results.measured(job, {}, index) for index in every])
    near = frozenset()
    timed("neighbours", lambda: [results.met(job, near, index, geojson=True) for index in every])
    timed("export", lambda: export.export(job, config.Exports(csv=True), 0))
    word = flow._word(job, config.RunConfig(), {"model": known.sha256}, len(every), {"all": 1.0})
    timed("report", lambda: report.write(job, word))
    nuclei = word["nuclei"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    files = " ".join(f"{name} {size / 1e6:.0f}" for name, size in export.sizes(job.folder).items())
    each = sum(seconds.values()) / nuclei * 1e6
    print(
        f"{nuclei:>10,} {side * side / 1e6:>7,.0f} {seconds['label']:>6.1f} "
        f"{seconds['measure']:>8.1f} {seconds['neighbours']:>8.1f} {seconds['export']:>7.1f} "
        f"{seconds['report']:>7.1f} {each:>9.1f} {peak:>8,.0f}   {files}",
        flush=True,
    )


if __name__ == "__main__":
    main()
