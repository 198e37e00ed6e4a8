"""Plan of a slide -> what it will cost: megapixels, seconds, memory, disk. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from nucleiflow.plan import Grid

FIXED_BYTES = 1_000_000_000  # TensorFlow, other libraries, decoded tiles that are kept (128 MB)
NETWORK_BYTES_PER_PX = 420  # of the largest window, of each in the network at once, at most
TILE_BYTES_PER_PX = 40  # of the tiles that a worker's other threads read, label and write, measured
LABEL_BYTES_PER_PX = 1.1  # of a dense slide: labels, and scratch but for pixels, measured
TABLE_BYTES_PER_PX = 1.0  # nuclei.parquet, nuclei.csv and nuclei.geojson.gz of a dense slide
REPORT_BYTES, REPORT_BYTES_PER_PX, MOST_REPORT_BYTES = 1_000_000, 1.5, 15_000_000
COMPRESSED = 0.75  # image bytes on disk per byte in memory, measured on H&E
NUCLEI_SHARE = 0.3  # of a dense slide's pixels that may be nuclei
OTHER_WORK = 1.1  # everything but the network, as a factor on its time


@dataclass(frozen=True)
class Estimate:
    """Cost of one slide; `seconds` is None without a calibration. All are upper bounds: empty
    tiles will be skipped.
    """

    tiles: int
    megapixels: float
    network_megapixels: float
    worker_bytes: int
    disk_bytes: int
    seconds: float | None


def estimate(
    grid: Grid,
    *,
    channels: int,
    dtype: str,
    network_mp_per_s: float | None,
    network_calls: int = 1,
    copied: bool = True,
) -> Estimate:
    """Cost of a slide of `channels` channels: the copy, if there is one, and meanwhile the pixels
    of nuclei. `network_mp_per_s` is the speed of the bare network, all workers together, in
    megapixels of windows; each computes `network_calls` of them at once.
    """
    pixels = grid.height * grid.width
    windows = [grid.tile(index).window.area for index in _kinds(grid)]
    network = sum(area * count for area, count in zip(windows, _counts(grid), strict=True)) / 1e6
    seconds = network / network_mp_per_s * OTHER_WORK if network_mp_per_s else None
    image = float(pixels * channels * np.dtype(dtype).itemsize)
    image *= NUCLEI_SHARE + (COMPRESSED * 4 / 3 if copied else 0)
    report = min(REPORT_BYTES + pixels * REPORT_BYTES_PER_PX, MOST_REPORT_BYTES)
    return Estimate(
        tiles=len(grid),
        megapixels=pixels / 1e6,
        network_megapixels=network,
        worker_bytes=worker_bytes(max(windows), grid.tile_px**2, min(network_calls, len(grid))),
        disk_bytes=int(image + pixels * (LABEL_BYTES_PER_PX + TABLE_BYTES_PER_PX) + report),
        seconds=seconds,
    )


def worker_bytes(window: int, tile: int, network_calls: int) -> int:
    """Memory of a worker at most, for windows and tiles of so many pixels.

    >>> worker_bytes(2240**2, 2048**2, 2) - worker_bytes(2240**2, 2048**2, 1)
    2107392000
    """
    network = window * NETWORK_BYTES_PER_PX * network_calls
    return FIXED_BYTES + network + tile * TILE_BYTES_PER_PX


def _kinds(grid: Grid) -> Iterable[int]:
    """One tile each: inside, last column, last row, last corner."""
    last_row = (grid.rows - 1) * grid.columns
    return 0, grid.columns - 1, last_row, last_row + grid.columns - 1


def _counts(grid: Grid) -> Iterable[int]:
    """How many tiles of each kind there are."""
    rows, columns = grid.rows - 1, grid.columns - 1
    return rows * columns, rows, columns, 1


def clock(seconds: float) -> str:
    """Hours, minutes and seconds.

    >>> clock(3725)
    '1:02:05'
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
