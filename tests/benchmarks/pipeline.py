"""What a run costs beside its network, each figure a ratio within one run: see `main` for parts.

`python tests/benchmarks/pipeline.py FOLDER [--only ratio stages feed scale] [--json FILE]`
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import memory
import numpy as np
import standin
from rounds import spread

RATIO_PX, STAGES_PX = 16_384, 32_768
FEED_PX, FEED_SLIDES = 16_384, 4
BARE = {"one_window": 1, "two_windows": 2}  # at once
SMALL_PX, LARGE_PX = 6144, 32_768
OF_TILES = ("tasks.copy_image", "tasks.segment", "tasks.label", "results.measured", "results.met")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="*", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rates", type=float, nargs="*", default=[20, 50, 100])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs="*", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        CHILDREN[given.child[0]](*given.child[1:])
        return
    given.folder.mkdir(parents=True, exist_ok=True)
    found = {"cores": os.cpu_count()}
    for name in given.only:
        found[name] = PARTS[name](given)
        print(json.dumps({name: found[name]}, indent=1), flush=True)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


def dense(folder, side_px):
    """A slide that is full of nuclei: a generated field, repeated; 16 bit, zlib."""
    path = folder / f"dense-{side_px}.tif"
    if not path.exists():
        memory.write_slide(path, side_px, 1.0)
    return path


def nucleiflow(slides, out, *options, env=None):
    """Run the command; its batch.json, wall seconds, and CPU seconds of all of its processes."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    command = [sys.executable, "-m", "nucleiflow", "run", *map(str, slides)]
    tail = ["--out", str(out), "--restart", "--quiet", *map(str, options)]
    subprocess.run([*command, *tail], env=env, check=True)
    wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return json.loads((out / "batch.json").read_text()), wall, cpu


