"""One GPU and its cores: the network's rate, what the pipeline keeps of it, and with which cores.

Needs Keras and JAX with a GPU (TensorFlow may be missing); prints a line per trial, and JSON last.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import memory
import numpy as np
import standin

from nucleiflow import model

SIDE_PX, SLIDES = 6144, 6


def rates(sides, rounds=12):
    """MP/s of windows, called one after the other as a run calls them, and how answers differ."""
    known = model.load()
    found, first = {}, {}
    for precision in ("float32", "tensorfloat32", "bfloat16"):
        predict = standin.by_jax(known.path, precision)
        for side in sides:
            window = np.random.default_rng(0).integers(0, 255, (side, side, 3), np.uint8)
            began = time.perf_counter()
            maps = predict(window)
            compiled, took = time.perf_counter() - began, []
            for _ in range(rounds):
                began = time.perf_counter()
                predict(window)
                took.append(time.perf_counter() - began)
            base = first.setdefault(side, maps)
            apart = np.abs(maps.astype(int) - base)
            row = {
                "mp_per_s": side * side / 1e6 / statistics.median(took),
                "least": side * side / 1e6 / max(took),
                "most": side * side / 1e6 / min(took),
                "compile_s": compiled,
                "differ": float((apart > 0).mean()),
                "largest": int(apart.max()),
            }
            found[f"{precision} {side}"] = row
            print(
                precision, side, {name: round(value, 4) for name, value in row.items()}, flush=True
            )
    return found


def run(slides, out, env, workers, threads):
    """One run of all slides: wall seconds, MP/s, share of the time that the network was at work."""
    folder = env["STANDIN_FOLDER"]
    standin.busy(folder)
    shutil.rmtree(out, ignore_errors=True)
    command = ["-m", "nucleiflow", "run", *map(str, slides), "--out", str(out)]
    options = ["--workers", str(workers), "--threads", str(threads), "--quiet"]
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, *command, *options], env=env, check=False, capture_output=True, text=True
    )
    wall = time.monotonic() - began
    if done.returncode:
        print(done.stderr[-1500:], flush=True)
        return None
    calls = standin.busy(folder)
    batch = json.loads((out / "batch.json").read_text())
    megapixels = sum(one["height"] * one["width"] for one in batch["slides"]) / 1e6
    edge = len(calls) // len(slides)  # the first slide, and the last, have less beside them
    inner = calls[edge:-edge] if len(slides) > 2 else calls
    span = inner[-1, 1] - inner[0, 0]
    return {
        "workers": workers,
        "threads": threads,
        "wall_s": round(wall, 1),
        "batch_s": batch["wall_seconds"],
        "mp_per_s": round(megapixels / batch["wall_seconds"], 1),
        "inner_mp_per_s": round(megapixels * len(inner) / len(calls) / span, 1),
        "busy": round(float(np.diff(inner, axis=1).sum() / span / workers), 3),
        "nuclei": sum(one["nuclei"] for one in batch["slides"]),
        "worker_mb": max(batch["peak_worker_mb"]),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--slides", type=int, default=SLIDES)
    parser.add_argument("--live", nargs="*", default=["bfloat16:1:4", "bfloat16:1:8"])
    parser.add_argument("--rates", nargs="*", default=["20:1:4", "50:1:8", "100:1:8", "100:2:8"])
    parser.add_argument("--sides", type=int, nargs="*", default=[1216, 2240])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    found = {"cores": os.cpu_count(), "network": rates(given.sides) if given.sides else {}}
    slide = given.folder / "dense-0.tif"
    memory.write_slide(slide, SIDE_PX, 1.0)
    slides = [slide]
    for number in range(1, given.slides):
        slides.append(given.folder / f"dense-{number}.tif")
        slides[-1].unlink(missing_ok=True)
        os.link(slide, slides[-1])
    maps, out = given.folder / "maps", given.folder / "out"
    fill = standin.environment(maps, 0, "jax", "float32")
    found["fill"] = run(slides[:1], out, fill, 1, 4)
    print("filled", found["fill"], flush=True)
    found["live"], found["standin"] = [], []
    for trial in given.live:
        precision, workers, threads = trial.split(":")
        env = standin.environment(maps, -1, "jax", precision)
        row = run(slides, out, env, int(workers), int(threads))
        found["live"].append({"precision": precision, **(row or {})})
        print("live", precision, row, flush=True)
    for trial in given.rates:
        rate, workers, threads = trial.split(":")
        env = standin.environment(maps, float(rate))
        row = run(slides, out, env, int(workers), int(threads))
        found["standin"].append({"rate": float(rate), **(row or {})})
        print("stand-in", rate, row, flush=True)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
