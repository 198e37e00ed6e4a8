"""One worker process beside two, on the same generated slide: `make bench-workers`.

Each run is a `nucleiflow run` of its own, in turn, so that what disturbs the machine disturbs both.
Wall time is that of the slide's stages, without the start of the workers; processor time is that of
all processes. The labels must be the same.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from rounds import spread

from nucleiflow import demo, showcase

WORKERS = 1, 2


def once(slide: Path, out: Path, workers: int, tile_px: int) -> dict[str, object]:
    """One run: its seconds, those of the network stage, processor seconds, and its labels."""
    command = [
        *(sys.executable, "-m", "nucleiflow", "run", slide, "--out", out, "--restart"),
        *("--workers", workers, "--tile-px", tile_px, "--level", 0, "--quiet"),
    ]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE)
    after, total = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - began
    batch = json.loads((out / "batch.json").read_text())
    word = json.loads((out / batch["slides"][0]["name"] / "run.json").read_text())
    return {
        "seconds": sum(word["seconds"].values()),
        "segment_seconds": word["seconds"]["segment"],
        "command_seconds": total,
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "labels_digest": word["labels_digest"],
        "nuclei": word["nuclei"],
        "megapixels": word["height"] * word["width"] / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="for the slide and results")
    parser.add_argument("--size-px", type=int, default=4096)
    parser.add_argument("--tile-px", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    slide = given.folder / f"{given.size_px}.ome.tif"
    if not slide.exists():
        showcase.write_slide(slide, demo.make_slide(given.size_px, seam_px=given.tile_px)[0])
    found: dict[int, list[dict[str, object]]] = {workers: [] for workers in WORKERS}
    for _ in range(given.rounds):
        for workers in WORKERS:
            out = given.folder / f"out-{workers}"
            found[workers].append(once(slide, out, workers, given.tile_px))
    result = summary(found)
    for row in result["rows"]:
        wall, cpu = row["seconds"], row["cpu_seconds"]
        print(
            f"{row['workers']} workers: {wall['median']:6.1f} s ({wall['least']:.1f} to "
            f"{wall['most']:.1f}), network {row['segment_seconds']['median']:6.1f} s, "
            f"{row['mp_per_s']:.2f} MP/s, processor {cpu['median']:6.1f} s "
            f"({cpu['least']:.1f} to {cpu['most']:.1f})"
        )
    ratio = result["two_over_one"]
    print(
        f"{os.cpu_count()} cores; two over one, wall {ratio['seconds']['median']:.2f} "
        f"({ratio['seconds']['least']:.2f} to {ratio['seconds']['most']:.2f}), processor "
        f"{ratio['cpu_seconds']['median']:.2f}; {result['nuclei']:,} nuclei, the same labels: "
        f"{result['same_labels']}"
    )
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n")
    if not result["same_labels"]:
        raise SystemExit("the labels differ")


def summary(found: dict[int, list[dict[str, object]]]) -> dict[str, object]:
    """Runs by their workers -> figures of each, and ratios of runs of the same round."""
    figures = "seconds", "segment_seconds", "command_seconds", "cpu_seconds"
    rows = []
    for workers, runs in found.items():
        one = {name: spread([run[name] for run in runs]) for name in figures}
        speed = runs[0]["megapixels"] / one["seconds"]["median"]
        rows.append({"workers": workers, **one, "mp_per_s": speed})
    pairs = list(zip(*found.values(), strict=True))
    digests = {run["labels_digest"] for runs in found.values() for run in runs}
    return {
        "benchmark": "workers",
        "cores": os.cpu_count(),
        "nuclei": found[WORKERS[0]][0]["nuclei"],
        "rows": rows,
        "two_over_one": {
            name: spread([two[name] / one[name] for one, two in pairs]) for name in figures
        },
        "same_labels": len(digests) == 1,
    }


if __name__ == "__main__":
    main()
