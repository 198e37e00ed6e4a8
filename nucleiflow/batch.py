"""Many slides, one after the other, on one set of workers; a bad slide never stops the others."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from nucleiflow import __version__, cluster, flow, records, source, tasks, unet
from nucleiflow.config import RunConfig
from nucleiflow.errors import NucleiflowError, StoreError, explain
from nucleiflow.job import Job
from nucleiflow.model import SHIPPED, Model, load
from nucleiflow.progress import Progress
from nucleiflow.slide import Slide

SOME_FAILED = 3
PACKAGES = (
    "numpy",
    "scipy",
    "scikit-image",
    "zarr",
    "tifffile",
    "dask",
    "distributed",
    "tensorflow",
)


@dataclass
class Outcome:
    """What became of each slide, and the exit code of the whole."""

    slides: list[dict[str, Any]] = field(default_factory=list)
    exit_code: int = 0
    peak_bytes: dict[int, int] = field(default_factory=dict)


def run(
    given: Sequence[str], out: Path, config: RunConfig, *, workers: int | None, progress: Progress
) -> Outcome:
    """Segment all slides into `out`. Raises NucleiflowError for what concerns the whole batch."""
    paths = source.find(given)
    named = source.names(paths)
    model = load(config.model or SHIPPED)
    _check_writable(out)
    outcome = Outcome()
    with _stop_on_sigterm(), _runner(workers, model) as runner:
        driver = _Driver(runner, progress, outcome)
        for path in paths:
            prepare = partial(flow.prepare, path, named[path], out, config, model)
            outcome.slides.append(driver.slide(path, prepare, config))
            _write(out, outcome, model)
    failed = [slide for slide in outcome.slides if slide["status"] == "failed"]
    if failed:
        everything = len(failed) == len(outcome.slides)
        outcome.exit_code = failed[0]["exit_code"] if everything else SOME_FAILED
    return outcome


@dataclass(frozen=True)
class _Driver:
    """Takes slides through their stages on a runner."""

    runner: cluster.Runner
    progress: Progress
    outcome: Outcome

    def slide(
        self, path: str, prepare: Callable[[], tuple[Job, Slide]], config: RunConfig
    ) -> dict[str, Any]:
        """One slide to its end: its final word, or why it failed."""
        began = time.monotonic()
        try:
            job, slide = prepare()
            with slide:
                for note in slide.notes:
                    self.progress.say(f"{job.name}: {note}")
            if not job.resolution.plain:
                self.progress.say(f"{job.name}: {job.resolution.reason}")
            word = self._stages(flow.flow(job, config), job.name)
        except Exception as error:
            if config.debug:
                raise
            code = error.exit_code if isinstance(error, NucleiflowError) else 1
            reason = explain(error)
            self.progress.say(f"failed: {reason}")
            return {"slide": path, "status": "failed", "reason": reason, "exit_code": code}
        spent = time.monotonic() - began
        self._tell(job, word, spent)
        return {"folder": str(job.folder), "wall_seconds": round(spent, 2), **word}

    def _stages(self, stages: flow.Flow, name: str) -> dict[str, Any]:
        while True:
            try:
                stage = next(stages)
            except StopIteration as end:
                return dict(end.value)
            ready = stage.total - len(stage.tiles)
            self.progress.stage(name, stage.name, ready, stage.total, stage.tile_megapixels)
            for done in self.runner.run(stage.task, stage.tiles):
                self.outcome.peak_bytes[done.process] = done.peak_bytes
                self.progress.tile()

    def _tell(self, job: Job, word: dict[str, Any], spent: float) -> None:
        megapixels = word["height"] * word["width"] / 1e6
        if not word.get("again"):
            self.progress.say(f"{job.name}: {word['stain_reason']}")
        again = "already done: " if word.get("again") else ""
        self.progress.say(
            f"{job.name}: {again}{word['nuclei']:,} nuclei in {megapixels:,.1f} MP, "
            f"{spent:.1f} s ({megapixels / spent:.2f} MP/s) -> {job.labels}"
        )


@contextlib.contextmanager
def _runner(workers: int | None, model: Model) -> Iterator[cluster.Runner]:
    """Worker processes, or this process alone for `workers` 0."""
    if workers == 0:
        try:
            yield cluster.Serial()
        finally:
            tasks.close_slides()
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # inherited by the workers
    shape = cluster.size(workers)
    ready = partial(_prepare_worker, model.path, model.sha256, shape.network_threads)
    with cluster.local(shape, ready) as runner:
        yield runner


def _prepare_worker(path: str, sha256: str, threads: int) -> None:
    unet.set_threads(threads)
    unet.predictor(path, sha256)


@contextlib.contextmanager
def _stop_on_sigterm() -> Iterator[None]:
    """SIGTERM ends a run as Ctrl-C does: tiles in flight are dropped, the rest is kept."""

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread: the caller handles signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _check_writable(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".writable"
        probe.write_bytes(b"1")
        probe.unlink()
    except OSError as error:
        raise StoreError(f"output folder {out} cannot be written: {error.strerror}") from error


def _write(out: Path, outcome: Outcome, model: Model) -> None:
    driver = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    records.put_json(
        out / "batch.json",
        {
            "slides": outcome.slides,
            "model": {"path": model.path, "sha256": model.sha256},
            "peak_worker_mb": [round(peak / 1e6) for peak in outcome.peak_bytes.values()],
            "peak_driver_mb": round(driver / 1e6),
            "versions": {"nucleiflow": __version__, **_versions()},
            "machine": {"system": platform.platform(), "cores": os.cpu_count()},
        },
    )


def _versions() -> dict[str, str]:
    found = dict.fromkeys(PACKAGES, "absent")
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found | {"python": platform.python_version()}
