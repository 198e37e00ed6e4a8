"""Slides -> what a run of them would cost and what would go wrong, before anything runs."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from nucleiflow import flow, inference, regions, shape, speeds
from nucleiflow.config import Wanted
from nucleiflow.errors import NucleiflowError
from nucleiflow.estimate import Estimate, clock, estimate
from nucleiflow.job import Job
from nucleiflow.model import SHIPPED, Model, load
from nucleiflow.place import Place
from nucleiflow.region import Raster

CALIBRATION_SECONDS = 3.0
CALIBRATION_CORE_PX = 512


@dataclass(frozen=True)
class Forecast:
    """One slide's plan. `fatal` says why it cannot run, `warnings` what to know before it does."""

    slide: str
    height: int
    width: int
    tile_px: int
    halo_px: int
    resolution: dict[str, Any] | None
    cost: Estimate | None
    workers: int
    fatal: str | None
    warnings: tuple[str, ...]
    region_tiles: int | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def text(self) -> str:
        if self.cost is None:
            return f"{self.slide}\n  cannot run: {self.fatal}"
        cost = self.cost
        overhead = cost.network_megapixels / cost.megapixels
        lines = [
            self.slide,
            f"  size     {self.width} x {self.height} px, {cost.megapixels:,.1f} MP",
            f"  pixel    {(self.resolution or {}).get('reason')}",
            f"  tiles    {cost.tiles:,} of {self.tile_px} px, halo {self.halo_px} px; "
            f"{cost.network_megapixels:,.1f} MP through the network ({overhead:.2f} x)",
            f"  time     {self._time(cost.seconds)}",
            f"  memory   {cost.worker_bytes / 1e9:.1f} GB at most per worker",
            f"  disk     {cost.disk_bytes / 1e9:.2f} GB at most",
        ]
        if self.region_tiles is not None:
            lines.append(f"  region   {self.region_tiles:,} of {cost.tiles:,} tiles are near it")
        if self.fatal:
            lines.append(f"  cannot run: {self.fatal}")
        return "\n".join([*lines, *(f"  warning  {text}" for text in self.warnings)])

    def _time(self, seconds: float | None) -> str:
        if seconds is None:
            return "unknown: plan --calibrate measures the network on this machine, once"
        workers = max(1, self.workers)
        return f"at most {clock(seconds)} with {workers} worker{'s' if workers > 1 else ''}"


def forecast(
    wanted: Sequence[Wanted], out: Place, *, workers: int | None, calibrate: bool
) -> list[Forecast]:
    """A forecast for each slide; one that cannot be opened is fatal for itself only.

    With `calibrate` the network runs for a moment, and its speed is remembered for later plans.
    """
    models = {path: load(path or SHIPPED) for path in {one.config.model for one in wanted}}
    size = shape.of_machine(workers)
    if calibrate:
        for model in models.values():
            measured = _network_speed(model, size)
            speeds.remember(model.sha256, _sharing(size), measured)
    found = []
    for one in wanted:
        model = models[one.config.model]
        speed = speeds.remembered(model.sha256, _sharing(size))
        found.append(_one(one, out, model, size, speed and speed * size.workers))
    return found


def _one(
    wanted: Wanted, out: Place, model: Model, size: shape.Size, speed: float | None
) -> Forecast:
    path, workers = wanted.slide, size.workers
    try:
        job, slide = flow.prepare(path, wanted.name, out, wanted.config, model)
        with slide:
            near = _near(job, wanted.config.region)
    except NucleiflowError as error:
        return Forecast(path, 0, 0, 0, 0, None, None, workers, str(error), ())
    cost = estimate(
        job.grid,
        channels=len(job.channels),
        dtype=job.dtype,
        network_mp_per_s=speed,
        network_calls=size.network_calls,
        copied=not job.direct,
    )
    warnings = list(slide.notes)
    if job.mpp is None:
        warnings.append(f"µm per pixel: {slide.mpp_source}")
    memory = psutil.virtual_memory().available
    if cost.worker_bytes * workers > memory:
        warnings.append(
            f"{workers} workers may need {cost.worker_bytes * workers / 1e9:.1f} GB of the "
            f"{memory / 1e9:.1f} GB that are free: use a smaller --tile-px or fewer --workers"
        )
    free, fatal = _free_bytes(out), None
    if free is not None and cost.disk_bytes > free:
        fatal = f"{out} has {free / 1e9:.1f} GB free, {cost.disk_bytes / 1e9:.1f} GB may be needed"
    grid = job.grid
    return Forecast(
        path, grid.height, grid.width, grid.tile_px, grid.reach.halo_px, job.resolution.as_json(),
        cost, workers, fatal, tuple(warnings), near,
    )  # fmt: skip


def _near(job: Job, given: Sequence[str] | None) -> int | None:
    """How many tiles are near the region, if there is one. Raises ConfigError."""
    if not given:
        return None
    drawn = Raster(regions.read(given, job.resolution.slide_px), job.resolution.scale)
    return len(regions.tiles(job, regions.laid(drawn, job)))


def _free_bytes(out: Place) -> int | None:
    """Free space of a disk; None of an object store, which does not say."""
    if not isinstance(out, Path):
        return None
    path = out.absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def _sharing(size: shape.Size) -> str:
    """CPU threads of a worker, and the windows that they compute at once, as a word."""
    return f"{size.network_threads}/{size.network_calls}"


def _network_speed(model: Model, size: shape.Size) -> float:
    """Megapixels of windows per second through the bare network of a worker, once warm."""
    inference.set_threads(size.network_threads, size.network_calls)
    predict = inference.predictor(model.path, model.sha256)
    side = CALIBRATION_CORE_PX + 2 * model.reach.halo_px
    side = -(-side // model.reach.stride_px) * model.reach.stride_px
    window = np.random.default_rng(0).integers(0, 255, (side, side, 3), np.uint8)
    predict(window)

    def call(_: int) -> int:
        runs = 0
        while time.monotonic() - began < CALIBRATION_SECONDS:
            predict(window)
            runs += 1
        return runs

    with ThreadPoolExecutor(size.network_calls) as threads:
        began = time.monotonic()
        runs = sum(threads.map(call, range(size.network_calls)))
        return runs * side * side / 1e6 / (time.monotonic() - began)
