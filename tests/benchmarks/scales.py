"""The same nuclei scanned at several resolutions: do their counts agree? `make bench-scales`.

A slide (a generated one, unless one is given) is rendered as one OME-TIFF per resolution, each with
its own µm per pixel and a single level, and each is run by the main job, which reads it at the
resolution that suits the model (or at --working-mpp). Prints one line per resolution.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np

from nucleiflow import demo, source, tiff
from nucleiflow.box import Box
from nucleiflow.resample import Resampling, resampled

FINEST_MPP = 0.25  # of the generated slide: its nuclei are 29 px long, 7 µm
SCALES = (0.25, 0.35, 0.5, 0.7, 1.0)


def finest(slide: str | None, size_px: int) -> tuple[np.ndarray, float, int | None]:
    """Pixels (h, w, c), their µm, and the true number of nuclei where it is known."""
    if slide is None:
        image, truth = demo.make_slide(size_px)
        return image[..., None], FINEST_MPP, int(truth.max())
    with source.open_slide(slide) as opened:
        if opened.mpp is None or len(opened.channels) > 1:
            raise SystemExit(f"{slide}: give a slide of one channel that states its µm per pixel")
        box = Box(0, 0, size_px, size_px).clip(*opened.shape)
        return opened.levels[0].read(box), opened.mpp, None


def render(pixels: np.ndarray, mpp: float, wanted: float, path: Path) -> None:
    """The slide as a scanner of `wanted` µm per pixel sees it: means over its larger pixels."""
    height, width = (max(1, round(side * mpp / wanted)) for side in pixels.shape[:2])
    how = Resampling(pixels.shape[:2], (height, width))
    seen = resampled(Box(0, 0, height, width), how, lambda box: pixels[box.slices()])
    tiff.write_pyramid(str(path), [seen[..., 0]], mpp=wanted, channel="DAPI")


def count(slide: Path, out: Path, options: list[str]) -> dict[str, object]:
    """Run the main job in a process of its own; the final word of the slide."""
    command = ["run", str(slide), "--out", str(out), "--restart", "--quiet", "--json", *options]
    done = subprocess.run(
        [sys.executable, "-m", "nucleiflow", *command], check=True, stdout=subprocess.PIPE
    )
    return json.loads(done.stdout)["slides"][0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="for slides and results")
    parser.add_argument("--slide", help="one channel, with µm per pixel; else a generated one")
    parser.add_argument("--size-px", type=int, default=2048, help="side at the finest resolution")
    parser.add_argument("--mpp", type=float, nargs="+", default=SCALES)
    parser.add_argument("--working-mpp", type=float, help="else what suits the model")
    parser.add_argument("--workers", type=int, default=0)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    options = ["--workers", str(given.workers)]
    if given.working_mpp:
        options += ["--working-mpp", str(given.working_mpp)]
    pixels, mpp, true = finest(given.slide, given.size_px)
    counts = {}
    print(f"{'µm/px':>6} {'nuclei':>7}  read as")
    for wanted in given.mpp:
        slide = given.folder / f"{wanted:g}.ome.tif"
        render(pixels, mpp, wanted, slide)
        word = count(slide, given.folder / f"out-{wanted:g}", options)
        counts[wanted] = word["nuclei"]
        print(f"{wanted:>6g} {word['nuclei']:>7,}  {word['resolution']['reason']}", flush=True)
    middle = statistics.median(counts.values())
    print(f"median {middle:,g}" + ("" if true is None else f", truth {true:,}"))
    for wanted, found in counts.items():
        print(f"{wanted:>6g} {100 * (found / middle - 1) if middle else 0:>+6.1f} % of the median")


if __name__ == "__main__":
    main()