def child(*words, env=None):
    """Run a part of this file in a process of its own -> what it prints last, as JSON. Libraries
    of linear algebra have one thread, as in Dask's workers.
    """
    command = [sys.executable, __file__, "none", "--child", *map(str, words)]
    env = {**(os.environ if env is None else env), "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


# ratio: a whole run against the bare network on the same windows


def ratio(given):
    slide, out = dense(given.folder, RATIO_PX), given.folder / "out-ratio"
    if not (out / slide.stem / "run.json").exists():
        nucleiflow([slide], out, "--workers", 1)  # compiles loops, if they are not yet
    runs, whole, bare = [], [], [bare_seconds(slide, out)]
    for _ in range(given.rounds):
        batch, wall, _ = nucleiflow([slide], out, "--csv", "--workers", 1)
        runs.append(batch["slides"][0]["wall_seconds"])
        whole.append(wall)
        bare.append(bare_seconds(slide, out))
    # a machine that others share changes its speed: a run is held against the two beside it
    beside = (np.array(bare)[1:] + np.array(bare)[:-1]) / 2
    slide_over, command_over = (np.array(one)[:, None] / beside for one in (runs, whole))
    return {
        "megapixels": RATIO_PX**2 / 1e6,
        "nuclei": batch["slides"][0]["nuclei"],
        "start_seconds": spread(np.subtract(whole, runs).tolist()),
        **{
            name: {
                "bare_seconds": spread(np.array(bare)[:, k].tolist()),
                "slide_over_bare": spread(slide_over[:, k].tolist()),
                "command_over_bare": spread(command_over[:, k].tolist()),
            }
            for k, name in enumerate(BARE)
        },
    }


def bare_seconds(slide, out):
    """One window after the other, and two at once."""
    run_json = out / slide.stem / "run.json"
    return [child("bare", slide, run_json, calls)["seconds"] for calls in BARE.values()]


def bare_network(slide, run_json, calls):
    """The compiled network on all windows of a slide, in memory, with all cores, for so many
    windows at once.
    """
    import tifffile

    from nucleiflow import inference, model, normalise, plan

    word, known = json.loads(Path(run_json).read_text()), model.load()
    norm = normalise.Normalisation(
        **{
            name: tuple(value) if isinstance(value, list) else value
            for name, value in word["normalisation"].items()
        }
    )
    image = tifffile.imread(slide)[..., None]
    grid = plan.Grid(*image.shape[:2], word["tile_px"], known.reach)
    windows = []
    for index in range(len(grid)):
        box, rows, columns = plan.mirror(grid.tile(index).window, *grid.shape)
        windows.append(normalise.shown(image[box.slices()], norm, rows, columns))
    inference.use("cpu", os.cpu_count(), int(calls))
    predict = inference.predictor(known.path, known.sha256)
    predict(windows[0])
    with ThreadPoolExecutor(int(calls)) as threads:
        began = time.monotonic()
        for _ in threads.map(predict, windows):
            pass
        print(json.dumps({"seconds": time.monotonic() - began}))


# stages: CPU seconds per megapixel beside the network


def stages(given):
    slide, maps = dense(given.folder, STAGES_PX), given.folder / "maps"
    environment = standin.environment(maps, 0)
    child("serial", given.folder / "out-stages", slide, env=environment)  # keeps the maps
    environment = standin.environment(maps, 1e6)
    outs = [given.folder / f"out-stages-{number}" for number in range(given.rounds)]
    for out in outs:  # all at first: a disk that has just deleted much is busy
        shutil.rmtree(out, ignore_errors=True)
    runs = [child("serial", out, slide, env=environment)[0] for out in outs]
    decoded = [child("decode", slide)["seconds"] for _ in range(given.rounds)]
    megapixels, nuclei = STAGES_PX**2 / 1e6, runs[0]["nuclei"]
    total = [sum(one["cpu"].values()) for one in runs]
    decoding = statistics.median(decoded)
    return {
        "megapixels": megapixels,
        "nuclei_per_megapixel": nuclei / megapixels,
        "ms_per_megapixel": {
            name: spread([one["cpu"][name] / megapixels * 1e3 for one in runs])
            for name in runs[0]["cpu"]
        },
        "decoding_ms_per_megapixel": spread([one / megapixels * 1e3 for one in decoded]),
        "beside_decoding_ms_per_megapixel": spread(
            [(one - decoding) / megapixels * 1e3 for one in total]
        ),
        "megapixels_per_second_and_core": spread([megapixels / one for one in total]),
    }


def serial(out, *slides):
    """Slides one after the other in this process, whose tasks are timed: of each, CPU seconds of
    all threads, by task.
    """
    from nucleiflow import batch, config, heap, pool
    from nucleiflow.progress import Quiet

    cpu, perform = {}, pool.perform

    def timed(task, tiles):
        began = time.process_time()
        try:
            return perform(task, tiles)
        finally:
            name = f"{task.func.__module__.rpartition('.')[2]}.{task.func.__name__}"
            cpu[name] = cpu.get(name, 0.0) + time.process_time() - began

    pool.perform = timed
    heap.settle()  # as workers do
    found = []
    for one in slides:
        cpu.clear()
        wanted = batch.slides([str(one)], config.RunConfig(restart=True))
        done = batch.run(wanted, Path(out), cluster=batch.local(0), progress=Quiet())
        found.append({"cpu": dict(cpu), "nuclei": done.slides[0]["nuclei"]})
    print(json.dumps(found))


def decode(slide):
    """All pixels of a slide through its reader, tile by tile."""
    from nucleiflow import source
    from nucleiflow.box import grid

    with source.open_slide(slide) as opened:
        began = time.process_time()
        for box in grid(*opened.shape, 2048):
            opened.levels[0].read(box)
        print(json.dumps({"seconds": time.process_time() - began}))


# feed: how busy a fast network is kept, by the cores of this machine


def feed(given):
    slide, maps = dense(given.folder, FEED_PX), given.folder / "maps"
    slides = [slide]
    for number in range(1, FEED_SLIDES):
        slides.append(given.folder / f"feed-{number}.tif")
        slides[-1].unlink(missing_ok=True)
        os.link(slide, slides[-1])
    child("serial", given.folder / "out-feed", slide, env=standin.environment(maps, 0))
    shutil.rmtree(given.folder / "out-feed")
    found = []
    for rate in given.rates:
        env = standin.environment(maps, rate)
        standin.busy(maps)
        options = ("--workers", 1, "--threads", 4)
        batch, _, _ = nucleiflow(slides, given.folder / "out-feed", *options, env=env)
        calls = standin.busy(maps)
        # from the first window of the second slide to the last of the last but one: all stages run
        inner = calls[len(calls) // FEED_SLIDES : -len(calls) // FEED_SLIDES]
        span = inner[-1, 1] - inner[0, 0]
        found.append(
            {
                "network_megapixels_per_second": rate,
                "busy": float(np.diff(inner, axis=1).sum() / span),
                "slides_megapixels_per_second": len(slides)
                * FEED_PX**2
                / 1e6
                / batch["wall_seconds"],
            }
        )
    return found


# scale: memory and cost from small slides to large ones


def scale(given):
    rows = []
    for side in (2048, 6144, 16_384, 32_768):
        tissue = min(1.0, (SMALL_PX / side) ** 2)
        row = memory.measure(given.folder, side, tissue, 1)
        figures = "megapixels", "worker_mb", "driver_mb", "loader_mb"
        rows.append({name: row[name] for name in figures})
    maps, whole = given.folder / "maps", {}
    small, large = dense(given.folder, SMALL_PX), dense(given.folder, LARGE_PX)
    out, env = given.folder / "out-scale", standin.environment(maps, 1e6)
    for slide, side in ((small, SMALL_PX), (large, LARGE_PX)):
        nucleiflow([slide], out, env=standin.environment(maps, 0))  # keeps the maps
        whole[side] = nucleiflow([slide], out, env=env)[2] / side**2
    rounds = [
        child("serial", out, small, small, large, small, env=env) for _ in range(given.rounds)
    ]
    shutil.rmtree(out)
    return {
        "peaks": rows,
        "linear": {
            "megapixels": [SMALL_PX**2 / 1e6, LARGE_PX**2 / 1e6],
            "tiles": spread([over_small(one, OF_TILES) for one in rounds]),
            "slide": spread([over_small(one, one[0]["cpu"]) for one in rounds]),
            "command": whole[LARGE_PX] / whole[SMALL_PX],
        },
    }


def over_small(runs, tasks):
    """CPU seconds per MP of a large slide over those of the small ones before and after it."""
    _, *before_large_after = runs  # the first is done to have loaded all
    before, many, after = (sum(one["cpu"][task] for task in tasks) for one in before_large_after)
    return many / LARGE_PX**2 / ((before + after) / 2 / SMALL_PX**2)


PARTS = {"ratio": ratio, "stages": stages, "feed": feed, "scale": scale}
CHILDREN = {"bare": bare_network, "serial": serial, "decode": decode}

if __name__ == "__main__":
    main()
