"""Peak memory of a worker and of the driver, for a small and a large slide. `make bench-memory`.

The slides repeat a field of nuclei; the large one is mostly empty glass, which the tissue mask
skips, around a square of tissue that takes a few minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import tifffile

from nucleiflow import demo

BLOCK_PX = 512
FIELD_PX = 2048


def write_slide(path: Path, size_px: int, tissue_share: float) -> None:
    """A tiled BigTIFF of `size_px` squared with a square of tissue in its middle."""
    field, _ = demo.make_slide(FIELD_PX)
    glass = np.full((BLOCK_PX, BLOCK_PX), int(np.percentile(field, 1)), np.uint16)
    noise = np.random.default_rng(0).integers(0, 6, glass.shape).astype(np.uint16)
    margin = int(size_px * (1 - tissue_share**0.5) / 2)
    tissue = range(margin, size_px - margin)

    def blocks() -> Iterator[np.ndarray]:
        for y in range(0, size_px, BLOCK_PX):
            for x in range(0, size_px, BLOCK_PX):
                if y in tissue and x in tissue:
                    top, left = ((at + FIELD_PX // 2) % FIELD_PX for at in (y, x))  # cut in tiles
                    yield field[top : top + BLOCK_PX, left : left + BLOCK_PX]
                else:
                    yield glass + noise

    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        writer.write(
            blocks(),
            shape=(size_px, size_px),
            dtype=np.uint16,
            tile=(BLOCK_PX, BLOCK_PX),
            compression="zlib",
            compressionargs={"level": 1},
            photometric="minisblack",
        )


def measure(folder: Path, size_px: int, tissue_share: float, workers: int) -> dict[str, float]:
    """Run the main job on a slide in a process of its own; its figures from batch.json."""
    slide, out = folder / f"{size_px}.tif", folder / f"out-{size_px}"
    if not slide.exists():
        write_slide(slide, size_px, tissue_share)
    command = ["run", str(slide), "--out", str(out), "--restart", "--workers", str(workers)]
    loader_bytes = 0
    with subprocess.Popen([sys.executable, "-m", "nucleiflow", *command]) as process:
        while process.poll() is None:
            loader_bytes = max(loader_bytes, loaded(process.pid))
            time.sleep(0.5)
    if process.returncode:
        raise SystemExit(f"exit {process.returncode}: {command}")
    batch = json.loads((out / "batch.json").read_text())
    word = batch["slides"][0]
    return {
        "megapixels": word["height"] * word["width"] / 1e6,
        "tiles": word["tiles"],
        "tiles_with_tissue": word["tiles_with_tissue"],
        "nuclei": word["nuclei"],
        "worker_mb": max(batch["peak_worker_mb"]),
        "driver_mb": batch["peak_driver_mb"],
        "loader_mb": round(loader_bytes / 1e6),
        "wall_seconds": word["wall_seconds"],
    }


def loaded(command: int) -> int:
    """Bytes of the process that a command's workers are forked from, those shared with them too."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for one in psutil.Process(command).children():
            if "forkserver" in " ".join(one.cmdline()):
                return int(one.memory_info().rss)
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="for slides and results: 10 GB")
    parser.add_argument("--small-px", type=int, default=6_000)
    parser.add_argument("--large-px", type=int, default=30_000)
    parser.add_argument("--large-tissue", type=float, default=0.1)
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    small = measure(given.folder, given.small_px, 1.0, given.workers)
    large = measure(given.folder, given.large_px, given.large_tissue, given.workers)
    ratio = {name: round(large[name] / small[name], 3) for name in ("worker_mb", "driver_mb")}
    print(json.dumps({"small": small, "large": large, "large_over_small": ratio}, indent=1))


if __name__ == "__main__":
    main()
