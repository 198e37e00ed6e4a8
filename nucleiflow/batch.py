"""Many slides through one stream of tiles; a bad slide never stops the others."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from nucleiflow import (
    cluster,
    crew,
    flow,
    heap,
    lock,
    memory,
    overview,
    pool,
    provenance,
    ready,
    records,
    shape,
    source,
    status,
)
from nucleiflow.config import Cluster, Failure, RunConfig, Wanted
from nucleiflow.errors import HOLES, SOME_FAILED, NucleiflowError, StoreError, explain
from nucleiflow.job import Job
from nucleiflow.model import SHIPPED, Model, load
from nucleiflow.place import Place
from nucleiflow.progress import Progress
from nucleiflow.snapshot import SlideState, Snapshot
from nucleiflow.stream import Pool, Start, Stream

PUBLISH_SECONDS = 2.0
TOLD = (
    "status", "slide", "labels", "nuclei", "labels_digest", "height", "width", "mpp", "stain",
    "stain_reason", "normalisation", "resolution", "postprocessing", "tiles", "tiles_with_tissue",
    "holes", "region", "quality", "seam_audit", "summary", "exports", "seconds", "again",
)  # fmt: skip


@dataclass
class Outcome:
    """What became of each slide, in order, and the exit code of the whole."""

    slides: list[dict[str, Any]] = field(default_factory=list)
    exit_code: int = 0
    peak_bytes: dict[int, int] = field(default_factory=dict)


def slides(given: Sequence[str], config: RunConfig) -> list[Wanted]:
    """Paths, folders and globs -> slides with the names of their folders. Raises SlideError."""
    paths = source.find(given)
    named = source.names(paths)
    return [Wanted(slide=path, name=named[path], config=config) for path in paths]


def local(workers: int | None) -> Cluster:
    """The embedded cluster of so many workers; 0 works in this process."""
    return Cluster(kind="serial") if workers == 0 else Cluster(workers=workers)


def run(
    wanted: Sequence[Wanted],
    out: Place,
    *,
    cluster: Cluster,
    failure: Failure | None = None,
    progress: Progress,
    job: Mapping[str, Any] | None = None,
) -> Outcome:
    """Segment all slides into `out`; `job`, as the user gave it, goes into batch.json.

    Raises NucleiflowError for what concerns the whole batch.
    """
    models = [_model(config) for config in {one.config.model for one in wanted}]
    _check_writable(out)
    with _stop_on_sigterm(), lock.hold(out, say=progress.say) as held:
        driver = _Driver(wanted, out, models[0], progress, held, dict(job or {}))
        try:
            with _runner(cluster, models, driver) as workers:
                driver.run(workers, failure or Failure())
        finally:
            driver.publish(final=True)
    return driver.outcome


@functools.cache
def _model(path: Path | None) -> Model:
    return load(path or SHIPPED)


class _Driver:
    """Hears of the stream, and tells: the terminal, status.json, batch.json."""

    def __init__(
        self,
        wanted: Sequence[Wanted],
        out: Place,
        model: Model,
        progress: Progress,
        held: lock.Held,
        job: dict[str, Any],
    ) -> None:
        self._wanted, self._out, self._model, self._job = wanted, out, model, job
        self._progress, self._held = progress, held
        self._states = [SlideState(one.name, one.slide) for one in wanted]
        self._rows: dict[int, dict[str, Any]] = {}
        self._snapshot = Snapshot(self._states)
        self._stream: Stream | None = None
        self._began = self._published = time.monotonic()
        self._changed = True
        self.outcome = Outcome()

    def run(self, workers: Pool, failure: Failure) -> None:
        self._stream = Stream(workers, failure, self)
        self._stream.run(self._states, self._starts())
        self.outcome.slides = [self._rows[number] for number in range(len(self._wanted))]
        self.outcome.exit_code = _exit_code(self.outcome.slides)

    def demand(self) -> int:
        """Workers that could have work now."""
        return self._stream.demand if self._stream else len(self._wanted)

    def _starts(self) -> Iterator[Start]:
        for one, state in zip(self._wanted, self._states, strict=True):
            yield partial(
                flow.flow, one, self._out, _model(one.config.model), partial(self._begun, state)
            )

    def _begun(self, state: SlideState, job: Job, notes: Sequence[str]) -> None:
        state.megapixels = job.grid.height * job.grid.width / 1e6
        for note in notes:
            self._progress.say(f"{job.name}: {note}")
        if not job.resolution.plain:
            self._progress.say(f"{job.name}: {job.resolution.reason}")

    # what the stream tells

    def say(self, text: str) -> None:
        self._progress.say(text)

    def ended(self, number: int, word: dict[str, Any] | Exception) -> None:
        one, state = self._wanted[number], self._states[number]
        self._changed = True
        if isinstance(word, Exception):
            if one.config.debug:
                raise word
            code = word.exit_code if isinstance(word, NucleiflowError) else 1
            state.state, state.reason, state.exit_code = "failed", explain(word), code
            self._progress.say(f"failed: {state.reason}")
            self._rows[number] = {
                "name": one.name,
                "slide": one.slide,
                "status": "failed",
                "reason": state.reason,
                "exit_code": code,
            }
            return
        state.state, state.nuclei, state.holes = "done", word["nuclei"], len(word["holes"])
        state.again = bool(word.get("again"))
        self._rows[number] = {
            "name": one.name,
            "folder": str(self._out / one.name),
            "wall_seconds": round(state.seconds, 2),
            **{key: word[key] for key in TOLD if key in word},
        }
        self._progress.say(_finished(one, word, state, str(self._out)))

    def tick(self, now: Snapshot) -> None:
        self._held.check()
        self._snapshot = now
        self._progress.show(now)
        if time.monotonic() - self._published >= PUBLISH_SECONDS:
            self.publish(final=False)

    def publish(self, *, final: bool) -> None:
        """Tell other terminals how far the batch is; batch.json only where a slide has ended."""
        self._held.check()  # what another run has taken over is no longer ours to write
        self._published = time.monotonic()
        try:
            status.publish(self._out, self._snapshot, final=final)
            if self._changed or final:
                records.put_json(self._out / "batch.json", self._content())
                self._changed = False
            if final:
                overview.write(self._out, self._content())
        except StoreError:
            if final:
                raise  # before that, it is tried again in a moment

    def _content(self) -> dict[str, Any]:
        if self._stream:
            self.outcome.peak_bytes = self._stream.peak_bytes
        driver = memory.peak()
        return {
            "slides": [
                self._rows.get(number)
                or {"name": state.name, "slide": state.slide, "status": state.state}
                for number, state in enumerate(self._states)
            ],
            "job": self._job,
            "model": {"path": self._model.path, "sha256": self._model.sha256},
            "wall_seconds": round(time.monotonic() - self._began, 1),
            "peak_worker_mb": [round(peak / 1e6) for peak in self.outcome.peak_bytes.values()],
            "peak_driver_mb": round(driver / 1e6),
            **provenance.here(),
        }


def _finished(one: Wanted, word: dict[str, Any], state: SlideState, out: str) -> str:
    """The line that a finished slide gets."""
    megapixels = word["height"] * word["width"] / 1e6
    where = f"{out}/{one.name}/{word['labels']}"
    if state.again:
        return f"{one.name}: already done: {word['nuclei']:,} nuclei -> {where}"
    missing = f", {len(word['holes'])} holes" if word["holes"] else ""
    return (
        f"{one.name}: {word['stain_reason']}; {word['nuclei']:,} nuclei in {megapixels:,.1f} MP"
        f"{missing}, {state.seconds:.1f} s ({megapixels / max(state.seconds, 1e-3):.2f} MP/s) "
        f"-> {where}"
    )


def _exit_code(rows: Sequence[Mapping[str, Any]]) -> int:
    failed = [row for row in rows if row["status"] == "failed"]
    if failed:
        return int(failed[0]["exit_code"]) if len(failed) == len(rows) else SOME_FAILED
    return HOLES if any(row["holes"] for row in rows) else 0


@contextlib.contextmanager
def _runner(chosen: Cluster, models: Sequence[Model], driver: _Driver) -> Iterator[Pool]:
    """Worker processes, or this process alone for the kind `serial`."""
    if chosen.kind == "serial":
        from nucleiflow import pixels

        heap.keep()
        try:
            yield pool.Serial()
        finally:
            pixels.close_slides()
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # inherited by the workers
    size = shape.of(chosen)
    prepare = partial(
        ready.prepare,
        [(one.path, one.sha256) for one in models],
        shape.device(chosen),
        size.network_threads,
        size.network_calls,
    )
    with contextlib.ExitStack() as opened:

        def connect() -> tuple[Any, Callable[[], dict[str, int]]]:
            client = opened.enter_context(cluster.open(chosen, prepare, demand=driver.demand))
            if address := cluster.dashboard(client):
                driver.say(f"dashboard: {address}")
            return client, partial(cluster.workers, client)

        yield pool.Dask(connect, patience_seconds=60 * crew.wait_minutes(chosen))


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


def _check_writable(out: Place) -> None:
    try:
        records.put(out / ".writable", b"1")
        records.remove(out / ".writable")
    except StoreError as error:
        raise StoreError(f"output folder {out} cannot be written: {error}") from error
